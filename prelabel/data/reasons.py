"""Why a label is what it is: the trace of merge, explanations, failures."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

import numpy as np
from numpy.typing import NDArray

from prelabel.archive import pack_text, read_archive, unpack_text, write_archive
from prelabel.data.masks import Mask, pack_masks, unpack_masks
from prelabel.data.stored import check_array, check_unit

__all__ = ["Candidate", "Explanation", "Failure", "Heatmap", "Trace"]


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a stage proposed for the label, and what merge made of it.

    Attributes:
        candidate_id: "thing:3" (third instance) or "stuff:1" (second region).
        category_id: what it was proposed as.
        isthing: whether that is a thing category.
        mask: as proposed, before anything was taken from it.
        score: in [0, 1], the one score by which merge orders.
        rule: what decided: "kept", "merged", "duplicate", "covered", "too-small", "low-score".
        beaten_by: the candidate that beat it, or "".
        segment_id: the segment it became part of, 0 where it was beaten.
    """

    candidate_id: str
    category_id: int
    isthing: bool
    mask: Mask
    score: float
    rule: str
    beaten_by: str = ""
    segment_id: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What merge decided about one image: every candidate, in the order it was considered.

    `losses[(a, b)]` is how many pixels of candidate `a` went to candidate `b`, and
    `loss_rules[(a, b)]` the rule that decided between them: "in-front" (a thing before stuff),
    "on-top" (a small thing inside a large one), "better-score", "likelier-here" (of two regions of
    stuff, by the rough maps) or "same-segment" (two regions of one stuff category).
    """

    image_id: str
    candidates: tuple[Candidate, ...]
    losses: Mapping[tuple[str, str], int] = field(default_factory=dict)
    loss_rules: Mapping[tuple[str, str], str] = field(default_factory=dict)

    _VERSION = 2

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a `.npz` without pickle, with a version."""
        rows = self.candidates
        pairs = sorted(self.losses)
        arrays: dict[str, NDArray[np.generic]] = {
            "image_id": np.array([self.image_id]),
            "candidate_ids": pack_text(tuple(row.candidate_id for row in rows)),
            "category_ids": np.array([row.category_id for row in rows], dtype=np.int32),
            "isthing": np.array([row.isthing for row in rows], dtype=np.bool_),
            "scores": np.array([row.score for row in rows], dtype=np.float64),
            "rules": pack_text(tuple(row.rule for row in rows)),
            "beaten_by": pack_text(tuple(row.beaten_by for row in rows)),
            "segment_ids": np.array([row.segment_id for row in rows], dtype=np.int32),
            "losers": pack_text(tuple(loser for loser, _ in pairs)),
            "winners": pack_text(tuple(winner for _, winner in pairs)),
            "lost": np.array([self.losses[pair] for pair in pairs], dtype=np.int64),
            "lost_by": pack_text(tuple(self.loss_rules.get(pair, "") for pair in pairs)),
        }
        write_archive(
            path, "Trace", self._VERSION, arrays | pack_masks(tuple(row.mask for row in rows))
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises LabelError for any other file."""
        arrays = read_archive(path, "Trace", cls._VERSION)
        candidates = tuple(
            Candidate(name, int(category_id), bool(isthing), mask, float(score), rule, by, int(won))
            for name, category_id, isthing, mask, score, rule, by, won in zip(
                unpack_text(arrays["candidate_ids"]),
                arrays["category_ids"],
                arrays["isthing"],
                unpack_masks(arrays),
                arrays["scores"],
                unpack_text(arrays["rules"]),
                unpack_text(arrays["beaten_by"]),
                arrays["segment_ids"],
                strict=True,
            )
        )
        losers, winners = unpack_text(arrays["losers"]), unpack_text(arrays["winners"])
        pairs = list(zip(losers, winners, strict=True))
        losses = {pair: int(lost) for pair, lost in zip(pairs, arrays["lost"], strict=True)}
        rules = dict(zip(pairs, unpack_text(arrays["lost_by"]), strict=True))
        rules = {pair: rule for pair, rule in rules.items() if rule}
        return cls(str(arrays["image_id"][0]), candidates, losses, rules)


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """One map of an explanation.

    Attributes:
        question: what the map answers, in words for people.
        values: float32 (h, w) in [0, 1], covering the whole image.
    """

    question: str
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        check_array("values", self.values, np.float32, None, None)
        check_unit("values", self.values)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a segment is there.

    Attributes:
        segment_id: of the label.
        prompt: the synonym that fired.
        scores: each factor of the segment's score by its name, in [0, 1].
        words: how much the network attended to each word of the prompt list, by word.
        runner_up: category_id of the next best guess, or None.
        margin: in [0, 1].
        pixels_lost_to: pixels of its candidates that went to another, by candidate_id.
        heatmaps: by a short name: "sampling", "attention", "rough".
    """

    segment_id: int
    prompt: str
    scores: Mapping[str, float]
    words: Mapping[str, float]
    runner_up: int | None
    margin: float
    pixels_lost_to: Mapping[str, int]
    heatmaps: Mapping[str, Heatmap]


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that could not be labelled: data, not the end of the job.

    Attributes:
        image_id: as in the record.
        stage: "decode", "detect", "segment", "score", "refine", "merge", "explain" or "write".
        kind: a short machine-readable reason, such as "truncated".
        message: a sentence for people.
    """

    image_id: str
    stage: str
    kind: str
    message: str
