"""One suite for every engine: each image once, faults stay with their image, nothing is lost."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from prelabel.errors import LoadError, ModelError
from prelabel.job.engines.inline import InlineEngine
from prelabel.job.engines.local import LocalEngine
from prelabel.job.engines.ray import RayEngine, RayOptions
from prelabel.job.engines.service import portable
from prelabel.job.protocol import (
    Broken,
    Done,
    Engine,
    Event,
    Failed,
    Quarantined,
    Started,
    Task,
    WorkerOptions,
    WorkerPlan,
)
from prelabel.job.rehearsal import Rehearsal, RehearsalSource
from prelabel.label_files import list_labels

RAY = os.environ.get("PRELABEL_TEST_RAY", "")
"""The address of a cluster, in scripts/test-ray."""
PROCESSES: dict[str, Callable[[float], Engine]] = {
    "local": lambda timeout: LocalEngine(("cpu",), timeout),
}
"""Engines whose workers may die and hang; made with the seconds that an image may take."""
if RAY:
    PROCESSES["ray"] = lambda timeout: RayEngine(RayOptions(RAY, image_timeout=timeout))
ENGINES = {"inline": lambda timeout: InlineEngine(), **PROCESSES}


@pytest.fixture(params=list(ENGINES))
def engine(request: pytest.FixtureRequest) -> Engine:
    return ENGINES[request.param](600.0)


@pytest.fixture(params=list(PROCESSES))
def make_engine(request: pytest.FixtureRequest) -> Callable[[float], Engine]:
    return PROCESSES[request.param]


def _plan(
    root: Path, labeller: Rehearsal, source: RehearsalSource, batch_size: int = 1
) -> WorkerPlan:
    options = WorkerOptions("prelabel 0", "f00d", batch_size=batch_size)
    return WorkerPlan(labeller, source, root, options)


def _run(
    engine: Engine,
    plan: WorkerPlan,
    stopping: threading.Event | None = None,
    on: Callable[[Event], None] = lambda event: None,
) -> list[Event]:
    events: list[Event] = []

    def handle(event: Event) -> None:
        assert threading.current_thread() is threading.main_thread()
        events.append(event)
        on(event)

    tasks = [Task(record, "v1") for record in plan.source.records()]
    engine.run(plan, tasks, handle, stopping or threading.Event())
    return events


def _names(events: list[Event], kind: type) -> list[str]:
    found = []
    for event in events:
        if isinstance(event, kind):
            failed = isinstance(event, (Failed, Quarantined))
            found.append(event.failure.image_id if failed else event.image_id)
    return found


def _stored(root: Path) -> list[str]:
    return [meta.record.image_id for meta in list_labels(root)]


@pytest.mark.parametrize("batch_size", [1, 3])
def test_every_image_gets_one_answer(engine: Engine, tmp_path: Path, batch_size: int) -> None:
    ids = tuple(f"{index:02}" for index in range(11))
    source = RehearsalSource(ids, bad=("04",))
    labeller = Rehearsal(faults={"07": "raise", "09": "memory"})
    events = _run(engine, _plan(tmp_path, labeller, source, batch_size))
    assert sorted(_names(events, Started)) == list(ids)
    assert sorted(_names(events, Failed)) == ["04", "07", "09"]
    done = [event for event in events if isinstance(event, Done)]
    assert sorted(event.image_id for event in done) == sorted(set(ids) - {"04", "07", "09"})
    assert {event.stamp for event in done} == {"v1"}
    assert set(done[0].seconds) == {"read", "detect", "write"}
    kinds = {e.failure.image_id: e.failure.kind for e in events if isinstance(e, Failed)}
    assert kinds == {"04": "truncated", "07": "ValueError", "09": "memory"}
    assert _stored(tmp_path) == sorted(set(ids) - {"04", "07", "09"})


def test_an_answer_comes_after_its_start(engine: Engine, tmp_path: Path) -> None:
    ids = tuple(f"{index:02}" for index in range(6))
    events = _run(engine, _plan(tmp_path, Rehearsal(), RehearsalSource(ids)))
    for image_id in ids:
        begun = next(i for i, e in enumerate(events) if e == Started(image_id))
        ended = next(
            i for i, e in enumerate(events) if isinstance(e, Done) and e.image_id == image_id
        )
        assert begun < ended


@pytest.mark.parametrize("name", list(PROCESSES))
def test_two_workers_share_the_work(tmp_path: Path, name: str) -> None:
    ids = tuple(f"{index:02}" for index in range(40))
    log = tmp_path / "log"
    plan = _plan(tmp_path / "run", Rehearsal(seconds=0.1, log=log), RehearsalSource(ids))
    two = {"local": LocalEngine(("cpu", "cpu")), "ray": RayEngine(RayOptions(RAY, workers=2))}
    events = _run(two[name], plan)
    assert sorted(_names(events, Done)) == list(ids)
    assert len({line.split()[1] for line in log.read_text().splitlines()}) == 2


def test_no_task_is_no_work(engine: Engine, tmp_path: Path) -> None:
    events: list[Event] = []
    plan = _plan(tmp_path, Rehearsal(), RehearsalSource())
    engine.run(plan, [], events.append, threading.Event())
    assert events == []


def test_networks_that_do_not_load_are_an_error(engine: Engine, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing can be loaded"):
        _run(engine, _plan(tmp_path, Rehearsal(loading="raise"), RehearsalSource()))


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_network_that_does_not_load_on_the_way_ends_it(
    engine: Engine, tmp_path: Path, batch_size: int
) -> None:
    """No image is to blame for it, and none fails."""
    ids = tuple(f"{index:02}" for index in range(20))
    labeller = Rehearsal(faults={"10": "load"})
    seen: list[Event] = []
    with pytest.raises(LoadError, match="nothing loads for 10"):
        _run(engine, _plan(tmp_path, labeller, RehearsalSource(ids), batch_size), on=seen.append)
    assert not _names(seen, Failed) and not _names(seen, Quarantined)
    assert sorted(_names(seen, Done)) == _stored(tmp_path)


def test_an_error_that_does_not_travel_is_told_in_words() -> None:
    class OddError(Exception):
        pass

    assert isinstance(portable(LoadError("as it is")), LoadError)
    told = portable(OddError("of a class that no other process knows"))
    assert type(told) is ModelError
    assert str(told) == "OddError: of a class that no other process knows"


def test_an_output_that_breaks_is_told_once_and_ends_it(engine: Engine, tmp_path: Path) -> None:
    ids = tuple(f"{index:02}" for index in range(30))
    plan = _plan(tmp_path, Rehearsal(seconds=0.02), RehearsalSource(ids))

    def on(event: Event) -> None:
        if isinstance(event, Done) and event.image_id == "03":
            # A file where the traces' folder was: the next trace cannot be written.
            (tmp_path / "traces").rename(tmp_path / "moved")
            (tmp_path / "traces").write_text("")
        if isinstance(event, Broken):
            raise OSError(event.number, event.reason, event.filename)

    with pytest.raises(OSError, match="traces") as caught:
        _run(engine, plan, on=on)
    assert caught.value.errno in (errno.ENOTDIR, errno.ENOENT)
    assert len(_stored(tmp_path)) < 30


def test_a_stop_finishes_what_is_in_hand_and_no_more(engine: Engine, tmp_path: Path) -> None:
    ids = tuple(f"{index:02}" for index in range(200))
    stopping = threading.Event()

    def on(event: Event) -> None:
        if isinstance(event, Done):
            stopping.set()

    start = time.monotonic()
    events = _run(
        engine, _plan(tmp_path, Rehearsal(seconds=0.05), RehearsalSource(ids)), stopping, on
    )
    assert time.monotonic() - start < 30
    done = _names(events, Done)
    assert 1 <= len(done) < 20
    assert _stored(tmp_path) == sorted(done)


# --- workers that die -------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["exit", "kill"])
def test_an_image_that_kills_its_worker_is_quarantined(
    make_engine: Callable[[float], Engine],
    tmp_path: Path,
    fault: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ids = tuple(f"{index:02}" for index in range(8))
    log = tmp_path / "log"
    labeller = Rehearsal(faults={"03": fault}, log=log)
    root = tmp_path / "run"
    engine = make_engine(600.0)
    events = _run(engine, _plan(root, labeller, RehearsalSource(ids)))
    (quarantined,) = [event for event in events if isinstance(event, Quarantined)]
    assert quarantined.failure.image_id == "03"
    assert quarantined.failure.kind == "killed"
    expected = "code 9" if fault == "exit" else "SIGKILL"
    local = isinstance(engine, LocalEngine)
    assert (expected if local else "died") in quarantined.failure.message
    deaths = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(deaths) >= 2 and all("03" in death and "is replaced" in death for death in deaths)
    assert sorted(_names(events, Done)) == [name for name in ids if name != "03"]
    begun = [line.split()[0] for line in log.read_text().splitlines()]
    assert begun.count("03") == 2


def test_an_image_that_kills_once_is_labelled(
    make_engine: Callable[[float], Engine], tmp_path: Path
) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    labeller = Rehearsal(faults={"b": "kill"}, once=marks)
    root = tmp_path / "run"
    events = _run(make_engine(600.0), _plan(root, labeller, RehearsalSource()))
    assert sorted(_names(events, Done)) == ["a", "b", "c"]
    assert not _names(events, Quarantined)


def test_a_worker_that_hangs_is_ended(
    make_engine: Callable[[float], Engine], tmp_path: Path
) -> None:
    labeller = Rehearsal(faults={"b": "hang"})
    events = _run(
        make_engine(1.0),
        _plan(tmp_path, labeller, RehearsalSource(("a", "b", "c", "d"))),
    )
    (quarantined,) = [event for event in events if isinstance(event, Quarantined)]
    assert (quarantined.failure.image_id, quarantined.failure.kind) == ("b", "hung")
    assert sorted(_names(events, Done)) == ["a", "c", "d"]


def test_a_worker_that_dies_while_loading_is_given_up(
    make_engine: Callable[[float], Engine], tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="while it loaded the networks, 3 times"):
        _run(make_engine(600.0), _plan(tmp_path, Rehearsal(loading="kill"), RehearsalSource()))


def test_no_worker_outlives_its_coordinator(tmp_path: Path) -> None:
    """A coordinator that is killed closes the pipe, and its workers leave."""
    log = tmp_path / "log"
    pid = os.fork()
    if pid == 0:  # pragma: no cover – the coordinator, killed below
        os.setpgid(0, 0)
        labeller = Rehearsal(seconds=0.2, log=log)
        ids = tuple(f"{index:03}" for index in range(500))
        plan = _plan(tmp_path / "run", labeller, RehearsalSource(ids))
        LocalEngine(("cpu",)).run(
            plan,
            [Task(record) for record in plan.source.records()],
            lambda event: None,
            threading.Event(),
        )
        os._exit(0)
    deadline = time.monotonic() + 60
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    worker = int(log.read_text().split()[1])
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    while _alive(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(worker)


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
