"""Geometry of binary masks in numpy and scipy.

A `Mask` is a crop with its offset; a full map is bool (H, W) over the whole image.
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy import ndimage

from prelabel.boxes import box_of
from prelabel.data import Mask
from prelabel.errors import LabelError

__all__ = [
    "Rle",
    "boundary",
    "connected_components",
    "containment",
    "decode_rle",
    "dilate",
    "encode_rle",
    "erode",
    "fill_holes",
    "intersection",
    "mask_iou",
    "remove_specks",
    "resize_at",
    "resize_probs",
    "resize_window",
]

_EIGHT = np.ones((3, 3), dtype=np.bool_)
"""Neighbourhood of a set pixel: 8-connected. Its background is then 4-connected."""


class Rle(TypedDict):
    """COCO's compressed run lengths: `size` is [height, width] of the image."""

    size: list[int]
    counts: str


# --- pairs of masks ---------------------------------------------------------------------------


def intersection(mask: Mask, other: Mask) -> int:
    """Pixels that both masks set; only where their crops overlap is looked at."""
    x0, y0 = max(mask.x0, other.x0), max(mask.y0, other.y0)
    x1, y1 = min(mask.box[2], other.box[2]), min(mask.box[3], other.box[3])
    if x0 >= x1 or y0 >= y1:
        return 0
    first, second = (
        each.bitmap[y0 - each.y0 : y1 - each.y0, x0 - each.x0 : x1 - each.x0]
        for each in (mask, other)
    )
    return int(np.count_nonzero(first & second))


def mask_iou(mask: Mask, other: Mask) -> float:
    """Intersection over union in [0, 1]; 0 where both are empty."""
    shared = intersection(mask, other)
    union = mask.area + other.area - shared
    return shared / union if union else 0.0


def containment(mask: Mask, other: Mask) -> float:
    """Intersection over the smaller mask in [0, 1]: 1 where one lies inside the other.

    0 where either is empty.
    """
    smaller = min(mask.area, other.area)
    return intersection(mask, other) / smaller if smaller else 0.0


# --- one mask ---------------------------------------------------------------------------------


def connected_components(full: NDArray[np.bool_]) -> list[Mask]:
    """The 8-connected parts of a bool (H, W) map, each a tight mask, in raster order."""
    labels, _ = ndimage.label(full, structure=_EIGHT)
    return [
        Mask(columns.start, rows.start, labels[rows, columns] == label)
        for label, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1)
    ]


def remove_specks(mask: Mask, min_area_fraction: float) -> Mask:
    """Drop 8-connected parts smaller than `min_area_fraction` of the mask's area, in [0, 1].

    The largest part always stays. The crop of the result is tight.
    """
    labels, count = ndimage.label(mask.bitmap, structure=_EIGHT)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    areas[0] = 0
    keep = areas >= min_area_fraction * areas.sum()
    keep[np.argmax(areas)] = True
    keep[0] = False
    return _tighten(mask, keep[labels])


def fill_holes(mask: Mask, max_area_fraction: float) -> Mask:
    """Set holes of at most `max_area_fraction` of the mask's area, in [0, 1].

    A hole is a 4-connected part of the background that the mask encloses; what touches the edge of
    the crop, and so the border of the image, is none.
    """
    labels, count = ndimage.label(~mask.bitmap)
    areas = np.bincount(labels.ravel(), minlength=count + 1)
    hole = areas <= max_area_fraction * mask.area
    for edge in (labels[:1], labels[-1:], labels[:, :1], labels[:, -1:]):
        hole[edge] = False
    hole[0] = False
    return _tighten(mask, mask.bitmap | hole[labels])


def dilate(full: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """Every pixel of bool (H, W) whose centre is within `radius` pixels of a set one's."""
    if radius <= 0 or not full.any():
        return full.copy()
    rows, columns = _around(full, int(np.ceil(radius)))
    grown = full.copy()
    grown[rows, columns] = ndimage.distance_transform_edt(~full[rows, columns]) <= radius
    return grown


def erode(full: NDArray[np.bool_], radius: float) -> NDArray[np.bool_]:
    """The set pixels of bool (H, W) that are farther than `radius` pixels from any unset one.

    What lies outside the image counts as set: a mask that ends at the border is not eaten there.
    """
    if radius <= 0 or full.all() or not full.any():
        return full.copy()
    # One unset pixel around the mask is the nearest there can be.
    rows, columns = _around(full, 1)
    left = np.zeros_like(full)
    left[rows, columns] = ndimage.distance_transform_edt(full[rows, columns]) > radius
    return left


def boundary(full: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The set pixels of bool (H, W) with an unset one above, below, left or right of them.

    The border of the image is no boundary.
    """
    inner: NDArray[np.bool_] = ndimage.binary_erosion(full, border_value=1)
    return full & ~inner


# --- other forms ------------------------------------------------------------------------------


def encode_rle(mask: Mask, size: tuple[int, int]) -> Rle:
    """The mask as COCO's compressed run lengths in an image of (height, width) pixels."""
    encoded = coco_mask.encode(np.asfortranarray(mask.to_full(size), dtype=np.uint8))
    return {"size": [int(side) for side in encoded["size"]], "counts": encoded["counts"].decode()}


def decode_rle(rle: Rle) -> Mask:
    """The tight mask of COCO's compressed run lengths.

    Decoded here: pycocotools leaves memory as it was where the runs end early.

    Raises:
        LabelError: they are malformed, or do not add up to the image.
    """
    try:
        height, width = (int(side) for side in rle["size"])
        runs = _read_runs(rle["counts"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise LabelError(f"run lengths cannot be decoded: {error!r}") from error
    if min(height, width, *runs) < 0 or sum(runs) != height * width:
        raise LabelError(
            f"run lengths cannot be decoded: they cover {sum(runs)} of {height} x {width} pixels"
        )
    values = np.arange(len(runs)) % 2 == 1
    full = np.repeat(values, runs).reshape(width, height).T
    return Mask.from_full(full)


def _read_runs(counts: str) -> list[int]:
    """Lengths of the runs, unset first, down the columns: groups of 5 bits, least first.

    In each character less 48, bit 5 says that more follow, and the last one's bit 4 is the sign.
    From the fourth run on, the number is the difference to the last run of the same value.
    """
    runs: list[int] = []
    number, shift = 0, 0
    for code in counts.encode("ascii"):
        bits = code - 48
        if not 0 <= bits < 64:
            raise ValueError(f"the character {chr(code)!r}")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            number -= 1 << shift
        runs.append(number + (runs[-2] if len(runs) > 2 else 0))
        number, shift = 0, 0
    if shift:
        raise ValueError("the last number has no end")
    return runs


def resize_probs(probs: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Maps float32 (..., h, w) over the whole image, resized to (height, width) pixels.

    Bilinear between pixel centres, as torch's `interpolate(align_corners=False)`: pixel i of n
    covers [i / n, (i + 1) / n) of its side; outside the outermost centres their values repeat.
    """
    low, high, part = _taps(probs.shape[-2], size[0])
    column = part[:, None]
    rows = probs[..., low, :] * (1 - column) + probs[..., high, :] * column
    low, high, part = _taps(probs.shape[-1], size[1])
    resized = rows[..., low] * (1 - part) + rows[..., high] * part
    return resized.astype(np.float32, copy=False)


def resize_window(
    probs: NDArray[np.float32], size: tuple[int, int], window: tuple[slice, slice]
) -> NDArray[np.float32]:
    """The part of `resize_probs(probs, size)` that lies in `window`, without making the rest.

    Args:
        probs: float32 (h, w), over the whole image.
        size: (height, width) of the image, pixels.
        window: rows and columns of the image, within it.

    Returns:
        float32, of the window's size.
    """
    low, high, part = (taps[window[0]] for taps in _taps(probs.shape[0], size[0]))
    column = part[:, None]
    rows = probs[low] * (1 - column) + probs[high] * column
    low, high, part = (taps[window[1]] for taps in _taps(probs.shape[1], size[1]))
    resized: NDArray[np.float32] = rows[:, low] * (1 - part) + rows[:, high] * part
    return resized.astype(np.float32, copy=False)


def resize_at(
    probs: NDArray[np.float32],
    size: tuple[int, int],
    pixels: tuple[NDArray[np.intp], NDArray[np.intp]],
) -> NDArray[np.float32]:
    """`resize_probs(probs, size)` at some pixels alone.

    Args:
        probs: float32 (h, w), over the whole image.
        size: (height, width) of the image, pixels.
        pixels: int (n,) rows and int (n,) columns, within it.

    Returns:
        float32 (n,).
    """
    low, high, part = (taps[pixels[0]] for taps in _taps(probs.shape[0], size[0]))
    left, right, share = (taps[pixels[1]] for taps in _taps(probs.shape[1], size[1]))
    first = probs[low, left] * (1 - part) + probs[high, left] * part
    second = probs[low, right] * (1 - part) + probs[high, right] * part
    values: NDArray[np.float32] = first * (1 - share) + second * share
    return values.astype(np.float32, copy=False)


def _taps(
    count: int, wanted: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For each of `wanted` pixels: its two source pixels of `count`, and the second's weight."""
    if count < 1 or wanted < 1:
        raise LabelError(f"a map of {count} pixels cannot be resized to {wanted}")
    centres = (np.arange(wanted, dtype=np.float64) + 0.5) * (count / wanted) - 0.5
    centres = np.clip(centres, 0.0, count - 1)
    low = np.floor(centres).astype(np.intp)
    high = np.minimum(low + 1, count - 1)
    return low, high, (centres - low).astype(np.float32)


def _tighten(mask: Mask, bitmap: NDArray[np.bool_]) -> Mask:
    tight = Mask.from_full(bitmap)
    if not tight.bitmap.size:
        return tight
    return Mask(mask.x0 + tight.x0, mask.y0 + tight.y0, tight.bitmap)


def _around(full: NDArray[np.bool_], margin: int) -> tuple[slice, slice]:
    """Rows and columns of the set pixels with a margin, within the image."""
    x0, y0, x1, y1 = box_of(full)
    height, width = full.shape
    return (
        slice(max(y0 - margin, 0), min(y1 + margin, height)),
        slice(max(x0 - margin, 0), min(x1 + margin, width)),
    )
