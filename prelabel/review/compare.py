"""One image's label against its truth: what matches, and what is wrong with the rest.

Matching is panopticapi's, with its void and crowd. What it leaves over is put into kinds, of which
a person corrects each in another way:

- `wrong-class`: a true segment, and a predicted one of another category over it (IoU above 0.5);
- `bad-mask`: a true segment, and a predicted one of its category that fits it badly (IoU from 0.1
  to 0.5);
- `missed`: any other true segment;
- `duplicate`: a predicted segment that lies mostly in a true one that another segment already
  stands for, of the same category or both of them things;
- `spurious`: any other predicted segment.

Each unmatched segment is in exactly one: misses are missed + wrong-class + bad-mask, false
positives wrong-class + bad-mask + duplicate + spurious.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import CocoSegment, count_pairs
from prelabel.data import VOID
from prelabel.review.quality import Counts

__all__ = [
    "BAD_IOU",
    "KINDS",
    "MIN_IOU",
    "Comparison",
    "Kind",
    "Match",
    "Mistake",
    "Overlaps",
    "compare",
    "count_image",
]

MIN_IOU = 0.5
"""Above one half a segment has at most one partner, so that the order of matching is irrelevant."""

BAD_IOU = 0.1
"""From here on a segment of the right category is a bad mask, as in Bolya et al. 2020, "TIDE"."""

_MAX_IGNORED = 0.5
"""An unmatched segment is no false positive where more than this part of it is void or crowd."""

Kind: TypeAlias = Literal["missed", "wrong-class", "bad-mask", "duplicate", "spurious"]
KINDS: tuple[Kind, ...] = ("missed", "wrong-class", "bad-mask", "duplicate", "spurious")


@dataclass(frozen=True, slots=True)
class Match:
    """A predicted segment that stands for a true one: same category, IoU above one half."""

    true_id: int
    segment_id: int
    category_id: int
    iou: float


@dataclass(frozen=True, slots=True)
class Mistake:
    """What a person has to correct.

    Attributes:
        kind: see the module.
        category_id: of the true segment; of the predicted one where `kind` is duplicate or
            spurious.
        true_id: the true segment, that of which it is a duplicate, or 0.
        segment_id: the predicted segment, or 0 where it is missed.
        predicted_as: its category_id, or None.
        iou: of the two, in [0, 1]; 0 where there is but one.
        area: of the true segment in pixels; of the predicted one where `kind` is duplicate or
            spurious.
    """

    kind: Kind
    category_id: int
    true_id: int
    segment_id: int
    predicted_as: int | None
    iou: float
    area: int


class Overlaps:
    """How many pixels each pair of segments of two id maps shares.

    Args:
        true_map: int32 (H, W), segment ids of the truth, 0 is void.
        id_map: int32 (H, W), segment ids of the prediction, 0 is void.
    """

    def __init__(self, true_map: NDArray[np.int32], id_map: NDArray[np.int32]) -> None:
        self.pixels: Mapping[tuple[int, int], int] = count_pairs(true_map, id_map)
        self.true_areas: Counter[int] = Counter()
        self.areas: Counter[int] = Counter()
        for (true_id, segment_id), pixels in self.pixels.items():
            self.true_areas[true_id] += pixels
            self.areas[segment_id] += pixels

    def same(self, true_id: int, segment_id: int) -> bool:
        """Whether the two are the same pixels, void counted as any other."""
        both = self.pixels.get((true_id, segment_id), 0)
        return both == self.true_areas[true_id] == self.areas[segment_id]

    def iou(self, true_id: int, segment_id: int) -> float:
        """IoU in [0, 1], without what was predicted where the truth is void: nobody knows there."""
        both = self.pixels.get((true_id, segment_id), 0)
        union = self.true_areas[true_id] + self.areas[segment_id] - both
        union -= self.pixels.get((VOID, segment_id), 0)
        return both / union if union else 0.0


@dataclass(frozen=True)
class Comparison:
    """One image's label against its truth.

    Attributes:
        overlaps: of the two maps.
        true_categories: category_id by id of every true segment that counts, crowd left out.
        predicted: category_id, among the truth's, by id of every predicted segment.
        matches: the right ones.
        passed_over: ids of predicted segments mostly in void or crowd, neither right nor wrong.
        things: the category_ids that are things.
    """

    overlaps: Overlaps
    true_categories: Mapping[int, int]
    predicted: Mapping[int, int]
    matches: tuple[Match, ...]
    passed_over: frozenset[int]
    things: frozenset[int]

    @cached_property
    def missed(self) -> tuple[int, ...]:
        """True segments without a match, in the order of their ids."""
        return tuple(sorted(self.true_categories.keys() - {row.true_id for row in self.matches}))

    @cached_property
    def unmatched(self) -> tuple[int, ...]:
        """Predicted segments that are false positives, in the order of their ids."""
        matched = {row.segment_id for row in self.matches}
        return tuple(sorted(self.predicted.keys() - matched - self.passed_over))

    @cached_property
    def mistakes(self) -> tuple[Mistake, ...]:
        """What to correct: every unmatched segment is in exactly one."""
        return _find_mistakes(self)

    @property
    def counts(self) -> Mapping[int, Counts]:
        """Matched, spurious and missed segments by category_id."""
        counts: defaultdict[int, Counts] = defaultdict(Counts)
        for row in self.matches:
            counts[row.category_id].add(Counts(iou_sum=row.iou, tp=1))
        for true_id in self.missed:
            counts[self.true_categories[true_id]].fn += 1
        for segment_id in self.unmatched:
            counts[self.predicted[segment_id]].fp += 1
        return counts

    @property
    def score(self) -> float:
        """PQ in [0, 1] of this image as if all segments were of one category; 1 if it is empty."""
        if not (self.true_categories or self.unmatched):
            return 1.0
        total = Counts()
        for row in self.counts.values():
            total.add(row)
        return total.pq


# --- matching ---------------------------------------------------------------------------------


def compare(
    true_map: NDArray[np.int32],
    true_segments: Mapping[int, CocoSegment],
    id_map: NDArray[np.int32],
    predicted: Mapping[int, int],
    things: Collection[int] = (),
) -> Comparison:
    """Match the segments of one image.

    Args:
        true_map: int32 (H, W), segment ids of the truth, 0 is void.
        true_segments: the truth's segments by id; ids of the map that are not here match nothing.
        id_map: int32 (H, W), segment ids of the prediction.
        predicted: the category_id, among the truth's, of every predicted segment by its id.
        things: the category_ids that are things; only duplicates depend on it.
    """
    overlaps = Overlaps(true_map, id_map)
    categories, crowds = {}, {}
    for true_id, real in true_segments.items():
        if real.iscrowd:
            # Of several crowds of a category panopticapi sees the last; COCO has at most one.
            crowds[real.category_id] = true_id
        else:
            categories[true_id] = real.category_id
    matches = _match(overlaps, categories, predicted)
    passed_over = set()
    for segment_id in predicted.keys() - {row.segment_id for row in matches}:
        crowd = crowds.get(predicted[segment_id])
        ignored = overlaps.pixels.get((VOID, segment_id), 0)
        if crowd is not None:
            ignored += overlaps.pixels.get((crowd, segment_id), 0)
        if ignored > _MAX_IGNORED * overlaps.areas[segment_id]:
            passed_over.add(segment_id)
    return Comparison(
        overlaps, categories, predicted, matches, frozenset(passed_over), frozenset(things)
    )


def count_image(
    true_map: NDArray[np.int32],
    true_segments: Mapping[int, CocoSegment],
    id_map: NDArray[np.int32],
    predicted: Mapping[int, int],
) -> Mapping[int, Counts]:
    """Count matched, spurious and missed segments of one image, by category_id of the truth.

    Arguments as `compare`.
    """
    return compare(true_map, true_segments, id_map, predicted).counts


def _match(
    overlaps: Overlaps, categories: Mapping[int, int], predicted: Mapping[int, int]
) -> tuple[Match, ...]:
    matches = []
    for true_id, segment_id in overlaps.pixels:
        category_id = categories.get(true_id)
        if category_id is None or predicted.get(segment_id) != category_id:
            continue
        iou = overlaps.iou(true_id, segment_id)
        if iou > MIN_IOU:
            matches.append(Match(true_id, segment_id, category_id, iou))
    return tuple(matches)


# --- mistakes ---------------------------------------------------------------------------------


def _find_mistakes(image: Comparison) -> tuple[Mistake, ...]:
    missed, unmatched = set(image.missed), set(image.unmatched)
    holders = {row.true_id for row in image.matches}
    pairs = []
    for true_id, segment_id, iou in _candidate_pairs(image):
        if true_id not in missed or segment_id not in unmatched:
            continue
        missed.remove(true_id)
        unmatched.remove(segment_id)
        holders.add(true_id)
        pairs.append(_pair(image, true_id, segment_id, iou))
    areas = image.overlaps.true_areas
    lone = [
        Mistake("missed", image.true_categories[true_id], true_id, 0, None, 0.0, areas[true_id])
        for true_id in sorted(missed)
    ]
    extra = [_extra(image, segment_id, holders) for segment_id in sorted(unmatched)]
    return (*lone, *pairs, *extra)


def _candidate_pairs(image: Comparison) -> list[tuple[int, int, float]]:
    """(true, predicted, IoU) of unmatched segments that belong together, the surest first."""
    missed, unmatched = set(image.missed), set(image.unmatched)
    found = []
    for true_id, segment_id in image.overlaps.pixels:
        if true_id not in missed or segment_id not in unmatched:
            continue
        iou = image.overlaps.iou(true_id, segment_id)
        same = image.true_categories[true_id] == image.predicted[segment_id]
        if iou > MIN_IOU or (same and iou >= BAD_IOU):
            found.append((true_id, segment_id, iou))
    return sorted(found, key=lambda row: (-row[2], row[0], row[1]))


def _pair(image: Comparison, true_id: int, segment_id: int, iou: float) -> Mistake:
    category_id, predicted_as = image.true_categories[true_id], image.predicted[segment_id]
    kind: Kind = "bad-mask" if category_id == predicted_as else "wrong-class"
    area = image.overlaps.true_areas[true_id]
    return Mistake(kind, category_id, true_id, segment_id, predicted_as, iou, area)


def _extra(image: Comparison, segment_id: int, holders: Collection[int]) -> Mistake:
    """A predicted segment that stands for no true one of its own."""
    overlaps, category_id = image.overlaps, image.predicted[segment_id]
    area = overlaps.areas[segment_id]
    known = area - overlaps.pixels.get((VOID, segment_id), 0)
    kind: Kind = "spurious"
    twin = 0
    for true_id in holders:
        true_category = image.true_categories[true_id]
        alike = true_category == category_id or {true_category, category_id} <= image.things
        if alike and overlaps.pixels.get((true_id, segment_id), 0) > 0.5 * known:
            kind, twin = "duplicate", true_id
    iou = overlaps.iou(twin, segment_id) if twin else 0.0
    return Mistake(kind, category_id, twin, segment_id, category_id, iou, area)
