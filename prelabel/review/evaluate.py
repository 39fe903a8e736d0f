"""Panoptic quality of a COCO panoptic file against the truth.

PQ, SQ and RQ of Kirillov et al. 2019, "Panoptic Segmentation", section 4, with void and crowd
treated as there, counted as panopticapi counts them. Two deliberate differences, neither of which
shows on a valid file with things and stuff: areas are counted in the PNGs rather than believed, and
a mean over no category is 0 rather than a division by 0.

Images are matched by `file_name`, first exactly, then without extension where that is unambiguous;
categories by name. Only one pair of PNGs is open at a time.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import (
    CocoAnnotation,
    CocoSegment,
    PanopticFile,
    count_values,
    read_panoptic,
)
from prelabel.data import VOID
from prelabel.errors import ConfigError, LabelError
from prelabel.review.matching import match_categories, match_images, name_some, refuse_missing

__all__ = ["CategoryQuality", "Counts", "Evaluation", "Quality", "count_image", "evaluate"]

_log = logging.getLogger(__name__)

_MIN_IOU = 0.5
"""Above one half a segment has at most one partner, so that the order of matching is irrelevant."""

_MAX_IGNORED = 0.5
"""An unmatched segment is no false positive where more than this part of it is void or crowd."""


# --- the result -------------------------------------------------------------------------------


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


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Panoptic quality of a whole file; `per_class` in the order of the truth's categories."""

    all: Quality
    things: Quality
    stuff: Quality
    per_class: tuple[CategoryQuality, ...]
    images: int

    def to_json(self) -> dict[str, object]:
        """`{"all": {"pq", "sq", "rq", "n"}, "things": …, "stuff": …, "per_class": {name: …}}`."""
        return {
            "all": self.all.to_json(),
            "things": self.things.to_json(),
            "stuff": self.stuff.to_json(),
            "per_class": {row.name: row.to_json() for row in self.per_class},
        }


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

    def quality(self, name: str, isthing: bool) -> CategoryQuality:
        """PQ = SQ · RQ, equation 1 of the paper."""
        halves = self.tp + 0.5 * self.fp + 0.5 * self.fn
        sq = self.iou_sum / self.tp if self.tp else 0.0
        rq = self.tp / halves if halves else 0.0
        pq = self.iou_sum / halves if halves else 0.0
        return CategoryQuality(name, isthing, pq, sq, rq, self.tp, self.fp, self.fn)


# --- the whole file ---------------------------------------------------------------------------


def evaluate(
    prediction: Path,
    truth: Path,
    *,
    limit: int | None = None,
    missing: Literal["error", "miss"] = "error",
    extra: Literal["error", "ignore"] = "error",
) -> Evaluation:
    """Compare two COCO panoptic files, image by image.

    Args:
        prediction: path of the predicted `panoptic.json`.
        truth: path of the true one, whose images, categories and `isthing` count.
        limit: only the truth's first so many images.
        missing: what a true image or category is that the prediction does not list: an error, or
            something of which every segment was missed.
        extra: what a predicted image is that the truth does not list.

    Raises:
        ConfigError: a file is missing, or their images or categories do not match.
        LabelError: a file is broken, or a prediction's PNG and JSON disagree.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit is {limit}; expected at least 1 image, or none for all")
    guess, real = read_panoptic(prediction), read_panoptic(truth)
    categories = match_categories(guess, real, missing)
    pairs = match_images(guess, real, extra)
    totals: defaultdict[int, Counts] = defaultdict(Counts)
    chosen = pairs[:limit]
    if missing == "error":
        refuse_missing(chosen, guess, real)
    for true_annotation, annotation in chosen:
        counted = _count_pair(real, true_annotation, guess, annotation, categories)
        for category_id, counts in counted.items():
            totals[category_id].add(counts)
    rows = tuple(totals[row.category_id].quality(row.name, row.isthing) for row in real.categories)
    return Evaluation(
        all=_mean(rows),
        things=_mean(row for row in rows if row.isthing),
        stuff=_mean(row for row in rows if not row.isthing),
        per_class=rows,
        images=len(chosen),
    )


def _mean(rows: Iterable[CategoryQuality]) -> Quality:
    found = [row for row in rows if row.occurs]
    count = max(len(found), 1)
    return Quality(
        sum(row.pq for row in found) / count,
        sum(row.sq for row in found) / count,
        sum(row.rq for row in found) / count,
        len(found),
    )


def _count_pair(
    real: PanopticFile,
    true_annotation: CocoAnnotation,
    guess: PanopticFile,
    annotation: CocoAnnotation | None,
    categories: Mapping[int, int],
) -> Mapping[int, Counts]:
    true_path = real.folder / true_annotation.file_name
    true_segments = _segments_by_id(true_annotation, real.categories_by_id, true_path)
    true_map = real.id_map(true_annotation)
    unlisted = count_values(true_map).keys() - {VOID} - true_segments.keys()
    if unlisted:
        _log.warning("%s holds ids that its JSON does not list: %s", true_path, name_some(unlisted))
    if annotation is None:
        return count_image(true_map, true_segments, np.zeros_like(true_map), {})
    path = guess.folder / annotation.file_name
    segments = _segments_by_id(annotation, categories, path)
    id_map = guess.id_map(annotation)
    if id_map.shape != true_map.shape:
        raise LabelError(
            f"{path} has (height, width) {id_map.shape}, but {true_path} has {true_map.shape}"
        )
    found = count_values(id_map).keys() - {VOID}
    if found != segments.keys():
        raise LabelError(
            f"{path} and its JSON disagree: ids only in the PNG: "
            f"{name_some(found - segments.keys())}; only in the JSON: "
            f"{name_some(segments.keys() - found)}"
        )
    predicted = {
        segment_id: categories[segment.category_id] for segment_id, segment in segments.items()
    }
    return count_image(true_map, true_segments, id_map, predicted)


# --- one image --------------------------------------------------------------------------------


def count_image(
    true_map: NDArray[np.int32],
    true_segments: Mapping[int, CocoSegment],
    id_map: NDArray[np.int32],
    predicted: Mapping[int, int],
) -> Mapping[int, Counts]:
    """Count matched, spurious and missed segments of one image, by category_id of the truth.

    Args:
        true_map: int32 (H, W), segment ids of the truth, 0 is void.
        true_segments: the truth's segments by id; ids of the map that are not here match nothing.
        id_map: int32 (H, W), segment ids of the prediction.
        predicted: the category_id, among the truth's, of every predicted segment by its id.
    """
    overlaps = _overlaps(true_map, id_map)
    true_areas: Counter[int] = Counter()
    areas: Counter[int] = Counter()
    for (true_id, segment_id), pixels in overlaps.items():
        true_areas[true_id] += pixels
        areas[segment_id] += pixels
    counts: defaultdict[int, Counts] = defaultdict(Counts)
    matched_true, matched = set(), set()
    for (true_id, segment_id), pixels in overlaps.items():
        real = true_segments.get(true_id)
        if real is None or real.iscrowd or predicted.get(segment_id) != real.category_id:
            continue
        # What was predicted where the truth is void is neither right nor wrong.
        void = overlaps.get((VOID, segment_id), 0)
        iou = pixels / (true_areas[true_id] + areas[segment_id] - pixels - void)
        if iou > _MIN_IOU:
            counts[real.category_id].add(Counts(iou_sum=iou, tp=1))
            matched_true.add(true_id)
            matched.add(segment_id)
    crowds = {}
    for true_id, real in true_segments.items():
        if real.iscrowd:
            # Of several crowds of a category panopticapi sees the last; COCO has at most one.
            crowds[real.category_id] = true_id
        elif true_id not in matched_true:
            counts[real.category_id].fn += 1
    for segment_id in predicted.keys() - matched:
        category_id = predicted[segment_id]
        ignored = overlaps.get((VOID, segment_id), 0)
        if category_id in crowds:
            ignored += overlaps.get((crowds[category_id], segment_id), 0)
        if ignored <= _MAX_IGNORED * areas[segment_id]:
            counts[category_id].fp += 1
    return counts


def _overlaps(
    true_map: NDArray[np.int32], id_map: NDArray[np.int32]
) -> Mapping[tuple[int, int], int]:
    """Pixels of each pair (id in the truth, id in the prediction) of int32 (H, W) maps."""
    base = int(id_map.max(initial=0)) + 1
    pairs = count_values(true_map.astype(np.int64) * base + id_map)
    return {divmod(pair, base): pixels for pair, pixels in pairs.items()}


def _segments_by_id(
    annotation: CocoAnnotation, categories: Mapping[int, object], path: Path
) -> Mapping[int, CocoSegment]:
    segments: dict[int, CocoSegment] = {}
    for segment in annotation.segments:
        if segment.segment_id in segments:
            raise LabelError(f"{path}: its JSON lists segment {segment.segment_id} twice")
        if segment.segment_id == VOID:
            raise LabelError(f"{path}: its JSON lists a segment with id {VOID}, which is void")
        if segment.category_id not in categories:
            raise LabelError(
                f"{path}: segment {segment.segment_id} has category {segment.category_id}, "
                "which its JSON does not list"
            )
        segments[segment.segment_id] = segment
    return segments
