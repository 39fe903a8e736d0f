"""Binary masks as crops with an offset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import LabelError

__all__ = ["Box", "Mask", "pack_masks", "unpack_masks"]

Box: TypeAlias = tuple[int, int, int, int]
"""xyxy pixels, half-open."""


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A binary mask as a crop: `bitmap` bool (h, w), its top-left pixel at (`x0`, `y0`)."""

    x0: int
    y0: int
    bitmap: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.bitmap.ndim != 2 or self.bitmap.dtype != np.bool_:
            raise LabelError(
                f"expected a bitmap bool (h, w), got {self.bitmap.dtype} {self.bitmap.shape}"
            )
        if self.x0 < 0 or self.y0 < 0:
            raise LabelError(f"expected an offset of at least 0, got ({self.x0}, {self.y0})")

    @classmethod
    def from_full(cls, full: NDArray[np.bool_]) -> Self:
        """The tight crop of a bool (H, W) map; an empty map gives a (0, 0) bitmap."""
        rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
        if not len(rows):
            return cls(0, 0, np.zeros((0, 0), dtype=np.bool_))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return cls(int(x0), int(y0), np.ascontiguousarray(full[y0:y1, x0:x1]))

    @property
    def box(self) -> Box:
        """The crop's own box, xyxy pixels, half-open."""
        height, width = self.bitmap.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop in the full image."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    @property
    def area(self) -> int:
        """Number of pixels set."""
        return int(np.count_nonzero(self.bitmap))

    def to_full(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as bool (height, width)."""
        x0, y0, x1, y1 = self.box
        if x1 > size[1] or y1 > size[0]:
            raise LabelError(f"a mask with box {(x0, y0, x1, y1)} does not fit into {size}")
        full = np.zeros(size, dtype=np.bool_)
        full[self.window] = self.bitmap
        return full

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (self.x0, self.y0) == (other.x0, other.y0) and np.array_equal(
            self.bitmap, other.bitmap
        )

    __hash__ = None  # type: ignore[assignment]


def pack_masks(masks: tuple[Mask, ...]) -> dict[str, NDArray[np.generic]]:
    """Masks as two arrays: int32 (N, 4) boxes and their bitmaps' packed bits, one after another."""
    boxes = np.array([mask.box for mask in masks], dtype=np.int32).reshape(-1, 4)
    bits = [np.packbits(mask.bitmap.ravel()) for mask in masks]
    return {
        "mask_boxes": boxes,
        "mask_bits": np.concatenate(bits) if bits else np.empty(0, dtype=np.uint8),
    }


def unpack_masks(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[Mask, ...]:
    bits = arrays["mask_bits"].astype(np.uint8)
    masks, start = [], 0
    for x0, y0, x1, y1 in arrays["mask_boxes"].astype(np.int64):
        count = int((x1 - x0) * (y1 - y0))
        stop = start + -(-count // 8)
        bitmap = np.unpackbits(bits[start:stop], count=count).astype(np.bool_)
        masks.append(Mask(int(x0), int(y0), bitmap.reshape(y1 - y0, x1 - x0)))
        start = stop
    return tuple(masks)
