"""Everything the stages proposed becomes one label: each pixel in exactly one segment, or void.

Candidates are considered in the order of one score, comparable between things and stuff: the
geometric mean of "is it that category" and "is that its mask". `docs/merging.md` gives the formula,
and where each rule comes from.

Rules settle an overlap, the first that applies:
 1. a thing stands in front of stuff;
 2. a thing that lies (`containment`) inside a much larger one of another category lies on top;
 3. of two things the better score keeps the pixels;
 4. of two regions of stuff the one keeps the pixel whose score × rough probability there is higher.
A thing that overlaps a better one almost wholly (`duplicate_iou`), or lies inside a better one of
its own category, is the same object seen twice. What is left of a candidate must be a fair share of
it (`min_visible`) and of the image (`min_area`, or its category's own), or it goes and gives its
pixels back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import box_of
from prelabel.data import (
    Instances,
    Ontology,
    PanopticLabel,
    Segment,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.options import MergeOptions
from prelabel.stages.proposals import Proposal, gather_proposals, stuff_score, thing_score
from prelabel.stages.settle import count_losses, fill_void, screen, settle

__all__ = ["merge", "stuff_score", "thing_score"]


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
        scores: rough maps, which decide between regions, and about pixels that nobody claims.
        ontology: names the categories, of which each may have its own least area.
        options: the rules' limits.
    """
    proposals = gather_proposals(instances, regions, ontology, options)
    standing = screen(proposals, options)
    least = {
        category.category_id: size[0]
        * size[1]
        * (options.min_area if category.min_area is None else category.min_area)
        for category in ontology
    }
    owners = settle(standing, size, scores, least, options)
    if options.fill_void:
        fill_void(owners, standing, scores, options.fill_threshold)
    label = _label(image_id, owners, standing)
    losses = count_losses(owners, standing, options)
    return label, Trace(
        image_id,
        tuple(proposal.candidate for proposal in proposals),
        {pair: pixels for pair, (pixels, _) in losses.items()},
        {pair: rule for pair, (_, rule) in losses.items()},
    )


def _label(image_id: str, owners: NDArray[np.int32], standing: Sequence[Proposal]) -> PanopticLabel:
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
    members: Sequence[Proposal],
    areas: NDArray[np.int64],
    id_map: NDArray[np.int32],
) -> Segment:
    """One segment of one or, for stuff, several candidates, its scores weighted by area."""
    weights = areas / areas.sum()
    scores = np.array([member.score for member in members])
    doubts = np.array([member.doubt for member in members])
    largest = members[int(areas.argmax())]
    return Segment(
        segment_id=segment_id,
        category_id=largest.candidate.category_id,
        isthing=largest.isthing,
        area=int(areas.sum()),
        box=box_of(id_map == segment_id),
        score=float((weights * scores).sum()),
        runner_up=largest.runner_up,
        margin=float((weights * scores * (1 - doubts)).sum()),
        source="+".join(member.candidate.candidate_id for member in members),
    )
