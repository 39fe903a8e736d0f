"""What stage outputs share: checks at construction, `save` and `load`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from typing import Self

import numpy as np
from numpy.typing import NDArray

from prelabel.archive import read_archive, write_archive
from prelabel.data.masks import pack_masks, unpack_masks
from prelabel.errors import LabelError

__all__ = ["Stored", "check_array", "check_unit", "plain_parts"]


class Stored:
    """`save` and `load` for a data class made of arrays and at most one tuple of masks."""

    __slots__ = ()
    _VERSION = 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a `.npz` without pickle, with a version."""
        write_archive(path, type(self).__name__, self._VERSION, self.to_arrays())

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """All that it holds, by name; masks are packed."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if item.name == "masks":
                arrays |= pack_masks(value)
            elif dataclasses.is_dataclass(value):
                arrays |= {
                    f"{item.name}.{part.name}": getattr(value, part.name)
                    for part in dataclasses.fields(value)
                }
            else:
                arrays[item.name] = value
        return arrays

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises LabelError for any other file."""
        try:
            return cls.from_arrays(read_archive(path, cls.__name__, cls._VERSION))
        except (KeyError, TypeError) as error:
            raise LabelError(f"{path} lacks a part of {cls.__name__}: {error}") from error

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]]) -> Self:
        """From what `to_arrays` gave. Raises KeyError or TypeError: a part is missing or odd."""
        return cls(**cls._parts(arrays))

    @classmethod
    def _parts(cls, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
        """The constructor's arguments from what was stored."""
        return plain_parts(arrays)


def plain_parts(arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
    """Arrays as they are, packed masks unpacked."""
    parts: dict[str, object] = dict(arrays)
    if "mask_boxes" in parts:
        del parts["mask_boxes"], parts["mask_bits"]
        parts["masks"] = unpack_masks(arrays)
    return parts


def check_array(name: str, array: NDArray[np.generic], dtype: type, *shape: int | None) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise LabelError(
            f"expected {name} {np.dtype(dtype)} ({wanted}), got {array.dtype} {array.shape}"
        )


def check_unit(name: str, array: NDArray[np.generic]) -> None:
    values = np.asarray(array, dtype=np.float64)
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
        raise LabelError(f"expected {name} in [0, 1], got {values.min():.4g} to {values.max():.4g}")
