"""The command line: what it answers, what it refuses, and with which exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from prelabel import __version__
from prelabel.cli import main
from prelabel.cli import running as running_module
from prelabel.cli import single as single_module
from prelabel.cli.app import app
from prelabel.coco import read_panoptic
from prelabel.config import Config, build_config
from prelabel.data import Failure
from prelabel.errors import ConnectorError
from prelabel.job.ledger import Ledger
from prelabel.job.lock import locked
from prelabel.job.runner import Summary
from prelabel.label_files import iterate_labels

ROOT = Path(__file__).resolve().parent.parent
COLORS = {"c": (200, 0, 0), "s": (0, 0, 200), "r": (80, 80, 80)}
CONFIG = """
source: {source}
out: {out}
ontology:
  things: [{{name: car, color: [200, 0, 0]}}]
  stuff: [{{name: sky, color: [0, 0, 200]}}, {{name: road, color: [80, 80, 80]}}]
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
refine: {{min_component: 0.0, reach: 0.0}}
merge: {{min_area: 0.0}}
"""
PICTURE = ["ssssss", "sscsss", "rccrrr", "rrrrrr"]


def _paint(path: Path, rows: list[str]) -> None:
    pixels = [[COLORS[letter] for letter in row] for row in rows]
    Image.fromarray(np.array(pixels, dtype=np.uint8)).save(path)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config over two painted pictures, with networks that need no weights."""
    photos = tmp_path / "photos"
    photos.mkdir()
    _paint(photos / "a.png", PICTURE)
    _paint(photos / "b.png", ["".join(column) for column in zip(*PICTURE, strict=True)])
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(source=photos, out=tmp_path / "run"))
    return path


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


# --- a run, from pictures to numbers ----------------------------------------------------------


def test_run_export_evaluate(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("run", config) == 0
    out, err = capsys.readouterr()
    assert "2 of 2" in out and str(tmp_path / "run" / "labels") in out.replace("\n", "")
    assert "2 of 2 images" in err
    for folder in ("one", "two"):
        target = tmp_path / folder
        assert _call("export", tmp_path / "run", "--to", "coco-panoptic", "--out", target) == 0
    file = read_panoptic(tmp_path / "one" / "panoptic.json")
    assert [image.file_name for image in file.images] == ["a.png", "b.png"]
    assert file.id_map(file.annotations[0]).shape == (4, 6)
    assert len(file.annotations[0].segments) == 3
    capsys.readouterr()
    pair = (tmp_path / "one" / "panoptic.json", tmp_path / "two" / "panoptic.json")
    assert _call("evaluate", *pair, "--json") == 0
    result = json.loads(capsys.readouterr().out)
    assert result["all"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 3}
    assert _call("evaluate", *pair) == 0
    assert "100.0" in capsys.readouterr().out
    page = tmp_path / "page.html"
    assert _call("evaluate", tmp_path / "run", pair[1], "--html", page) == 0
    assert f"<title>Evaluation of {tmp_path / 'run'}</title>" in page.read_text(encoding="utf-8")


def test_json_is_all_there_is_on_stdout(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("run", config, "--json", "--limit", 1) == 0
    events = _events(capsys)
    assert [event["event"] for event in events] == ["started", "begun", "done", "summary"]
    assert events[1]["loading_seconds"] > 0
    seconds = events[2].pop("seconds")
    assert events[2] == {"event": "done", "image_id": "a.png", "segments": 3}
    assert {"read", "detect", "segment", "score", "refine", "merge", "write"} == set(seconds)
    summary = events[-1]
    assert (summary["total"], summary["done"], summary["failed"]) == (1, 1, 0)
    assert _call("run", config, "--json") == 0
    summary = _events(capsys)[-1]
    assert (summary["total"], summary["done"], summary["skipped"]) == (2, 1, 1)


def _events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_arguments_win_over_the_config(config: Path, tmp_path: Path) -> None:
    other, photos = tmp_path / "other", tmp_path / "more"
    photos.mkdir()
    _paint(photos / "[bold]x.png", PICTURE)
    arguments = ("--source", f"folder:{photos}", "--out", other, "--device", "cpu", "--explain")
    assert _call("run", config, *arguments, "--set", "merge.min_score=0.2") == 0
    resolved = (other / "config.yaml").read_text()
    assert f"source: folder:{photos}" in resolved and "min_score: 0.2" in resolved
    assert "device: cpu" in resolved and "enabled: true" in resolved
    assert len(list((other / "explanations").glob("*.json"))) == 1
    assert not (tmp_path / "run").exists()


def test_one_bad_image_is_reported_and_the_rest_is_labelled(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "[").mkdir()
    (tmp_path / "photos" / "[" / "foo].jpg").write_text("<html>")
    assert _call("run", config) == 3
    out, err = capsys.readouterr()
    assert "2 of 3" in out
    assert "failed (decode, decode): [/foo].jpg: not a JPEG" in err
    assert len(list((tmp_path / "run" / "labels").glob("*.png"))) == 2
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["failures"][0]["image_id"] == "[/foo].jpg"


def test_a_bar_on_a_terminal(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "120")
    assert _call("run", config) == 0
    err = capsys.readouterr().err
    assert "labelling" in err and "2/2" in err and "images/s" in err and "0 failed" in err


def test_one_image_without_a_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def painted(document: dict[str, Any], where: str) -> Config:
        for names, letters in (("things", "c"), ("stuff", "sr")):
            pairs = zip(document["ontology"][names], letters, strict=True)
            entries = [{"name": name, "color": list(COLORS[letter])} for name, letter in pairs]
            document["ontology"][names] = entries
        paint: dict[str, Any] = {"kind": "paint"}
        return build_config(document | {"detect": paint, "segment": paint, "stuff": paint}, where)

    monkeypatch.setattr(single_module, "build_config", painted)
    _paint(tmp_path / "a.png", [row * 8 for row in PICTURE for _ in range(8)])
    names = ("--things", "car", "--stuff", "sky, road")
    assert _call("image", tmp_path / "a.png", *names) == 0
    assert "car" in capsys.readouterr().out
    out = tmp_path / "one"
    for _ in range(2):  # the second time it is labelled again, not skipped
        assert _call("image", tmp_path / "a.png", *names, "--out", out, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert (document["image_id"], document["size"]) == ("a.png", [32, 48])
        found = {segment["category"] for segment in document["segments"]}
        assert found == {"car", "sky", "road"}
    assert json.loads((out / "summary.json").read_text())["done"] == 1
    assert len(list((out / "labels").glob("*.png"))) == 1
    assert len(list((out / "overlays").glob("*.png"))) == 1
    (tmp_path / "bad.png").write_bytes(b"no")
    assert _call("image", tmp_path / "bad.png", *names) == 3
    assert "bad.png: not a JPEG" in capsys.readouterr().err


def test_commands_in_the_readme_exist() -> None:
    known = typer.main.get_command(app)
    assert isinstance(known, typer.core.TyperGroup)
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if line.startswith("prelabel ")]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line, comments=True)
        command = known.commands[words[1]]
        options = {name for parameter in command.params for name in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= options, line


def test_demo_scenes_go_into_a_new_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _call("demo-scenes", "--out", tmp_path / "s", "--count", 2, "--seed", 5) == 0
    file = read_panoptic(tmp_path / "s" / "panoptic.json")
    assert len(list((tmp_path / "s" / "images").iterdir())) == len(file.images) == 2
    assert _call("demo-scenes", "--out", tmp_path / "s", "--count", 2) == 2
    assert "is not empty" in capsys.readouterr().err


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("--version") == 0
    assert capsys.readouterr().out == f"prelabel {__version__}\n"
    assert _call("--help") == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in ("run", "image", "demo-scenes", "evaluate", "export"))


# --- refusals: one sentence on stderr, exit 2, before anything heavy ---------------------------

REFUSED = {
    "no config": (("run", "gone.yaml"), "gone.yaml does not exist"),
    "unknown key": (
        ("run", "{config}", "--set", "merge.min_scor=1"),
        "did you mean merge.min_score?",
    ),
    "wrong type": (("run", "{config}", "--set", "merge.min_score=x"), "expected a number"),
    "empty categories": (("run", "{config}", "--set", "ontology={{}}"), "the ontology is empty"),
    "id 0": (("run", "{config}", "--set", "ontology.things.0.id=0"), "ids start at 1"),
    "dot": (("run", "{config}", "--set", "ontology.things=[a.b]"), "spell it without"),
    "twins": (("run", "{config}", "--set", "ontology.things=[a, a]"), "two categories"),
    "no source": (("run", "{config}", "--source", "gone"), "source folder gone does not exist"),
    "empty source": (("run", "{config}", "--source", "{tmp}/empty"), "holds no image"),
    "source left out": (("run", "{config}", "--set", "source="), "names no source"),
    "password in source": (
        ("run", "{config}", "--source", "sftp://me:hunter2@host/photos"),
        "a password stands in sftp://***@host/photos; credentials come from the environment only",
    ),
    "other scheme": (("run", "{config}", "--source", "zz://b/p"), "connectors are coco"),
    "sink as source": (("run", "{config}", "--source", "coco-panoptic:x"), "offers no images"),
    "output": (("run", "{config}", "--out", "{config}/run"), "cannot be written"),
    "weights": (
        ("run", "{config}", "--set", "detect={{weights: ./gone}}"),
        "weights folder ./gone does not exist",
    ),
    "hub": (("run", "{config}", "--set", "detect={{weights: nobody/none}}"), "nobody/none"),
    "nothing to look for": (("image", "{tmp}/photos/a.png"), "nothing to look for"),
    "no image": (("image", "gone.png", "--things", "car"), "gone.png does not exist"),
    "no truth": (("evaluate", "gone.json", "{config}"), "gone.json"),
    "no run": (("export", "{tmp}", "--to", "coco-panoptic", "--out", "{tmp}/x"), "no run folder"),
    "no sink": (("export", "{tmp}", "--to", "paper", "--out", "x"), "no connector is called"),
    "source as sink": (("export", "{tmp}", "--to", "folder", "--out", "x"), "takes no labels"),
    "usage": (("run",), "Missing argument"),
    "device": (("run", "{config}", "--device", "tpu"), "tpu"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_told_in_a_sentence_with_exit_2(
    case: str,
    config: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "empty").mkdir()
    arguments, told = REFUSED[case]
    filled = [argument.format(config=config, tmp=tmp_path) for argument in arguments]
    assert _call(*filled) == 2
    out, err = capsys.readouterr()
    assert told in " ".join(err.split())
    assert out == ""
    assert "Traceback" not in err


def test_nothing_heavy_is_imported_to_answer_or_refuse(config: Path, tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys
        from prelabel.cli import main
        config, root = sys.argv[1:]
        cases = [
            ["--version"], ["--help"], ["run", "--help"], ["run", root + "/gone.yaml"],
            ["run", config, "--set", "merge.x=1"], ["run", config, "--source", "gone"],
            ["run", config, "--out", config + "/run"],
            ["run", config, "--set", "detect={weights: ./gone}"],
            ["run", config, "--set", "detect={weights: nobody/none}"],
            ["image", root + "/photos/a.png"], ["evaluate", "gone.json", "gone.json"],
            ["demo-scenes", "--out", root + "/scenes", "--count", "1"],
            ["export", root, "--to", "coco-panoptic", "--out", root],
        ]
        codes = []
        for arguments in cases:
            try:
                main(arguments)
            except SystemExit as exit:
                codes.append(exit.code or 0)
            heavy = {"torch", "transformers"} & set(sys.modules)
            if heavy:
                sys.exit(f"{arguments} imported {heavy}")
        if codes != [0, 0, 0, 2, 2, 2, 2, 2, 2, 2, 2, 0, 2]:
            sys.exit(f"exit codes {codes}")
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(config), str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr


# --- a run that goes on, is refused, repaired, parted ------------------------------------------


def test_a_folder_in_use_exits_11_and_names_the_holder(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    with locked(tmp_path / "run"):
        assert _call("run", config, "--engine", "inline") == 11
        err = " ".join(capsys.readouterr().err.split())
        assert f"is in use by process {os.getpid()} on" in err
        assert _call("repair", tmp_path / "run") == 11
    assert _call("run", config, "--engine", "inline") == 0


def test_another_config_exits_12_with_the_difference(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = ("run", config, "--engine", "inline", "--json", "--set", "merge.min_area=0.01")
    assert _call("run", config, "--engine", "inline") == 0
    capsys.readouterr()
    assert _call(*changed) == 12
    out, err = capsys.readouterr()
    assert "merge.min_area was 0.0, is 0.01." in " ".join(err.split()) and out == ""
    assert "--accept-change makes them again" in " ".join(err.split())
    assert _call(*changed, "--accept-change") == 0
    assert _events(capsys)[-1]["done"] == 2
    assert _call("run", config, "--engine", "inline", "--json", "--fresh") == 0
    assert _events(capsys)[-1]["done"] == 2
    assert _call(*changed) == 12


def test_what_failed_is_tried_again_on_request(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "bad.jpg").write_text("<html>")
    inline = ("run", config, "--engine", "inline", "--json")
    assert _call(*inline) == 3
    capsys.readouterr()
    told = [["started", "summary"], ["started", "begun", "failed", "summary"]]
    for more, expected in zip(((), ("--retry", "failed")), told, strict=True):
        assert _call(*inline, *more) == 3
        events = _events(capsys)
        assert [event["event"] for event in events] == expected
        assert (events[-1]["skipped"], events[-1]["failed"]) == (2, 1)
    assert _call(*inline, "--retry", "quarantined") == 3
    assert [event["event"] for event in _events(capsys)] == ["started", "summary"]


def test_an_image_that_kills_its_worker_exits_3_and_is_named(
    config: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "a.png: the worker was ended by SIGSEGV over it, by itself too"
    failure = Failure("a.png", "label", "killed", words)
    summary = Summary(total=2, done=1, quarantined=1, failures=(failure,))

    def ended(*arguments: Any) -> Summary:
        arguments[-1].started(2)
        arguments[-1].quarantined(failure)
        return summary

    monkeypatch.setattr(running_module, "run_job", ended)
    assert _call("run", config) == 3
    out, err = capsys.readouterr()
    assert f"quarantined (killed): {words}" in " ".join(err.split())
    assert "images quarantined" in out and "label, killed" in out


def test_shards_are_joined(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for index in range(9):
        _paint(tmp_path / "photos" / f"n{index}.png", PICTURE)
    run, inline = tmp_path / "run", ("run", config, "--engine", "inline", "--json")
    shards = [run / f"shard-{index}-of-2" for index in range(2)]
    for index in range(2):
        assert _call(*inline, "--shard", f"{index}/2") == 0
    totals = [event["total"] for event in _events(capsys) if event["event"] == "summary"]
    assert sum(totals) == 11 and min(totals) >= 1
    assert _call("join", *shards, "--out", run) == 0
    assert f"11 labels in {run}" in capsys.readouterr().out.replace("\n", "")
    assert _call(*inline) == 0
    summary = _events(capsys)[-1]
    assert (summary["total"], summary["skipped"]) == (11, 11)
    assert _call("join", *shards, tmp_path / "gone", "--out", run) == 2
    assert _call(*inline, "--shard", "2/2") == 2
    assert "0/8 to 7/8" in capsys.readouterr().err


def test_a_ledger_may_lie_elsewhere(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = ("--state", tmp_path / "state")
    assert _call("run", config, "--engine", "inline", *state) == 0
    assert not (tmp_path / "run" / "job.db").exists()
    capsys.readouterr()
    assert _call("status", tmp_path / "run", *state, "--json") == 0
    assert json.loads(capsys.readouterr().out)["done"] == 2
    assert _call("status", tmp_path / "run") == 2
    assert "give it here too" in " ".join(capsys.readouterr().err.split())
    assert _call("repair", tmp_path / "run", *state) == 0
    assert _call("run", config, "--engine", "inline", "--json", *state) == 0


def test_a_damaged_ledger_is_refused_and_repaired(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, inline = tmp_path / "run", ("run", config, "--engine", "inline", "--json")
    assert _call(*inline) == 0
    next((run / "labels").glob("b-*.png")).write_bytes(b"x")
    (run / "job.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    for command in (inline, ("status", run)):
        capsys.readouterr()
        assert _call(*command) == 2
        err = capsys.readouterr().err.replace("\n", "")
        assert "job.db is damaged" in err and f"`prelabel repair {run}`" in err
    assert _call("repair", run) == 0
    told = capsys.readouterr().out.replace("\n", "")
    assert "1 labels are whole" in told and "1 are damaged" in told and "b-" in told
    assert _call(*inline) == 0
    summary = _events(capsys)[-1]
    assert (summary["done"], summary["skipped"]) == (1, 1)
    assert _call("repair", tmp_path) == 2


def test_status_for_people_and_programs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos" / "bad.jpg").write_text("<html>")
    assert _call("run", config, "--engine", "inline") == 3
    capsys.readouterr()
    assert _call("status", tmp_path / "run") == 0
    table = capsys.readouterr().out
    assert "decode, decode" in table and "a process works on it" in table
    with locked(tmp_path / "run"):
        assert _call("status", tmp_path / "run", "--json") == 0
    document = json.loads(capsys.readouterr().out)
    counts = {name: document[name] for name in ("total", "done", "failed", "todo", "running")}
    assert counts == {"total": 3, "done": 2, "failed": 1, "todo": 0, "running": True}


@pytest.mark.parametrize("engine", ["inline", "local"])
def test_kill_9_at_any_moment_loses_nothing(config: Path, tmp_path: Path, engine: str) -> None:
    """The same command again and again, killed each time a little later, then left alone."""
    names = {"a.png", "b.png", *(f"n{index}.png" for index in range(60))}
    for name in names - {"a.png", "b.png"}:
        _paint(tmp_path / "photos" / name, PICTURE)
    command = [sys.executable, "-m", "prelabel", "run", str(config), "--json", "--engine", engine]
    run, before = tmp_path / "run", 0
    for goal in (1, 23) if engine == "inline" else (17,):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as running:
            deadline = time.monotonic() + 120
            while len(_pairs(run)) < before + goal and time.monotonic() < deadline:
                time.sleep(0.005)
            running.kill()
        before = len(_pairs(run))
        assert before >= goal
    assert _call("status", run, "--json") == 0
    assert _call("run", config, "--engine", "inline") == 0
    labels = [label.image_id for label, _ in iterate_labels(run)]  # compares every digest
    assert sorted(labels) == sorted(names)
    with Ledger(run / "job.db") as ledger:
        assert {name: row.status for name, row in ledger.rows().items()} == dict.fromkeys(
            names, "done"
        )
    summary = json.loads((run / "summary.json").read_text())
    # What was whole was not made again.
    assert summary["skipped"] >= before - 1 and summary["done"] + summary["skipped"] == 62
    assert not [path for path in run.rglob(".*.part")]


def _pairs(run: Path) -> list[Path]:
    return list((run / "labels").glob("[!.]*.json"))


# --- exit codes -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "code", "told"),
    [
        (OSError(28, "No space left on device", "/x/y"), 7, "cannot write /x/y: No space left"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (ConnectorError("the server is busy", retryable=True), 5, "error: the server is busy"),
        (ConnectorError("the key is refused", kind="denied"), 7, "error: the key is refused"),
        (ConnectorError("no such dataset", kind="gone"), 2, "error: no such dataset"),
    ],
)
def test_errors_of_other_kinds(
    config: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    told: str,
) -> None:
    def broken(*_: object) -> Summary:
        raise error

    monkeypatch.setattr(running_module, "run_job", broken)
    assert _call("run", config) == code
    assert told in " ".join(capsys.readouterr().err.split())


def test_a_bug_is_seen_and_not_dressed_up(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> Summary:
        raise RuntimeError("odd")

    monkeypatch.setattr(running_module, "run_job", broken)
    with pytest.raises(RuntimeError, match="odd"):
        main(["run", str(config)])


def test_an_interrupted_run_exits_130_and_goes_on(config: Path, tmp_path: Path) -> None:
    for index in range(300):
        _paint(tmp_path / "photos" / f"n{index}.png", PICTURE)
    command = [sys.executable, "-m", "prelabel", "run", str(config)]
    running = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    labels = tmp_path / "run" / "labels"
    deadline = time.monotonic() + 60
    while not list(labels.glob("[!.]*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert (running.returncode, "Traceback" in err) == (130, False)
    first = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert first["interrupted"] and first["done"] == len(list(labels.glob("[!.]*.json"))) < 302
    assert not list(labels.glob(".*"))


def test_an_interrupt_while_workers_start(config: Path, tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to the whole group, also to a worker that still imports."""
    command = [sys.executable, "-m", "prelabel", "run", str(config)]
    running = subprocess.Popen(
        command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 120
    # The last that is written before the workers start.
    while not (tmp_path / "run" / "config.yaml").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    time.sleep(0.1)
    os.killpg(running.pid, signal.SIGINT)
    _, err = running.communicate(timeout=120)
    assert (running.returncode, "Traceback" in err) == (130, False), err
    assert "interrupted" in err


def test_the_module_runs_as_a_program() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prelabel", "--version"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == f"prelabel {__version__}\n"


def test_the_demo_goes_from_scenes_to_pictures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.yaml"
    ontology = ROOT / "configs" / "ontologies" / "demo.yaml"
    roles = "".join(f"{role}: {{kind: paint}}\n" for role in ("detect", "segment", "stuff"))
    path.write_text(f"ontology: {ontology}\n{roles}")
    out = tmp_path / "demo"
    assert _call("demo", "--out", out, "--config", path, "--count", 2, "--seed", 4) == 0
    table = capsys.readouterr().out
    assert "2 of 2" in table and "PQ all" in table and "PQ stuff" in table
    assert len(list((out / "overlays").glob("*.png"))) == 2
    names = {entry.name for entry in out.iterdir()}
    assert names >= {"config.yaml", "summary.json", "labels", "coco", "overlays", "scenes"}
    assert len(read_panoptic(out / "coco" / "panoptic.json").images) == 2
    assert _call("demo", "--out", out, "--config", path) == 2
    assert "is not empty" in capsys.readouterr().err
