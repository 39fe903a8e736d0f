"""The ledger again from the labels, which are the truth of a run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import image_key
from prelabel.errors import ConfigError, LabelError
from prelabel.files import file_sha256
from prelabel.job.ledger import Ledger, Row, ledger_path
from prelabel.job.lock import locked
from prelabel.job.planning import reap
from prelabel.job.protocol import Task
from prelabel.label_files import LabelMeta, read_meta

__all__ = ["Found", "adopt", "repair_run", "rows_from_labels", "whole_label"]


def repair_run(root: Path, state: Path | None = None) -> Found:
    """Make the ledger of a run anew; failures are kept where the old one can still be read.

    Raises:
        ConfigError: `root` holds no labels.
        LockedError: a run is going on in it.
    """
    if not (root / "labels").is_dir():
        raise ConfigError(f"{root} is no run folder: it has no labels/ folder inside")
    path = ledger_path(root, state)
    with locked(root):
        reap(root)
        found = rows_from_labels(root)
        failed, meta = _what_is_left(path)
        # Made beside the old one, which stays as long as there is no other.
        new = path.with_name(f"{path.name}.new")
        _remove(new, ("-wal", "-shm", ""))
        with Ledger(new) as ledger:
            ledger.replace({**failed, **found.rows})
            for key, value in meta.items():
                ledger.set_meta(key, value)
            if found.fingerprint:
                ledger.set_meta("fingerprint", found.fingerprint)
            ledger.set_meta("complete", "yes")
        # The old one's log first, which must never meet the new one.
        _remove(path, ("-wal", "-shm"))
        new.replace(path)
    return found


def _remove(path: Path, suffixes: Sequence[str]) -> None:
    for suffix in suffixes:
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _what_is_left(path: Path) -> tuple[dict[str, Row], dict[str, str]]:
    """Failures, config and total of an old ledger, as far as it can be read."""
    if not path.is_file():
        return {}, {}
    try:
        with Ledger(path) as ledger:
            rows = {name: row for name, row in ledger.rows().items() if row.status != "done"}
            meta = {key: ledger.meta(key) for key in ("config", "total")}
    except (ConfigError, OSError):
        return {}, {}
    return rows, {key: value for key, value in meta.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Found:
    """What the labels of a folder say.

    Attributes:
        rows: one "done" per whole label that was made in the commonest way.
        fingerprint: of that way, "" where there is no label.
        damaged: file names of labels that are not whole, or made in another way.
    """

    rows: dict[str, Row]
    fingerprint: str
    damaged: tuple[str, ...]


def rows_from_labels(root: Path) -> Found:
    """Look at every pair of `root`/labels: parse the JSON, compare the PNG's digest."""
    metas: list[LabelMeta] = []
    damaged = []
    for path in sorted((root / "labels").glob("[!.]*.json")):
        meta = whole_label(root, path.stem)
        if meta is None:
            damaged.append(path.name)
        else:
            metas.append(meta)
    ways = Counter(meta.provenance.fingerprint for meta in metas)
    fingerprint = ways.most_common(1)[0][0] if ways else ""
    damaged += [f"{meta.key}.json" for meta in metas if meta.provenance.fingerprint != fingerprint]
    rows = {
        meta.record.image_id: _row(root, meta)
        for meta in metas
        if meta.provenance.fingerprint == fingerprint
    }
    return Found(rows, fingerprint, tuple(damaged))


def adopt(root: Path, tasks: Iterable[Task], fingerprint: str) -> dict[str, Row]:
    """Rows for those of `tasks` whose whole label is there, made in this very way.

    A killed run has written labels that its ledger does not know yet: at most a second's worth.
    """
    rows = {}
    for task in tasks:
        image_id = task.record.image_id
        meta = _read(root, image_key(image_id))
        if (
            meta is not None
            and meta.record.image_id == image_id
            and meta.provenance.fingerprint == fingerprint
            and meta.provenance.source_stamp == task.stamp
            and _fits(root, meta)
        ):
            rows[image_id] = _row(root, meta)
    return rows


def whole_label(root: Path, key: str) -> LabelMeta | None:
    """What a pair says, or None where it is missing, damaged, or its parts do not belong."""
    meta = _read(root, key)
    return meta if meta is not None and _fits(root, meta) else None


def _read(root: Path, key: str) -> LabelMeta | None:
    try:
        meta = read_meta(root, key)
    except LabelError:
        return None
    return meta if meta.key == key else None


def _fits(root: Path, meta: LabelMeta) -> bool:
    try:
        return file_sha256(root / "labels" / f"{meta.key}.png") == meta.png_sha256
    except OSError:
        return False


def _row(root: Path, meta: LabelMeta) -> Row:
    explained = (root / "explanations" / f"{meta.key}.json").is_file()
    return Row("done", meta.provenance.source_stamp, explained, len(meta.segments))
