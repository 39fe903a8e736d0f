"""Networks that are none: exact answers on images painted in the categories' own colours.

`kind: paint` plays every role without weights and without torch. A thing is a connected patch of
its category's colour, a mask is the patch under the prompt, and stuff is likely where its colour
is. They make the whole pipeline, the job and the connectors testable to the pixel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field
from scipy import ndimage

from prelabel.data import Category, Detections, Frame, Mask, Ontology, StuffScores
from prelabel.errors import ModelError
from prelabel.masks import resize_probs
from prelabel.models.roles import Detected, DetectorEvidence, Embedding, MaskLogits, Prompts
from prelabel.options import Fraction, Section

__all__ = ["PaintDetector", "PaintOptions", "PaintSegmenter", "PaintStuffScorer"]

_SURE, _UNSURE = 10.0, -10.0
_EIGHT = np.ones((3, 3))


class PaintOptions(Section):
    """Options of `kind: paint`."""

    kind: Literal["paint"] = "paint"
    score: Fraction = 0.9
    """What every answer scores."""
    tolerance: Annotated[int, Field(ge=0, le=255)] = 12
    """How far a pixel's channels may be from a colour to count as it."""


def _is_color(
    pixels: NDArray[np.uint8], category: Category, options: PaintOptions
) -> NDArray[np.bool_]:
    """bool (H, W): where the pixels have the category's colour."""
    if category.color is None:
        raise ModelError(f"kind paint needs a color for category {category.name!r}")
    distance = np.abs(pixels.astype(np.int16) - np.array(category.color, dtype=np.int16))
    return np.asarray(distance.max(axis=2) <= options.tolerance)


class _Paint:
    Options = PaintOptions

    def __init__(self, options: PaintOptions) -> None:
        self.options = options

    def load(self, device: str) -> None:
        """Nothing to load."""


class PaintDetector(_Paint):
    """A `Detector` of connected patches (8 neighbours) of each thing's colour."""

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Boxes around the patches, in reading order."""
        return [self._detect_one(frame, ontology.things, capture) for frame in frames]

    def _detect_one(self, frame: Frame, things: tuple[Category, ...], capture: bool) -> Detected:
        boxes, winners = [], []
        for index, category in enumerate(things):
            labels, _ = ndimage.label(_is_color(frame.pixels, category, self.options), _EIGHT)
            for rows, columns in ndimage.find_objects(labels):
                boxes.append((columns.start, rows.start, columns.stop, rows.stop))
                winners.append(index)
        count, winner = len(boxes), np.array(winners, dtype=np.intp)
        class_scores = np.zeros((count, len(things)), dtype=np.float32)
        class_scores[np.arange(count), winner] = self.options.score
        detections = Detections(
            boxes=np.array(boxes, dtype=np.float32).reshape(-1, 4),
            category_ids=np.array([things[i].category_id for i in winners], dtype=np.int32),
            scores=np.full(count, self.options.score, dtype=np.float32),
            class_scores=class_scores,
            query_ids=np.arange(count, dtype=np.int32),
            prompt_ids=np.zeros(count, dtype=np.int32),
        )
        return Detected(detections, _evidence(detections, things) if capture else None)


def _evidence(detections: Detections, things: tuple[Category, ...]) -> DetectorEvidence:
    """Looks at the middle of each box and hears its category's name."""
    ids = np.array([category.category_id for category in things], dtype=np.int32)
    middles = (detections.boxes[:, None, :2] + detections.boxes[:, None, 2:]) / 2
    return DetectorEvidence(
        tokens=np.array([category.prompts[0] for category in things], dtype=np.str_),
        token_weights=(detections.category_ids[:, None] == ids[None]).astype(np.float32),
        points=middles.astype(np.float32),
        point_weights=np.ones((len(detections), 1), dtype=np.float32),
    )


class PaintSegmenter(_Paint):
    """A `PromptableSegmenter` of the patch of one colour under the prompt.

    Its embedding is the picture itself on a square, so that its masks are exact.
    """

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """The pixels as features float32 (3, g, g), g the longer side, padded with −1."""
        return [self._embed_one(frame, capture) for frame in frames]

    def _embed_one(self, frame: Frame, capture: bool) -> Embedding:
        height, width = frame.size
        side = max(frame.size)
        square = np.full((side, side, 3), -1, dtype=np.float32)
        square[:height, :width] = frame.pixels
        size = np.array(frame.size, dtype=np.int32)
        attention = square if capture else np.zeros((0, 0, 0), dtype=np.float32)
        return Embedding(size, size, np.moveaxis(square, 2, 0).copy(), attention)

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """The patch of the commonest colour in the box, or under the positive points."""
        maps = []
        for index in range(len(prompts)):
            if prompts.boxes is not None:
                patch = self._in_box(embedding, prompts.boxes[index])
            else:
                patch = self._under_points(embedding, prompts, index)
            maps.append(np.where(patch, _SURE, _UNSURE).astype(np.float32))
        side = embedding.features.shape[-1]
        count = 3 if multimask else 1
        logits = np.array(maps, dtype=np.float32).reshape(-1, 1, side, side)
        ious = np.full((len(maps), count), self.options.score, dtype=np.float32)
        return MaskLogits(np.repeat(logits, count, axis=1), ious)

    def _patches(self, embedding: Embedding, color: NDArray[np.float32]) -> NDArray[np.int32]:
        distance = np.abs(embedding.features - color[:, None, None]).max(axis=0)
        labels, _ = ndimage.label(distance <= self.options.tolerance, _EIGHT)
        return np.asarray(labels, dtype=np.int32)

    def _in_box(self, embedding: Embedding, box: NDArray[np.float32]) -> NDArray[np.bool_]:
        x0, y0, x1, y1 = (int(edge) for edge in np.round(box))
        window = (slice(y0, max(y1, y0 + 1)), slice(x0, max(x1, x0 + 1)))
        inside = embedding.features[:, *window].reshape(3, -1).T
        colors, counts = np.unique(inside, axis=0, return_counts=True)
        # The middle of equally common colours is as good as any; reading order decides.
        for color in colors[np.argsort(-counts, kind="stable")]:
            labels = self._patches(embedding, color)
            fitting = np.unique(labels[window])
            for label in fitting[fitting > 0]:
                if Mask.from_full(labels == label).box == (x0, y0, x1, y1):
                    return np.asarray(labels == label)
        return np.zeros(embedding.features.shape[1:], dtype=np.bool_)

    def _under_points(
        self, embedding: Embedding, prompts: Prompts, index: int
    ) -> NDArray[np.bool_]:
        patch = np.zeros(embedding.features.shape[1:], dtype=np.bool_)
        if prompts.points is None or prompts.labels is None:
            return patch
        for x, y in prompts.points[index][prompts.labels[index] == 1].astype(np.intp):
            labels = self._patches(embedding, embedding.features[:, y, x])
            patch |= labels == labels[y, x]
        return patch

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits over the square as float32 (M, height, width) over the image."""
        height, width = (int(edge) for edge in embedding.size)
        return resize_probs(logits[:, :height, :width], size)

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps over the image as (M, g, g) over the square."""
        height, width = (int(edge) for edge in embedding.size)
        side = embedding.features.shape[-1]
        grid = np.full((len(maps), side, side), fill, dtype=np.float32)
        grid[:, :height, :width] = resize_probs(maps, (height, width))
        return grid

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """The mask itself, summing to 1."""
        height, width = (int(edge) for edge in embedding.size)
        full = mask.to_full((height, width)).astype(np.float32)
        return full / max(1.0, float(full.sum()))


class PaintStuffScorer(_Paint):
    """A `StuffScorer` that is as sure as its score where a category's colour is."""

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """One map per stuff category, at the image's own resolution."""
        return [self._score_one(frame, ontology.stuff) for frame in frames]

    def _score_one(self, frame: Frame, stuff: tuple[Category, ...]) -> StuffScores:
        if not stuff:
            return StuffScores.empty()
        maps = [
            np.where(_is_color(frame.pixels, category, self.options), self.options.score, 0.0)
            for category in stuff
        ]
        return StuffScores(
            category_ids=np.array([category.category_id for category in stuff], dtype=np.int32),
            prompt_ids=np.zeros(len(stuff), dtype=np.int32),
            probs=np.array(maps, dtype=np.float32),
        )
