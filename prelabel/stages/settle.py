"""Who owns each pixel: the rules of merge, on proposals in the order of their score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prelabel.data import StuffScores
from prelabel.masks import intersection, resize_at, resize_window
from prelabel.options import MergeOptions
from prelabel.stages.proposals import Proposal

__all__ = ["count_losses", "fill_void", "screen", "settle"]


def screen(proposals: Sequence[Proposal], options: MergeOptions) -> list[Proposal]:
    """Those that compete for pixels: not too doubtful, not empty, not an object seen twice."""
    standing: list[Proposal] = []
    for proposal in proposals:
        if not proposal.mask.area:
            proposal.settle("too-small")
        elif proposal.score < options.min_score:
            proposal.settle("low-score")
        elif twin := next((o for o in standing if _same_object(proposal, o, options)), None):
            proposal.settle("duplicate", twin.candidate.candidate_id)
        else:
            standing.append(proposal)
    return standing


def _same_object(proposal: Proposal, better: Proposal, options: MergeOptions) -> bool:
    if not (proposal.isthing and better.isthing):
        return False
    shared = intersection(proposal.mask, better.mask)
    area, other = proposal.mask.area, better.mask.area
    if shared / (area + other - shared) >= options.duplicate_iou:
        return True
    same_category = proposal.candidate.category_id == better.candidate.category_id
    return same_category and shared >= options.part * min(area, other)


def settle(
    standing: list[Proposal],
    size: tuple[int, int],
    scores: StuffScores,
    least: Mapping[int, float],
    options: MergeOptions,
) -> NDArray[np.int32]:
    """Give every pixel an owner, dropping proposals of which too little stays visible.

    Args:
        standing: in the order of their score; loses the dropped ones.
        size: (height, width) of the image, pixels.
        scores: rough maps of stuff.
        least: least visible area by category_id, pixels.
        options: the rules' limits.

    Returns:
        int32 (H, W): 1 + index into `standing`, 0 where nobody claims the pixel.
    """
    evidence = _stuff_evidence(standing, size, scores, options)
    while True:
        owners = _paint(standing, size, evidence, options)
        visible = np.bincount(owners.ravel(), minlength=len(standing) + 1)[1:]
        share = [
            count / proposal.mask.area if proposal.isthing else 1.0
            for count, proposal in zip(visible, standing, strict=True)
        ]
        areas = _segment_areas(standing, visible)
        failing = [
            index
            for index, proposal in enumerate(standing)
            if not visible[index]
            or areas[index] < least[proposal.candidate.category_id]
            or share[index] < options.min_visible
        ]
        if not failing:
            return owners
        # The most hidden goes first: what it frees may save the others.
        worst = min(failing, key=lambda index: (share[index], visible[index]))
        _drop(standing, worst, owners, covered=share[worst] < options.min_visible)


def _segment_areas(standing: Sequence[Proposal], visible: NDArray[np.int64]) -> list[int]:
    """Of each proposal, the visible pixels of the segment it belongs to."""
    stuff: dict[int, int] = {}
    for count, proposal in zip(visible, standing, strict=True):
        if not proposal.isthing:
            category_id = proposal.candidate.category_id
            stuff[category_id] = stuff.get(category_id, 0) + int(count)
    return [
        int(count) if proposal.isthing else stuff[proposal.candidate.category_id]
        for count, proposal in zip(visible, standing, strict=True)
    ]


def _drop(
    standing: list[Proposal], worst: int, owners: NDArray[np.int32], *, covered: bool
) -> None:
    """Take a proposal out, beaten by whoever holds most of it."""
    inside = owners[standing[worst].mask.window][standing[worst].mask.bitmap]
    taker = int(np.bincount(inside[inside != worst + 1], minlength=1).argmax())
    beaten_by = standing[taker - 1].candidate.candidate_id if taker else ""
    standing[worst].settle("covered" if covered else "too-small", beaten_by)
    del standing[worst]


# --- painting ---------------------------------------------------------------------------------

_Evidence = Callable[[Proposal], NDArray[np.float32]]
"""How strongly a region claims each pixel of its mask's window: float32 (h, w)."""


def _stuff_evidence(
    standing: Sequence[Proposal], size: tuple[int, int], scores: StuffScores, options: MergeOptions
) -> _Evidence:
    """Score × rough probability at the pixel; the score alone without `by_pixel`."""
    rows = {int(category_id): row for row, category_id in enumerate(scores.category_ids)}
    maps: dict[str, NDArray[np.float32]] = {}
    for proposal in standing:
        if proposal.isthing:
            continue
        row = rows.get(proposal.candidate.category_id) if options.by_pixel else None
        claim = np.full(proposal.mask.bitmap.shape, proposal.score, dtype=np.float32)
        if row is not None:
            claim *= resize_window(scores.probs[row], size, proposal.mask.window)
        maps[proposal.candidate.candidate_id] = claim
    return lambda proposal: maps[proposal.candidate.candidate_id]


def _paint(
    standing: Sequence[Proposal],
    size: tuple[int, int],
    evidence: _Evidence,
    options: MergeOptions,
) -> NDArray[np.int32]:
    """Stuff first, each pixel to its strongest claim; then things, the best first."""
    owners, strongest = np.zeros(size, dtype=np.int32), np.full(size, -1.0, dtype=np.float32)
    for index, proposal in enumerate(standing):
        if proposal.isthing:
            continue
        window, claim = proposal.mask.window, evidence(proposal)
        wins = proposal.mask.bitmap & (claim > strongest[window])
        owners[window][wins] = index + 1
        strongest[window][wins] = claim[wins]
    things = np.array([0, *(proposal.isthing for proposal in standing)], dtype=np.bool_)
    for index, proposal in enumerate(standing):
        if proposal.isthing:
            _place(index, standing, owners, things, options)
    return owners


def _place(
    index: int,
    standing: Sequence[Proposal],
    owners: NDArray[np.int32],
    things: NDArray[np.bool_],
    options: MergeOptions,
) -> None:
    """Paint a thing over stuff, and over the better things that it lies on."""
    mask = standing[index].mask
    window = owners[mask.window]
    free = mask.bitmap & ~things[window]
    for owner in np.unique(window[mask.bitmap]):
        if things[owner] and _lies_on(standing[index], standing[owner - 1], options):
            free |= mask.bitmap & (window == owner)
    window[free] = index + 1


def _lies_on(proposal: Proposal, better: Proposal, options: MergeOptions) -> bool:
    """Whether a thing lies on a much larger one of better score."""
    shared = intersection(proposal.mask, better.mask)
    inside = shared >= options.containment * proposal.mask.area
    return inside and proposal.mask.area <= options.containment_ratio * better.mask.area


# --- void -------------------------------------------------------------------------------------


def fill_void(
    owners: NDArray[np.int32], standing: Sequence[Proposal], scores: StuffScores, least: float
) -> None:
    """Give void to the likeliest stuff category that is in the picture anyway, where it is likely.

    What is unlikely to be any of them is probably a thing that nobody found.

    Args:
        owners: int32 (H, W), as `settle` returns; changed in place.
        standing: what it refers to.
        scores: rough maps of stuff.
        least: rough probability in [0, 1] from which on a pixel is filled.
    """
    present = {
        proposal.candidate.category_id: index
        for index, proposal in reversed(list(enumerate(standing)))
        if not proposal.isthing
    }
    y, x = np.nonzero(owners == 0)
    if not present or not len(y):
        return
    strongest = np.full(len(y), -1.0, dtype=np.float32)
    taker = np.zeros(len(strongest), dtype=np.int32)
    # In the maps' order, so that equals go to the first.
    for row, category_id in enumerate(scores.category_ids):
        if int(category_id) not in present:
            continue
        probs = resize_at(scores.probs[row], (owners.shape[0], owners.shape[1]), (y, x))
        better = (probs >= least) & (probs > strongest)
        taker[better] = present[int(category_id)] + 1
        strongest[better] = probs[better]
    owners[y, x] = taker


# --- who lost to whom -------------------------------------------------------------------------


def count_losses(
    owners: NDArray[np.int32], standing: Sequence[Proposal], options: MergeOptions
) -> dict[tuple[str, str], tuple[int, str]]:
    """By (loser, winner): pixels that one claims and the other owns, and the rule that decided."""
    losses = {}
    for index, proposal in enumerate(standing):
        inside = owners[proposal.mask.window][proposal.mask.bitmap]
        counts = np.bincount(inside, minlength=len(standing) + 1)
        for owner in map(int, np.flatnonzero(counts)):
            if owner not in (0, index + 1):
                winner = standing[owner - 1]
                rule = _rule(proposal, winner, index > owner - 1, options)
                pair = proposal.candidate.candidate_id, winner.candidate.candidate_id
                losses[pair] = int(counts[owner]), rule
    return losses


def _rule(loser: Proposal, winner: Proposal, winner_is_better: bool, options: MergeOptions) -> str:
    if loser.isthing != winner.isthing:
        return "in-front"
    if loser.isthing:
        return "better-score" if winner_is_better else "on-top"
    if loser.candidate.category_id == winner.candidate.category_id:
        return "same-segment"
    return "likelier-here" if options.by_pixel else "better-score"
