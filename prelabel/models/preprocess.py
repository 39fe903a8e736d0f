"""Images as networks read them: resized and normalised, exactly or fast.

`exact` is what the originals do: Pillow resizes 8-bit pixels on the CPU. `fast` resizes in floating
point on the network's own device, with the same antialiased kernels; values differ by rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["Preprocess", "Recipe", "fast_pixels", "longest_side", "short_and_long"]

Preprocess = Literal["exact", "fast"]
"""How images are resized: by Pillow as the originals do, or by torch on the device."""

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""Pillow's numbers, as processors store them."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a network's image processor does after resizing, and how it resizes.

    Attributes:
        mean, std: of the three channels, for pixels in [0, 1].
        mode: "bilinear" or "bicubic", both with antialiasing.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    mode: str = "bilinear"

    @classmethod
    def of(cls, processor: Any) -> Recipe:
        """The recipe that a transformers image processor holds."""
        mode = _RESAMPLE[int(processor.resample)]
        return cls(tuple(processor.image_mean), tuple(processor.image_std), mode)


def fast_pixels(
    pixels: NDArray[np.uint8], size: tuple[int, int], recipe: Recipe, device: str
) -> torch.Tensor:
    """One image, resized and normalised on `device`.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        size: (height, width) to resize to, in the network's pixels.
        recipe: the kernel, means and deviations.
        device: where the result lies and is computed.

    Returns:
        float32 (1, 3, height, width).
    """
    import torch
    from torch.nn.functional import interpolate

    with torch.inference_mode():
        # A copy: torch warns of arrays that must not be written, and frames are such.
        image = torch.tensor(pixels, device=device).permute(2, 0, 1)[None].float()
        resized = interpolate(image, size, mode=recipe.mode, antialias=True, align_corners=False)
        # Bicubic kernels overshoot; Pillow's 8-bit result cannot.
        unit = resized.clamp(0, 255) / 255
        mean, std = (_column(values, device) for values in (recipe.mean, recipe.std))
        return (unit - mean) / std


def _column(values: Sequence[float], device: str) -> torch.Tensor:
    import torch

    return torch.tensor(values, device=device).view(1, -1, 1, 1)


def longest_side(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) scaled so that the longer side is `longest`, as SAM rounds it."""
    scale = longest / max(size)
    height, width = size
    return int(height * scale + 0.5), int(width * scale + 0.5)


def short_and_long(size: tuple[int, int], shortest: int, longest: int) -> tuple[int, int]:
    """(height, width) with the shorter side `shortest`, unless the longer would exceed `longest`.

    Rounded as transformers rounds it for DETR and its kin.
    """
    from transformers.image_transforms import get_size_with_aspect_ratio

    height, width = get_size_with_aspect_ratio(size, shortest, longest)
    return int(height), int(width)
