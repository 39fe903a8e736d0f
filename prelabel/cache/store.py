"""Entries in a folder: found by key, written whole or not at all, the longest unused go first.

`<folder>/<kind>/<2 digits>/<62 digits>`, the digits being the key. A file's time of modification is
when it was last used. Any number of processes may share the folder: an entry takes its name in one
step, two that write the same key write the same bytes, and what another process removed is a miss.
Nothing is forced to disk: what a power cut leaves behind fails its checksum and is a miss as well.
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from prelabel.cache.entries import Arrays, DamagedEntryError, pack_entry, unpack_entry

__all__ = ["KINDS", "CacheUse", "Kind", "StageCache"]

Kind = Literal[
    "detections",
    "detector-evidence",
    "embeddings",
    "attention-inputs",
    "rough-maps",
    "mask-logits",
    "attention-maps",
    "refined-masks",
    "networks",
]
"""What entries hold. Of `networks` it is only that they loaded."""

KINDS: tuple[Kind, ...] = get_args(Kind)

_LOGGER = logging.getLogger(__name__)
_DOWN_TO = 0.9
"""Eviction goes on down to this share of the limit, so that it is not for each entry."""
_LOOK_AFTER = 0.05
"""After writing this share of the limit a process looks what the others wrote."""
_SPARE = 2**31
"""Bytes of the disk that are left to others, such as the labels of the run."""
_ABANDONED_SECONDS = 3600.0
"""A temporary file as old as this was left by a process that died."""
_PART = ".part"
_TAG = "CACHEDIR.TAG"
_TAG_TEXT = """Signature: 8a477f597d28d172789f06886806bc55
# Made by prelabel; `prelabel cache clear` empties it. Backups may leave it out.
"""


@dataclass(frozen=True, slots=True)
class CacheUse:
    """Entries and bytes, by kind."""

    entries: Counter[Kind] = field(default_factory=Counter)
    nbytes: Counter[Kind] = field(default_factory=Counter)


class StageCache:
    """What networks answered, on disk, up to a limit.

    Entries used since the job began are never evicted for others of the same job: going through
    more images than fit, again and again, would otherwise evict each just before it is needed. What
    no longer fits is not kept then.

    Args:
        folder: made at the first entry.
        max_bytes: of all entries together; a few percent more for a moment, where several
            processes write. Less where the disk would be left with less than 2 GiB.
        since: when the job began, as `clock` counts; None is now.
        clock: seconds, of the same kind as files' times.
    """

    def __init__(
        self,
        folder: Path,
        max_bytes: int,
        *,
        since: float | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self.hits: Counter[Kind] = Counter()
        self.misses: Counter[Kind] = Counter()
        self._since = clock() if since is None else since
        self._clock = clock
        self._lock = threading.Lock()
        self._writing = True
        self._held: int | None = None
        self._written = 0

    # --- entries ------------------------------------------------------------------------------

    def get(self, kind: Kind, key: str) -> dict[str, NDArray[np.generic]] | None:
        """An entry's arrays, writable and the caller's own; None where there is none.

        A damaged entry is removed and is none.
        """
        path = self._path(kind, key)
        try:
            found = unpack_entry(kind, _read(path))
        except DamagedEntryError as error:
            _LOGGER.warning("the cache's %s was damaged (%s) and is made again", path, error)
            self.discard(kind, key)
            found = None
        except OSError:
            found = None
        (self.misses if found is None else self.hits)[kind] += 1
        if found is not None:
            self._touch(path)
        return found

    def has(self, kind: Kind, key: str) -> bool:
        """Whether there is an entry, which then counts as used."""
        path = self._path(kind, key)
        return os.path.isfile(path) and self._touch(path)

    def put(self, kind: Kind, key: str, arrays: Arrays) -> None:
        """Keep an entry, where there is room. An error of the disk is told once and no more."""
        if not self._writing:
            return
        data, path = pack_entry(kind, arrays), self._path(kind, key)
        try:
            if self._admit(len(data), path):
                self._write(path, data)
        except OSError as error:
            self._stop(f"cannot be written: {error.strerror or error}")

    def discard(self, kind: Kind, key: str) -> None:
        """Remove an entry, if there is one."""
        with suppress(OSError):
            self._path(kind, key).unlink()

    # --- the whole ----------------------------------------------------------------------------

    def use(self) -> CacheUse:
        """What the cache holds now."""
        use = CacheUse()
        for kind in KINDS:
            for file in self._files(kind):
                use.entries[kind] += 1
                use.nbytes[kind] += file.nbytes
        return use

    def clear(self, kind: Kind | None = None) -> CacheUse:
        """Remove all entries, or those of one kind; returns what was removed.

        Raises:
            OSError: the folder does not let itself be changed.
        """
        use = CacheUse()
        for each in KINDS if kind is None else (kind,):
            for file in self._files(each):
                Path(file.path).unlink(missing_ok=True)
                use.entries[each] += 1
                use.nbytes[each] += file.nbytes
        return use

    def _path(self, kind: Kind, key: str) -> Path:
        return self.folder / kind / key[:2] / key[2:]

    def _touch(self, path: Path) -> bool:
        """Mark as used now; False where another process removed it."""
        now = self._clock()
        try:
            os.utime(path, (now, now))
        except OSError:  # gone, or a folder to read from only
            return os.path.isfile(path)
        return True

    def _write(self, path: Path, data: bytearray) -> None:
        part = path.with_name(f".{path.name[:12]}-{os.getpid()}-{threading.get_ident()}{_PART}")
        try:
            try:
                part.write_bytes(data)
            except FileNotFoundError:
                self._make_folder(path.parent)
                part.write_bytes(data)
            self._touch(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)

    def _make_folder(self, folder: Path) -> None:
        if not self.folder.is_dir():
            # Entries tell much about the images; they are for nobody else.
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            (self.folder / _TAG).write_text(_TAG_TEXT, encoding="ascii")
        folder.mkdir(parents=True, exist_ok=True)

    def _files(self, kind: Kind) -> Iterator[_File]:
        """The files of one kind's entries; abandoned temporary ones are removed on the way."""
        now = self._clock()
        for folder in _scan(self.folder / kind):
            for entry in _scan(Path(folder.path)):
                with suppress(OSError):  # gone in the meantime
                    status = entry.stat(follow_symlinks=False)
                    if not entry.name.endswith(_PART):
                        yield _File(status.st_mtime, status.st_size, entry.path)
                    elif now - status.st_mtime > _ABANDONED_SECONDS:
                        os.unlink(entry.path)

    # --- room ---------------------------------------------------------------------------------

    def _admit(self, size: int, path: Path) -> bool:
        """Whether an entry of `size` bytes may be written; makes room where need be."""
        with self._lock:
            if not self._writing or size > self.max_bytes:
                return False
            if path.is_file():  # replaced by the same bytes
                return True
            due = self._written + size > self.max_bytes * _LOOK_AFTER or size > self._room()
            if self._held is None or due or self._held + size > self.max_bytes:
                self._held, self._written = self._evict(size), 0
            scarce = size > self._room()
            if self._held + size <= self.max_bytes and not scarce:
                self._held += size
                self._written += size
                return True
        self._stop(
            f"takes no more: its disk has less than {_SPARE / 2**30:.3g} GiB left"
            if scarce
            else f"is full of this job's images, {self.max_bytes / 2**30:.3g} GiB, and takes no "
            "more; what it holds is used. More fits with a larger cache.max_gib"
        )
        return False

    def _room(self) -> int:
        """Bytes that the disk has to spare; below 0 where it lacks some."""
        folder = self.folder
        while not folder.is_dir() and folder != folder.parent:
            folder = folder.parent
        return shutil.disk_usage(folder).free - _SPARE

    def _evict(self, size: int) -> int:
        """Remove what was not used for longest where `size` bytes do not fit.

        Returns:
            The bytes held afterwards.
        """
        files = [file for kind in KINDS for file in self._files(kind)]
        held = sum(file.nbytes for file in files)
        limit = min(self.max_bytes, held + self._room())
        if held + size <= limit:
            return held
        for file in sorted(files):
            if file.used >= self._since or held + size <= limit * _DOWN_TO:
                break
            with suppress(OSError):
                Path(file.path).unlink(missing_ok=True)
                held -= file.nbytes
        return held

    def _stop(self, why: str) -> None:
        with self._lock:
            told, self._writing = not self._writing, False
        if not told:
            _LOGGER.warning("the cache %s %s", self.folder, why)


@dataclass(frozen=True, slots=True, order=True)
class _File:
    """When it was last used, in seconds; its size; where it is."""

    used: float
    nbytes: int
    path: str


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _read(path: Path) -> bytearray:
    with path.open("rb", buffering=0) as stream:
        data = bytearray(os.fstat(stream.fileno()).st_size)
        view, start = memoryview(data), 0
        while start < len(data) and (count := stream.readinto(view[start:])):
            start += count
    if start < len(data):
        raise DamagedEntryError("it became shorter while it was read")
    return data
