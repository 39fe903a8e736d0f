"""Prompts of the detector: which phrases are asked for, and where they stand among the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import BertTokenizer

from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.tokenizers import SEPARATORS
from prelabel.demo.training.data import DISTRACTORS

__all__ = ["Phrase", "TokenBatch", "all_phrases", "draw_phrases", "lay_out"]


@dataclass(frozen=True, slots=True)
class Phrase:
    """One prompt and the category it stands for; 0 for what the drawn world does not hold."""

    text: str
    category_id: int


@dataclass(frozen=True, slots=True, eq=False)
class TokenBatch:
    """One prompt list per image.

    Attributes:
        inputs: `input_ids` and `attention_mask`, int64 (B, T), as the network takes them.
        owners: int64 (B, T), the category id of each token; 0 for separators, padding and phrases
            from outside the world.
        phrases: int64 (B, T), the number of each token's phrase; -1 for separators and padding.
    """

    inputs: dict[str, Tensor]
    owners: Tensor
    phrases: Tensor


def all_phrases() -> list[Phrase]:
    """Every prompt of every thing, in the ontology's order: what the pipeline asks."""
    return [
        Phrase(prompt, category.category_id)
        for category in ONTOLOGY.things
        for prompt in category.prompts
    ]


def draw_phrases(rng: np.random.Generator) -> list[Phrase]:
    """A list for one image: everything, or some categories by some of their names, in any order.

    Most lists hold categories that the image lacks, and half of them words from outside the world.
    """
    whole = rng.random() < 0.4
    if whole:
        phrases = all_phrases()
    else:
        things = ONTOLOGY.things
        chosen = rng.permutation(len(things))[: int(rng.integers(2, len(things) + 1))]
        phrases = []
        for at in chosen:
            names = rng.permutation(things[at].prompts)
            count = int(rng.integers(1, len(names) + 1))
            phrases += [Phrase(str(name), things[at].category_id) for name in names[:count]]
    if rng.random() < 0.5:
        strange = rng.choice(DISTRACTORS, size=int(rng.integers(1, 5)), replace=False)
        phrases += [Phrase(str(word), 0) for word in strange]
    if whole and rng.random() < 0.5:
        return phrases
    return [phrases[at] for at in rng.permutation(len(phrases))]


def lay_out(tokenizer: BertTokenizer, lists: Sequence[Sequence[Phrase]]) -> TokenBatch:
    """Tokens of "phrase . phrase .", padded to the longest list."""
    rows = [_row(tokenizer, phrases) for phrases in lists]
    longest = max(len(row) for row in rows)
    table = torch.zeros(len(rows), 4, longest, dtype=torch.int64)
    table[:, 3] = -1
    for at, row in enumerate(rows):
        table[at, :, : len(row)] = torch.tensor(row).T
    inputs = {"input_ids": table[:, 0], "attention_mask": table[:, 1]}
    return TokenBatch(inputs, table[:, 2], table[:, 3])


def _row(tokenizer: BertTokenizer, phrases: Sequence[Phrase]) -> list[tuple[int, int, int, int]]:
    row = [(SEPARATORS["[CLS]"], 1, 0, -1)]
    for number, phrase in enumerate(phrases):
        ids = tokenizer(phrase.text, add_special_tokens=False)["input_ids"]
        row += [(token, 1, phrase.category_id, number) for token in ids]
        row.append((SEPARATORS["."], 1, 0, -1))
    return [*row, (SEPARATORS["[SEP]"], 1, 0, -1)]
