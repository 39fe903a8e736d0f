"""In which precision a network computes: fp32, or less on a GPU once a comparison allows it.

The weights stay in fp32; matrix products run in the lower precision under `torch.autocast`. So the
comparison, and falling back after it, need no second copy of the network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["PROBE_SIZE", "Arithmetic", "Precision", "gate", "probe_pixels"]

Precision = Literal["fp32", "bf16", "fp16"]
"""What matrix products are computed in. A CPU always computes in fp32."""

PROBE_SIZE = (384, 512)
"""(height, width) of the picture that precisions are compared on, pixels."""

_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """How forward passes run: without gradients, and in `dtype` where there is one.

    Attributes:
        device: such as "cpu" or "cuda".
        dtype: of matrix products; None for fp32.
    """

    device: str = "cpu"
    dtype: torch.dtype | None = None

    @classmethod
    def of(cls, device: str, precision: Precision) -> Arithmetic:
        """What `precision` means on `device`: a CPU keeps to fp32."""
        import torch

        if precision == "fp32" or not device.startswith("cuda"):
            return cls(device)
        return cls(device, torch.bfloat16 if precision == "bf16" else torch.float16)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        import torch

        kind = self.device.partition(":")[0]
        with (
            torch.inference_mode(),
            torch.autocast(kind, dtype=self.dtype, enabled=self.dtype is not None),
        ):
            yield


def gate(
    arithmetic: Arithmetic,
    compute: Callable[[Arithmetic], NDArray[np.float32]],
    bound: float,
    what: str,
) -> Arithmetic:
    """`arithmetic`, or fp32 where it changes what `compute` returns by more than `bound`.

    Args:
        arithmetic: the one that was asked for.
        compute: probabilities, in an order that does not depend on them.
        bound: most mean absolute difference from fp32.
        what: the network, for the warning.
    """
    if arithmetic.dtype is None:
        return arithmetic
    exact = Arithmetic(arithmetic.device)
    difference = float(np.abs(compute(arithmetic) - compute(exact)).mean())
    _LOGGER.info("%s in %s differs from fp32 by %.4f", what, arithmetic.dtype, difference)
    if difference <= bound:
        return arithmetic
    # Also reached by NaN, which fp16 gives where it overflows.
    _LOGGER.warning(
        "%s computes in fp32: in %s its probabilities differ by %.3g, more than %.3g",
        *(what, arithmetic.dtype, difference, bound),
    )
    return exact


def probe_pixels() -> NDArray[np.uint8]:
    """uint8 (384, 512, 3) RGB: sky over ground with a disc and a box, the same every time."""
    height, width = PROBE_SIZE
    y, x = np.mgrid[:height, :width].astype(np.float32)
    sky = np.stack([120 + y / 4, 170 + y / 6, 235 - x / 20], axis=-1)
    ground = np.stack([90 + x / 8, 120 + 20 * np.sin(x / 9), 60 + 10 * np.sin(y / 5)], axis=-1)
    pixels = np.where((y > 220)[..., None], ground, sky)
    pixels[(x - 150) ** 2 + (y - 210) ** 2 < 70**2] = (200, 40, 50)
    pixels[180:300, 320:440] = (40, 70, 160)
    return np.clip(pixels, 0, 255).astype(np.uint8)
