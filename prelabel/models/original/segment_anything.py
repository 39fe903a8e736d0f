"""SAM by its authors' own package: their modules, their predictor's steps, their `.pth`.

Kirillov et al., "Segment Anything", ICCV 2023. The steps are those of `SamPredictor`: resize the
longest side, normalise, encode once; prompts in the network's pixels through prompt encoder and
mask decoder. What no network answers, such as masks out of the padded square, is that of `kind:
sam`. The package tells nothing of its attention, so `capture` brings no evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Frame
from prelabel.errors import ModelError
from prelabel.models.original.checkpoint import load_original, read_original
from prelabel.models.original.shims import import_segment_anything
from prelabel.models.precision import Arithmetic
from prelabel.models.roles import Embedding, MaskLogits, Prompts
from prelabel.models.sam import Sam, SegmenterOptions

if TYPE_CHECKING:
    import torch

__all__ = ["SegmentAnythingOriginal", "SegmentAnythingOriginalOptions"]

_SIZES = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}
"""The package's builders by the channels of the checkpoint's encoder."""
_UNUSED = ("pixel_mean", "pixel_std")


class SegmentAnythingOriginalOptions(SegmenterOptions):
    """Options of `kind: segment-anything-original`. What the package cannot do has one value."""

    reads_original: ClassVar[bool] = True
    kind: Literal["segment-anything-original"] = "segment-anything-original"
    weights: str
    """Meta's checkpoint, a .pth file: vit_b, vit_l, vit_h or one of their architectures."""
    revision: None = None
    precision: Literal["fp32"] = "fp32"
    preprocess: Literal["exact"] = "exact"
    compile: Literal[False] = False


class SegmentAnythingOriginal(Sam):
    """A `PromptableSegmenter`. Networks exist only after `load`."""

    Options: ClassVar[type[SegmenterOptions]] = SegmentAnythingOriginalOptions

    def load(self, device: str) -> None:
        """Load the package and the checkpoint onto `device`."""
        package = import_segment_anything()  # first, since it is what may be missing
        tensors = read_original(self.options.weights, "segment-anything-original")
        untrained = package.sam_model_registry[_size(tensors, self.options.weights)]()
        model = load_original(untrained, tensors, _UNUSED, self.options.weights, device)
        self._network = model
        self._predictor = package.SamPredictor(model)
        self._processor = _reader(self._predictor)
        self._device = device
        self._arithmetic = Arithmetic(device)

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """Encode each frame once; never with attention."""
        return super().embed(frames, capture=False)

    def _encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"features": self._network.image_encoder(pixels)}

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt, or with `multimask` three of different extent."""
        decoder = self._loaded().mask_decoder
        candidates = decoder.num_multimask_outputs if multimask else 1
        side = self._logit_side(embedding)
        logits = np.zeros((len(prompts), candidates, side, side), dtype=np.float32)
        ious = np.zeros((len(prompts), candidates), dtype=np.float32)
        for rows, part in prompts.alike(self.options.at_once(self._device)):
            logits[rows], ious[rows] = self._decode(embedding, part, multimask)
        return MaskLogits(logits, np.clip(ious, 0, 1))

    def _decode(
        self, embedding: Embedding, prompts: Prompts, multimask: bool
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Logits (n, K, m, m) and predicted IoUs (n, K) of prompts with equally many points."""
        import torch

        model = self._network
        with self._arithmetic():
            sparse, dense = model.prompt_encoder(**self._encoder_inputs(embedding, prompts))
            masks, ious = model.mask_decoder(
                image_embeddings=torch.from_numpy(embedding.features)[None].to(self._device),
                image_pe=model.prompt_encoder.get_dense_pe(),
                sparse_prompt_embeddings=sparse,
                dense_prompt_embeddings=dense,
                multimask_output=multimask,
            )
        return masks.cpu().numpy(), ious.cpu().numpy()

    def _encoder_inputs(self, embedding: Embedding, prompts: Prompts) -> dict[str, Any]:
        """Prompts in the network's pixels: points (n, P, 2) with labels, boxes (n, 4), masks."""
        import torch

        def tensor(values: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
            return torch.as_tensor(values, dtype=dtype, device=self._device)

        transform = self._predictor.transform
        size = tuple(int(edge) for edge in embedding.size)
        inputs: dict[str, Any] = {"points": None, "boxes": None, "masks": None}
        if prompts.points is not None and prompts.labels is not None:
            inputs["points"] = (
                tensor(transform.apply_coords(prompts.points, size), torch.float32),
                tensor(prompts.labels, torch.int32),
            )
        if prompts.boxes is not None:
            inputs["boxes"] = tensor(transform.apply_boxes(prompts.boxes, size), torch.float32)
        if prompts.masks is not None:
            inputs["masks"] = tensor(prompts.masks[:, None], torch.float32)
        return inputs


def _size(tensors: Mapping[str, torch.Tensor], weights: str) -> str:
    if "image_encoder.pos_embed" not in tensors:
        raise ModelError(
            f"{weights} is no checkpoint of SAM's authors: it lacks image_encoder.pos_embed"
        )
    width = tensors["image_encoder.pos_embed"].shape[-1]
    if width not in _SIZES:
        raise ModelError(
            f"{weights} has an encoder of {width} channels; the authors' package builds "
            f"{', '.join(map(str, _SIZES))}; take kind: sam"
        )
    return _SIZES[width]


def _reader(predictor: Any) -> Any:
    """What stands where transformers has an image processor: resize, normalise, pad."""

    def read(images: NDArray[np.uint8], **_how: object) -> dict[str, torch.Tensor]:
        import torch

        resized = predictor.transform.apply_image(images)
        pixels = torch.as_tensor(resized, device=predictor.device).permute(2, 0, 1)[None]
        return {
            "pixel_values": predictor.model.preprocess(pixels),
            "reshaped_input_sizes": torch.tensor([resized.shape[:2]]),
        }

    return read
