"""How far a run is."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.errors import ConfigError
from prelabel.job.ledger import LEDGER_NAME, Ledger, Row
from prelabel.job.lock import locked
from prelabel.job.status import read_status


def _ledger(path: Path, total: int) -> None:
    with Ledger(path) as ledger:
        for index in range(3):
            ledger.mark(f"{index}", Row("done"))
        ledger.mark("x", Row("failed", stage="decode", kind="truncated", message="x: damaged"))
        ledger.mark("y", Row("quarantined", stage="label", kind="hung", message="y: silent"))
        ledger.set_meta("total", str(total))
        ledger.set_meta("fingerprint", "f00d")


def test_counts_add_up(tmp_path: Path) -> None:
    _ledger(tmp_path / LEDGER_NAME, 9)
    status = read_status(tmp_path)
    assert status.counts == {"done": 3, "failed": 1, "quarantined": 1, "skipped": 0, "todo": 4}
    assert status.total == sum(status.counts.values()) == 9
    assert not status.running
    document = status.to_json()
    assert document["errors"] == [
        {"stage": "decode", "kind": "truncated", "count": 1, "example": "x: damaged"},
        {"stage": "label", "kind": "hung", "count": 1, "example": "y: silent"},
    ]
    assert (document["todo"], document["fingerprint"]) == (4, "f00d")


def test_a_source_that_has_shrunk_leaves_nothing_negative(tmp_path: Path) -> None:
    _ledger(tmp_path / LEDGER_NAME, 2)
    status = read_status(tmp_path)
    assert (status.total, status.counts["todo"]) == (5, 0)


def test_a_run_that_goes_on_is_told_by_its_lock(tmp_path: Path) -> None:
    _ledger(tmp_path / LEDGER_NAME, 9)
    with locked(tmp_path):
        assert read_status(tmp_path).running
    assert not read_status(tmp_path).running


def test_a_folder_without_a_ledger_is_told_the_ways_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no job\.db; if it was run with --state, .*repair"):
        read_status(tmp_path)
    (tmp_path / LEDGER_NAME).write_text("no database, but long enough to be looked at" * 9)
    with pytest.raises(ConfigError, match="is damaged"):
        read_status(tmp_path)
