"""A segmenter that answers from the cache: images encoded once for ever, prompts decoded once."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from prelabel.cache.keys import PixelDigests, digest, mask_digest, prompts_digest
from prelabel.cache.networks import Deferred, fill_gaps, recall, to_arrays
from prelabel.cache.store import StageCache
from prelabel.data import Frame, Mask
from prelabel.errors import ModelError
from prelabel.models.roles import Embedding, MaskLogits, PromptableSegmenter, Prompts
from prelabel.options import Section

__all__ = ["CachedSegmenter", "KeyedEmbedding"]

Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True, eq=False)
class KeyedEmbedding(Embedding):
    """An embedding that knows its key in the cache.

    Attributes:
        key: what the answers to prompts on it are found by.
    """

    key: str = ""

    def plain(self) -> Embedding:
        """The same without the key."""
        return Embedding(*(getattr(self, item.name) for item in dataclasses.fields(Embedding)))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write as an `Embedding`, which reads it."""
        self.plain().save(path)


class CachedSegmenter:
    """A `PromptableSegmenter` that asks its network only what it was not asked before.

    A prompt's answer can depend, in its last bits, on how many others it was put with: matrix
    products of different shapes round differently. So prompts are looked up one by one only where
    the network decodes them one by one; else a call is found as a whole or not at all.
    """

    def __init__(self, network: PromptableSegmenter, options: Section, cache: StageCache) -> None:
        self._deferred = Deferred(network, options, cache)
        self._cache, self._pixels = cache, PixelDigests()

    def load(self, device: str) -> None:
        """Load the weights, unless they loaded before; then when they are needed."""
        self._deferred.load("segment", device)

    # --- the image ----------------------------------------------------------------------------

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """Encode each frame that was not encoded before."""
        keys = [digest(self._deferred.key, self._pixels(frame)) for frame in frames]

        def ask(rows: Sequence[int]) -> Sequence[Embedding]:
            missing = [frames[row] for row in rows]
            found = self._deferred.ready().embed(missing, capture=capture)
            return [
                self._keep(keys[row], one, capture) for row, one in zip(rows, found, strict=True)
            ]

        return fill_gaps([self._recall(key, capture) for key in keys], ask)

    def _keep(self, key: str, embedding: Embedding, capture: bool) -> Embedding:
        arrays = to_arrays(embedding)
        attention = arrays.pop("attention_input")
        self._cache.put("embeddings", key, arrays)
        if capture:
            # Apart: it is thrice the rest, and most runs never read it.
            self._cache.put("attention-inputs", key, {"attention_input": attention})
        return KeyedEmbedding(**arrays, attention_input=attention, key=key)

    def _recall(self, key: str, capture: bool) -> Embedding | None:
        attention: dict[str, Any] = {}
        if capture:
            had = self._cache.get("attention-inputs", key)
            if had is None:
                return None
            attention = had
        return recall(
            self._cache,
            "embeddings",
            key,
            lambda arrays: KeyedEmbedding(**arrays, **attention, key=key),
        )

    # --- prompts ------------------------------------------------------------------------------

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt, or with `multimask` three of different extent."""
        if not isinstance(embedding, KeyedEmbedding) or not len(prompts):
            return self._deferred.ready().masks(embedding, prompts, multimask=multimask)
        parts = self._parts(prompts)
        keys = [digest(embedding.key, multimask, prompts_digest(part)) for part in parts]

        def ask(gaps: Sequence[int]) -> Sequence[MaskLogits]:
            missing = _together([parts[gap] for gap in gaps])
            found = self._deferred.ready().masks(embedding, missing, multimask=multimask)
            answers = _split(found, [len(parts[gap]) for gap in gaps])
            for gap, one in zip(gaps, answers, strict=True):
                self._cache.put("mask-logits", keys[gap], to_arrays(one))
            return answers

        answers = fill_gaps(
            [
                recall(self._cache, "mask-logits", key, lambda had: MaskLogits(**had))
                for key in keys
            ],
            ask,
        )
        return MaskLogits(
            np.concatenate([answer.logits for answer in answers]),
            np.concatenate([answer.ious for answer in answers]),
        )

    def _parts(self, prompts: Prompts) -> list[Prompts]:
        """The prompts as they are looked up: each by itself, or all as one."""
        at_once = getattr(self._deferred.options, "at_once", None)
        if at_once is not None and at_once(self._deferred.device) > 1:
            return [prompts]
        return [_rows(prompts, slice(row, row + 1)) for row in range(len(prompts))]

    # --- between the image and the square -----------------------------------------------------

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (M, m, m) over the padded input as float32 (M, height, width) over the image."""
        return self._try_unloaded(lambda network: network.upscale(embedding, logits, size))

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps float32 (M, h, w) over the whole image as (M, m, m) over the padded input."""
        return self._try_unloaded(lambda network: network.to_logit_grid(embedding, maps, fill))

    def _try_unloaded(self, ask: Callable[[PromptableSegmenter], Answer]) -> Answer:
        """What needs no weights of most networks is no reason to load them."""
        try:
            return ask(self._deferred.network)
        except ModelError:
            if self._deferred.loaded:
                raise
            return ask(self._deferred.ready())

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """What the mask's pixels attended to in the encoder's last global layer."""
        if not isinstance(embedding, KeyedEmbedding):
            return self._deferred.ready().attention(embedding, mask)
        key = digest(embedding.key, mask_digest(mask))
        had = self._cache.get("attention-maps", key)
        if had is not None:
            return np.asarray(had["attention"], dtype=np.float32)
        found = self._deferred.ready().attention(embedding, mask)
        self._cache.put("attention-maps", key, {"attention": found})
        return found


def _rows(prompts: Prompts, rows: slice) -> Prompts:
    return Prompts(
        **{name: None if part is None else part[rows] for name, part in _fields(prompts).items()}
    )


def _together(parts: Sequence[Prompts]) -> Prompts:
    """Prompts of one make, one after the other."""
    if len(parts) == 1:
        return parts[0]
    columns = {
        name: [column for part in parts if (column := _fields(part)[name]) is not None]
        for name in _fields(parts[0])
    }
    return Prompts(**{name: np.concatenate(column) for name, column in columns.items() if column})


def _fields(prompts: Prompts) -> dict[str, NDArray[Any] | None]:
    return {item.name: getattr(prompts, item.name) for item in dataclasses.fields(prompts)}


def _split(found: MaskLogits, counts: Sequence[int]) -> list[MaskLogits]:
    ends = np.cumsum(counts)
    return [
        MaskLogits(found.logits[end - count : end], found.ious[end - count : end])
        for end, count in zip(ends, counts, strict=True)
    ]
