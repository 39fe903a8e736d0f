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

import pytest

from prelabel import label_files
from prelabel.data import Failure, Frame, ImageRecord
from prelabel.errors import ChangedError, ConfigError, LockedError
from prelabel.files import write_atomically
from prelabel.job import store as store_module
from prelabel.job.engines.inline import InlineEngine
from prelabel.job.ledger import LEDGER_NAME, Ledger, Row
from prelabel.job.lock import locked
from prelabel.job.progress import Progress
from prelabel.job.protocol import Remark, WorkerOptions, WorkerPlan
from prelabel.job.rehearsal import Rehearsal, RehearsalSource, Rehearsed
from prelabel.job.repair import repair_run
from prelabel.job.runner import JobOptions, run_job
from prelabel.job.shards import Shard
from prelabel.job.status import read_status
from prelabel.job.summary import Summary
from prelabel.label_files import list_labels

OPTIONS = JobOptions("source: here\n")
WORKER = WorkerOptions("prelabel 0", "f00d")


@dataclass
class Noted:
    """A labeller in this process; `on` is called with each image_id first."""

    on: Callable[[str], None] = lambda image_id: None
    seen: list[str] = field(default_factory=list)

    def run(self, frames: Sequence[Frame], *, explain: bool | None = None) -> list[Rehearsed]:
        for frame in frames:
            self.seen.append(frame.record.image_id)
            self.on(frame.record.image_id)
        return Rehearsal(0.5e-9).run(frames, explain=explain)


@dataclass
class Recorder:
    events: list[object] = field(default_factory=list)

    def started(self, total: int) -> None:
        self.events.append(total)

    def begun(self, seconds: float) -> None:
        assert seconds > 0

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        assert {"read", "write"} < set(seconds)
        self.events.append(("done", record.image_id, segments))

    def failed(self, failure: Failure) -> None:
        self.events.append(("failed", failure.image_id, failure.stage, failure.kind))

    def quarantined(self, failure: Failure) -> None:
        self.events.append(("quarantined", failure.image_id))

    def skipped(self, record: ImageRecord) -> None:
        self.events.append(("skipped", record.image_id))

    def failed_before(self, failure: Failure) -> None:
        self.events.append(("failed before", failure.image_id))

    def remarked(self, remark: Remark) -> None:
        self.events.append(("remarked", str(remark)))

    def stopping(self) -> None:
        self.events.append("stopping")


def _run(
    folder: Path,
    source: RehearsalSource,
    labeller: Noted | None = None,
    options: JobOptions = OPTIONS,
    observer: Recorder | None = None,
    worker: WorkerOptions = WORKER,
) -> Summary:
    made = labeller or Noted()
    plan = WorkerPlan(lambda device: made, source, folder, worker)
    summary = run_job(InlineEngine(), plan, options, observer)
    parts = (summary.done, summary.failed, summary.skipped, summary.todo, summary.quarantined)
    assert summary.total == sum(parts)
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
    summary = _run(tmp_path, RehearsalSource(), observer=observer)
    assert (summary.total, summary.done, summary.segments, summary.todo) == (3, 3, 3, 0)
    assert summary.seconds["detect"] == pytest.approx(1.5e-9)
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
    summary = _run(tmp_path, RehearsalSource(), Noted(_raise(error, "b")), observer=observer)
    assert (summary.done, summary.failed) == (2, 1)
    assert (summary.failures[0].stage, summary.failures[0].kind) == (stage, kind)
    assert ("failed", "b", stage, kind) in observer.events
    assert _stored(tmp_path) == ["a", "c"]


def test_the_stage_that_an_error_notes_is_kept(tmp_path: Path) -> None:
    error = ValueError("odd")
    error.add_note("stage: refine")
    summary = _run(tmp_path, RehearsalSource(), Noted(_raise(error, "a")))
    assert summary.failures == (Failure("a", "refine", "ValueError", "a: odd"),)


def test_images_that_cannot_be_read_are_failures(tmp_path: Path) -> None:
    summary = _run(tmp_path, RehearsalSource(bad=("a", "b", "c")))
    assert (summary.done, summary.failed) == (0, 3)
    assert summary.failures[0] == Failure("a", "decode", "truncated", "a: damaged")
    assert _stored(tmp_path) == []


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(bad=("b",)))
    again, observer = Noted(), Recorder()
    summary = _run(tmp_path, RehearsalSource(), again, observer=observer)
    assert (summary.done, summary.skipped, summary.failed, again.seen) == (0, 2, 1, [])
    assert summary.failures == (Failure("b", "decode", "truncated", "b: damaged"),)
    assert observer.events == [3, ("skipped", "a"), ("skipped", "c"), ("failed before", "b")]


def test_what_failed_is_tried_again_on_request(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(bad=("b",)))
    other = JobOptions(retry=("quarantined",))
    assert _run(tmp_path, RehearsalSource(), options=other).failed == 1
    summary = _run(tmp_path, RehearsalSource(), options=JobOptions(retry=("failed",)))
    assert (summary.done, summary.skipped, summary.failed) == (1, 2, 0)


def test_a_new_image_of_the_source_is_picked_up(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(("a", "b")))
    summary = _run(tmp_path, RehearsalSource(("a", "ab", "b")))
    assert (summary.total, summary.done, summary.skipped) == (3, 1, 2)


def test_an_image_that_changed_is_done_again(tmp_path: Path) -> None:
    before = RehearsalSource(stamps={"a": "1", "b": "1", "c": "1"}, bad=("c",))
    assert _run(tmp_path, before).done == 2
    after = RehearsalSource(stamps={"a": "1", "b": "2", "c": "2"})
    seen = Noted()
    assert _run(tmp_path, after, seen).done == 2
    assert seen.seen == ["b", "c"]


def test_a_label_that_was_removed_is_made_again(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource())
    next((tmp_path / "labels").glob("b-*.png")).unlink()
    assert _run(tmp_path, RehearsalSource()).done == 1


def test_all_can_be_labelled_again(tmp_path: Path) -> None:
    again = JobOptions(again=True)
    assert [_run(tmp_path, RehearsalSource(), options=again).done for _ in range(2)] == [3, 3]


def test_a_fresh_start_forgets_everything(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(("a", "b")))
    other = WorkerOptions("prelabel 0", "another")
    fresh = JobOptions(fresh=True)
    assert _run(tmp_path, RehearsalSource(("b", "c")), options=fresh, worker=other).done == 2
    assert _stored(tmp_path) == ["b", "c"]


def test_another_config_is_refused_with_what_differs(tmp_path: Path) -> None:
    first = JobOptions("merge: {min_score: 0.1}\nout: x\nontology: {things: [{name: car}]}\n")
    second = JobOptions("merge: {min_score: 0.2}\nout: y\nontology: {things: [{name: bus}]}\n")
    changed = WorkerOptions("prelabel 0", "beef")
    _run(tmp_path, RehearsalSource(), options=first)
    with pytest.raises(ChangedError) as caught:
        _run(tmp_path, RehearsalSource(), options=second, worker=changed)
    text = str(caught.value)
    assert "merge.min_score was 0.1, is 0.2; ontology.things.0.name was car, is bus." in text
    assert "out was" not in text
    with pytest.raises(ChangedError, match="the weights behind the same config"):
        _run(tmp_path, RehearsalSource(), options=first, worker=changed)
    accepted = JobOptions(second.config_yaml, accept_change=True)
    assert _run(tmp_path, RehearsalSource(), options=accepted, worker=changed).done == 3
    assert _run(tmp_path, RehearsalSource(), options=second, worker=changed).skipped == 3


def test_explanations_asked_for_later_are_made(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource())
    asked = WorkerOptions("prelabel 0", "f00d", explain=True)
    assert _run(tmp_path, RehearsalSource(), worker=asked).done == 3
    assert len(list((tmp_path / "explanations").glob("*.json"))) == 3
    assert _run(tmp_path, RehearsalSource(), worker=asked).skipped == 3
    assert _run(tmp_path, RehearsalSource()).skipped == 3


def test_a_limit_counts_images_of_the_source(tmp_path: Path) -> None:
    assert _run(tmp_path, RehearsalSource(), options=JobOptions(limit=2)).total == 2
    assert _stored(tmp_path) == ["a", "b"]


def test_shards_part_the_source(tmp_path: Path) -> None:
    ids = tuple(f"{index:03}" for index in range(60))
    parts = [
        _run(tmp_path / str(k), RehearsalSource(ids), options=JobOptions(shard=Shard(k, 4)))
        for k in range(4)
    ]
    assert sum(part.total for part in parts) == 60
    assert min(part.total for part in parts) >= 5
    stored = [image_id for k in range(4) for image_id in _stored(tmp_path / str(k))]
    assert sorted(stored) == list(ids)


# --- the ledger -------------------------------------------------------------------------------


def test_a_second_run_in_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    tmp_path.joinpath("run").mkdir()
    with (
        locked(tmp_path / "run"),
        pytest.raises(LockedError, match=f"in use by process {os.getpid()} on"),
    ):
        _run(tmp_path / "run", RehearsalSource())
    assert _run(tmp_path / "run", RehearsalSource()).done == 3


def test_labels_that_the_ledger_does_not_know_are_adopted(tmp_path: Path) -> None:
    source = RehearsalSource(stamps={"a": "1", "b": "1", "c": "1"})
    _run(tmp_path, source)
    with Ledger(tmp_path / LEDGER_NAME) as ledger:
        kept = {name: row for name, row in ledger.rows().items() if name == "a"}
        ledger.replace(kept)
    summary = _run(tmp_path, source)
    assert (summary.done, summary.skipped) == (0, 3)
    with Ledger(tmp_path / LEDGER_NAME) as ledger:
        ledger.replace({})
    later = RehearsalSource(stamps={"a": "1", "b": "2", "c": "1"})
    assert _run(tmp_path, later).done == 1


def test_a_run_without_a_ledger_gets_one_from_its_labels(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource())
    for path in tmp_path.glob("job.db*"):
        path.unlink()
    assert _run(tmp_path, RehearsalSource()).skipped == 3
    for path in tmp_path.glob("job.db*"):
        path.unlink()
    with pytest.raises(ChangedError):
        _run(tmp_path, RehearsalSource(), worker=WorkerOptions("prelabel 0", "other"))


def test_a_damaged_ledger_is_refused_and_can_be_repaired(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(bad=("b",)))
    (tmp_path / LEDGER_NAME).write_bytes(b"SQLite format 3\0" + bytes(5000))
    with pytest.raises(ConfigError, match=r"damaged .* `prelabel repair"):
        _run(tmp_path, RehearsalSource())
    found = repair_run(tmp_path)
    assert (sorted(found.rows), found.damaged) == (["a", "c"], ())
    # What failed was only in the ledger, so it is tried again.
    summary = _run(tmp_path, RehearsalSource())
    assert (summary.done, summary.skipped) == (1, 2)


def test_repair_names_labels_that_are_not_whole(tmp_path: Path) -> None:
    _run(tmp_path, RehearsalSource(bad=("c",)))
    next((tmp_path / "labels").glob("a-*.png")).write_bytes(b"x")
    stray = tmp_path / "traces" / ".0123456789ab-77.part"
    stray.write_bytes(b"")
    found = repair_run(tmp_path)
    assert sorted(found.rows) == ["b"]
    assert [name.startswith("a-") for name in found.damaged] == [True]
    assert not stray.exists()
    status = read_status(tmp_path)
    assert status.counts == {"done": 1, "failed": 1, "quarantined": 0, "skipped": 0, "todo": 1}
    assert _run(tmp_path, RehearsalSource()).done == 1


def test_status_is_read_while_a_run_goes_on(tmp_path: Path) -> None:
    seen = []

    def on(image_id: str) -> None:
        if image_id == "c":
            seen.append(read_status(tmp_path))

    _run(tmp_path, RehearsalSource(), Noted(on))
    assert (seen[0].running, seen[0].total) == (True, 3)
    after = read_status(tmp_path)
    assert (after.running, after.counts["done"], after.counts["todo"]) == (False, 3, 0)
    with pytest.raises(ConfigError, match=r"no run folder: it has no job\.db"):
        read_status(tmp_path / "labels")


def test_the_ledger_may_lie_elsewhere(tmp_path: Path) -> None:
    options = JobOptions(state=tmp_path / "state")
    assert _run(tmp_path / "run", RehearsalSource(), options=options).done == 3
    assert not (tmp_path / "run" / LEDGER_NAME).exists()
    assert _run(tmp_path / "run", RehearsalSource(), options=options).skipped == 3
    assert read_status(tmp_path / "run", tmp_path / "state").counts["done"] == 3


def test_rows_come_back_as_they_were(tmp_path: Path) -> None:
    rows = {
        "a/ü.jpg": Row("done", "12-34", True, 7),
        "bad\udcff.png": Row("failed", "", False, 0, "decode", "truncated", "bad\udcff: short"),
        "q": Row("quarantined", "s", stage="label", kind="killed", message="died"),
    }
    with Ledger(tmp_path / "x.db") as ledger:
        for image_id, row in rows.items():
            ledger.mark(image_id, row)
    with Ledger(tmp_path / "x.db") as ledger:
        found = ledger.rows()
    assert found.keys() == rows.keys()
    assert found["a/ü.jpg"] == rows["a/ü.jpg"]
    assert found["bad\udcff.png"].message == "bad\\udcff: short"
    assert found["q"] == rows["q"]


def test_an_empty_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the source is empty"):
        _run(tmp_path, RehearsalSource(()))


def test_the_source_file_is_told_by_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")

    class OnDisk(RehearsalSource):
        def records(self) -> Iterator[ImageRecord]:
            yield ImageRecord("x", str(tmp_path / "x"))

    _run(tmp_path / "run", OnDisk())
    assert list_labels(tmp_path / "run")[0].source_sha256.startswith("ba7816bf")
    _run(tmp_path / "run2", RehearsalSource(("a",)))
    assert list_labels(tmp_path / "run2")[0].source_sha256 == ""


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_an_output_that_fails_ends_the_run_and_not_one_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    writes = iter(range(100))
    write = write_atomically

    def failing(path: Path, data: bytes) -> None:
        # Two checks that the folder can be written, then two files for each image.
        if next(writes) >= 5:
            raise OSError(code, os.strerror(code), str(path))
        write(path, data)

    for module in (store_module, label_files):
        monkeypatch.setattr(module, "write_atomically", failing)
    with pytest.raises(OSError, match=os.strerror(code)):
        _run(tmp_path, RehearsalSource())
    assert _stored(tmp_path) == ["a"]
    monkeypatch.undo()
    assert json.loads((tmp_path / "summary.json").read_text())["todo"] == 2
    assert _run(tmp_path, RehearsalSource()).done == 2


# --- signals ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_image_in_hand_finish(tmp_path: Path, number: int) -> None:
    def on(image_id: str) -> None:
        if image_id == "b":
            os.kill(os.getpid(), number)

    observer, before = Recorder(), signal.getsignal(number)
    summary = _run(tmp_path, RehearsalSource(), Noted(on), observer=observer)
    assert (summary.done, summary.todo, summary.interrupted) == (2, 1, True)
    assert "stopping" in observer.events
    assert _stored(tmp_path) == ["a", "b"]
    assert signal.getsignal(number) is before
    assert not _run(tmp_path, RehearsalSource()).interrupted


def test_a_signal_during_the_last_image_interrupts_nothing(tmp_path: Path) -> None:
    def on(image_id: str) -> None:
        if image_id == "c":
            os.kill(os.getpid(), signal.SIGINT)

    summary = _run(tmp_path, RehearsalSource(), Noted(on))
    assert (summary.done, summary.interrupted) == (3, False)


def test_a_second_signal_stops_at_once(tmp_path: Path) -> None:
    def on(image_id: str) -> None:
        if image_id == "b":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        _run(tmp_path, RehearsalSource(), Noted(on))
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert (summary["done"], summary["todo"], summary["interrupted"]) == (1, 2, True)
    assert _stored(tmp_path) == ["a"]


def test_a_run_may_stand_in_another_thread(tmp_path: Path) -> None:
    summaries: list[Summary] = []
    thread = threading.Thread(target=lambda: summaries.append(_run(tmp_path, RehearsalSource())))
    thread.start()
    thread.join()
    assert summaries[0].done == 3


# --- arithmetic -------------------------------------------------------------------------------


def test_rate_and_time_left() -> None:
    now = [100.0]
    progress = Progress(10, lambda: now[0])
    progress.skipped = 4
    now[0] = 150.0  # loading, which does not count
    progress.begin()
    assert (progress.rate(), progress.seconds_left(), progress.seconds_each()) == (0.0, None, {})
    for second, stages in ((151, {"read": 0.25}), (152, None), (153, {"read": 0.75})):
        now[0] = float(second)
        progress.count(stages)
    assert (progress.seen, progress.done, progress.failed) == (7, 2, 1)
    assert (progress.rate(), progress.seconds_left()) == (1.0, 3.0)
    assert progress.seconds_each() == {"read": 0.5}


def test_the_rate_follows_a_run_that_becomes_slower() -> None:
    now = [0.0]
    progress = Progress(3000, lambda: now[0])
    for _ in range(2000):
        now[0] += 0.1
        progress.count({})
    assert progress.rate() == pytest.approx(10.0, rel=0.01)
    for _ in range(12):
        now[0] += 30.0
        progress.count({})
    # The last ten, although they took longer than a minute.
    assert progress.rate() == pytest.approx(1 / 30)
    assert progress.seconds_left() == pytest.approx((3000 - 2012) * 30)
    now[0] += 300.0
    assert progress.rate() == pytest.approx(10 / 600)
