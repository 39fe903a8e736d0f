"""From a detector's queries to detections: thresholds, suppression, order."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prelabel.boxes import box_iou
from prelabel.data import Category, Detections
from prelabel.models.weights import DEFAULT_TOKENIZER, NetworkOptions
from prelabel.options import Fraction

__all__ = ["DetectorOptions", "choose_detections"]


class DetectorOptions(NetworkOptions):
    """What every detector by text has in common."""

    tokenizer: str = DEFAULT_TOKENIZER
    """Of an original .pth, which holds none: a hub id or a folder."""
    box_threshold: Fraction = 0.3
    """Least score of a box, where its category names none of its own."""
    nms_iou: Fraction = 0.7
    """Of two boxes of one category that overlap by more than this IoU the better is kept."""
    cross_nms_iou: Fraction = 0.9
    """The same for boxes of two categories: one object seen under two names."""
    max_detections: Annotated[int, Field(ge=1, le=900)] = 100
    """At most so many boxes per image, the best."""


def choose_detections(
    boxes: NDArray[np.float32],
    class_scores: NDArray[np.float32],
    prompts: NDArray[np.int32],
    things: tuple[Category, ...],
    options: DetectorOptions,
) -> Detections:
    """The queries that stand for an object: over their category's threshold, not suppressed.

    Args:
        boxes: float32 (Q, 4), xyxy pixels of the original image, clipped to it.
        class_scores: float32 (Q, things) in [0, 1].
        prompts: int32 (Q, things), the prompt that gave each score.
        things: the categories, in the scores' order.
        options: thresholds and limits.
    """
    thresholds = np.array(
        [
            options.box_threshold if category.box_threshold is None else category.box_threshold
            for category in things
        ]
    )
    winner = class_scores.argmax(axis=1)
    best = class_scores[np.arange(len(winner)), winner]
    solid = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
    candidates = np.flatnonzero((best >= thresholds[winner]) & solid)
    candidates = candidates[np.argsort(-best[candidates], kind="stable")]
    queries = _suppress(candidates, boxes, winner, options)[: options.max_detections]
    ids = np.array([category.category_id for category in things], dtype=np.int32)
    return Detections(
        boxes=boxes[queries],
        category_ids=ids[winner[queries]],
        scores=np.clip(best[queries], 0, 1),
        class_scores=np.clip(class_scores[queries], 0, 1),
        query_ids=queries.astype(np.int32),
        prompt_ids=prompts[queries, winner[queries]],
    )


def _suppress(
    queries: NDArray[np.intp],
    boxes: NDArray[np.float32],
    winner: NDArray[np.intp],
    options: DetectorOptions,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression, best first, stricter within a category than across."""
    overlap = box_iou(boxes[queries], boxes[queries])
    same = winner[queries][:, None] == winner[queries][None, :]
    clash = overlap > np.where(same, options.nms_iou, options.cross_nms_iou)
    kept: list[int] = []
    for row in range(len(queries)):
        if not clash[row, kept].any():
            kept.append(row)
    return queries[kept]
