"""Shards of one run become one run."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import image_key
from prelabel.errors import ChangedError, ConfigError
from prelabel.files import replacing
from prelabel.job.ledger import Ledger, Row, ledger_path
from prelabel.job.lock import locked
from prelabel.job.mounts import make_folder
from prelabel.job.planning import reap
from prelabel.job.repair import rows_from_labels, whole_label
from prelabel.job.store import LabelStore

__all__ = ["Joined", "join_runs"]

_ARTIFACTS = (("traces", "npz"), ("explanations", "npz"), ("explanations", "json"))
_PAIR = (("labels", "png"), ("labels", "json"))


@dataclass(frozen=True, slots=True)
class Joined:
    """What `join_runs` did.

    Attributes:
        done: labels that are now in the joined run from these shards.
        failed: failed and quarantined images.
        missing: images that a shard calls done but has no whole label of; they stay to do.
    """

    done: int
    failed: int
    missing: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Shard:
    """What a shard knows of itself; `total` counts the images that it is responsible for."""

    folder: Path
    fingerprint: str
    config: str
    total: int
    rows: dict[str, Row]


def join_runs(shards: Sequence[Path], out: Path, state: Path | None = None) -> Joined:
    """Copy the labels of `shards` into `out`, and their ledgers into its own.

    It may be repeated, and continued after a crash: what is there already is written again, the
    same. Files are linked where the file system allows it, so that they take no more room. A shard
    that kept its ledger elsewhere is read from its labels and its summary.

    Args:
        shards: their run folders.
        out: the folder of the whole run.
        state: a folder on this machine for the ledger of `out`.

    Raises:
        ConfigError: a shard is no run, or still in use.
        ChangedError: shards were made in different ways.
    """
    parts = [_read(shard) for shard in shards]
    ways = {part.fingerprint: part.folder for part in parts if part.rows}
    if len(ways) > 1:
        names = ", ".join(str(shard) for shard in ways.values())
        raise ChangedError(f"{names} were made with different configs or weights; run one again")
    fingerprint = next(iter(ways), parts[0].fingerprint)
    LabelStore(out)
    path = ledger_path(out, state)
    make_folder(path.parent)
    with locked(out), Ledger(path) as joined:
        reap(out)
        if joined.meta("fingerprint") not in (None, fingerprint):
            raise ChangedError(f"{out} holds labels that were made in another way; choose another")
        rows, missing = _copy_all(parts, out)
        _finish(joined, rows, parts, fingerprint)
        with replacing(out / "config.yaml") as part:
            part.write_text(parts[0].config, encoding="utf-8")
    done = sum(row.status == "done" for row in rows.values())
    return Joined(done, len(rows) - done, tuple(missing))


# --- what there is ------------------------------------------------------------------------------


def _read(shard: Path) -> _Shard:
    path = ledger_path(shard)
    if not path.is_file():
        return _read_without_ledger(shard)
    with locked(shard), Ledger(path) as ledger:
        rows = ledger.rows()
        total = int(ledger.meta("total") or len(rows))
        fingerprint, config = ledger.meta("fingerprint") or "", ledger.meta("config") or ""
    return _Shard(shard, fingerprint, config, max(total, len(rows)), rows)


def _read_without_ledger(shard: Path) -> _Shard:
    """From labels and summary, where the ledger lies on the machine that ran the shard."""
    try:
        config = (shard / "config.yaml").read_text(encoding="utf-8")
        summary = json.loads((shard / "summary.json").read_text(encoding="utf-8"))
        total = int(summary["total"])
        failed = {
            part["image_id"]: Row(
                "failed", "", False, 0, part["stage"], part["kind"], part["message"]
            )
            for part in summary["failures"]
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{shard} is no run folder that has ended: it has no ledger, and config.yaml or "
            f"summary.json is missing or damaged ({error})"
        ) from error
    with locked(shard):
        found = rows_from_labels(shard)
    rows = {**failed, **found.rows}
    return _Shard(shard, found.fingerprint, config, max(total, len(rows)), rows)


# --- what there will be -------------------------------------------------------------------------


def _copy_all(parts: Sequence[_Shard], out: Path) -> tuple[dict[str, Row], list[str]]:
    rows: dict[str, Row] = {}
    missing = []
    for part in parts:
        for image_id, row in part.rows.items():
            if row.status == "done" and not _copy(part.folder, out, image_key(image_id)):
                missing.append(image_id)
            else:
                rows[image_id] = row
    return rows, missing


def _finish(
    joined: Ledger, rows: dict[str, Row], parts: Sequence[_Shard], fingerprint: str
) -> None:
    # A row follows its label, and what stood here before stays.
    for image_id, row in rows.items():
        joined.mark(image_id, row)
    joined.flush()
    total = max(sum(part.total for part in parts), len(joined.rows()))
    joined.set_meta("config", parts[0].config)
    joined.set_meta("total", str(total))
    joined.set_meta("fingerprint", fingerprint)
    joined.set_meta("complete", "yes")


def _copy(shard: Path, out: Path, key: str) -> bool:
    """One image's files, the pair last; False where the shard has no whole pair."""
    if whole_label(shard, key) is None:
        return False
    for folder, suffix in (*_ARTIFACTS, *_PAIR):
        path = shard / folder / f"{key}.{suffix}"
        if path.is_file():
            target = out / folder / path.name
            target.parent.mkdir(exist_ok=True)
            with replacing(target) as part:
                _link(path, part)
    return True


def _link(path: Path, target: Path) -> None:
    # What a killed process of this very number left may be a link to a shard's own file.
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
