"""Box arithmetic in numpy.

Boxes are xyxy, float (N, 4), in pixels of the original image, half-open. Any other form says so in
its name: `boxes_xywh` (corner and size, pixels), `boxes_cxcywh_norm` (centre and size, as fractions
of the image's width and height).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from prelabel.data import Box
from prelabel.errors import LabelError

__all__ = [
    "box_areas",
    "box_iou",
    "box_of",
    "clip_boxes",
    "from_cxcywh_norm",
    "from_xywh",
    "to_xywh",
]


def box_areas(boxes: ArrayLike) -> NDArray[np.float64]:
    """Areas float64 (N,) in pixels of boxes (N, 4) xyxy; an inverted box has area 0."""
    rows = _rows(boxes)
    sides = np.clip(rows[:, 2:] - rows[:, :2], 0.0, None)
    areas: NDArray[np.float64] = sides[:, 0] * sides[:, 1]
    return areas


def box_iou(boxes: ArrayLike, others: ArrayLike) -> NDArray[np.float64]:
    """IoU float64 (N, M) in [0, 1] of boxes (N, 4) with others (M, 4), both xyxy in one frame.

    Two boxes without area have IoU 0.
    """
    first, second = _rows(boxes), _rows(others)
    low = np.maximum(first[:, None, :2], second[None, :, :2])
    high = np.minimum(first[:, None, 2:], second[None, :, 2:])
    sides = np.clip(high - low, 0.0, None)
    overlap = sides[..., 0] * sides[..., 1]
    union = box_areas(first)[:, None] + box_areas(second)[None, :] - overlap
    iou = np.zeros(overlap.shape, dtype=np.float64)
    np.divide(overlap, union, out=iou, where=union > 0)
    return iou


def clip_boxes(boxes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes float32 (N, 4) xyxy cut at the borders of an image of (height, width) pixels."""
    height, width = size
    upper = np.array([width, height, width, height], dtype=np.float32)
    clipped: NDArray[np.float32] = np.clip(_rows(boxes).astype(np.float32), np.float32(0), upper)
    return clipped


def to_xywh(boxes: ArrayLike) -> NDArray[np.float64]:
    """Boxes (N, 4) xyxy as `boxes_xywh` float64 (N, 4), pixels."""
    rows = _rows(boxes)
    return np.concatenate([rows[:, :2], rows[:, 2:] - rows[:, :2]], axis=1)


def from_xywh(boxes_xywh: ArrayLike) -> NDArray[np.float64]:
    """The inverse of `to_xywh`."""
    rows = _rows(boxes_xywh)
    return np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:]], axis=1)


def from_cxcywh_norm(boxes_cxcywh_norm: ArrayLike, size: tuple[int, int]) -> NDArray[np.float32]:
    """Boxes float32 (N, 4) xyxy in pixels, not clipped, of an image of (height, width) pixels.

    Args:
        boxes_cxcywh_norm: (N, 4), centre x and y, width and height, as fractions of the image.
        size: (height, width) of the image without padding.
    """
    rows = _rows(boxes_cxcywh_norm)
    height, width = size
    centres, halves = rows[:, :2], rows[:, 2:] / 2
    scale = np.array([width, height, width, height], dtype=np.float64)
    corners = np.concatenate([centres - halves, centres + halves], axis=1) * scale
    return corners.astype(np.float32)


def box_of(full: NDArray[np.bool_]) -> Box:
    """The tight xyxy box, half-open, of a bool (H, W) map; (0, 0, 0, 0) where nothing is set."""
    rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _rows(boxes: ArrayLike) -> NDArray[np.float64]:
    rows = np.asarray(boxes, dtype=np.float64)
    if rows.size == 0:
        return rows.reshape(0, 4)
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise LabelError(f"expected boxes (N, 4), got {rows.shape}")
    return rows
