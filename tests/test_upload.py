"""A run's labels to a platform: what is sent once, left alone, tried again and resumed."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from connectors.testing import MemoryPlatform, example_label
from prelabel.coco import check_panoptic, read_panoptic
from prelabel.data import Category, ImageRecord, Ontology
from prelabel.errors import ConfigError, ConnectorError, LabelError, LockedError
from prelabel.job import upload as upload_module
from prelabel.job.breaker import Breaker
from prelabel.job.download import download_labels
from prelabel.job.lock import locked
from prelabel.job.outbox import Outbox, OutboxRow
from prelabel.job.store import LabelStore
from prelabel.job.upload import preview_upload, upload_run
from prelabel.job.upload_terms import UploadOptions, UploadSummary
from prelabel.label_files import Provenance
from prelabel.ports import PushRules

OURS = Ontology((Category(1, "car", True), Category(2, "sky", False)))
THEIRS = Ontology((Category(7, "sky", False), Category(31, "car", True)))
NAMES = ("a.png", "b.png", "c/d.png", "e.png")


class Watcher:
    """An `UploadObserver` that keeps what it is told."""

    def __init__(self, on_settled: Callable[[], None] = lambda: None) -> None:
        self.states: dict[str, str] = {}
        self.told: list[str] = []
        self._on_settled = on_settled

    def remark(self, text: str) -> None:
        self.told.append(text)

    def settled(self, image_id: str, row: OutboxRow) -> None:
        self.states[image_id] = row.state
        self._on_settled()

    def waiting(self, seconds: float) -> None:
        self.told.append("waiting")

    def stopping(self) -> None:
        self.told.append("stopping")


def _add(run: Path, *names: str, fingerprint: str = "f00d") -> Path:
    store = LabelStore(run)
    for name in names:
        label = example_label(name, OURS, (3, 4))
        store.write(ImageRecord(name, ""), label, Provenance("prelabel 1", fingerprint))
    return run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return _add(tmp_path / "run", *NAMES)


@pytest.fixture
def platform() -> MemoryPlatform:
    return MemoryPlatform(THEIRS, NAMES)


def _upload(
    run: Path, platform: MemoryPlatform, watcher: Watcher | None = None, **options: object
) -> UploadSummary:
    given = UploadOptions(**({"jobs": 2} | options))  # type: ignore[arg-type]
    return upload_run(run, platform, OURS, "memory", given, watcher or Watcher())


def _counts(summary: UploadSummary) -> dict[str, int]:
    names = ("verified", "sent", "before", "human", "left")
    found = {name: getattr(summary, name) for name in names} | {"failed": len(summary.failures)}
    assert sum(found.values()) == summary.total
    return {name: count for name, count in found.items() if count}


def _rows(run: Path) -> dict[str, OutboxRow]:
    with Outbox(run / "uploads" / "outbox.db", "memory") as outbox:
        return outbox.rows()


# --- what is sent -----------------------------------------------------------------------------


def test_every_label_is_sent_and_read_back_once(run: Path, platform: MemoryPlatform) -> None:
    watcher = Watcher()
    assert _counts(_upload(run, platform, watcher)) == {"verified": 4}
    assert sorted(platform.pushes) == sorted(NAMES)
    assert watcher.states == dict.fromkeys(NAMES, "verified")
    assert _counts(_upload(run, platform)) == {"before": 4}
    assert len(platform.pushes) == 4


def test_a_label_that_changed_is_sent_again(run: Path, platform: MemoryPlatform) -> None:
    _upload(run, platform)
    _add(run, "b.png", fingerprint="beef")
    assert _counts(_upload(run, platform)) == {"verified": 1, "before": 3}
    assert platform.pushes.count("b.png") == 2


def test_a_label_that_vanished_there_is_sent_again(run: Path, platform: MemoryPlatform) -> None:
    _upload(run, platform)
    del platform.held["a.png"]
    assert _counts(_upload(run, platform)) == {"verified": 1, "before": 3}


def test_a_person_s_work_is_left_alone_unless_asked(run: Path, platform: MemoryPlatform) -> None:
    platform.label_by_hand("e.png", example_label("e.png", THEIRS, (3, 5)))
    assert preview(run, platform) == {"send": 3, "human": 1, "missing": 0}
    assert _counts(_upload(run, platform)) == {"verified": 3, "human": 1}
    assert _counts(_upload(run, platform)) == {"before": 3, "human": 1}
    assert platform.held["e.png"].status == "human"
    asked = PushRules(overwrite_human=True)
    assert preview(run, platform, rules=asked) == {"send": 4, "human": 0, "missing": 0}
    assert _counts(_upload(run, platform, rules=asked)) == {"verified": 1, "before": 3}
    assert platform.held["e.png"].status == "draft"


def preview(run: Path, platform: MemoryPlatform, **options: object) -> dict[str, int]:
    platform.check(OURS)
    return preview_upload(run, platform, UploadOptions(**options))  # type: ignore[arg-type]


def test_what_was_corrected_since_is_a_person_s(run: Path, platform: MemoryPlatform) -> None:
    _upload(run, platform)
    platform.label_by_hand("a.png", example_label("a.png", THEIRS, (3, 5)))
    assert _counts(_upload(run, platform)) == {"before": 4}
    assert platform.held["a.png"].status == "human"


def test_not_all_need_be_read_back(run: Path, platform: MemoryPlatform) -> None:
    read: list[str] = []
    platform.fail = read.append
    assert _counts(_upload(run, platform, verify="none")) == {"sent": 4}
    assert "verify" not in read
    assert _counts(_upload(run, platform, verify="all")) == {"verified": 4}
    assert len(platform.pushes) == 4


def test_an_image_that_is_not_there_is_a_failure_and_sent_once_it_is(
    run: Path, platform: MemoryPlatform
) -> None:
    _add(run, "new.png")
    assert preview(run, platform) == {"send": 4, "human": 0, "missing": 1}
    summary = _upload(run, platform)
    assert _counts(summary) == {"verified": 4, "failed": 1}
    (failure,) = summary.failures
    assert (failure.image_id, failure.stage, failure.kind) == ("new.png", "upload", "gone")
    assert _counts(_upload(run, platform)) == {"before": 4, "failed": 1}
    platform._names.add("new.png")
    assert _counts(_upload(run, platform)) == {"before": 4, "verified": 1}


def test_a_damaged_label_is_a_failure_of_its_own(run: Path, platform: MemoryPlatform) -> None:
    (json_file,) = (run / "labels").glob("a-*.json")
    json_file.write_text("{")
    (png,) = (run / "labels").glob("b-*.png")
    png.write_bytes(b"")
    summary = _upload(run, platform)
    assert _counts(summary) == {"verified": 2, "failed": 2}
    assert {failure.kind for failure in summary.failures} == {"label"}
    _add(run, "a.png", "b.png")
    assert _counts(_upload(run, platform, retry=True)) == {"verified": 2, "before": 2}


def test_two_targets_do_not_know_of_each_other(run: Path, platform: MemoryPlatform) -> None:
    _upload(run, platform)
    other, watcher = MemoryPlatform(THEIRS, NAMES), Watcher()
    found = upload_run(run, other, OURS, "memory:2", UploadOptions(), watcher)
    assert _counts(found) == {"verified": 4}


def test_the_outbox_may_lie_elsewhere(run: Path, platform: MemoryPlatform, tmp_path: Path) -> None:
    for counts in ({"verified": 4}, {"before": 4}):
        assert _counts(_upload(run, platform, state=tmp_path / "here")) == counts
    assert (tmp_path / "here" / "uploads" / "outbox.db").is_file()
    assert not (run / "uploads").exists()


def test_what_is_no_run(tmp_path: Path, platform: MemoryPlatform) -> None:
    with pytest.raises(ConfigError, match="no run folder"):
        _upload(tmp_path, platform)


def test_one_upload_at_a_time(run: Path, platform: MemoryPlatform) -> None:
    (run / "uploads").mkdir()
    with locked(run / "uploads"), pytest.raises(LockedError):
        _upload(run, platform)


# --- what goes wrong --------------------------------------------------------------------------


class Trouble:
    """Raises `error` at the n-th calls of `what`."""

    def __init__(self, what: str, error: Exception, times: set[int]) -> None:
        self.what, self.error, self.times, self.count = what, error, times, 0
        self._lock = threading.Lock()

    def __call__(self, what: str) -> None:
        if what == self.what:
            with self._lock:
                self.count += 1
                if self.count in self.times:
                    raise self.error


BUSY = ConnectorError("busy", retryable=True)


@pytest.mark.parametrize("what", ["push", "pushed", "verify"])
def test_what_may_pass_is_tried_again(run: Path, platform: MemoryPlatform, what: str) -> None:
    platform.fail = Trouble(what, BUSY, {1, 4})
    assert _counts(_upload(run, platform)) == {"verified": 4}
    assert {held.status for held in platform.held.values()} == {"draft"}


def test_a_label_that_cannot_be_sent_now_is_left_for_later(
    run: Path, platform: MemoryPlatform
) -> None:
    push, tried = platform.push, list[str]()

    def refuse_one(delivery, rules, note):  # type: ignore[no-untyped-def]
        tried.append(delivery.record.image_id)
        if delivery.record.image_id == "b.png":
            raise BUSY
        return push(delivery, rules, note)

    platform.push = refuse_one  # type: ignore[method-assign]
    assert _counts(_upload(run, platform, jobs=1)) == {"verified": 3, "left": 1}
    # The others come first.
    assert tried == ["a.png", "b.png", "c/d.png", "e.png", "b.png", "b.png"]
    assert _rows(run)["b.png"].state == "intent"
    platform.push = push  # type: ignore[method-assign]
    assert _counts(_upload(run, platform)) == {"verified": 1, "before": 3}


def test_a_platform_that_stays_down_ends_the_upload(
    run: Path, platform: MemoryPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hasty(monkeypatch)
    platform.fail = Trouble("push", BUSY, set(range(10_000)))
    watcher = Watcher()
    summary = _upload(run, platform, watcher, patience=0.1)
    assert _counts(summary) == {"left": 4}
    assert summary.stopped == "the platform failed again and again"
    assert "waiting" in watcher.told
    platform.fail = lambda what: None
    assert _counts(_upload(run, platform)) == {"verified": 4}


def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        upload_module, "Breaker", lambda limit, **more: Breaker(limit, pause=0.02, **more)
    )


def test_a_platform_that_comes_back_gets_everything(
    run: Path, platform: MemoryPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hasty(monkeypatch)
    platform.fail = Trouble("push", BUSY, set(range(1, 5)))
    watcher = Watcher()
    assert _counts(_upload(run, platform, watcher)) == {"verified": 4}
    assert "waiting" in watcher.told


def test_refused_credentials_stop_the_upload(run: Path, platform: MemoryPlatform) -> None:
    platform.fail = Trouble("push", ConnectorError("no", kind="denied"), {2})
    summary = _upload(run, platform, jobs=1)
    assert _counts(summary) == {"verified": 1, "left": 3}
    assert (summary.denied, summary.stopped) == (True, "no")


@pytest.mark.parametrize(
    ("error", "kind"),
    [(ConnectorError("no", kind="refused"), "refused"), (LabelError("size"), "label")],
)
def test_a_refused_label_does_not_stop_the_others(
    run: Path, platform: MemoryPlatform, error: Exception, kind: str
) -> None:
    platform.fail = Trouble("push", error, {1})
    summary = _upload(run, platform, jobs=1)
    assert _counts(summary) == {"verified": 3, "failed": 1}
    assert summary.failures[0].kind == kind
    assert _counts(_upload(run, platform, retry=True)) == {"verified": 1, "before": 3}


def test_what_differs_is_sent_once_more_and_then_told(run: Path, platform: MemoryPlatform) -> None:
    class Lossy(MemoryPlatform):
        def verify(self, delivery: object) -> str:
            return "3 pixels are others"

    lossy = Lossy(THEIRS, NAMES)
    summary = _upload(run, lossy)
    assert _counts(summary) == {"failed": 4}
    assert {failure.kind for failure in summary.failures} == {"differs"}
    assert len(lossy.pushes) == 8


def test_a_bug_ends_the_upload(run: Path, platform: MemoryPlatform) -> None:
    platform.fail = Trouble("push", ZeroDivisionError("bug"), {2})
    with pytest.raises(ZeroDivisionError):
        _upload(run, platform)


def test_a_signal_lets_the_labels_in_hand_finish(run: Path, platform: MemoryPlatform) -> None:
    watcher = Watcher(lambda: os.kill(os.getpid(), signal.SIGINT))
    watcher._on_settled = _once(watcher._on_settled)
    platform.fail = lambda what: time.sleep(0.15)
    summary = _upload(run, platform, watcher, jobs=1)
    assert summary.interrupted and summary.left >= 1 and summary.verified >= 1
    assert summary.stopped == "" and "stopping" in watcher.told
    platform.fail = lambda what: None
    later = _upload(run, platform)
    assert later.left == 0
    assert {row.state for row in _rows(run).values()} == {"verified"}


def _once(action: Callable[[], None]) -> Callable[[], None]:
    todo = [action]
    return lambda: todo.pop()() if todo else None


def test_what_was_noted_before_a_crash_is_used(run: Path, platform: MemoryPlatform) -> None:
    """The process dies between the note and the answer, as kill -9 would have it."""
    platform.fail = Trouble("pushed", KeyboardInterrupt(), {1})  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        _upload(run, platform, jobs=1)
    row = next(row for row in _rows(run).values() if row.noted)
    assert (row.state, row.noted) == ("intent", "memory:a.png")
    noted: list[str] = []
    push = platform.push

    def spy(delivery, rules, note):  # type: ignore[no-untyped-def]
        noted.append(delivery.noted)
        return push(delivery, rules, note)

    platform.push = spy  # type: ignore[method-assign]
    platform.fail = lambda what: None
    assert _counts(_upload(run, platform)) == {"verified": 4}
    assert sorted(noted) == ["", "", "", "memory:a.png"]


# --- while the run goes on --------------------------------------------------------------------


def test_labels_are_sent_while_they_are_made(
    tmp_path: Path, platform: MemoryPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upload_module, "_POLL_SECONDS", 0.05)
    run = _add(tmp_path / "run", "a.png")
    watcher, found = Watcher(), list[UploadSummary]()
    with locked(run):
        uploading = threading.Thread(
            target=lambda: found.append(_upload(run, platform, watcher, follow=True))
        )
        uploading.start()
        _wait_for(lambda: "a.png" in watcher.states)
        _add(run, *NAMES[1:3])
        _wait_for(lambda: len(watcher.states) == 3)
        assert uploading.is_alive()
        _add(run, NAMES[3])
    uploading.join(20)
    assert _counts(found[0]) == {"verified": 4}


def _wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not what():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)


# --- the outbox and the breaker ---------------------------------------------------------------


def test_the_outbox_keeps_what_it_is_told(tmp_path: Path) -> None:
    with Outbox(tmp_path / "x.db", "here") as outbox:
        outbox.intend({"a": "1", "bad\udcff": "2"})
        outbox.mark("a", OutboxRow("1", "failed", "n", "gone", "not there"))
    with Outbox(tmp_path / "x.db", "here") as outbox:
        assert outbox.rows() == {
            "a": OutboxRow("1", "failed", "n", "gone", "not there"),
            "bad\udcff": OutboxRow("2"),
        }
    with Outbox(tmp_path / "x.db", "there") as outbox:
        assert outbox.rows() == {}


def test_a_damaged_outbox_is_laid_aside(
    run: Path, platform: MemoryPlatform, caplog: pytest.LogCaptureFixture
) -> None:
    _upload(run, platform)
    (run / "uploads" / "outbox.db").write_bytes(b"no database" * 1000)
    assert _counts(_upload(run, platform)) == {"verified": 4}
    assert "is now outbox.damaged" in caplog.text
    assert {held.status for held in platform.held.values()} == {"draft"}


def test_a_breaker_opens_probes_and_closes() -> None:
    pauses: list[float] = []
    breaker = Breaker(2, pause=0.05, longest=0.1, patience=10, on_open=pauses.append)
    breaker.failed()
    start = time.monotonic()
    assert breaker.allow() and time.monotonic() - start < 0.05
    breaker.failed()
    assert breaker.allow()
    assert time.monotonic() - start >= 0.05
    breaker.failed()  # the probe
    assert breaker.allow()
    breaker.succeeded()
    assert pauses == [0.05, 0.1]
    breaker.failed()
    start = time.monotonic()
    assert breaker.allow() and time.monotonic() - start < 0.05


def test_a_breaker_lets_one_probe_through() -> None:
    breaker, passed = Breaker(1, pause=0.05), list[int]()
    breaker.failed()
    threads = [
        threading.Thread(target=lambda n=n: breaker.allow() and passed.append(n))  # type: ignore[misc]
        for n in range(4)
    ]
    for thread in threads:
        thread.start()
    _wait_for(lambda: bool(passed))
    time.sleep(0.1)
    assert len(passed) == 1
    breaker.succeeded()
    for thread in threads:
        thread.join(5)
    assert len(passed) == 4


def test_a_breaker_gives_up() -> None:
    breaker = Breaker(1, pause=0.05, patience=0.01)
    breaker.failed()
    assert breaker.given_up and not breaker.allow()


# --- and back ---------------------------------------------------------------------------------


def test_labels_come_back_as_coco(run: Path, platform: MemoryPlatform, tmp_path: Path) -> None:
    _upload(run, platform)
    found = download_labels(platform, ["draft"], tmp_path / "back", jobs=2)
    assert (found.labels, found.failures) == (4, [])
    path = tmp_path / "back" / "panoptic.json"
    assert list(check_panoptic(path)) == []
    file = read_panoptic(path)
    assert [image.file_name for image in file.images] == sorted(NAMES)
    expected = example_label("a.png", OURS, (3, 4)).id_map.tolist()
    for annotation in file.annotations:
        assert file.id_map(annotation).tolist() == expected
        assert [one.category_id for one in annotation.segments] == [31, 7]


def test_a_label_that_cannot_be_read_is_left_out(
    run: Path, platform: MemoryPlatform, tmp_path: Path
) -> None:
    _upload(run, platform)
    platform.fail = Trouble("pull", LabelError("no bitmap"), {2})
    found = download_labels(platform, ["draft"], tmp_path / "back", jobs=1)
    assert found.labels == 3
    assert [failure.image_id for failure in found.failures] == ["b.png"]
    with pytest.raises(ConfigError, match="no label is human"):
        download_labels(platform, ["human"], tmp_path / "none")
    platform.fail = Trouble("pull", BUSY, {1})
    with pytest.raises(ConnectorError):
        download_labels(platform, ["draft"], tmp_path / "back")
