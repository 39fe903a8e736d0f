"""The loop of a run: one bad image is data, the output's troubles and signals are not."""

from __future__ import annotations

import errno
import json
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from prelabel.data import (
    Explanation,
    Failure,
    Frame,
    ImageRecord,
    PanopticLabel,
    Segment,
    Trace,
)
from prelabel.errors import ConfigError, ImageError
from prelabel.job import store as store_module
from prelabel.job.progress import Progress
from prelabel.job.runner import JobOptions, Summary, run_job
from prelabel.job.store import LabelStore, list_labels

OPTIONS = JobOptions("prelabel 0", "f00d", "source: here\n")


@dataclass(frozen=True)
class FakeLabelled:
    label: PanopticLabel
    trace: Trace
    explanations: tuple[Explanation, ...]
    seconds: Mapping[str, float]


@dataclass
class FakeLabeller:
    """One segment per image; `on` is called with each image_id first."""

    on: Callable[[str], None] = lambda image_id: None
    seen: list[str] = field(default_factory=list)

    def run(self, frames: Sequence[Frame], *, explain: bool | None = None) -> list[FakeLabelled]:
        return [self._one(frame, bool(explain)) for frame in frames]

    def _one(self, frame: Frame, explain: bool) -> FakeLabelled:
        image_id = frame.record.image_id
        self.seen.append(image_id)
        self.on(image_id)
        height, width = frame.size
        segment = Segment(1, 1, True, height * width, (0, 0, width, height), 0.5, None, 0.5, "")
        label = PanopticLabel(image_id, np.ones(frame.size, dtype=np.int32), (segment,))
        reasons = (Explanation(1, "x", {}, {}, None, 0.0, {}, {}),) if explain else ()
        return FakeLabelled(label, Trace(image_id, ()), reasons, {"detect": 0.5})


@dataclass
class FakeSource:
    ids: tuple[str, ...] = ("a", "b", "c")
    bad: tuple[str, ...] = ()

    def records(self) -> Iterator[ImageRecord]:
        if not self.ids:
            raise ConfigError("the source is empty")
        for image_id in self.ids:
            yield ImageRecord(image_id, f"nowhere/{image_id}")

    def read(self, record: ImageRecord) -> Frame:
        if record.image_id in self.bad:
            raise ImageError(f"{record.image_id}: damaged", kind="truncated")
        return Frame(record, np.zeros((2, 3, 3), dtype=np.uint8))


@dataclass
class Recorder:
    events: list[object] = field(default_factory=list)

    def started(self, total: int) -> None:
        self.events.append(total)

    def done(self, record: ImageRecord, segments: int) -> None:
        self.events.append(("done", record.image_id, segments))

    def failed(self, failure: Failure) -> None:
        self.events.append(("failed", failure.image_id, failure.stage, failure.kind))

    def skipped(self, record: ImageRecord) -> None:
        self.events.append(("skipped", record.image_id))

    def stopping(self) -> None:
        self.events.append("stopping")


def _run(
    folder: Path,
    source: FakeSource,
    labeller: FakeLabeller | None = None,
    options: JobOptions = OPTIONS,
    observer: Recorder | None = None,
) -> Summary:
    summary = run_job(labeller or FakeLabeller(), source, LabelStore(folder), options, observer)
    assert summary.total == summary.done + summary.failed + summary.skipped + summary.todo
    return summary


def _raise(error: BaseException, at: str) -> Callable[[str], None]:
    def on(image_id: str) -> None:
        if image_id == at:
            raise error

    return on


def _stored(folder: Path) -> list[str]:
    return [meta.record.image_id for meta in list_labels(folder)]


def test_every_image_is_labelled_and_summed_up(tmp_path: Path) -> None:
    observer = Recorder()
    summary = _run(tmp_path, FakeSource(), observer=observer)
    assert (summary.total, summary.done, summary.segments, summary.todo) == (3, 3, 3, 0)
    assert summary.seconds["detect"] == 1.5
    assert {"read", "write"} < set(summary.seconds)
    assert observer.events == [3, ("done", "a", 1), ("done", "b", 1), ("done", "c", 1)]
    assert _stored(tmp_path) == ["a", "b", "c"]
    assert json.loads((tmp_path / "summary.json").read_text()) == json.loads(
        json.dumps(summary.to_json())
    )
    assert (tmp_path / "config.yaml").read_text() == "source: here\n"
    assert len(list((tmp_path / "traces").glob("*.npz"))) == 3


@pytest.mark.parametrize(
    ("error", "stage", "kind"),
    [
        (ValueError("odd"), "label", "ValueError"),
        (MemoryError(), "label", "memory"),
        (OSError(errno.ENOSPC, "full"), "label", "OSError"),
    ],
)
def test_an_image_that_breaks_the_networks_is_a_failure(
    tmp_path: Path, error: Exception, stage: str, kind: str
) -> None:
    observer = Recorder()
    summary = _run(tmp_path, FakeSource(), FakeLabeller(_raise(error, "b")), observer=observer)
    assert (summary.done, summary.failed) == (2, 1)
    assert (summary.failures[0].stage, summary.failures[0].kind) == (stage, kind)
    assert ("failed", "b", stage, kind) in observer.events
    assert _stored(tmp_path) == ["a", "c"]


def test_the_stage_that_an_error_notes_is_kept(tmp_path: Path) -> None:
    error = ValueError("odd")
    error.add_note("stage: refine")
    summary = _run(tmp_path, FakeSource(), FakeLabeller(_raise(error, "a")))
    assert summary.failures == (Failure("a", "refine", "ValueError", "a: odd"),)


def test_images_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    summary = _run(tmp_path, FakeSource(bad=("a", "b", "c")))
    assert (summary.done, summary.failed) == (0, 3)
    assert summary.failures[0] == Failure("a", "decode", "truncated", "a: damaged")
    assert _stored(tmp_path) == []


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    _run(tmp_path, FakeSource(bad=("b",)))
    again = FakeLabeller()
    summary = _run(tmp_path, FakeSource(), again)
    assert (summary.done, summary.skipped, again.seen) == (1, 2, ["b"])
    changed = JobOptions("prelabel 0", "other")
    assert _run(tmp_path, FakeSource(), options=changed).done == 3


def test_an_image_that_changed_is_done_again(tmp_path: Path) -> None:
    photo = tmp_path / "x"
    photo.write_bytes(b"abc")

    class OnDisk(FakeSource):
        def records(self) -> Iterator[ImageRecord]:
            yield ImageRecord("x", str(photo))

    run = tmp_path / "run"
    assert [_run(run, OnDisk()).done for _ in range(2)] == [1, 0]
    later = photo.stat().st_mtime + 60
    os.utime(photo, (later, later))
    assert _run(run, OnDisk()).done == 1


def test_all_can_be_labelled_again(tmp_path: Path) -> None:
    again = JobOptions("prelabel 0", "f00d", again=True)
    assert [_run(tmp_path, FakeSource(), options=again).done for _ in range(2)] == [3, 3]


def test_explanations_asked_for_later_are_made(tmp_path: Path) -> None:
    _run(tmp_path, FakeSource())
    asked = JobOptions("prelabel 0", "f00d", explain=True)
    assert _run(tmp_path, FakeSource(), options=asked).done == 3
    assert len(list((tmp_path / "explanations").glob("*.json"))) == 3
    assert _run(tmp_path, FakeSource(), options=asked).skipped == 3


def test_a_limit_counts_images_of_the_source(tmp_path: Path) -> None:
    assert _run(tmp_path, FakeSource(), options=JobOptions("p", "f", limit=2)).total == 2
    assert _stored(tmp_path) == ["a", "b"]


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the source is empty"):
        _run(tmp_path, FakeSource(()))


def test_the_source_file_is_told_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    class OnDisk(FakeSource):
        def records(self) -> Iterator[ImageRecord]:
            yield ImageRecord("x", str(tmp_path / "x"))

    _run(tmp_path / "run", OnDisk())
    assert list_labels(tmp_path / "run")[0].source_sha256.startswith("ba7816bf")
    _run(tmp_path / "run2", FakeSource(("a",)))
    assert list_labels(tmp_path / "run2")[0].source_sha256 == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_output_that_fails_ends_the_run_and_not_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    writes = iter(range(100))
    write = store_module.write_atomically

    def failing(path: Path, data: bytes) -> None:
        # The first is the check that the folder can be written, then two for each image.
        if next(writes) >= 4:
            raise OSError(code, os.strerror(code), str(path))
        write(path, data)

    monkeypatch.setattr(store_module, "write_atomically", failing)
    labeller = FakeLabeller()
    with pytest.raises(OSError, match=os.strerror(code)):
        _run(tmp_path, FakeSource(), labeller)
    assert labeller.seen == ["a", "b"]
    assert _stored(tmp_path) == ["a"]
    monkeypatch.undo()
    assert json.loads((tmp_path / "summary.json").read_text())["todo"] == 2
    assert _run(tmp_path, FakeSource()).done == 2


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_image_in_hand_finish(tmp_path: Path, number: int) -> None:
    def on(image_id: str) -> None:
        if image_id == "b":
            os.kill(os.getpid(), number)

    observer, before = Recorder(), signal.getsignal(number)
    summary = _run(tmp_path, FakeSource(), FakeLabeller(on), observer=observer)
    assert (summary.done, summary.todo, summary.interrupted) == (2, 1, True)
    assert "stopping" in observer.events
    assert _stored(tmp_path) == ["a", "b"]
    assert signal.getsignal(number) is before
    assert not _run(tmp_path, FakeSource()).interrupted


def test_a_signal_during_the_last_image_interrupts_nothing(tmp_path: Path) -> None:
    def on(image_id: str) -> None:
        if image_id == "c":
            os.kill(os.getpid(), signal.SIGINT)

    summary = _run(tmp_path, FakeSource(), FakeLabeller(on))
    assert (summary.done, summary.interrupted) == (3, False)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def on(image_id: str) -> None:
        if image_id == "b":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, FakeSource(), FakeLabeller(on))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["done"], summary["todo"], summary["interrupted"]) == (1, 2, True)
    assert _stored(tmp_path) == ["a"]


def test_a_run_may_stand_in_another_thread(tmp_path: Path) -> None:
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(_run(tmp_path, FakeSource())))
    thread.start()
    thread.join()
    assert summaries[0].done == 3


# --- arithmetic -------------------------------------------------------------------------------


def test_rate_and_time_left() -> None:
    progress = Progress(10, start=100.0)
    assert (progress.rate(100.0), progress.seconds_left(100.0)) == (0.0, None)
    progress.done, progress.failed, progress.skipped = 3, 1, 4
    assert progress.seen == 8
    assert progress.rate(102.0) == 2.0
    assert progress.seconds_left(102.0) == 1.0
