"""Which stage made a mistake, as far as the trace that a run stores can tell.

The trace holds every candidate that reached the merge, with its mask as proposed and the rule that
decided about it. A candidate is *good* for a true segment where its mask overlaps it by an IoU
above one half, *poor* from 0.1 on; the regions of one stuff category are taken together. The first
line that fits a mistake decides:

| what the trace shows | stage | reason |
|---|---|---|
| two segments on one thing | merge | duplicate kept |
| a good candidate of the right category, beaten | merge | the rule that beat it |
| a good candidate of the right category, standing | merge | overlap, and the rule |
| a good candidate of a wrong category of the same sort | detect or score | wrong class |
| a poor candidate of the right category | segment or refine | bad mask |
| none for this true segment | detect or score | not found |
| none that this predicted segment could have meant | detect or score | nothing there |

Detect and segment answer for things, score and refine for stuff. The rule of an overlap is that by
which most of the candidate's pixels went to others.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import CocoAnnotation, count_values
from prelabel.data import VOID, Candidate, Trace, image_key
from prelabel.errors import ConfigError, LabelError
from prelabel.label_files import read_label
from prelabel.review.compare import BAD_IOU, MIN_IOU, Comparison, Mistake

__all__ = ["NOT_LABELLED", "Blame", "blame_mistakes", "read_trace"]


@dataclass(frozen=True, slots=True)
class Blame:
    """The stage that made a mistake, and how; `stage` is as in `Failure`, or "run"."""

    stage: str
    reason: str


NOT_LABELLED = Blame("run", "not labelled")
"""The run has no label of the image."""


def read_trace(
    run: Path, image: str, annotation: CocoAnnotation, id_map: NDArray[np.int32]
) -> Trace:
    """The trace behind a label that was exported from `run`.

    Args:
        run: the run's folder.
        image: the image's file_name in the exported file, which is its image_id in the run.
        annotation: of the exported file.
        id_map: int32 (H, W), of the exported file.

    Raises:
        ConfigError: the run has no such label, or another one, or no trace of it that can be read.
        LabelError: the label is damaged.
    """
    key = image_key(image)
    path = run / "traces" / f"{key}.npz"
    if not (run / "labels" / f"{key}.json").is_file():
        raise ConfigError(
            f"{run} has no label of {image!r}; give the run that the prediction was exported from"
        )
    label, _ = read_label(run, key)
    categories = {row.segment_id: row.category_id for row in label.segments}
    exported = {row.segment_id: row.category_id for row in annotation.segments}
    if categories != exported or not np.array_equal(label.id_map, id_map):
        raise ConfigError(
            f"the prediction for {image!r} is not the label in {run}; export that run again, or "
            "give the run that it came from"
        )
    if not path.is_file():
        raise ConfigError(f"{path} is missing, so nothing tells how {image!r} was made")
    try:
        return Trace.load(path)
    except LabelError as error:
        raise ConfigError(f"{error}; label the images of {run} again") from error


def blame_mistakes(
    image: Comparison,
    true_map: NDArray[np.int32],
    trace: Trace,
    categories: Mapping[int, int],
) -> tuple[Blame, ...]:
    """The stage to blame for each of the image's mistakes, in their order.

    Args:
        image: whose mistakes they are.
        true_map: int32 (H, W), segment ids of the truth, 0 is void.
        trace: of the run that made the label.
        categories: the truth's category_id for the run's; candidates of others are left out.
    """
    groups = _groups(image, true_map, trace, categories)
    return tuple(_blame(mistake, image, groups) for mistake in image.mistakes)


@dataclass(frozen=True, slots=True)
class _Group:
    """A thing's candidate, or all of a stuff category's.

    Attributes:
        category_id: among the truth's.
        members: in the order in which merge considered them.
        ious: of their masks together with each true segment they touch.
        lost_by: the rule by which most of their pixels went to others, or "".
    """

    category_id: int
    isthing: bool
    members: Sequence[Candidate]
    ious: Mapping[int, float]
    lost_by: str

    def blame_merge(self) -> Blame:
        """What merge did to it: the rule that beat its largest lost member, or overlaps."""
        beaten = [member for member in self.members if not member.segment_id]
        if not beaten:
            return self.blame_overlap()
        return Blame("merge", max(beaten, key=lambda member: member.mask.area).rule)

    def blame_overlap(self) -> Blame:
        """What merge did to its pixels."""
        return Blame("merge", f"overlap, {self.lost_by}" if self.lost_by else "overlap")


def _groups(
    image: Comparison,
    true_map: NDArray[np.int32],
    trace: Trace,
    categories: Mapping[int, int],
) -> list[_Group]:
    members: dict[object, list[Candidate]] = {}
    for candidate in trace.candidates:
        if candidate.category_id in categories:
            alone = candidate.candidate_id if candidate.isthing else candidate.category_id
            members.setdefault(alone, []).append(candidate)
    return [
        _Group(
            categories[rows[0].category_id],
            rows[0].isthing,
            rows,
            _ious(rows, true_map, image.overlaps.true_areas),
            _lost_by(rows, trace),
        )
        for rows in members.values()
    ]


def _lost_by(candidates: Iterable[Candidate], trace: Trace) -> str:
    lost: Counter[str] = Counter()
    names = {candidate.candidate_id for candidate in candidates}
    for (loser, winner), pixels in trace.losses.items():
        if loser in names and winner not in names:
            lost[trace.loss_rules.get((loser, winner), "")] += pixels
    return max(lost, key=lambda rule: lost[rule], default="")


def _ious(
    candidates: Iterable[Candidate], true_map: NDArray[np.int32], true_areas: Mapping[int, int]
) -> Mapping[int, float]:
    """IoU of the candidates' masks together with each true segment, the truth's void left out."""
    together = np.zeros(true_map.shape, dtype=np.bool_)
    for candidate in candidates:
        together[candidate.mask.window] |= candidate.mask.bitmap
    shared = count_values(true_map[together])
    shared.pop(VOID, None)
    area = sum(shared.values())
    return {
        true_id: pixels / (true_areas[true_id] + area - pixels)
        for true_id, pixels in shared.items()
    }


def _blame(mistake: Mistake, image: Comparison, groups: Sequence[_Group]) -> Blame:
    isthing = mistake.category_id in image.things
    if mistake.kind == "duplicate":
        return Blame("merge", "duplicate kept")
    if mistake.kind == "spurious":
        return _blame_spurious(mistake, image, groups, isthing)
    true_id = mistake.true_id
    near = sorted(groups, key=lambda group: -group.ious.get(true_id, 0.0))
    own = [group for group in near if group.category_id == mistake.category_id]
    if own and own[0].ious.get(true_id, 0.0) > MIN_IOU:
        return own[0].blame_merge()
    others = [group for group in near if group.isthing == isthing and group not in own]
    if others and others[0].ious.get(true_id, 0.0) > MIN_IOU:
        return Blame("detect" if isthing else "score", "wrong class")
    if own and own[0].ious.get(true_id, 0.0) >= BAD_IOU:
        return Blame("segment" if isthing else "refine", "bad mask")
    return Blame("detect" if isthing else "score", "not found")


def _blame_spurious(
    mistake: Mistake, image: Comparison, groups: Sequence[_Group], isthing: bool
) -> Blame:
    for group in groups:
        made_it = any(member.segment_id == mistake.segment_id for member in group.members)
        good = any(
            iou > MIN_IOU and image.true_categories.get(true_id) == group.category_id
            for true_id, iou in group.ious.items()
        )
        if made_it and good:
            return group.blame_overlap()
    return Blame("detect" if isthing else "score", "nothing there")
