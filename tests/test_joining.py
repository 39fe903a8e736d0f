"""Shards of one run, put together."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from prelabel.data import image_key
from prelabel.errors import ChangedError, ConfigError, LockedError
from prelabel.job import joining
from prelabel.job.engines.inline import InlineEngine
from prelabel.job.joining import Joined, join_runs
from prelabel.job.ledger import LEDGER_NAME, Ledger
from prelabel.job.lock import locked
from prelabel.job.protocol import WorkerOptions, WorkerPlan
from prelabel.job.rehearsal import Rehearsal, RehearsalSource
from prelabel.job.runner import JobOptions, run_job
from prelabel.job.shards import Shard
from prelabel.job.status import read_status
from prelabel.job.summary import Summary
from prelabel.label_files import iterate_labels

IDS = tuple("abcdefgh")
SOURCE = RehearsalSource(IDS, bad=("h",))


def _run(root: Path, fingerprint: str = "f00d", **options: object) -> Summary:
    plan = WorkerPlan(Rehearsal(), SOURCE, root, WorkerOptions("prelabel 0", fingerprint))
    return run_job(InlineEngine(), plan, JobOptions("source: here\n", **options))  # type: ignore[arg-type]


@pytest.fixture
def shards(tmp_path: Path) -> list[Path]:
    """Two, of 8 images one of which is bad, inside the folder of the whole."""
    folders = [tmp_path / "run" / Shard(index, 2).folder for index in range(2)]
    for index, folder in enumerate(folders):
        _run(folder, shard=Shard(index, 2))
    return folders


def _stored(root: Path) -> list[str]:
    """Every label, opened, so that a digest that does not fit is an error."""
    return [label.image_id for label, _ in iterate_labels(root)]


def test_shards_become_the_run_that_one_machine_would_have_made(
    shards: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert join_runs(shards, out) == Joined(7, 1, ())
    assert _stored(out) == list(IDS[:7])
    assert len(list((out / "traces").glob("*.npz"))) == 7
    assert (out / "config.yaml").read_text() == "source: here\n"
    counts = read_status(out).counts
    assert (counts["done"], counts["failed"], counts["todo"]) == (7, 1, 0)
    again = _run(out)
    assert (again.total, again.done, again.skipped, again.failed) == (8, 0, 7, 1)


def test_twice_is_once(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "elsewhere"
    for _ in range(2):
        assert join_runs(shards, out) == Joined(7, 1, ())
    assert join_runs(shards[:1], out).done < 7
    assert len(_stored(out)) == 7
    assert read_status(out).total == 8


def test_files_are_linked_and_copied_where_that_fails(
    shards: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"labels/{image_key('a')}.png"
    (shard,) = (shard for shard in shards if (shard / name).is_file())
    join_runs(shards, tmp_path / "linked")
    assert os.path.samefile(shard / name, tmp_path / "linked" / name)

    def refused(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(joining.os, "link", refused)
    join_runs(shards, tmp_path / "copied")
    assert not os.path.samefile(shard / name, tmp_path / "copied" / name)
    assert (shard / name).read_bytes() == (tmp_path / "copied" / name).read_bytes()


def test_a_link_left_by_a_killed_join_is_not_written_through(tmp_path: Path) -> None:
    """In a container every process may have the number 1, and so the same temporary names."""
    mine, other = tmp_path / "mine", tmp_path / "other"
    mine.write_text("mine")
    other.write_text("other")
    part = tmp_path / ".part"
    os.link(other, part)
    joining._link(mine, part)
    assert (part.read_text(), other.read_text()) == ("mine", "other")


def test_a_label_that_is_not_whole_stays_to_do(shards: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    for name, content in (("a", b"x"), ("b", None)):
        (path,) = (path for shard in shards for path in shard.glob(f"labels/{name}-*.png"))
        path.write_bytes(content) if content else path.unlink()
    joined = join_runs(shards, out)
    assert (joined.done, sorted(joined.missing)) == (5, ["a", "b"])
    assert read_status(out).counts["todo"] == 2
    assert _run(out).done == 2


def test_an_unfinished_shard_counts_with_what_it_lacks(tmp_path: Path) -> None:
    first, second = tmp_path / "0", tmp_path / "1"
    _run(first, shard=Shard(0, 2))
    _run(second, shard=Shard(1, 2))
    with Ledger(second / LEDGER_NAME) as ledger:
        rows = ledger.rows()
        dropped = next(name for name, row in rows.items() if row.status == "done")
        ledger.forget([dropped])
    join_runs([first, second], tmp_path / "out")
    status = read_status(tmp_path / "out")
    assert (status.total, status.counts["todo"]) == (8, 1)


def test_ledgers_that_lie_elsewhere_are_made_up_for(tmp_path: Path) -> None:
    """Shards on a network drive keep their ledgers on machines that may be gone by now."""
    folders = [tmp_path / f"shard-{index}-of-2" for index in range(2)]
    for index, folder in enumerate(folders):
        _run(folder, shard=Shard(index, 2), state=tmp_path / "state")
        assert not (folder / LEDGER_NAME).exists()
    assert len(list((tmp_path / "state").glob("shard-?-of-2-*.db"))) == 2
    joined = join_runs(folders, tmp_path / "run", tmp_path / "state")
    assert joined == Joined(7, 1, ())
    assert not (tmp_path / "run" / LEDGER_NAME).exists()
    assert read_status(tmp_path / "run", tmp_path / "state").counts["failed"] == 1
    assert _run(tmp_path / "run", state=tmp_path / "state").skipped == 7


def test_shards_made_in_different_ways_are_refused(shards: list[Path], tmp_path: Path) -> None:
    _run(shards[1], "beef", shard=Shard(1, 2), accept_change=True)
    with pytest.raises(ChangedError, match="different configs or weights"):
        join_runs(shards, tmp_path / "out")
    join_runs(shards[:1], tmp_path / "out")
    with pytest.raises(ChangedError, match="made in another way"):
        join_runs(shards[1:], tmp_path / "out")


def test_what_is_no_shard_is_refused(shards: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run folder that has ended"):
        join_runs([*shards, tmp_path], tmp_path / "out")
    with locked(shards[0]), pytest.raises(LockedError):
        join_runs(shards, tmp_path / "out")
