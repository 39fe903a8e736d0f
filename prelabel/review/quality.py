"""Panoptic quality: PQ, SQ and RQ of Kirillov et al. 2019, "Panoptic Segmentation", section 4."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass

__all__ = ["CategoryQuality", "Counts", "Quality", "mean_quality"]


@dataclass(frozen=True, slots=True)
class Quality:
    """Means over `n` categories, fractions in [0, 1]; all 0 where `n` is 0."""

    pq: float
    sq: float
    rq: float
    n: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class CategoryQuality:
    """One category: fractions in [0, 1], and the segments matched, spurious and missed."""

    name: str
    isthing: bool
    pq: float
    sq: float
    rq: float
    tp: int
    fp: int
    fn: int

    @property
    def occurs(self) -> bool:
        """Whether truth or prediction held it; a category that occurs nowhere is in no mean."""
        return self.tp + self.fp + self.fn > 0

    def to_json(self) -> dict[str, object]:
        row = asdict(self)
        del row["name"]
        return row


@dataclass(slots=True)
class Counts:
    """What is added up for one category: the sum of the matches' IoUs, and numbers of segments."""

    iou_sum: float = 0.0
    tp: int = 0
    fp: int = 0
    fn: int = 0

    def add(self, other: Counts) -> None:
        self.iou_sum += other.iou_sum
        self.tp += other.tp
        self.fp += other.fp
        self.fn += other.fn

    @property
    def pq(self) -> float:
        """Equation 1 of the paper; 0 where nothing was counted."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        return self.iou_sum / halves if halves else 0.0

    def quality(self, name: str, isthing: bool) -> CategoryQuality:
        """The category's row: PQ = SQ · RQ."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        sq = self.iou_sum / self.tp if self.tp else 0.0
        rq = self.tp / halves if halves else 0.0
        return CategoryQuality(name, isthing, self.pq, sq, rq, self.tp, self.fp, self.fn)


def mean_quality(rows: Iterable[CategoryQuality]) -> Quality:
    """The mean over the categories that occur."""
    found = [row for row in rows if row.occurs]
    count = max(len(found), 1)
    return Quality(
        sum(row.pq for row in found) / count,
        sum(row.sq for row in found) / count,
        sum(row.rq for row in found) / count,
        len(found),
    )
