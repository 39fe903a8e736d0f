"""Boundary IoU of Cheng et al. 2021, "Boundary IoU: Improving Object-Centric Image Segmentation
Evaluation", CVPR, section 4: the IoU of two masks' rims, which a large inside cannot hide.

The rim of a mask is those of its pixels that are within a distance of the first pixel outside it:
2 % of the image's diagonal, at least 1 pixel, measured as the authors' code does, by the larger of
the steps across and down. What lies outside the image is outside the mask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import count_pairs, count_values
from prelabel.errors import LabelError

__all__ = ["RATIO", "boundary_iou", "boundary_ious", "boundary_radius", "rims"]

RATIO = 0.02
"""The paper's width of the rim, as a share of the image's diagonal."""


def boundary_radius(size: tuple[int, int], ratio: float = RATIO) -> int:
    """The width of the rim in whole pixels, at least 1, in an image of (height, width)."""
    return max(1, round(ratio * math.hypot(*size)))


def boundary_iou(mask: NDArray[np.bool_], other: NDArray[np.bool_], ratio: float = RATIO) -> float:
    """Boundary IoU in [0, 1] of two masks bool (H, W); 0 where both are empty.

    Args:
        mask: bool (H, W).
        other: bool (H, W), of the same image.
        ratio: width of the rim, as a share of the image's diagonal.
    """
    first, second = mask.astype(np.int32), other.astype(np.int32)
    return boundary_ious(first, second, [(1, 1)], ratio)[1, 1]


def boundary_ious(
    true_map: NDArray[np.int32],
    id_map: NDArray[np.int32],
    pairs: Iterable[tuple[int, int]],
    ratio: float = RATIO,
    *,
    void: int | None = None,
) -> Mapping[tuple[int, int], float]:
    """Boundary IoU of several pairs of segments at once, in the time of one.

    Args:
        true_map: int32 (H, W), segment ids of the truth.
        id_map: int32 (H, W), segment ids of the prediction.
        pairs: (id in the truth, id in the prediction).
        ratio: width of the rim, as a share of the image's diagonal.
        void: an id of the truth; rims of the prediction that lie there are left out, as PQ does
            with whole segments. None: they count.

    Returns:
        A value in [0, 1] for each of `pairs`.
    """
    if true_map.shape != id_map.shape or true_map.ndim != 2:
        raise LabelError(
            f"expected two maps of one size (H, W), got {true_map.shape} and {id_map.shape}"
        )
    radius = boundary_radius((true_map.shape[0], true_map.shape[1]), ratio)
    # Ids that are not in any rim become -1, which no segment has.
    true_rims = np.where(rims(true_map, radius), true_map, -1)
    their_rims = np.where(rims(id_map, radius), id_map, -1)
    shared = count_pairs(true_rims, their_rims)
    true_areas, areas = _sums(shared, 0), _sums(shared, 1)
    # What lies in void may be outside the truth's rims, so it is counted in the whole of void.
    ignored = {} if void is None else count_values(their_rims[true_map == void])
    values = {}
    for true_id, segment_id in pairs:
        both = shared.get((true_id, segment_id), 0)
        union = true_areas.get(true_id, 0) + areas.get(segment_id, 0) - both
        union -= ignored.get(segment_id, 0)
        values[true_id, segment_id] = both / union if union else 0.0
    return values


def rims(id_map: NDArray[np.int32], radius: int) -> NDArray[np.bool_]:
    """The pixels of each segment that are near its edge: bool (H, W).

    A pixel is near where some pixel of another id, or beyond the border of the image, lies within
    `radius` steps, diagonal ones included.

    Args:
        id_map: int32 (H, W), segment ids.
        radius: in pixels, at least 1.
    """
    height, width = id_map.shape
    near = np.ones((height, width), dtype=np.bool_)
    if height <= 2 * radius or width <= 2 * radius:
        return near
    # A window is of one segment exactly if no two neighbours inside it differ.
    across = _window_sums(id_map[:, 1:] != id_map[:, :-1], 2 * radius + 1, 2 * radius)
    down = _window_sums(id_map[1:] != id_map[:-1], 2 * radius, 2 * radius + 1)
    near[radius:-radius, radius:-radius] = (across > 0) | (down > 0)
    return near


def _window_sums(values: NDArray[np.bool_], rows: int, columns: int) -> NDArray[np.int32]:
    """The number of set pixels in each window of (rows, columns) that lies wholly inside."""
    sums = np.zeros((values.shape[0] + 1, values.shape[1] + 1), dtype=np.int32)
    np.cumsum(values, axis=0, dtype=np.int32, out=sums[1:, 1:])
    np.cumsum(sums[1:, 1:], axis=1, out=sums[1:, 1:])
    tall = sums[rows:] - sums[:-rows]
    wide: NDArray[np.int32] = tall[:, columns:] - tall[:, :-columns]
    return wide


def _sums(shared: Mapping[tuple[int, int], int], side: int) -> dict[int, int]:
    sums: dict[int, int] = {}
    for pair, pixels in shared.items():
        sums[pair[side]] = sums.get(pair[side], 0) + pixels
    return sums
