"""Everything the stages proposed becomes one label: each pixel in exactly one segment, or void.

Candidates are considered in the order of one score, comparable between things and stuff: the
geometric mean of "is it that category" and "is that its mask".

Three rules settle an overlap, the first that applies:
 1. a thing stands in front of stuff;
 2. a candidate that lies (`containment`) inside a much larger one of another category lies on top;
 3. the better score keeps the pixels.
A thing that overlaps a better one almost wholly (`duplicate_iou`), or lies inside a better one of
its own category, is the same object seen twice. What is left of a candidate must be a fair share of
it (`min_visible`) and of the image (`min_area`), or it goes and gives its pixels back.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import box_of
from prelabel.data import (
    Candidate,
    Instances,
    Mask,
    Ontology,
    PanopticLabel,
    Segment,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.masks import intersection, resize_probs
from prelabel.options import MergeOptions

__all__ = ["merge", "stuff_score", "thing_score"]


def thing_score(score: float, iou: float, stability: float) -> float:
    """The one score of a thing in [0, 1], from the detector's, SAM's IoU and its stability."""
    return float((score * (iou * stability) ** 0.5) ** 0.5)


def stuff_score(prob: float, iou: float, agreement: float) -> float:
    """The one score of a region in [0, 1], from the rough map's, SAM's IoU and their agreement.

    A rough region that was kept has no IoU of its own; half stands for "nobody drew its edge".
    """
    return float((prob * ((iou or 0.5) * agreement) ** 0.5) ** 0.5)


@dataclass(slots=True)
class _Proposal:
    """A candidate on its way through the rules."""

    candidate: Candidate
    runner_up: int | None
    doubt: float
    """Share of its score that the runner-up would have had, in [0, 1]."""

    @property
    def mask(self) -> Mask:
        return self.candidate.mask

    def settle(self, rule: str, beaten_by: str = "", segment_id: int = 0) -> None:
        self.candidate = dataclasses.replace(
            self.candidate, rule=rule, beaten_by=beaten_by, segment_id=segment_id
        )


def merge(
    image_id: str,
    size: tuple[int, int],
    instances: Instances,
    regions: StuffRegions,
    scores: StuffScores,
    ontology: Ontology,
    options: MergeOptions,
) -> tuple[PanopticLabel, Trace]:
    """Settle all candidates of one image, and say how.

    Args:
        image_id: of the record.
        size: (height, width) of the image, pixels.
        instances: things with masks.
        regions: refined regions of stuff.
        scores: rough maps, which decide about pixels that nobody claims.
        ontology: names the categories.
        options: the rules' limits.
    """
    proposals = _thing_proposals(instances, ontology) + _stuff_proposals(regions)
    # Rounded, so that floating-point noise does not decide between equals.
    proposals.sort(key=lambda proposal: -round(proposal.candidate.score, 5))
    standing = _screen(proposals, options)
    owners = _settle(standing, size, options)
    if options.fill_void:
        _fill_void(owners, standing, scores, options.fill_threshold)
    label = _label(image_id, owners, standing)
    losses = _losses(owners, standing)
    return label, Trace(image_id, tuple(proposal.candidate for proposal in proposals), losses)


# --- candidates -------------------------------------------------------------------------------


def _thing_proposals(instances: Instances, ontology: Ontology) -> list[_Proposal]:
    ids = [category.category_id for category in ontology.things]
    proposals = []
    for index, mask in enumerate(instances.masks):
        found = instances.detections
        own = float(found.scores[index])
        rivals = {
            category_id: float(value)
            for category_id, value in zip(ids, found.class_scores[index], strict=True)
            if category_id != found.category_ids[index]
        }
        runner_up = max(rivals, key=lambda key: rivals[key], default=None)
        score = thing_score(own, float(instances.ious[index]), float(instances.stabilities[index]))
        candidate = Candidate(
            f"thing:{index}", int(found.category_ids[index]), True, mask, score, "kept"
        )
        doubt = min(1.0, (rivals[runner_up] / own) ** 0.5) if runner_up and own > 0 else 0.0
        proposals.append(_Proposal(candidate, runner_up, doubt))
    return proposals


def _stuff_proposals(regions: StuffRegions) -> list[_Proposal]:
    proposals = []
    for index, mask in enumerate(regions.masks):
        own, rival = float(regions.probs[index]), float(regions.rival_probs[index])
        score = stuff_score(own, float(regions.ious[index]), float(regions.agreements[index]))
        candidate = Candidate(
            f"stuff:{index}", int(regions.category_ids[index]), False, mask, score, "kept"
        )
        doubt = min(1.0, (rival / own) ** 0.5) if own > 0 else 0.0
        proposals.append(_Proposal(candidate, int(regions.rivals[index]) or None, doubt))
    return proposals


# --- rules ------------------------------------------------------------------------------------


def _screen(proposals: Sequence[_Proposal], options: MergeOptions) -> list[_Proposal]:
    """Those that compete for pixels: not too doubtful, not empty, not an object seen twice."""
    standing: list[_Proposal] = []
    for proposal in proposals:
        if proposal.candidate.score < options.min_score:
            proposal.settle("low-score")
        elif not proposal.mask.area:
            proposal.settle("too-small")
        elif twin := next((o for o in standing if _same_object(proposal, o, options)), None):
            proposal.settle("duplicate", twin.candidate.candidate_id)
        else:
            standing.append(proposal)
    return standing


def _same_object(proposal: _Proposal, better: _Proposal, options: MergeOptions) -> bool:
    if not (proposal.candidate.isthing and better.candidate.isthing):
        return False
    shared = intersection(proposal.mask, better.mask)
    area, other = proposal.mask.area, better.mask.area
    if shared / (area + other - shared) >= options.duplicate_iou:
        return True
    same_category = proposal.candidate.category_id == better.candidate.category_id
    return same_category and shared >= options.containment * min(area, other)


def _settle(
    standing: list[_Proposal], size: tuple[int, int], options: MergeOptions
) -> NDArray[np.int32]:
    """Give every pixel an owner, dropping candidates of which too little stays visible.

    `standing` loses the dropped ones. Returns int32 (H, W): 1 + index into `standing`, 0 = void.
    """
    least = max(1.0, options.min_area * size[0] * size[1])
    while True:
        owners = _paint(standing, size, options)
        visible = np.bincount(owners.ravel(), minlength=len(standing) + 1)[1:]
        share = [
            count / proposal.mask.area if proposal.candidate.isthing else 1.0
            for count, proposal in zip(visible, standing, strict=True)
        ]
        failing = [
            index
            for index, count in enumerate(visible)
            if count < least or share[index] < options.min_visible
        ]
        if not failing:
            return owners
        # The most hidden goes first: what it frees may save the others.
        worst = min(failing, key=lambda index: (share[index], visible[index]))
        inside = owners[standing[worst].mask.window][standing[worst].mask.bitmap]
        taker = int(np.bincount(inside[inside != worst + 1], minlength=1).argmax())
        covered = share[worst] < options.min_visible
        standing[worst].settle(
            "covered" if covered else "too-small",
            standing[taker - 1].candidate.candidate_id if taker else "",
        )
        del standing[worst]


def _paint(
    standing: Sequence[_Proposal], size: tuple[int, int], options: MergeOptions
) -> NDArray[np.int32]:
    owners = np.zeros(size, dtype=np.int32)
    for index, proposal in enumerate(standing):
        window = owners[proposal.mask.window]
        free = proposal.mask.bitmap & (window == 0)
        overlapped = np.unique(window[proposal.mask.bitmap])
        for owner in overlapped[overlapped > 0]:
            if _in_front(proposal, standing[owner - 1], options):
                free |= proposal.mask.bitmap & (window == owner)
        window[free] = index + 1
    return owners


def _in_front(proposal: _Proposal, better: _Proposal, options: MergeOptions) -> bool:
    """Whether a later candidate takes the pixels it shares with one of better score."""
    if proposal.candidate.isthing != better.candidate.isthing:
        return proposal.candidate.isthing
    shared = intersection(proposal.mask, better.mask)
    inside = shared >= options.containment * proposal.mask.area
    return inside and proposal.mask.area <= options.containment_ratio * better.mask.area


def _fill_void(
    owners: NDArray[np.int32], standing: Sequence[_Proposal], scores: StuffScores, least: float
) -> None:
    """Give void to the likeliest stuff category that is in the picture anyway, where it is likely.

    What is unlikely to be any of them is probably a thing that nobody found.
    """
    regions = [
        (index, proposal)
        for index, proposal in enumerate(standing)
        if not proposal.candidate.isthing
    ]
    if not regions or (owners > 0).all():
        return
    present = {proposal.candidate.category_id: index for index, proposal in reversed(regions)}
    rows = [int(np.flatnonzero(scores.category_ids == key)[0]) for key in present]
    probs = resize_probs(scores.probs[rows], (owners.shape[0], owners.shape[1]))
    fill = (owners == 0) & (probs.max(axis=0) >= least)
    owners[fill] = np.array(list(present.values()), dtype=np.int32)[probs.argmax(axis=0)[fill]] + 1


# --- result -----------------------------------------------------------------------------------


def _label(
    image_id: str, owners: NDArray[np.int32], standing: Sequence[_Proposal]
) -> PanopticLabel:
    """Number the segments from 1: things by score, then one segment per stuff category, by id."""
    counts = np.bincount(owners.ravel(), minlength=len(standing) + 1)[1:]
    groups: dict[tuple[str, int], list[int]] = {}
    for index, proposal in enumerate(standing):
        candidate = proposal.candidate
        key = ("thing", index) if candidate.isthing else ("stuff", candidate.category_id)
        groups.setdefault(key, []).append(index)
    ordered = sorted(groups.items(), key=lambda item: (item[0][0] == "stuff", item[0][1]))
    table = np.zeros(len(standing) + 1, dtype=np.int32)
    for segment_id, (_, members) in enumerate(ordered, start=1):
        table[[member + 1 for member in members]] = segment_id
        rule = "kept" if len(members) == 1 else "merged"
        for member in members:
            standing[member].settle(rule, segment_id=segment_id)
    id_map = table[owners]
    segments = tuple(
        _segment(segment_id, [standing[member] for member in members], counts[members], id_map)
        for segment_id, (_, members) in enumerate(ordered, start=1)
    )
    return PanopticLabel(image_id, id_map, segments)


def _segment(
    segment_id: int,
    members: Sequence[_Proposal],
    areas: NDArray[np.int64],
    id_map: NDArray[np.int32],
) -> Segment:
    """One segment of one or, for stuff, several candidates, its scores weighted by area."""
    weights = areas / areas.sum()
    scores = np.array([member.candidate.score for member in members])
    doubts = np.array([member.doubt for member in members])
    largest = members[int(areas.argmax())]
    return Segment(
        segment_id=segment_id,
        category_id=largest.candidate.category_id,
        isthing=largest.candidate.isthing,
        area=int(areas.sum()),
        box=box_of(id_map == segment_id),
        score=float((weights * scores).sum()),
        runner_up=largest.runner_up,
        margin=float((weights * scores * (1 - doubts)).sum()),
        source="+".join(member.candidate.candidate_id for member in members),
    )


def _losses(owners: NDArray[np.int32], standing: Sequence[_Proposal]) -> dict[tuple[str, str], int]:
    """How many pixels of each standing candidate another one owns."""
    losses = {}
    for index, proposal in enumerate(standing):
        inside = owners[proposal.mask.window][proposal.mask.bitmap]
        counts = np.bincount(inside, minlength=len(standing) + 1)
        for owner in np.flatnonzero(counts):
            if owner not in (0, index + 1):
                winner = standing[int(owner) - 1].candidate.candidate_id
                pair = (proposal.candidate.candidate_id, winner)
                losses[pair] = int(counts[owner])
    return losses
