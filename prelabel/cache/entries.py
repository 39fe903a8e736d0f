"""One entry of the cache as bytes: named arrays, whole or refused.

Raw arrays, not compressed: float32 out of a network shrinks by a quarter at most, and that costs
more time than reading it from disk. No pickle: types and shapes stand in a small JSON header, and
a checksum stands before everything.

    8 bytes   "prelabel"
    4 bytes   CRC-32 of all that follows
    4 bytes   length of the header
    header    JSON: kind, and name, dtype and shape of each array
    arrays    one after the other, each beginning at a multiple of 64 bytes
"""

from __future__ import annotations

import json
import math
import struct
import zlib
from collections.abc import Mapping
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import LabelError

__all__ = ["Arrays", "DamagedEntryError", "pack_entry", "unpack_entry"]

Arrays = Mapping[str, NDArray[np.generic]]

_MAGIC = b"prelabel"
_FIXED = struct.Struct("<8sII")
_ALIGN = 64
_DTYPES = "biufU"
"""Kinds of numpy types that an entry may hold: numbers, truth values and text."""


class DamagedEntryError(LabelError):
    """The bytes are no whole entry of the kind that was asked for."""


def pack_entry(kind: str, arrays: Arrays) -> bytearray:
    """An entry's bytes. Raises LabelError for object arrays, which would need pickle."""
    # Not np.ascontiguousarray, which would give an array without axes one.
    dense = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in dense.items():
        if array.dtype.kind not in _DTYPES:
            raise LabelError(f"array {name!r} of {kind} has dtype {array.dtype}, never stored")
    rows = [[name, array.dtype.str, list(array.shape)] for name, array in dense.items()]
    header = json.dumps({"kind": kind, "arrays": rows}).encode()
    starts, total = _layout(len(header), [array.nbytes for array in dense.values()])
    data = bytearray(total)
    data[_FIXED.size : _FIXED.size + len(header)] = header
    for start, array in zip(starts, dense.values(), strict=True):
        np.frombuffer(data, np.uint8, array.nbytes, start)[:] = array.reshape(-1).view(np.uint8)
    _FIXED.pack_into(data, 0, _MAGIC, 0, len(header))
    _FIXED.pack_into(data, 0, _MAGIC, _checksum(data), len(header))
    return data


def unpack_entry(kind: str, data: bytearray) -> dict[str, NDArray[np.generic]]:
    """The arrays of an entry, as writable views of `data`.

    Raises:
        DamagedEntryError: it is cut off, changed, of another kind, or no entry at all.
    """
    if len(data) < _FIXED.size:
        raise DamagedEntryError("shorter than an entry's beginning")
    magic, checksum, length = _FIXED.unpack_from(data)
    if magic != _MAGIC or checksum != _checksum(data):
        raise DamagedEntryError("not an entry, or not a whole one")
    try:
        header = json.loads(bytes(data[_FIXED.size : _FIXED.size + length]))
        found, rows = header["kind"], header["arrays"]
        types = [(str(name), np.dtype(dtype), tuple(shape)) for name, dtype, shape in rows]
        sizes = [dtype.itemsize * math.prod(shape) for _, dtype, shape in types]
        starts, total = _layout(length, sizes)
        if found != kind or total != len(data) or any(t[1].kind not in _DTYPES for t in types):
            raise DamagedEntryError(f"an entry of {found!r}, where {kind!r} was looked for")
        return {
            name: np.frombuffer(data, dtype, math.prod(shape), start).reshape(shape)
            for (name, dtype, shape), start in zip(types, starts, strict=True)
        }
    except (KeyError, TypeError, ValueError) as error:
        raise DamagedEntryError(f"an entry that makes no sense: {error}") from error


def _layout(header: int, sizes: list[int]) -> tuple[list[int], int]:
    """Where each array begins, and how long the whole is, in bytes."""
    ends = list(accumulate(sizes, lambda end, size: _aligned(end) + size, initial=0))
    first = _aligned(_FIXED.size + header)
    return [first + _aligned(end) for end in ends[:-1]], first + ends[-1]


def _aligned(position: int) -> int:
    return -(-position // _ALIGN) * _ALIGN


def _checksum(data: bytearray) -> int:
    return zlib.crc32(memoryview(data)[12:])
