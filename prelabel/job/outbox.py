"""What became of each label on its way to a platform: `uploads/outbox.db` in the run's folder.

A row goes from "intent" over "sent" to "verified"; "human" is a person's work that was left alone,
"failed" is final until the label changes or is asked for again. What was made at the platform on
the way is noted at once, so that a process that is killed leaves next to nothing behind. The outbox
is a memory and not the truth: a resumed upload asks the platform first. So a damaged one is laid
aside, and a power cut may cost its last rows.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, TypeAlias

__all__ = ["FINAL", "Outbox", "OutboxRow", "State"]

State: TypeAlias = Literal["intent", "sent", "verified", "human", "failed"]
FINAL: frozenset[State] = frozenset({"sent", "verified", "human", "failed"})
"""States in which there is nothing more to send."""

_TABLE = """
CREATE TABLE IF NOT EXISTS uploads (
    target TEXT NOT NULL,
    image_id BLOB NOT NULL,
    label TEXT NOT NULL,
    state TEXT NOT NULL,
    noted TEXT NOT NULL DEFAULT '',
    kind TEXT NOT NULL DEFAULT '',
    message TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (target, image_id)
) WITHOUT ROWID
"""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class OutboxRow:
    """One label.

    Attributes:
        label: sha256 of its PNG.
        state: see `State`.
        noted: what the platform's connector noted, such as the address of a file it uploaded.
        kind, message: of the failure, "" where there was none.
    """

    label: str
    state: State = "intent"
    noted: str = ""
    kind: str = ""
    message: str = ""


class Outbox:
    """The rows of one target; for many threads.

    Args:
        path: of the database; made where it is missing.
        target: connector and location, such as "segments-ai:owner/dataset".

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path, target: str) -> None:
        self._target = target
        self._lock = threading.Lock()
        try:
            self._database = _open(path)
        except sqlite3.OperationalError as error:
            raise OSError(f"{path} cannot be written: {error}") from error
        except sqlite3.DatabaseError as error:
            aside = path.with_suffix(".damaged")
            path.replace(aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            _LOGGER.warning("%s was damaged (%s); it is now %s", path, error, aside.name)
            self._database = _open(path)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def rows(self) -> dict[str, OutboxRow]:
        """Every row by image_id."""
        with self._lock:
            found = self._database.execute(
                "SELECT image_id, label, state, noted, kind, message FROM uploads WHERE target = ?",
                (self._target,),
            ).fetchall()
        return {_text(image_id): OutboxRow(*rest) for image_id, *rest in found}

    def intend(self, labels: Mapping[str, str]) -> None:
        """Note, in one go, that these labels (sha256 by image_id) are to be sent."""
        self._write((image_id, OutboxRow(label)) for image_id, label in labels.items())

    def mark(self, image_id: str, row: OutboxRow) -> None:
        """Say what became of a label, at once."""
        self._write([(image_id, row)])

    def _write(self, rows: Iterable[tuple[str, OutboxRow]]) -> None:
        values = [
            (
                *(self._target, image_id.encode("utf-8", "surrogateescape"), row.label, row.state),
                *(row.noted, row.kind, row.message.encode("utf-8", "backslashreplace").decode()),
            )
            for image_id, row in rows
        ]
        with self._lock:
            try:
                with self._database:
                    self._database.executemany(
                        "INSERT OR REPLACE INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?)", values
                    )
            except sqlite3.Error as error:
                raise OSError(f"the outbox cannot be written: {error}") from error


def _open(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        # A killed process loses nothing so; a power cut may, and then the platform is asked.
        database.execute("PRAGMA synchronous=NORMAL")
        (sound,) = database.execute("PRAGMA quick_check(1)").fetchone()
        if sound != "ok":
            raise sqlite3.DatabaseError(sound)
        database.execute(_TABLE)
        database.commit()
    except BaseException:
        database.close()
        raise
    return database


def _text(image_id: bytes) -> str:
    return image_id.decode("utf-8", "surrogateescape")
