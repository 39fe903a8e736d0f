"""What the stages ask of the networks: three roles, spoken in numpy.

Every method returns one result per frame, in the frames' order. `capture` is decided at call time:
with it, what explanations need travels beside the result as evidence; without, it is None.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Detections, Frame, Mask, Ontology, Stored, StuffScores
from prelabel.errors import LabelError

__all__ = [
    "PADDING",
    "Detected",
    "Detector",
    "DetectorEvidence",
    "Embedding",
    "MaskLogits",
    "PromptableSegmenter",
    "Prompts",
    "StuffScorer",
]

PADDING = -10
"""The label of a point that only fills up an array, as in transformers."""


@dataclass(frozen=True, slots=True, eq=False)
class DetectorEvidence(Stored):
    """Where the detector looked, and which words it heard, for each of N detections.

    Attributes:
        tokens: unicode (T,), the tokens of the prompt list.
        token_weights: float32 (N, T), attention from the query to each token, mean over heads.
        points: float32 (N, P, 2), xy in pixels of the original image, that the query sampled.
        point_weights: float32 (N, P), the weight of each sample.
    """

    tokens: NDArray[np.str_]
    token_weights: NDArray[np.float32]
    points: NDArray[np.float32]
    point_weights: NDArray[np.float32]


class Detected(NamedTuple):
    """A detector's answer for one frame."""

    detections: Detections
    evidence: DetectorEvidence | None


class Detector(Protocol):
    """Finds things by text."""

    def load(self, device: str) -> None:
        """Load the weights onto "cpu" or "cuda". Raises ModelError where they do not fit."""

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Boxes of the ontology's things, above each category's threshold, best first.

        An ontology without things gives empty detections and runs no network.
        """


def _nothing() -> NDArray[np.float32]:
    return np.zeros((0, 0, 0), dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Embedding(Stored):
    """One encoded image, which serves any number of prompts.

    Attributes:
        size: int32 (2,), (height, width) of the original image.
        input_size: int32 (2,), (height, width) of the image within the network's square input.
        features: float32 (C, g, g), the network's image embedding.
        attention_input: float32 (g, g, D), input of the last global attention; (0, 0, 0) unless
            captured.
        finer: float32 (C', 2g, 2g), and
        finest: float32 (C", 4g, 4g): what the decoder adds while it upscales; (0, 0, 0) for
            networks without.
    """

    size: NDArray[np.int32]
    input_size: NDArray[np.int32]
    features: NDArray[np.float32]
    attention_input: NDArray[np.float32] = field(default_factory=_nothing)
    finer: NDArray[np.float32] = field(default_factory=_nothing)
    finest: NDArray[np.float32] = field(default_factory=_nothing)

    @property
    def side(self) -> int:
        """Of the network's square input, in its pixels: the longer side of the image fills it."""
        return int(self.input_size.max())


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """N prompts on one image; each part is given for all of them or for none.

    Attributes:
        boxes: float32 (N, 4), xyxy pixels of the original image.
        points: float32 (N, P, 2), xy pixels of the original image.
        labels: int32 (N, P): 1 inside, 0 outside, `PADDING` for a point to ignore.
        masks: float32 (N, m, m), mask logits over the network's padded input, as in `MaskLogits`.
    """

    boxes: NDArray[np.float32] | None = None
    points: NDArray[np.float32] | None = None
    labels: NDArray[np.int32] | None = None
    masks: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        if self.boxes is None and self.points is None:
            raise LabelError("expected boxes or points as prompts, got neither")
        if (self.points is None) != (self.labels is None):
            raise LabelError("expected points and labels together, got one of them")
        if len({len(part) for part in self._parts()}) > 1:
            shapes = [part.shape for part in self._parts()]
            raise LabelError(f"expected as many of each part of the prompts, got {shapes}")

    def _parts(self) -> list[NDArray[np.generic]]:
        parts = (self.boxes, self.points, self.labels, self.masks)
        return [part for part in parts if part is not None]

    def __len__(self) -> int:
        return len(self._parts()[0])

    def alike(self, most: int) -> Iterator[tuple[NDArray[np.intp], Prompts]]:
        """Prompts with equally many points together and without padding, at most `most` at once.

        The networks' authors know no point that only fills up, while transformers' decoders attend
        to it: a prompt's mask would depend on how many points its neighbours have.

        Yields:
            int (n,) the rows, and their prompts.
        """
        counts = np.zeros(len(self), dtype=np.intp)
        if self.labels is not None:
            counts = (self.labels != PADDING).sum(axis=1)
        for count in np.unique(counts):
            same = np.flatnonzero(counts == count)
            for start in range(0, len(same), most):
                rows = same[start : start + most]
                yield rows, self._without_padding(rows, int(count))

    def _without_padding(self, rows: NDArray[np.intp], count: int) -> Prompts:
        boxes = None if self.boxes is None else self.boxes[rows]
        masks = None if self.masks is None else self.masks[rows]
        if self.points is None or self.labels is None or (not count and boxes is not None):
            return Prompts(boxes, masks=masks)
        real = self.labels[rows] != PADDING
        points = self.points[rows][real].reshape(len(rows), count, 2)
        return Prompts(boxes, points, self.labels[rows][real].reshape(len(rows), count), masks)


@dataclass(frozen=True, slots=True, eq=False)
class MaskLogits(Stored):
    """The segmenter's candidates for N prompts, at its own resolution.

    Attributes:
        logits: float32 (N, K, m, m), over the network's padded input; above 0 is inside.
        ious: float32 (N, K), predicted mask quality in [0, 1].
    """

    logits: NDArray[np.float32]
    ious: NDArray[np.float32]


class PromptableSegmenter(Protocol):
    """Makes masks from boxes and points, encoding each image once."""

    def load(self, device: str) -> None:
        """Load the weights onto "cpu" or "cuda". Raises ModelError where they do not fit."""

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """Encode each frame once."""

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt, or with `multimask` three of different extent."""

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (M, m, m) over the padded input as float32 (M, height, width) over the image."""

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps float32 (M, h, w) over the whole image as (M, m, m) over the padded input."""

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """What the mask's pixels attended to in the encoder's last global layer.

        Returns float32 (h, w) over the whole image, summing to 1. Needs a captured embedding.
        """


class StuffScorer(Protocol):
    """Scores stuff by text, roughly, all over the image."""

    def load(self, device: str) -> None:
        """Load the weights onto "cpu" or "cuda". Raises ModelError where they do not fit."""

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """One rough map per stuff category; the maps themselves are the evidence.

        An ontology without stuff gives empty scores and runs no network.
        """
