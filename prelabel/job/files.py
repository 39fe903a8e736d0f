"""Files that are there whole or not at all, and names that any file system takes."""

from __future__ import annotations

import hashlib
import os
import re
import unicodedata
from pathlib import Path, PurePosixPath

__all__ = ["file_sha256", "key_for", "write_atomically"]

_MAX_STEM = 60


def key_for(image_id: str) -> str:
    """The name of an image's artifacts: a readable ASCII stem and a short hash of the whole id.

    Equal stems in different folders, cases or Unicode forms get different keys on any file system.
    """
    stem = PurePosixPath(image_id.replace("\\", "/")).stem
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_stem).strip("-")[:_MAX_STEM] or "image"
    digest = hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()
    return f"{safe}-{digest[:10]}"


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` so that a crash at any moment leaves the old file or the new one.

    Raises:
        OSError: the disk is full, read-only or broken; nothing is left behind.
    """
    digest = hashlib.sha256(path.name.encode(errors="surrogatepass")).hexdigest()[:12]
    # A short name of its own: a suffix on a name of 255 bytes would not fit.
    part = path.with_name(f".{digest}-{os.getpid()}.part")
    try:
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    """Make a rename last through a power cut, where the system lets one open a folder."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """The sha256 of a file's bytes, as hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
