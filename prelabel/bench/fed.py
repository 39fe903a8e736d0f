"""Networks that run in full and then answer what the workload says."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
from numpy.typing import NDArray

from prelabel.bench.workload import Workload
from prelabel.data import Frame, Mask, Ontology, StuffScores
from prelabel.models.roles import (
    Detected,
    Detector,
    Embedding,
    MaskLogits,
    PromptableSegmenter,
    Prompts,
    StuffScorer,
)

__all__ = ["Counted", "FedDetector", "FedScorer", "FedSegmenter"]

_SURE = 8.0


class Counted:
    """Hands each network's forward passes to whoever counts them, if anybody does."""

    def __init__(self) -> None:
        self.by: Callable[[str], AbstractContextManager[None]] | None = None

    def __call__(self, stage: str) -> AbstractContextManager[None]:
        """A context for forward passes of `stage`."""
        return nullcontext() if self.by is None else self.by(stage)


class FedDetector:
    """A `Detector` that always finds the workload's boxes."""

    def __init__(self, inner: Detector, work: Workload, counted: Counted) -> None:
        self.inner, self.work, self.counted = inner, work, counted

    def load(self, device: str) -> None:
        """Load the network behind it."""
        self.inner.load(device)

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Run the network, and answer the workload's boxes."""
        with self.counted("detect"):
            self.inner.detect(frames, ontology, capture=capture)
        return [Detected(self.work.detections, None) for _ in frames]


class FedScorer:
    """A `StuffScorer` that always gives the workload's rough maps."""

    def __init__(self, inner: StuffScorer, work: Workload, counted: Counted) -> None:
        self.inner, self.work, self.counted = inner, work, counted

    def load(self, device: str) -> None:
        """Load the network behind it."""
        self.inner.load(device)

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """Run the network, and answer the workload's maps."""
        with self.counted("score"):
            self.inner.score(frames, ontology)
        return [self.work.scores for _ in frames]


class FedSegmenter:
    """A `PromptableSegmenter` whose masks are the rectangles that were asked for."""

    def __init__(self, inner: PromptableSegmenter, work: Workload, counted: Counted) -> None:
        self.inner, self.work, self.counted = inner, work, counted

    def load(self, device: str) -> None:
        """Load the network behind it."""
        self.inner.load(device)

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """What the network says."""
        with self.counted("segment"):
            return self.inner.embed(frames, capture=capture)

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """Run the network, and answer rectangles: the box itself, or the cell under the point."""
        with self.counted("segment" if prompts.points is None else "refine"):
            found = self.inner.masks(embedding, prompts, multimask=multimask)
        logits = np.full_like(found.logits, -_SURE)
        side = logits.shape[-1]
        scale = side / max(int(edge) for edge in embedding.size)
        for row, box in enumerate(self._boxes(prompts)):
            x0, y0, x1, y1 = np.round(box * scale).astype(int)
            logits[row, :, y0:y1, x0:x1] = _SURE
        return MaskLogits(logits, np.full_like(found.ious, 0.9))

    def _boxes(self, prompts: Prompts) -> NDArray[np.float32]:
        if prompts.points is None:
            return np.empty((0, 4), np.float32) if prompts.boxes is None else prompts.boxes
        x, y = prompts.points[:, 0, 0, None], prompts.points[:, 0, 1, None]
        x0, y0, x1, y1 = self.work.cells.T
        inside = (x0 <= x) & (x < x1) & (y0 <= y) & (y < y1)
        return np.asarray(self.work.cells[inside.argmax(axis=1)])

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """What the network's shell does."""
        return self.inner.upscale(embedding, logits, size)

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """What the network's shell does."""
        return self.inner.to_logit_grid(embedding, maps, fill)

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """What the network says."""
        return self.inner.attention(embedding, mask)
