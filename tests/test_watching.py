"""What is seen of a run while it goes on: the bar, lines, events, the log."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.cli import main
from prelabel.cli.watching import duration
from prelabel.data import Failure, Frame, ImageRecord
from prelabel.job.ledger import Ledger
from prelabel.job.progress import Silence
from prelabel.job.protocol import Done, Event, Failed, Started, Task, WorkerOptions, WorkerPlan
from prelabel.job.rehearsal import Rehearsal, RehearsalSource
from prelabel.job.remarks import RunLog
from prelabel.job.runner import JobOptions, run_job

CONFIG = """
source: {folder}/photos
out: {folder}/run
ontology: {{things: [{{name: car, color: [200, 0, 0]}}]}}
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
cache: {{enabled: false}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Over two pictures, one of them animated, and a page."""
    photos = tmp_path / "photos"
    photos.mkdir()
    frames = [Image.fromarray(np.full((8, 9), shade, dtype=np.uint8)) for shade in (0, 200)]
    frames[0].save(photos / "moving.gif", save_all=True, append_images=frames[1:])
    frames[1].save(photos / "still.png")
    (photos / "page.jpg").write_text("<html>")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def _log(run: Path) -> list[str]:
    """The lines without their time."""
    lines = (run / "run.log").read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} ", line) for line in lines)
    return [line.split(" ", 1)[1] for line in lines]


@pytest.mark.parametrize("engine", ["local", "inline"])
def test_what_a_worker_logs_names_image_and_stage_wherever_it_runs(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], engine: str
) -> None:
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            main(["run", str(config), "--engine", engine, "--json", "--device", "cpu"])
        assert ended.value.code == 3
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    (remark,) = [event for event in events if event["event"] == "remark"]
    text = "moving.gif holds several frames or pages; only the first is labelled"
    expected = {"image_id": "moving.gif", "stage": "read", "level": "warning", "text": text}
    assert remark == {"event": "remark", **expected}
    log = _log(tmp_path / "run")
    assert f"warning {text} (read)" in log
    assert "failed page.jpg (decode, decode): page.jpg: not a JPEG" in "\n".join(log)
    ends = [line for line in log if line.startswith("info through")]
    assert ends == ["info through: 2 done, 1 failed", "info through: 2 skipped, 1 failed"]
    assert sum("3 of 3 to do" in line for line in log) == 1


def test_a_terminal_sees_a_bar_with_rate_time_failures_and_stages(config: Path) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "prelabel", "run", str(config), "--device", "cpu"]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "140", "LINES": "40"}
    with subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    ) as run:
        os.close(theirs)
        seen = b"".join(_read_all(ours)).decode()
    assert run.returncode == 3
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen)
    assert "loading" in plain
    assert re.search(r"labelling \S.* 3/3 \d+\.\d\d images/s, 1 failed", plain)
    assert re.search(r"seconds per image: read 0\.\d\d, detect 0\.\d\d, .*write 0\.\d\d", plain)
    assert "warning: moving.gif holds several frames" in plain
    assert "failed (decode, decode): page.jpg" in plain


def _read_all(terminal: int) -> Iterator[bytes]:
    while True:
        try:
            data = os.read(terminal, 65536)
        except OSError:  # how Linux says that the other end is closed
            data = b""
        if not data:
            os.close(terminal)
            return
        yield data


def test_durations_are_told_in_words() -> None:
    told = {42.4: "42 s", 600: "10 min", 3 * 3600: "3 h 0 min", 52 * 3600: "2 d 4 h"}
    assert {seconds: duration(seconds) for seconds in told} == told


def test_the_log_cannot_be_forged_or_break_a_run(tmp_path: Path) -> None:
    RunLog(tmp_path).write("failed", "a\n2026 info through\x1b[2J \udcff")
    (line,) = (tmp_path / "run.log").read_text().splitlines()
    assert line.endswith(r" failed a 2026 info through\x1b[2J \udcff")
    RunLog(tmp_path / "nowhere").write("info", "x")
    assert not (tmp_path / "nowhere").exists()


# --- what counts ------------------------------------------------------------------------------


class _Scripted:
    """An engine whose answers are given."""

    def __init__(self, events: Sequence[Event]) -> None:
        self._events = events

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        for event in self._events:
            handle(event)


class _Seen(Silence):
    def __init__(self) -> None:
        self.images: list[str] = []

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        self.images.append(record.image_id)

    def failed(self, failure: Failure) -> None:
        self.images.append(failure.image_id)


def _run(root: Path, events: Sequence[Event], seen: _Seen | None = None) -> Any:
    plan = WorkerPlan(Rehearsal(), RehearsalSource(), root, WorkerOptions("prelabel 0", "f00d"))
    return run_job(_Scripted(events), plan, JobOptions(), seen)


def test_only_the_first_answer_about_an_image_is_committed(tmp_path: Path) -> None:
    late = Failed(Failure("a", "label", "odd", "too late"))
    events = [Started("a"), Done("a", 1), Done("a", 1), late, Done("b", 2), Done("c", 3)]
    seen = _Seen()
    summary = _run(tmp_path, [*events, Done("never asked for", 1)], seen)
    assert seen.images == ["a", "b", "c"]
    assert (summary.done, summary.failed, summary.segments, summary.todo) == (3, 0, 6, 0)
    with Ledger(tmp_path / "job.db") as ledger:
        assert {name: row.status for name, row in ledger.rows().items()} == dict.fromkeys(
            "abc", "done"
        )


def test_an_engine_that_forgets_an_image_is_a_bug_and_said_so(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"no answer for \['b', 'c'\]"):
        _run(tmp_path, [Started("a"), Done("a", 1)])
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["done"], summary["todo"]) == (1, 2)


def test_addresses_in_failures_lose_their_secrets(tmp_path: Path) -> None:
    class Refusing:
        def run(self, frames: Sequence[Frame], *, explain: bool | None = None) -> list[Any]:
            raise OSError("https://me:pw@x.org/a?token=abc123&b=1 refuses")

    from prelabel.job.engines.inline import InlineEngine

    plan = WorkerPlan(
        lambda device: Refusing(), RehearsalSource(("a",)), tmp_path, WorkerOptions("p", "f")
    )
    summary = run_job(InlineEngine(), plan, JobOptions())
    assert summary.failures[0].message == "a: https://***@x.org/a?token=***&b=1 refuses"
    assert "abc123" not in (tmp_path / "run.log").read_text()
