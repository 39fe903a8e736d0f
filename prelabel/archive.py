"""Stage outputs on disk: one `.npz` per output, without pickle, with a kind and a version."""

from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import LabelError
from prelabel.files import write_atomically

__all__ = ["pack_text", "read_archive", "unpack_text", "write_archive"]

_HEADER = "archive"


def write_archive(
    path: str | os.PathLike[str], kind: str, version: int, arrays: Mapping[str, NDArray[np.generic]]
) -> None:
    """Write `arrays` to `path` atomically, headed by `kind` and `version`.

    Object arrays are refused, so that reading never unpickles.
    """
    for name, array in arrays.items():
        if array.dtype.hasobject:
            raise LabelError(f"array {name!r} of {kind} has dtype object, which is never stored")
    header = np.array([kind, str(version)])
    stream = io.BytesIO()  # a zip is written in dozens of pieces
    np.savez_compressed(stream, allow_pickle=False, **{_HEADER: header}, **arrays)
    write_atomically(Path(path), stream.getvalue())


def read_archive(
    path: str | os.PathLike[str], kind: str, version: int
) -> dict[str, NDArray[np.generic]]:
    """Read what `write_archive` wrote.

    Raises:
        LabelError: the file is no archive, or holds another kind or version.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise LabelError(f"{path} cannot be read as a stored {kind}: {error}") from error
    header = arrays.pop(_HEADER, None)
    found = [] if header is None else [str(part) for part in header]
    if found != [kind, str(version)]:
        raise LabelError(f"{path} holds {found or 'no header'}, expected [{kind!r}, '{version}']")
    return arrays


def pack_text(texts: tuple[str, ...]) -> NDArray[np.str_]:
    """A tuple of strings as an array of unicode, which needs no pickle."""
    return np.array(texts, dtype=np.str_) if texts else np.empty(0, dtype="<U1")


def unpack_text(array: NDArray[np.generic]) -> tuple[str, ...]:
    """The inverse of `pack_text`."""
    return tuple(str(text) for text in array)
