"""Files that are there whole or not at all, and digests of them."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["file_sha256", "replacing", "write_atomically"]


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name to write to; `path` is replaced by it if the block ends well.

    A crash at any moment leaves the old file or the new one: the new one is flushed to disk before
    it takes the name, and the folder after.

    Raises:
        OSError: the disk is full, read-only or broken; nothing is left behind.
    """
    digest = hashlib.sha256(path.name.encode(errors="surrogatepass")).hexdigest()[:12]
    # A short name of its own: a suffix on a name of 255 bytes would not fit.
    part = path.with_name(f".{digest}-{os.getpid()}.part")
    try:
        yield part
        _flush(part)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if os.name != "nt":  # where a folder cannot be opened
        _flush(path.parent)


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` as `replacing` does. Raises OSError."""
    with replacing(path) as part:
        part.write_bytes(data)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    """Make what was written to a file or folder last through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
