"""What became of each image of a run: `job.db`, beside the labels.

SQLite with a write-ahead log, flushed to disk at each commit, written by one process. A row says
"done" only after its label is on disk, so after a crash the ledger may know less than the folder
holds, and never more. It can be rebuilt from the labels (`prelabel.job.repair`).
"""

from __future__ import annotations

import errno
import hashlib
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

from prelabel.errors import ConfigError
from prelabel.job.mounts import refuse_network

__all__ = ["LEDGER_NAME", "Ledger", "Row", "Status", "ledger_path"]

LEDGER_NAME = "job.db"

Status: TypeAlias = Literal["done", "failed", "quarantined", "skipped"]
"""What became of an image; one without a row is still to do."""

_VERSION = "1"
_MOST_ROWS = 50
_MOST_SECONDS = 1.0
_TABLES = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS images (
    image_id BLOB PRIMARY KEY,
    status TEXT NOT NULL,
    stamp TEXT NOT NULL,
    explained INTEGER NOT NULL,
    segments INTEGER NOT NULL,
    stage TEXT NOT NULL,
    kind TEXT NOT NULL,
    message TEXT NOT NULL
) WITHOUT ROWID;
"""
_ERRNO = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_READONLY: errno.EROFS,
    sqlite3.SQLITE_PERM: errno.EACCES,
    sqlite3.SQLITE_CANTOPEN: errno.EACCES,
}


@dataclass(frozen=True, slots=True)
class Row:
    """One image.

    Attributes:
        status: see `Status`.
        stamp: of the image when it was read, "" where the source knows none.
        explained: whether explanations were written beside the label.
        segments: in its label.
        stage, kind, message: of the failure, "" where there was none.
    """

    status: Status
    stamp: str = ""
    explained: bool = False
    segments: int = 0
    stage: str = ""
    kind: str = ""
    message: str = ""


def ledger_path(run: Path, state: Path | None = None) -> Path:
    """Where a run's ledger lies: in its folder, or in `state`, which many runs may share."""
    if state is None:
        return run / LEDGER_NAME
    whole = os.path.abspath(run)
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:10]
    return state / f"{os.path.basename(whole)}-{digest}.db"


class Ledger:
    """The ledger of one run. Rows are written in groups: at most 50, at most a second late.

    Raises:
        ConfigError: the file is no ledger, is damaged, or lies on a network file system.
        OSError: it cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        refuse_network(path.parent)
        self.path = path
        self._waiting: dict[str, Row] = {}
        self._since = time.monotonic()
        with self._told():
            self._database = sqlite3.connect(path, isolation_level=None)
            try:
                self._open()
            except BaseException:
                self._database.close()
                raise

    def _open(self) -> None:
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        (sound,) = self._database.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        self._database.executescript(_TABLES)
        version = self.meta("version")
        if version is None:
            self.set_meta("version", _VERSION)
        elif version != _VERSION:
            raise ConfigError(
                f"{self.path} has version {version}, this prelabel reads {_VERSION}; "
                "use the prelabel that wrote it, or another --out"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors as what they are: a full disk, a damaged file."""
        try:
            yield
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_ERROR:
                raise self._damaged(error) from error
            raise OSError(_ERRNO.get(code, errno.EIO), str(error), str(self.path)) from error
        except sqlite3.DatabaseError as error:
            raise self._damaged(error) from error

    def _damaged(self, error: sqlite3.Error) -> ConfigError:
        return ConfigError(
            f"{self.path} is damaged ({error}); `prelabel repair {self.path.parent}` rebuilds it "
            "from the labels"
        )

    def meta(self, key: str) -> str | None:
        """A remembered text, such as the fingerprint."""
        with self._told():
            query = "SELECT value FROM meta WHERE key = ?"
            found = self._database.execute(query, (key,)).fetchone()
        return None if found is None else str(found[0])

    def set_meta(self, key: str, value: str) -> None:
        """Remember a text, at once."""
        with self._told():
            self._database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, value))

    def rows(self) -> dict[str, Row]:
        """Every row by image_id."""
        self.flush()
        with self._told():
            found = self._database.execute("SELECT * FROM images").fetchall()
        return {
            _text(image_id): Row(status, stamp, bool(explained), *rest)
            for image_id, status, stamp, explained, *rest in found
        }

    def mark(self, image_id: str, row: Row) -> None:
        """Say what became of an image; on disk within a second, or after 50."""
        if not self._waiting:
            self._since = time.monotonic()
        self._waiting[image_id] = row
        if len(self._waiting) >= _MOST_ROWS or time.monotonic() - self._since >= _MOST_SECONDS:
            self.flush()

    def flush_if_due(self) -> None:
        """Write what has waited for a second."""
        if self._waiting and time.monotonic() - self._since >= _MOST_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Write what waits. Raises OSError; then nothing of it is written, and all of it waits."""
        if self._waiting:
            self._write(self._waiting)
            self._waiting = {}

    def replace(self, rows: Mapping[str, Row]) -> None:
        """Forget every row and write these, all or nothing."""
        self._waiting = {}
        self._write(rows, "DELETE FROM images")

    def forget(self, image_ids: Iterable[str]) -> None:
        """Remove rows: these images are to do again."""
        names = [(_bytes(image_id),) for image_id in image_ids]
        if names:
            self.flush()
            with self._transaction():
                self._database.executemany("DELETE FROM images WHERE image_id = ?", names)

    def _write(self, rows: Mapping[str, Row], first: str = "") -> None:
        values = [
            (
                *(_bytes(image_id), row.status, row.stamp),
                *(int(row.explained), row.segments, row.stage, row.kind),
                row.message.encode("utf-8", "backslashreplace").decode(),
            )
            for image_id, row in rows.items()
        ]
        with self._transaction():
            if first:
                self._database.execute(first)
            self._database.executemany(
                "INSERT OR REPLACE INTO images VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All or nothing; also where a second interrupt comes in the middle of it."""
        with self._told():
            try:
                self._database.execute("BEGIN IMMEDIATE")
                yield
                self._database.execute("COMMIT")
            except BaseException:
                if self._database.in_transaction:
                    self._database.execute("ROLLBACK")
                raise

    def close(self) -> None:
        """Write what waits, and let go."""
        try:
            self.flush()
        finally:
            self._database.close()


def _bytes(image_id: str) -> bytes:
    return image_id.encode("utf-8", "surrogateescape")


def _text(image_id: bytes) -> str:
    return image_id.decode("utf-8", "surrogateescape")
