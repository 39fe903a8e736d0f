"""Other ways of asking the segmenter, and one that asks each question once."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Frame, Mask
from prelabel.models.roles import Embedding, MaskLogits, PromptableSegmenter, Prompts

__all__ = ["BestByIou", "Remembering", "Single"]


class _Forwarding:
    """A `PromptableSegmenter` that hands everything on to another."""

    def __init__(self, inner: PromptableSegmenter) -> None:
        self.inner = inner

    def load(self, device: str) -> None:
        """Load the network behind it."""
        self.inner.load(device)

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """What the network says."""
        return self.inner.embed(frames, capture=capture)

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """What the network says."""
        return self.inner.masks(embedding, prompts, multimask=multimask)

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


class Remembering(_Forwarding):
    """Of one image; asks its network each question once."""

    def __init__(self, inner: PromptableSegmenter) -> None:
        super().__init__(inner)
        self._answers: dict[bytes, MaskLogits] = {}

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """What the network says, or said when it was asked the same."""
        question = hashlib.sha256(bytes([multimask]))
        for part in (prompts.boxes, prompts.points, prompts.labels, prompts.masks):
            question.update(b"-" if part is None else part.tobytes())
        key = question.digest()
        if key not in self._answers:
            self._answers[key] = self.inner.masks(embedding, prompts, multimask=multimask)
        return self._answers[key]


class BestByIou(_Forwarding):
    """Offers of its candidates only the one of highest predicted IoU."""

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt."""
        found = self.inner.masks(embedding, prompts, multimask=multimask)
        best = found.ious.argmax(axis=1)[:, None]
        rows = np.arange(len(prompts))[:, None]
        return MaskLogits(found.logits[rows, best], found.ious[rows, best])


class Single(_Forwarding):
    """Asks for one mask where three are wanted."""

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt."""
        return self.inner.masks(embedding, prompts, multimask=False)
