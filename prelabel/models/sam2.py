"""SAM 2 and 2.1 on single images, as transformers implements them.

Ravi et al., "SAM 2: Segment Anything in Images and Videos", ICLR 2025. The image is stretched to a
square, so nothing is padded and nothing cut off; a Hiera encodes it once, on three scales, and the
decoder of SAM reads all three. Without `multimask`, a mask that is not stable gives way to the
best of the three others, as the paper's code does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import ModelError
from prelabel.models.mask_grid import resized
from prelabel.models.preprocess import Recipe, fast_pixels
from prelabel.models.roles import Embedding
from prelabel.models.sam import NetworkInput, Sam, SegmenterOptions

if TYPE_CHECKING:
    import torch

__all__ = ["Sam2", "Sam2Options"]

_RECIPE = Recipe(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
"""What the paper's code does, where a checkpoint says nothing of it."""


class Sam2Options(SegmenterOptions):
    """Options of `kind: sam2`."""

    kind: Literal["sam2"] = "sam2"
    weights: str = "facebook/sam2.1-hiera-tiny"
    """Where from: a folder in transformers' layout, or a hub id. No SAM 2 is embedded."""


class Sam2(Sam):
    """A `PromptableSegmenter`. Networks exist only after `load`."""

    Options: ClassVar[type[SegmenterOptions]] = Sam2Options
    network: ClassVar[str] = "Sam2Model"

    def _read_weights(self, folder: Path) -> None:
        self._layers = self._network.vision_encoder.backbone.blocks
        self._side = int(self._network.config.prompt_encoder_config.image_size)
        self._recipe = _read_recipe(folder, self._side)

    def _prepare(self, pixels: NDArray[np.uint8]) -> NetworkInput:
        # The paper's code resizes floating point too, so exact and fast differ in the place only.
        device = self._device if self.options.preprocess == "fast" else "cpu"
        square = (self._side, self._side)
        stretched = fast_pixels(pixels, square, self._recipe, device)
        return NetworkInput((pixels.shape[0], pixels.shape[1]), square, stretched)

    def _encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        finest, finer, features = self._network.get_image_embeddings(pixels)
        return {"features": features, "finer": finer, "finest": finest}

    def _encoded(self, embedding: Embedding) -> list[torch.Tensor]:
        import torch

        scales = (embedding.finest, embedding.finer, embedding.features)
        return [torch.from_numpy(scale)[None].to(self._device) for scale in scales]

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (M, m, m) over the square as float32 (M, height, width) over the image."""
        return resized(logits, size)


def _read_recipe(folder: Path, side: int) -> Recipe:
    """How a checkpoint wants its images; transformers' own reader would need torchvision.

    Raises:
        ModelError: its images have another size than the network's, or the file is damaged.
    """
    settings = _processor_settings(folder)
    size = settings.get("size", {})
    edges = set(size.values()) if isinstance(size, dict) else {size}
    if edges - {side}:
        raise ModelError(
            f"{folder} prepares images as {size}, but its network reads {side} x {side} pixels; "
            "bring config.json and preprocessor_config.json of one and the same checkpoint"
        )
    mean, std = (
        tuple(float(value) for value in settings.get(name) or default)
        for name, default in (("image_mean", _RECIPE.mean), ("image_std", _RECIPE.std))
    )
    return Recipe(mean, std)


def _processor_settings(folder: Path) -> dict[str, Any]:
    """What the image processor was saved with: in a file of its own, or within its processor's."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = folder / name
        if not file.is_file():
            continue
        try:
            document = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ModelError(f"{file} is damaged ({error}); bring the checkpoint again") from error
        settings = document.get("image_processor", document) if isinstance(document, dict) else None
        if isinstance(settings, dict):
            return settings
    return {}
