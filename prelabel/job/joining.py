"""Shards of one run become one run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import image_key
from prelabel.errors import ChangedError, ConfigError
from prelabel.files import replacing
from prelabel.job.ledger import LEDGER_NAME, Ledger, Row
from prelabel.job.lock import locked
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
        missing: images that a shard calls done but has no label of; they stay to do.
    """

    done: int
    failed: int
    missing: tuple[str, ...]


def join_runs(shards: Sequence[Path], out: Path) -> Joined:
    """Copy the labels of `shards` into `out`, and their ledgers into its own.

    It may be repeated, and continued after a crash: what is there already is written again, the
    same. Files are linked where the file system allows it, so that they take no more room.

    Raises:
        ConfigError: a shard is no run, or still in use.
        ChangedError: shards were made in different ways.
    """
    ledgers = [_read(shard) for shard in shards]
    ways = {fingerprint: shard for shard, (fingerprint, _, _) in zip(shards, ledgers, strict=True)}
    if len(ways) > 1:
        names = ", ".join(str(shard) for shard in ways.values())
        raise ChangedError(f"{names} were made with different configs or weights; run one again")
    LabelStore(out)
    fingerprint, config, _ = ledgers[0]
    rows: dict[str, Row] = {}
    missing: list[str] = []
    with locked(out), Ledger(out / LEDGER_NAME) as joined:
        before = joined.meta("fingerprint")
        if before not in (None, fingerprint):
            raise ChangedError(f"{out} holds labels that were made in another way; choose another")
        for shard, (_, _, found) in zip(shards, ledgers, strict=True):
            for image_id, row in found.items():
                if row.status == "done" and not _copy(shard, out, image_key(image_id)):
                    missing.append(image_id)
                    continue
                rows[image_id] = row
        _finish(joined, rows, fingerprint, config)
        with replacing(out / "config.yaml") as part:
            part.write_text(config)
    done = sum(row.status == "done" for row in rows.values())
    return Joined(done, len(rows) - done, tuple(missing))


def _read(shard: Path) -> tuple[str, str, dict[str, Row]]:
    path = shard / LEDGER_NAME
    if not path.is_file():
        raise ConfigError(f"{shard} is no run folder: it has no {LEDGER_NAME}")
    with locked(shard), Ledger(path) as ledger:
        return ledger.meta("fingerprint") or "", ledger.meta("config") or "", ledger.rows()


def _finish(joined: Ledger, rows: dict[str, Row], fingerprint: str, config: str) -> None:
    for image_id, row in rows.items():
        joined.mark(image_id, row)
    joined.flush()
    for key, value in (("fingerprint", fingerprint), ("config", config), ("complete", "yes")):
        joined.set_meta(key, value)
    joined.set_meta("total", str(len(joined.rows())))


def _copy(shard: Path, out: Path, key: str) -> bool:
    """One image's files, the pair last; False where the shard lacks the pair."""
    pair = [shard / folder / f"{key}.{suffix}" for folder, suffix in _PAIR]
    if not all(path.is_file() for path in pair):
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
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
