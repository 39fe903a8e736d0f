"""Prompts laid out as Grounding DINO reads them, and scores read back by token span."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import ModelError

__all__ = ["Span", "TextChunk", "chunk_prompts", "score_categories"]

_CLS, _SEP, _DOT = 101, 102, 1012
"""Token ids that Grounding DINO hard-codes: start, end, and the separator of prompts."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where one prompt stands among the tokens: `start` to `stop`, half-open."""

    category_index: int
    prompt_id: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class TextChunk:
    """One prompt list that fits the network: `[CLS] prompt . prompt . [SEP]`."""

    input_ids: tuple[int, ...]
    spans: tuple[Span, ...]


def chunk_prompts(
    tokens: Sequence[Sequence[Sequence[int]]], max_tokens: int
) -> tuple[TextChunk, ...]:
    """Lay out all prompts of all categories, in as few chunks as hold them.

    Args:
        tokens: for each category, for each of its prompts, its token ids without special ones.
        max_tokens: the most tokens a chunk may have, special ones included.

    Raises:
        ModelError: a single prompt is longer than a chunk.
    """
    chunks: list[TextChunk] = []
    ids, spans = [_CLS], list[Span]()
    for category_index, prompts in enumerate(tokens):
        for prompt_id, prompt in enumerate(prompts):
            if len(prompt) + 3 > max_tokens:
                raise ModelError(
                    f"a prompt of {len(prompt)} tokens exceeds {max_tokens}; shorten it"
                )
            if len(ids) + len(prompt) + 2 > max_tokens:
                chunks.append(TextChunk((*ids, _SEP), tuple(spans)))
                ids, spans = [_CLS], []
            spans.append(Span(category_index, prompt_id, len(ids), len(ids) + len(prompt)))
            ids += [*prompt, _DOT]
    chunks.append(TextChunk((*ids, _SEP), tuple(spans)))
    return tuple(chunks)


def score_categories(
    probs: NDArray[np.float32], spans: Sequence[Span], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Each query's score per category: the mean over a prompt's tokens, the best of its prompts.

    Args:
        probs: float32 (Q, T), sigmoid of the token logits.
        spans: the prompts' places among the tokens.
        count: number of categories; those without a span here score 0.

    Returns:
        float32 (Q, count) scores and int32 (Q, count) the prompt that gave each.
    """
    scores = np.zeros((len(probs), count), dtype=np.float32)
    prompts = np.zeros((len(probs), count), dtype=np.int32)
    for span in spans:
        score = probs[:, span.start : span.stop].mean(axis=1)
        better = score > scores[:, span.category_index]
        scores[better, span.category_index] = score[better]
        prompts[better, span.category_index] = span.prompt_id
    return scores, prompts
