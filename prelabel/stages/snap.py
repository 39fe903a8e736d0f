"""Masks follow the edges that the picture shows.

A segmenter draws masks on a grid a few pixels wide; enlarged, their edges run near the picture's
and not on them, and what is thinner than a cell is lost. The guided filter (He, Sun and Tang 2013,
"Guided Image Filtering", IEEE TPAMI 35(6), section 4, "guided feathering") explains a mask within
each small window as a linear function of the colours there; where that function passes one half,
the new edge runs. Large pictures are filtered at `_LONGEST` and the functions enlarged (He and Sun
2015, "Fast Guided Filter").
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from prelabel.data import Instances, Mask, StuffRegions
from prelabel.masks import mask_iou, resize_probs

__all__ = ["Guide", "invert", "snap_masks"]

_LONGEST = 1024
"""Longest side, in pixels, at which pictures are filtered."""
_EPSILON = 3e-4
"""Variance of colours in [0, 1] below which a window counts as flat; the paper's ε."""
_PASSES = 2
"""Each pass carries an edge by at most twice the radius."""
_LEAST_IOU = 0.5
"""A mask that changes by more than this was thin and without contrast; it stays as it was."""


def snap_masks(
    instances: Instances, regions: StuffRegions, pixels: NDArray[np.uint8], reach: float
) -> tuple[Instances, StuffRegions]:
    """Things and regions with edges where the picture has them.

    Args:
        instances: things with masks.
        regions: regions of stuff.
        pixels: uint8 (H, W, 3) RGB, the picture.
        reach: radius of the filter as a share of the longer side, in [0, 1]; less than half a pixel
            changes nothing.
    """
    if round(reach * max(pixels.shape)) < 1 or not (len(instances) or len(regions)):
        return instances, regions
    guide = Guide(pixels, reach)
    return (
        dataclasses.replace(instances, masks=tuple(map(guide.snap, instances.masks))),
        dataclasses.replace(regions, masks=tuple(map(guide.snap, regions.masks))),
    )


class Guide:
    """A picture, ready to say where masks end.

    Args:
        pixels: uint8 (H, W, 3) RGB.
        reach: radius of the filter as a share of the longer side.
    """

    def __init__(self, pixels: NDArray[np.uint8], reach: float) -> None:
        self._size = (pixels.shape[0], pixels.shape[1])
        self._pixels = pixels
        scale = min(1.0, _LONGEST / max(self._size))
        self._grid = (
            max(1, round(self._size[0] * scale)),
            max(1, round(self._size[1] * scale)),
        )
        self._radius = max(1, round(reach * max(self._grid)))
        self._small = _colours(_reduced(pixels, self._grid))
        self._means, self._inverses = self._statistics()

    def _statistics(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Of the windows' colours: means (3, h, w) and inverse covariances (3, 3, h, w)."""
        means = np.stack([self._blur(channel) for channel in self._small])
        covariances = np.empty((3, 3, *self._grid))
        for row in range(3):
            for column in range(row, 3):
                product = self._blur(self._small[row] * self._small[column])
                value = product - means[row] * means[column] + _EPSILON * (row == column)
                covariances[row, column] = covariances[column, row] = value
        return means, invert(covariances)

    def _blur(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        side = 2 * self._radius + 1
        return np.asarray(ndimage.uniform_filter(values, side, mode="nearest"))

    def snap(self, mask: Mask) -> Mask:
        """The mask with its edge on the picture's; as it was where the picture shows none."""
        if not mask.bitmap.any():
            return mask
        rows, columns = self._window(mask)
        inside = self._pixel_window(rows, columns)
        values = _placed(mask, inside, (rows.stop - rows.start, columns.stop - columns.start))
        colours = self._small[:, rows, columns]
        for _ in range(_PASSES - 1):
            slopes, offsets = self._fit(values, rows, columns)
            values = ((slopes * colours).sum(axis=0) + offsets > 0.5).astype(np.float32)
        snapped = self._applied(*self._fit(values, rows, columns), inside)
        return snapped if mask_iou(snapped, mask) >= _LEAST_IOU else mask

    def _window(self, mask: Mask) -> tuple[slice, slice]:
        """Rows and columns of the grid around a mask, as far as the filter sees."""
        x0, y0, x1, y1 = mask.box
        (height, width), (rows, columns) = self._size, self._grid
        # Each pass blurs twice.
        margin = 2 * _PASSES * self._radius
        return (
            slice(
                max(y0 * rows // height - margin, 0), min(-(-y1 * rows // height) + margin, rows)
            ),
            slice(
                max(x0 * columns // width - margin, 0),
                min(-(-x1 * columns // width) + margin, columns),
            ),
        )

    def _pixel_window(self, rows: slice, columns: slice) -> tuple[slice, slice]:
        """The pixels under a window of the grid."""
        high, wide = self._size[0] / self._grid[0], self._size[1] / self._grid[1]
        return (
            slice(round(rows.start * high), round(rows.stop * high)),
            slice(round(columns.start * wide), round(columns.stop * wide)),
        )

    def _fit(
        self, values: NDArray[np.float32], rows: slice, columns: slice
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Slopes (3, h, w) by colour and offsets (h, w) of the mask's linear functions."""
        means, colours = self._means[:, rows, columns], self._small[:, rows, columns]
        mean = self._blur(values)
        shared = np.stack([self._blur(channel * values) for channel in colours]) - means * mean
        slopes = np.stack(
            [(row * shared).sum(axis=0) for row in self._inverses[:, :, rows, columns]]
        )
        offsets = mean - (slopes * means).sum(axis=0)
        return np.stack([self._blur(slope) for slope in slopes]), self._blur(offsets)

    def _applied(
        self,
        slopes: NDArray[np.float32],
        offsets: NDArray[np.float32],
        inside: tuple[slice, slice],
    ) -> Mask:
        """The mask that the functions make of the pixels in a window."""
        colours = _colours(self._pixels[inside])
        size = (colours.shape[1], colours.shape[2])
        if offsets.shape != size:
            slopes, offsets = resize_probs(slopes, size), resize_probs(offsets[None], size)[0]
        full = (slopes * colours).sum(axis=0) + offsets > 0.5
        tight = Mask.from_full(full)
        if not tight.bitmap.size:
            return tight
        return Mask(tight.x0 + inside[1].start, tight.y0 + inside[0].start, tight.bitmap)


def invert(matrices: NDArray[np.float64]) -> NDArray[np.float32]:
    """The inverses of symmetric (3, 3, h, w), by Cramer's rule: ten times as fast as LAPACK's.

    In float64, since of nearly grey pictures the determinant is a small difference.
    """
    a, b, c = matrices[0]
    d, e, f = matrices[1, 1], matrices[1, 2], matrices[2, 2]
    first = d * f - e * e, c * e - b * f, b * e - c * d
    determinant = a * first[0] + b * first[1] + c * first[2]
    inverse = np.empty(matrices.shape, dtype=np.float32)
    for column, cofactor in enumerate(first):
        inverse[0, column] = inverse[column, 0] = cofactor / determinant
    inverse[1, 1] = (a * f - c * c) / determinant
    inverse[1, 2] = inverse[2, 1] = (b * c - a * e) / determinant
    inverse[2, 2] = (a * d - b * b) / determinant
    return inverse


def _colours(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """float32 (3, h, w) in [0, 1] of uint8 (h, w, 3)."""
    return np.ascontiguousarray(np.moveaxis(pixels, 2, 0), dtype=np.float32) / np.float32(255)


def _reduced(pixels: NDArray[np.uint8], grid: tuple[int, int]) -> NDArray[np.uint8]:
    if grid == pixels.shape[:2]:
        return pixels
    small = Image.fromarray(pixels).resize(grid[::-1], Image.Resampling.BOX)
    return np.asarray(small)


def _placed(mask: Mask, inside: tuple[slice, slice], grid: tuple[int, int]) -> NDArray[np.float32]:
    """float32 (h, w) in [0, 1] on the grid: how much of each cell of a window the mask holds."""
    rows, columns = inside
    full = np.zeros((rows.stop - rows.start, columns.stop - columns.start), dtype=np.float32)
    y0, x0 = mask.y0 - rows.start, mask.x0 - columns.start
    height, width = mask.bitmap.shape
    full[y0 : y0 + height, x0 : x0 + width] = mask.bitmap
    if full.shape == grid:
        return full
    return np.asarray(Image.fromarray(full).resize(grid[::-1], Image.Resampling.BOX))
