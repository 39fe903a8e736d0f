"""How far transformers' networks on converted weights are from the authors' own packages.

Needs those packages (docs/original.md). Weights are random: each network is built by its authors'
package, saved as they publish theirs, converted as a user's file would be, and asked the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prelabel.bench.parity import Figure, largest_difference
from prelabel.data import Frame
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.models.conversion import convert_checkpoint
from prelabel.models.original.shims import (
    build_groundingdino,
    import_segment_anything,
    quiet_authors,
)
from prelabel.models.roles import Embedding, Prompts
from prelabel.models.sam import Sam, SamOptions
from prelabel.models.weights import load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["groundingdino_figures", "sam_figures"]

_NEAR_ZERO = 1e-4
"""A logit as near to 0 as this may fall to either side of it."""
_BORDER = 2e-3


# --- SAM ----------------------------------------------------------------------------------------


def sam_figures(folder: Path, frames: Sequence[Frame]) -> list[Figure]:
    """A random vit_b by Meta's `SamPredictor` against `kind: sam`, on boxes and on points.

    Args:
        folder: an empty one, for checkpoints.
        frames: images of several shapes; each goes three times through an encoder.
    """
    import torch

    package = import_segment_anything()
    torch.manual_seed(0)
    model = package.sam_model_registry["vit_b"]()
    _liven_masks(model)
    torch.save(model.state_dict(), folder / "vit_b.pth")
    convert_checkpoint(folder / "vit_b.pth", folder / "vit_b", "")
    ours = Sam(SamOptions(weights=str(folder / "vit_b")))
    ours.load("cpu")
    predictor = package.SamPredictor(model)
    embeddings = ours.embed(frames)
    figures: list[Figure] = []
    for what, look in (
        ("SAM, same input tensor", _tensor_setter(folder / "vit_b")),
        ("SAM, from the image on", lambda predictor, frame: predictor.set_image(frame.pixels)),
    ):
        differences: list[tuple[float, float, float]] = []
        for frame, embedding in zip(frames, embeddings, strict=True):
            look(predictor, frame)
            differences += _compare_masks(predictor, ours, embedding)
        logits, ious, pixels = np.max(differences, axis=0).tolist()
        figures += [
            Figure(f"{what}: logit", logits, 1e-4),
            Figure(f"{what}: predicted IoU", ious, 1e-4),
            Figure(f"{what}: pixels that differ, |logit| > 1e-4", pixels, 0),
        ]
    return figures


def _compare_masks(
    predictor: Any, ours: Sam, embedding: Embedding
) -> Iterator[tuple[float, float, float]]:
    """Largest differences of a logit and of a predicted IoU, and the count of pixels that differ.

    One of each per prompt, from low-resolution logits and from masks at the image's size.
    """
    size = (int(embedding.size[0]), int(embedding.size[1]))
    for prompts, multimask in _prompts(size):
        found = ours.masks(embedding, prompts, multimask=multimask)
        for row in range(len(prompts)):
            full, ious, logits = _predict(predictor, prompts, row, multimask)
            masks = ours.upscale(embedding, found.logits[row], size)
            sides = ((masks > 0) != (full > 0)) & (np.abs(full) > _NEAR_ZERO)
            yield (
                largest_difference(found.logits[row], logits),
                largest_difference(found.ious[row], np.clip(ious, 0, 1)),
                float(sides.sum()),
            )


def _prompts(size: tuple[int, int]) -> Iterator[tuple[Prompts, bool]]:
    """Boxes, points, and both, in a picture of (height, width) pixels; with multimask or not."""
    scale = np.array([size[1], size[0]], dtype=np.float32)
    boxes = np.array([[0.1, 0.2, 0.5, 0.7], [0.0, 0.0, 1.0, 1.0]], dtype=np.float32)
    boxes = (boxes.reshape(2, 2, 2) * scale).reshape(2, 4)
    points = np.array([[[0.3, 0.3], [0.8, 0.6]], [[0.5, 0.9], [0.1, 0.1]]], dtype=np.float32)
    labels = np.array([[1, 0], [1, 1]], dtype=np.int32)
    for multimask in (False, True):
        yield Prompts(boxes=boxes), multimask
        yield Prompts(points=points * scale, labels=labels), multimask
        yield Prompts(boxes=boxes, points=points * scale, labels=labels), multimask


def _predict(predictor: Any, prompts: Prompts, row: int, multimask: bool) -> tuple[Any, Any, Any]:
    """Logits (K, H, W), predicted IoUs (K,) and logits (K, m, m) of one prompt, as users ask it."""
    return predictor.predict(  # type: ignore[no-any-return]
        box=None if prompts.boxes is None else prompts.boxes[row],
        point_coords=None if prompts.points is None else prompts.points[row],
        point_labels=None if prompts.labels is None else prompts.labels[row],
        multimask_output=multimask,
        return_logits=True,
    )


def _tensor_setter(folder: Path) -> Callable[[Any, Frame], None]:
    """What gives the predictor the very tensor that transformers' processor makes of an image."""
    import torch
    from transformers import SamImageProcessorPil

    with quiet_transformers():
        processor: Any = SamImageProcessorPil.from_pretrained(folder, local_files_only=True)

    def look(predictor: Any, frame: Frame) -> None:
        inputs = processor(
            images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
        )
        predictor.reset_image()
        with torch.inference_mode():
            predictor.features = predictor.model.image_encoder(inputs["pixel_values"])
        predictor.original_size = frame.size
        predictor.input_size = tuple(inputs["reshaped_input_sizes"][0].tolist())
        predictor.is_image_set = True

    return look


def _liven_masks(model: Any) -> None:
    """Let what starts as zeros, such as positions, take part, and logits be as large as trained.

    Untrained they stay within ±0.4, where a difference of 1e-4 would say little.
    """
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
        for network in model.mask_decoder.output_hypernetworks_mlps:
            for parameter in network.layers[-1].parameters():
                parameter.mul_(20)


# --- Grounding DINO -----------------------------------------------------------------------------


def groundingdino_figures(
    folder: Path, frames: Sequence[Frame], prompts: Sequence[str]
) -> list[Figure]:
    """A random SwinT by its authors' forward against transformers' on the converted weights.

    Boxes are refined through an inverse sigmoid, which the authors cut at 1e-3 and transformers at
    1e-5; so a query whose box reaches within `_BORDER` of 0 or 1 is left out. Which places of the
    image become queries, and in which order, is a choice between scores that may tie but for
    rounding: ours is compared with theirs, and then ours goes on with theirs.

    Args:
        folder: an empty one, for checkpoints.
        frames: images, made small: the architecture takes any size that holds 900 queries.
        prompts: texts, which stand in one prompt list.
    """
    import torch
    from transformers import BertConfig, GroundingDinoForObjectDetection

    tokenizer: Any = build_bert_tokenizer()
    torch.manual_seed(0)
    theirs = build_groundingdino("GroundingDINO_SwinT_OGC", tokenizer, BertConfig())
    _liven_boxes(theirs)
    torch.save({"model": theirs.state_dict()}, folder / "swint.pth")
    with quiet_transformers():
        tokenizer.save_pretrained(folder / "tokenizer")
    convert_checkpoint(folder / "swint.pth", folder / "swint", str(folder / "tokenizer"))
    ours: Any = load_network(GroundingDinoForObjectDetection, folder / "swint", "cpu")
    caption = " . ".join(prompts) + " ."
    ids = tokenizer(caption, return_tensors="pt")["input_ids"]
    differences = []
    for frame in frames:
        pixels, choice = _small_pixels(frame), _Choice()
        with torch.inference_mode(), quiet_authors():
            with choice.watched():
                found = theirs(pixels, captions=[caption])
            with choice.watched():
                output = ours(pixel_values=pixels, input_ids=ids)
        logits = found["pred_logits"][0, :, : ids.shape[1]].numpy()
        boxes = found["pred_boxes"][0].numpy()
        compared = _compare_queries(logits, boxes, output, ids.shape[1])
        differences.append((choice.difference, *compared))
    worst_place, worst_logit, worst_box, left_out = np.max(differences, axis=0).tolist()
    return [
        Figure("GroundingDINO, same input tensor: logit of a chosen place", worst_place, 1e-3),
        Figure("GroundingDINO, same input tensor: logit", worst_logit, 1e-3),
        Figure("GroundingDINO, same input tensor: box, share of the image", worst_box, 1e-4),
        Figure("GroundingDINO: share of queries near the border, left out", left_out, 0.5),
    ]


class _Choice:
    """The places that the first of two networks takes as queries, given to the second as well.

    Attributes:
        difference: the largest, by rank, between the second's logits at the places that it would
            have taken and at those that it was given.
    """

    def __init__(self) -> None:
        self.difference = 0.0
        self._places: torch.Tensor | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Both networks call `torch.topk` once per forward pass, for this."""
        import torch

        choose = torch.topk

        def topk(logits: torch.Tensor, count: int, dim: int) -> tuple[torch.Tensor, torch.Tensor]:
            values, places = choose(logits, count, dim=dim)
            if self._places is None:
                self._places = places
            given = logits.gather(dim, self._places)
            self.difference = float((given - values).abs().max())
            return given, self._places

        torch.topk = topk  # type: ignore[assignment]
        try:
            yield
        finally:
            torch.topk = choose


def _compare_queries(
    logits: NDArray[np.float32], boxes: NDArray[np.float32], output: Any, tokens: int
) -> tuple[float, float, float]:
    """Largest differences of a logit and of a box, and the share of queries that were left out.

    Args:
        logits: float32 (Q, T), theirs.
        boxes: float32 (Q, 4), theirs, centre and size as shares of the image.
        output: ours.
        tokens: T.
    """
    our_logits, our_boxes = output.logits[0, :, :tokens].numpy(), output.pred_boxes[0].numpy()
    inside = np.minimum(boxes, 1 - boxes).min(axis=1) > _BORDER
    return (
        largest_difference(logits[inside], our_logits[inside]),
        largest_difference(boxes[inside], our_boxes[inside]),
        float(1 - inside.mean()),
    )


def _small_pixels(frame: Frame) -> torch.Tensor:
    """float32 (1, 3, h, w), the shorter side 224, which gives a little over 900 places."""
    from transformers import GroundingDinoImageProcessorPil

    processor: Any = GroundingDinoImageProcessorPil(
        size={"shortest_edge": 224, "longest_edge": 320}
    )
    inputs = processor(images=frame.pixels, input_data_format="channels_last", return_tensors="pt")
    pixels: torch.Tensor = inputs["pixel_values"]
    return pixels


def _liven_boxes(network: Any) -> None:
    """Let an untrained network move its boxes and hear its texts, which start near zero."""
    import torch

    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bbox_embed" in name and name.endswith("layers.2.weight"):
                parameter.normal_(std=0.02)
            elif name.endswith((".gamma_v", ".gamma_l")):
                parameter.fill_(0.3)
