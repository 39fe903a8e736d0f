"""What a run's folder holds, looked at without the code that wrote it where that is possible."""

from __future__ import annotations

import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Holding", "look"]


@dataclass(frozen=True, slots=True)
class Holding:
    """A run's folder at one moment.

    Attributes:
        whole: sha256 of the PNG by image_id, of pairs whose parts belong together.
        made: fingerprint by image_id, of the same pairs.
        copies: how many JSON files speak of an image.
        claims: status by image_id as the ledger has it; None where it cannot be read.
        strays: unfinished files.
        others: files in `labels` that belong to no pair.
    """

    whole: Mapping[str, str]
    made: Mapping[str, str]
    copies: Mapping[str, int]
    claims: Mapping[str, str] | None
    strays: tuple[str, ...]
    others: tuple[str, ...]

    @property
    def lost(self) -> set[str]:
        """What the ledger calls done and is not there."""
        done = {name for name, status in (self.claims or {}).items() if status == "done"}
        return done - self.whole.keys()

    @property
    def doubled(self) -> set[str]:
        """Images with more than one label."""
        return {name for name, count in self.copies.items() if count > 1}


def look(run: Path) -> Holding:
    """Read a run's folder, and change nothing in it."""
    whole, made, copies = {}, {}, Counter[str]()
    others = {path.name for path in run.glob("labels/[!.]*")}
    for path in run.glob("labels/[!.]*.json"):
        try:
            document = json.loads(path.read_text())
        except ValueError:  # half of one, and so none
            continue
        image_id, png = document["image_id"], path.with_suffix(".png")
        copies[image_id] += 1
        digest = hashlib.sha256(png.read_bytes()).hexdigest() if png.is_file() else ""
        if digest == document["png_sha256"]:
            whole[image_id] = digest
            made[image_id] = document["provenance"]["fingerprint"]
            others -= {path.name, png.name}
    strays = sorted(str(path.relative_to(run)) for path in _strays(run))
    return Holding(whole, made, copies, _claims(run), tuple(strays), tuple(sorted(others)))


def _strays(run: Path) -> Iterator[Path]:
    yield from run.rglob(".*.part")
    yield from run.rglob(".writable")


def _claims(run: Path) -> dict[str, str] | None:
    """The rows of a copy of the ledger: to open a database is to recover it."""
    if not (run / "job.db").is_file():
        return {}
    with tempfile.TemporaryDirectory() as scratch:
        for path in run.glob("job.db*"):
            if not path.name.endswith("-shm"):
                shutil.copy(path, scratch)
        try:
            with closing(sqlite3.connect(Path(scratch) / "job.db")) as database:
                tables = [name for (name,) in database.execute("SELECT name FROM sqlite_master")]
                if "images" not in tables:
                    return {}
                rows = database.execute("SELECT image_id, status FROM images").fetchall()
        except sqlite3.DatabaseError:
            return None
    return {image_id.decode(): status for image_id, status in rows}
