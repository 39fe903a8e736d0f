"""What a COCO panoptic JSON lists: categories, images, annotations and their segments."""

from __future__ import annotations

import colorsys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.data import VOID, Box, Category, Color
from prelabel.errors import LabelError

__all__ = [
    "CocoAnnotation",
    "CocoCategory",
    "CocoImage",
    "CocoSegment",
    "ImageId",
    "category_color",
    "category_record",
    "count_pairs",
    "count_values",
    "measure_ids",
    "measure_segments",
    "to_xywh",
]

ImageId: TypeAlias = int | str
"""COCO's own ids are integers; Cityscapes uses names."""

_GOLDEN_RATIO = 0.6180339887498949
_FEW = 1 << 16
"""Up to here a table with a row for every number is small."""

_SHADES = ((0.70, 0.95), (0.50, 0.75), (0.90, 0.65), (0.35, 0.95))


@dataclass(frozen=True, slots=True)
class CocoCategory:
    """One of `categories[]`; `extra` holds the keys that COCO does not define."""

    category_id: int
    name: str
    isthing: bool
    supercategory: str = ""
    color: Color | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One of `images[]`; `file_name` may hold folders; sizes in pixels, None where not given."""

    image_id: ImageId
    file_name: str
    height: int | None = None
    width: int | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CocoSegment:
    """One of `segments_info[]`.

    Attributes:
        segment_id: the value of its pixels in the id map.
        category_id: of `categories[]`.
        area: in pixels, as the file says, or None.
        box_xywh: x, y, width, height in pixels, as the file says, or None.
        iscrowd: True for a region of many things that evaluation passes over.
        score: how sure, in [0, 1], or None; an extra key that others ignore.
        extra: the keys that COCO does not define.
    """

    segment_id: int
    category_id: int
    area: int | None = None
    box_xywh: tuple[float, float, float, float] | None = None
    iscrowd: bool = False
    score: float | None = None
    extra: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CocoAnnotation:
    """One of `annotations[]`: the segments of one image; `file_name` is that of the PNG."""

    image_id: ImageId
    file_name: str
    segments: tuple[CocoSegment, ...]
    extra: Mapping[str, object] = field(default_factory=dict)


def category_color(category: Category | CocoCategory) -> Color:
    """The category's own colour, or one derived from its id: the same in every run, never black."""
    if category.color is not None:
        return category.color
    # Steps of the golden ratio keep the hues of neighbouring ids far apart.
    hue = category.category_id * _GOLDEN_RATIO % 1.0
    saturation, value = _SHADES[category.category_id % len(_SHADES)]
    red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def category_record(category: Category) -> dict[str, object]:
    """The category as one of a COCO file's `categories[]`."""
    return {
        "id": category.category_id,
        "name": category.name,
        "supercategory": "thing" if category.isthing else "stuff",
        "isthing": int(category.isthing),
        "color": list(category_color(category)),
    }


def to_xywh(box: Box) -> Box:
    """A half-open xyxy box as x, y, width and height."""
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0, y1 - y0


def measure_segments(
    id_map: NDArray[np.int32],
    category_ids: Mapping[int, int],
    *,
    scores: Mapping[int, float] | None = None,
    crowd: Collection[int] = (),
) -> tuple[CocoSegment, ...]:
    """The segments of an id map with their areas and boxes, in the order of their ids.

    Args:
        id_map: int32 (H, W), segment ids, 0 is void.
        category_ids: the category of each segment, by segment id; a segment without a pixel is
            left out.
        scores: in [0, 1] by segment id; segments not named have none.
        crowd: the segment ids that are crowd regions.

    Raises:
        LabelError: the map holds an id that `category_ids` does not name.
    """
    given, measured = scores or {}, measure_ids(id_map)
    unnamed = sorted(measured.keys() - category_ids.keys())
    if unnamed:
        raise LabelError(f"the map holds the ids {unnamed}, which have no category")
    return tuple(
        CocoSegment(
            segment_id,
            int(category_ids[segment_id]),
            area,
            (x0, y0, x1 - x0, y1 - y0),
            segment_id in crowd,
            given.get(segment_id),
        )
        for segment_id, (area, (x0, y0, x1, y1)) in measured.items()
    )


def measure_ids(id_map: NDArray[np.int32]) -> dict[int, tuple[int, Box]]:
    """Pixel count and tight xyxy box, half-open, of each id in int32 (H, W), void left out."""
    counts = count_values(id_map)
    ids = list(counts)
    few = all(0 <= segment_id < _FEW for segment_id in ids)
    # Ranks where ids are large: find_objects lists every number up to the greatest.
    labels = id_map if few else np.searchsorted(ids, id_map) + 1
    measured = {}
    for label, window in enumerate(ndimage.find_objects(labels), start=1):
        segment_id = label if few else ids[label - 1]
        if window is not None and segment_id != VOID:
            rows, columns = window
            box = (int(columns.start), int(rows.start), int(columns.stop), int(rows.stop))
            measured[segment_id] = (counts[segment_id], box)
    return measured


def count_values(values: NDArray[np.integer]) -> dict[int, int]:
    """How often each value occurs in an array of integers, in ascending order.

    Quick where neighbours in a row are mostly equal, as in maps of segments: only the first of each
    run is sorted, some thousands instead of every pixel.
    """
    flat = values.ravel()
    if not flat.size:
        return {}
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    distinct, which = np.unique(flat[starts], return_inverse=True)
    counts = np.zeros(len(distinct), dtype=np.int64)
    np.add.at(counts, which, np.diff(starts, append=flat.size))
    return dict(zip(distinct.tolist(), counts.tolist(), strict=True))


def count_pairs(first: NDArray[np.int32], second: NDArray[np.int32]) -> dict[tuple[int, int], int]:
    """How often each pair of values stands at the same place of two int32 arrays, in order."""
    low, high = int(second.min(initial=0)), int(second.max(initial=0))
    base = high - low + 1
    pairs = count_values(first.astype(np.int64) * base + (second - low))
    found = {}
    for pair, count in pairs.items():
        left, right = divmod(pair, base)
        found[left, right + low] = count
    return found
