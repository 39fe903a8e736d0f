"""The stage cache in `prelabel run`: nothing asked twice, no result changed, nothing lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.cache import StageCache, default_folder
from prelabel.cli import main
from prelabel.models.clipseg import ClipSeg
from prelabel.models.grounding_dino import GroundingDino
from prelabel.models.sam import Sam

CONFIG = """
source: {folder}/photos
out: {folder}/run
device: cpu
ontology:
  things: [car, person]
  stuff: [sky, {{name: road, prompts: [road]}}]
detect: {{kind: grounding-dino, weights: {weights}/grounding-dino, box_threshold: 0.0,
  max_detections: 3}}
segment: {{kind: sam, weights: {weights}/sam}}
stuff: {{kind: clipseg, weights: {weights}/clipseg}}
refine: {{threshold: 0.0, min_agreement: 0.0, min_rough: 0.0}}
merge: {{min_score: 0.0, min_area: 0.0, min_visible: 0.0, duplicate_iou: 1.0}}
"""
PAINTED = """
source: {folder}/photos
out: {folder}/run
device: cpu
ontology: {{things: [{{name: car, color: [200, 0, 0]}}]}}
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
"""


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def _draw(folder: Path, count: int, side: int = 16) -> None:
    folder.mkdir()
    for index in range(count):
        coarse = np.random.default_rng(index).integers(0, 256, (6, 8, 3), dtype=np.uint8)
        pixels = np.kron(coarse, np.ones((side, side, 1), dtype=np.uint8))
        Image.fromarray(pixels).save(folder / f"{index}.png")


def _labels(run: Path) -> dict[str, Any]:
    """Pixels and segments by image."""
    found = {}
    for path in (run / "labels").glob("*.json"):
        document = json.loads(path.read_text())
        found[document["image_id"]] = (document["png_sha256"], document["segments"])
    return found


@pytest.fixture
def config(checkpoints: Path, tmp_path: Path) -> Path:
    """The true architectures, tiny and untrained, over two pictures."""
    shutil.copytree(checkpoints, tmp_path / "weights")
    _draw(tmp_path / "photos", 2)
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path, weights=tmp_path / "weights"))
    return path


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The networks that were loaded, in order."""
    names: list[str] = []
    for network in (GroundingDino, Sam, ClipSeg):
        load = network.load

        def note(self: object, device: str, load: Any = load) -> None:
            names.append(type(self).__name__)
            load(self, device)

        monkeypatch.setattr(network, "load", note)
    yield names


@pytest.mark.parametrize(
    ("change", "networks"),
    [
        ("merge.duplicate_iou=0.5", []),
        ("refine.threshold=0.505", ["Sam"]),
        ("ontology.stuff=[sky, {name: road, prompts: [street]}]", ["ClipSeg", "Sam"]),
    ],
)
def test_a_run_again_after_a_change_loads_what_it_must_and_no_more(
    config: Path, tmp_path: Path, loaded: list[str], change: str, networks: list[str]
) -> None:
    """And its labels are those of a run that has no cache."""
    inline, changed = ("--engine", "inline"), ("--set", change)
    assert _call("run", config, *inline) == 0
    assert sorted(loaded) == ["ClipSeg", "GroundingDino", "Sam"]
    loaded.clear()
    assert _call("run", config, *inline, *changed) == 12
    assert loaded == []
    assert _call("run", config, *inline, *changed, "--accept-change") == 0
    assert loaded == networks
    off = ("--set", "cache.enabled=false", "--out", tmp_path / "without")
    assert _call("run", config, *inline, *changed, *off) == 0
    assert _labels(tmp_path / "run") == _labels(tmp_path / "without")
    assert len(_labels(tmp_path / "run")) == 2


def test_switching_it_off_is_no_change_of_config(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    inline = ("--engine", "inline", "--json")
    assert _call("run", config, *inline, "--set", "cache.enabled=false") == 0
    assert not default_folder().exists()
    capsys.readouterr()
    assert _call("run", config, *inline, "--set", "cache.max_gib=1") == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["skipped"] == 2


def test_a_network_that_no_longer_loads_ends_the_run_and_fails_no_image(
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _call("run", config, "--engine", "inline") == 0

    def refuse(self: object, device: str) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(Sam, "load", refuse)
    again = ("run", config, "--engine", "inline", "--set", "refine.threshold=0.505")
    capsys.readouterr()
    assert _call(*again, "--accept-change") == 2
    assert "loaded in earlier runs does not load now: out of memory" in capsys.readouterr().err
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["todo"] >= 1 and summary["failed"] == 0
    monkeypatch.undo()
    assert _call("run", config, "--engine", "inline", "--set", "refine.threshold=0.505") == 0
    assert len(_labels(tmp_path / "run")) == 2


def test_workers_share_one_folder(tmp_path: Path) -> None:
    _draw(tmp_path / "photos", 12, side=1)
    config = tmp_path / "c.yaml"
    config.write_text(PAINTED.format(folder=tmp_path))
    assert _call("run", config, "--workers", 2) == 0
    use = StageCache(default_folder(), 0).use()
    assert use.entries["detections"] == 12
    first = _labels(tmp_path / "run")
    assert _call("run", config, "--workers", 2, "--fresh") == 0
    assert StageCache(default_folder(), 0).use() == use
    assert _labels(tmp_path / "run") == first and len(first) == 12


def test_a_cache_that_cannot_be_written_fails_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _draw(tmp_path / "photos", 2, side=1)
    config = tmp_path / "c.yaml"
    config.write_text(PAINTED.format(folder=tmp_path))
    (tmp_path / "file").touch()
    inline = ("--engine", "inline")
    assert _call("run", config, *inline, "--set", f"cache.folder={tmp_path}/file/x") == 0
    assert "cannot be written" in capsys.readouterr().err
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(Path, "home", _nobody)
    assert _call("run", config, *inline, "--fresh") == 0
    assert "no home" in capsys.readouterr().err
    assert _call("doctor", config) == 0
    assert "nothing is kept: this user has no home" in " ".join(capsys.readouterr().out.split())


def _nobody() -> Path:
    raise RuntimeError("Could not determine home directory.")
