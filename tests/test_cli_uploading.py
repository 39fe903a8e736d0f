"""The upload, download and init commands, on a platform in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest

from connectors.testing import MemoryPlatform, example_label
from prelabel.cli import connect, main
from prelabel.coco import measure_segments
from prelabel.config import build_config
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.errors import ConnectorError
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.strict_yaml import parse_yaml

OURS = Ontology((Category(1, "car", True), Category(2, "sky", False)))
THEIRS = Ontology((Category(7, "sky", False), Category(31, "car", True)))
NAMES = ("a.png", "b.png")
CONFIG = "ontology: {things: [{id: 1, name: car}], stuff: [{id: 2, name: sky}]}\n"


class Located(MemoryPlatform):
    """The one that the command line opens."""

    current: MemoryPlatform
    locations: list[str]

    def __new__(cls, location: str) -> MemoryPlatform:  # type: ignore[misc]
        cls.locations.append(location)
        return cls.current


@pytest.fixture(autouse=True)
def platform(monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryPlatform]:
    Located.current, Located.locations = MemoryPlatform(THEIRS, NAMES), []
    entries = connect._names()
    entry = EntryPoint("memory", f"{__name__}:Located", connect.GROUP)
    monkeypatch.setattr(EntryPoint, "load", _load(EntryPoint.load))
    monkeypatch.setattr(connect, "_names", lambda: entries | {"memory": entry})
    yield Located.current


def _load(load):  # type: ignore[no-untyped-def]
    # The module's own name is no importable one under pytest.
    return lambda entry: Located if entry.name == "memory" else load(entry)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    store = LabelStore(tmp_path / "run")
    for name in NAMES:
        label = example_label(name, OURS, (3, 4))
        store.write(ImageRecord(name, ""), label, Provenance("prelabel 1", "f00d"))
        (tmp_path / "run/traces" / "x").touch()
    (tmp_path / "run" / "config.yaml").write_text(CONFIG)
    return tmp_path / "run"


def _cli(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ending:
        main([str(one) for one in arguments])
    return int(ending.value.code or 0)


def test_up_and_down_and_compared(
    run: Path, platform: MemoryPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli("upload", run, "--to", "memory:x", "--labelset", "two") == 0
    assert Located.locations == ["memory:x::labelset=two".removeprefix("memory:")]
    shown = capsys.readouterr().out
    assert "sent and read back" in shown and "2" in shown
    # One was reviewed as it is, the other not yet.
    platform.held["b.png"].status = "human"
    assert _cli("download", "memory:x", "--out", tmp_path / "back", "--status", "human") == 2
    assert "no label is HUMAN" in capsys.readouterr().err
    platform.held["b.png"].status = "REVIEWED"
    assert _cli("download", "memory:x", "--out", tmp_path / "back") == 0
    assert f"1 labels in {tmp_path / 'back' / 'panoptic.json'}" in capsys.readouterr().out
    assert _cli("evaluate", run, tmp_path / "back", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["images"] == 1
    assert document["all"]["pq"] == 1.0
    assert document["segments"]["all"]["kept_of_predicted"] == 1.0


def test_what_people_changed_is_told_by_category(
    run: Path, platform: MemoryPlatform, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _cli("upload", run, "--to", "memory:x") == 0
    for held in platform.held.values():
        held.status = "REVIEWED"
    # In one image a pixel of the car became sky, in the other a car was added in the void.
    ids = platform.held["a.png"].label.id_map.copy()
    ids[0, 0] = 2
    platform.held["a.png"].label = _relabelled("a.png", ids, {1: 31, 2: 7})
    ids = platform.held["b.png"].label.id_map.copy()
    ids[ids == 0] = 3
    platform.held["b.png"].label = _relabelled("b.png", ids, {1: 31, 2: 7, 3: 31})
    assert _cli("download", "memory:x", "--out", tmp_path / "back") == 0
    capsys.readouterr()
    assert _cli("evaluate", run, tmp_path / "back", "--json") == 0
    classes = json.loads(capsys.readouterr().out)["per_class"]
    changes = {
        name: [row[key] for key in ("kept", "adjusted", "kept_of_predicted")]
        for name, row in classes.items()
    }
    assert changes == {"car": [1, 1, 0.5], "sky": [1, 1, 0.5]}
    assert classes["car"]["mistakes"]["missed"] == 1
    assert _cli("evaluate", run, tmp_path / "back") == 0
    assert "From the prediction to the truth" in capsys.readouterr().out


def _relabelled(name: str, ids: np.ndarray, category_ids: dict[int, int]) -> PanopticLabel:
    segments = []
    for one in measure_segments(ids, category_ids):
        x, y, width, height = (int(side) for side in one.box_xywh or ())
        box = (x, y, x + width, y + height)
        isthing = one.category_id == 31
        segments.append(
            Segment(
                one.segment_id, one.category_id, isthing, one.area or 0, box, 1.0, None, 1.0, "hand"
            )
        )
    return PanopticLabel(name, ids, tuple(segments))


def test_events_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli("upload", run, "--to", "memory:x", "--json") == 0
    *events, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert {event["image_id"]: event["state"] for event in events} == {
        "a.png": "verified",
        "b.png": "verified",
    }
    assert (summary["event"], summary["verified"], summary["left"]) == ("summary", 2, 0)


def test_a_dry_run_sends_nothing(
    run: Path, platform: MemoryPlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    platform.label_by_hand("b.png", example_label("b.png", THEIRS, (3, 4)))
    assert _cli("upload", run, "--to", "memory:x", "--dry-run") == 0
    shown = capsys.readouterr().out
    assert "of 2 labels 1 would be sent, 1 would give way" in shown
    assert platform.pushes == [] and not (run / "uploads").exists()
    assert _cli("upload", run, "--to", "memory:x", "--dry-run", "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"send": 1, "human": 1, "missing": 0}
    config = run / "config.yaml"
    assert _cli("upload", config, "--to", "memory:x", "--dry-run") == 0
    assert "categories are fine" in capsys.readouterr().out
    config.write_text(CONFIG.replace("car", "bus"))
    assert _cli("upload", config, "--to", "memory:x", "--dry-run") == 2
    assert "no category bus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConnectorError("down", retryable=True), 5),
        (ConnectorError("no rights", kind="denied"), 7),
        (ConnectorError("odd", kind="refused"), 3),
    ],
)
def test_exit_codes(run: Path, platform: MemoryPlatform, error: ConnectorError, code: int) -> None:
    def fail(what: str) -> None:
        if what == "push" and not platform.pushes:
            raise error

    platform.fail = fail
    if code == 5:
        # One attempt, then the breaker's patience would be minutes.
        platform.check = _raise(error)  # type: ignore[method-assign]
    assert _cli("upload", run, "--to", "memory:x", "--jobs", "1") == code


def _raise(error: Exception):  # type: ignore[no-untyped-def]
    def check(ontology: Ontology) -> tuple[str, ...]:
        raise error

    return check


def test_a_key_that_is_refused_at_once_exits_7(
    run: Path, platform: MemoryPlatform, capsys: pytest.CaptureFixture[str]
) -> None:
    denied = ConnectorError("the key is refused", kind="denied")
    platform.check = _raise(denied)  # type: ignore[method-assign]
    assert _cli("upload", run, "--to", "memory:x") == 7
    assert "error: the key is refused" in capsys.readouterr().err


def test_a_config_is_written(platform: MemoryPlatform, capsys: pytest.CaptureFixture[str]) -> None:
    assert _cli("init", "memory:me/street") == 0
    config = build_config(parse_yaml(capsys.readouterr().out, "x"), "x")  # type: ignore[arg-type]
    assert (config.source, config.out) == ("memory:me/street", "runs/street")
    assert [(one.category_id, one.name) for one in config.ontology.things] == [(31, "car")]


@pytest.mark.parametrize(
    ("to", "message"),
    [
        ("nowhere:x", "no connector is called 'nowhere'; known are coco, .*pip install"),
        ("folder", "'folder' names no platform; expected connector:place"),
        ("folder:x", "'folder' is no platform where labels are corrected"),
    ],
)
def test_what_is_no_platform(
    run: Path, to: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    import re

    assert _cli("upload", run, "--to", to) == 2
    assert re.search(message, capsys.readouterr().err.replace("\n", " "))
