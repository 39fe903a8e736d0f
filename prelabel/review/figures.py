"""What is added up over images, beyond panoptic quality, and the figures that come of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from prelabel.review.compare import KINDS, MIN_IOU, Comparison, Kind

__all__ = ["ACCEPTED_IOU", "BINS", "Confusion", "Figures", "SegmentTally", "sum_tallies"]

ACCEPTED_IOU = 0.9
"""From here on a person would leave a segment of the right category as it is."""

BINS = 10
"""Of the histogram of IoUs, each a tenth wide."""


@dataclass(frozen=True, slots=True)
class Figures:
    """How good the masks of some categories are, counted in segments, each with the same weight.

    Attributes:
        segments: of the truth, crowd left out.
        predicted: found or spurious; what lies mostly in void or crowd is left out.
        mean_iou: over the truth's segments, in [0, 1]; a missed one counts as 0.
        miss_rate: share of the truth's segments for which no segment of the right category was
            found, in [0, 1].
        accepted: share of the truth's segments that a person would leave as they were predicted.
        accepted_of_predicted: the same number as a share of the predicted segments.
        kept: numbers of predicted segments that stand in the truth as they are: the same category
            and the same pixels. In a truth that people made by correcting the prediction, these are
            the segments that nobody touched.
        adjusted: numbers of matched segments with other pixels.
        boundary_iou: mean over the matched segments, in [0, 1].
        boundary_iou_with_misses: mean over the truth's segments, an unmatched one counting as 0.
        histogram: numbers of the truth's segments by IoU: missed ones left out, from 0 to 0.1, from
            0.1 to 0.2, and so on; 1 belongs to the last.
        mistakes: numbers by kind; see `compare`.
    """

    segments: int
    predicted: int
    mean_iou: float
    miss_rate: float
    accepted: float
    accepted_of_predicted: float
    kept: int
    adjusted: int
    boundary_iou: float
    boundary_iou_with_misses: float
    histogram: tuple[int, ...]
    mistakes: Mapping[Kind, int]

    @property
    def kept_of_predicted(self) -> float:
        """Share of the predicted segments that were kept, in [0, 1]."""
        return _share(self.kept, self.predicted)

    def to_json(self) -> dict[str, object]:
        return {
            "segments": self.segments,
            "predicted": self.predicted,
            "mean_iou": self.mean_iou,
            "miss_rate": self.miss_rate,
            "accepted": self.accepted,
            "accepted_of_predicted": self.accepted_of_predicted,
            "kept": self.kept,
            "kept_of_predicted": self.kept_of_predicted,
            "adjusted": self.adjusted,
            "boundary_iou": self.boundary_iou,
            "boundary_iou_with_misses": self.boundary_iou_with_misses,
            "iou_histogram": list(self.histogram),
            "mistakes": dict(self.mistakes),
        }


@dataclass(slots=True)
class SegmentTally:
    """The sums behind `Figures`, for one category or several."""

    matched: int = 0
    unmatched: int = 0
    missed: int = 0
    accepted: int = 0
    kept: int = 0
    iou_sum: float = 0.0
    boundary_sum: float = 0.0
    bins: Counter[int] = field(default_factory=Counter)
    mistakes: Counter[Kind] = field(default_factory=Counter)

    def add_match(self, iou: float, boundary_iou: float, *, kept: bool = False) -> None:
        self.matched += 1
        self.kept += kept
        self.accepted += iou >= ACCEPTED_IOU
        self.boundary_sum += boundary_iou
        self._add_iou(iou)

    def add_mistake(self, kind: Kind, iou: float) -> None:
        """One mistake of a segment of this category, of the truth's if it has one."""
        self.mistakes[kind] += 1
        if kind == "bad-mask":
            self._add_iou(iou)
        self.missed += kind in ("missed", "wrong-class", "bad-mask")

    def _add_iou(self, iou: float) -> None:
        self.iou_sum += iou
        # Rounded before the cut, so that 0.7 / 0.1 is 7 and not 6.999….
        self.bins[min(int(round(iou * BINS, 9)), BINS - 1)] += 1

    def add(self, other: SegmentTally) -> None:
        self.matched += other.matched
        self.unmatched += other.unmatched
        self.missed += other.missed
        self.accepted += other.accepted
        self.kept += other.kept
        self.iou_sum += other.iou_sum
        self.boundary_sum += other.boundary_sum
        self.bins += other.bins
        self.mistakes += other.mistakes

    def figures(self) -> Figures:
        """The shares; 0 where there is nothing to share."""
        segments, predicted = self.matched + self.missed, self.matched + self.unmatched
        absent = self.mistakes["missed"] + self.mistakes["wrong-class"]
        return Figures(
            segments=segments,
            predicted=predicted,
            mean_iou=_share(self.iou_sum, segments),
            miss_rate=_share(absent, segments),
            accepted=_share(self.accepted, segments),
            accepted_of_predicted=_share(self.accepted, predicted),
            kept=self.kept,
            adjusted=self.matched - self.kept,
            boundary_iou=_share(self.boundary_sum, self.matched),
            boundary_iou_with_misses=_share(self.boundary_sum, segments),
            histogram=tuple(self.bins[index] for index in range(BINS)),
            mistakes={kind: self.mistakes[kind] for kind in KINDS},
        )


def sum_tallies(tallies: Iterable[SegmentTally]) -> SegmentTally:
    """All of them in one."""
    total = SegmentTally()
    for tally in tallies:
        total.add(tally)
    return total


def _share(part: float, whole: int) -> float:
    return part / whole if whole else 0.0


class Confusion:
    """What was taken for what: numbers of segments and of pixels by (category_id or None) twice.

    The first is the truth's, the second the prediction's; None is nothing. A segment is taken for
    the one that overlaps it by an IoU above one half, of whatever category.
    """

    def __init__(self) -> None:
        self.segments: Counter[tuple[int | None, int | None]] = Counter()
        self.pixels: Counter[tuple[int | None, int | None]] = Counter()

    def add(self, image: Comparison) -> None:
        """Count one image; crowd and void of the truth are left out."""
        partners: dict[int, int] = {}
        for (true_id, segment_id), pixels in image.overlaps.pixels.items():
            category_id = image.true_categories.get(true_id)
            if category_id is None:
                continue
            predicted = image.predicted.get(segment_id)
            self.pixels[category_id, predicted] += pixels
            if predicted is not None and image.overlaps.iou(true_id, segment_id) > MIN_IOU:
                partners[true_id] = segment_id
        for true_id, category_id in image.true_categories.items():
            partner = partners.get(true_id)
            taken = None if partner is None else image.predicted[partner]
            self.segments[category_id, taken] += 1
        for segment_id in image.predicted.keys() - set(partners.values()) - image.passed_over:
            self.segments[None, image.predicted[segment_id]] += 1
