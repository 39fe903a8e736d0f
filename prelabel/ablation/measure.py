"""How good one label is, as sums that can be added over images and drawn again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.ablation.outputs import Truth
from prelabel.boxes import box_of
from prelabel.coco import CocoSegment
from prelabel.review.boundary import RATIO
from prelabel.review.compare import compare
from prelabel.review.figures import ACCEPTED_IOU

__all__ = ["SUMS", "Edges", "measure_label"]

SUMS = ("iou", "tp", "fp", "fn", "accepted", "edge")
"""What is summed per image and category. `edge` is the IoU near the true edge."""


@dataclass(frozen=True, slots=True)
class _Band:
    """The surroundings of one true segment's edge: windows of the image, and bool (h, w)."""

    window: tuple[slice, slice]
    band: NDArray[np.bool_]
    inside: NDArray[np.bool_]


class Edges:
    """Of each true segment, the pixels within 2 % of the image's diagonal of its edge.

    The border of the image is no edge.
    """

    def __init__(self, truth: Truth) -> None:
        self.radius = max(1.0, RATIO * math.hypot(*truth.size))
        self._bands = {
            segment_id: self._band(truth.id_map == segment_id)
            for segment_id in range(1, len(truth.category_ids) + 1)
        }

    def _band(self, full: NDArray[np.bool_]) -> _Band:
        margin = math.ceil(self.radius) + 1
        x0, y0, x1, y1 = box_of(full)
        window = slice(max(y0 - margin, 0), y1 + margin), slice(max(x0 - margin, 0), x1 + margin)
        inside = full[window]
        if inside.all():
            return _Band(window, np.zeros_like(inside), inside)
        # Distances are between centres, the edge lies half a pixel off them.
        outward = ndimage.distance_transform_edt(~inside)
        inward = ndimage.distance_transform_edt(inside)
        return _Band(window, np.maximum(outward, inward) - 0.5 <= self.radius, inside)

    def iou(self, segment_id: int, mask: NDArray[np.bool_]) -> float:
        """IoU in [0, 1] of a mask bool (H, W) with the true segment, near the segment's edge.

        A segment without an edge, which fills the image, counts as met.
        """
        part = self._bands[segment_id]
        if not part.band.any():
            return 1.0
        found = mask[part.window] & part.band
        real = part.inside & part.band
        return int((found & real).sum()) / int((found | real).sum())


def measure_label(
    truth: Truth,
    edges: Edges,
    label: tuple[NDArray[np.int32], Mapping[int, int]],
    category_ids: Sequence[int],
) -> NDArray[np.float64]:
    """float64 (C, len(SUMS)): one image's sums for each of `category_ids`."""
    id_map, predicted = label
    real = {
        segment_id: _segment(truth, segment_id)
        for segment_id in range(1, len(truth.category_ids) + 1)
    }
    image = compare(truth.id_map, real, id_map, predicted)
    rows = {category_id: row for row, category_id in enumerate(category_ids)}
    sums = np.zeros((len(rows), len(SUMS)))
    for match in image.matches:
        edge = edges.iou(match.true_id, id_map == match.segment_id)
        accepted = float(match.iou >= ACCEPTED_IOU)
        sums[rows[match.category_id]] += (match.iou, 1, 0, 0, accepted, edge)
    for true_id in image.missed:
        sums[rows[image.true_categories[true_id]], SUMS.index("fn")] += 1
    for segment_id in image.unmatched:
        sums[rows[predicted[segment_id]], SUMS.index("fp")] += 1
    return sums


def _segment(truth: Truth, segment_id: int) -> CocoSegment:
    # Neither area nor box is looked at; both are counted in the map.
    category_id = int(truth.category_ids[segment_id - 1])
    return CocoSegment(segment_id, category_id, 0, (0, 0, 0, 0))
