"""`prelabel cache`: what is there, and removing it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prelabel.cache import KINDS, StageCache
from prelabel.cli import main


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        main([str(argument) for argument in arguments])
    return int(left.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache, with three entries."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = StageCache(tmp_path / "prelabel" / "stages", 2**30)
    cache.put("detections", "ab" * 32, {"a": np.zeros(3)})
    cache.put("embeddings", "cd" * 32, {"a": np.zeros(2**18)})
    cache.put("embeddings", "ef" * 32, {"a": np.zeros(2**18)})
    return cache.folder


def test_info_tells_entries_and_bytes_by_kind(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("cache", "info", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    files = [path for path in folder.glob("*/*/*") if path.is_file()]
    assert told["folder"] == str(folder)
    assert told["entries"] == 3
    assert told["bytes"] == sum(path.stat().st_size for path in files)
    assert {kind: row["entries"] for kind, row in told["kinds"].items()} == {
        "detections": 1,
        "embeddings": 2,
    }
    assert _call("cache", "info") == 0
    shown = capsys.readouterr().out
    assert str(folder) in shown and "4.0 MiB" in shown
    assert all(kind in shown for kind in KINDS)


def test_info_of_another_folder_makes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("cache", "info", "--folder", tmp_path / "none", "--json") == 0
    assert json.loads(capsys.readouterr().out)["entries"] == 0
    assert not (tmp_path / "none").exists()


def test_clear_removes_one_kind_or_all(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("cache", "clear", "--kind", "detections") == 0
    assert capsys.readouterr().out.startswith("1 entry removed")
    assert _call("cache", "clear", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["entries"] == told["kinds"]["embeddings"]["entries"] == 2
    assert [path for path in folder.glob("*/*/*") if path.is_file()] == []


def test_an_unknown_kind_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("cache", "clear", "--kind", "boxes") == 2
    assert "'boxes' is not one of" in capsys.readouterr().err
    assert StageCache(folder, 0).use().entries.total() == 3
