"""The engine of one machine: supervised worker processes, one per device.

A worker that dies or hangs is replaced. The images it had in hand are each tried once more, alone;
whichever takes its worker down again is quarantined, and the others go on.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, get_context, resource_tracker
from typing import Any

from prelabel.data import Failure
from prelabel.errors import ModelError
from prelabel.job.engines.child import HALT, LoadFailed, Ready, child_main
from prelabel.job.protocol import Done, Event, Failed, Quarantined, Started, Task, WorkerPlan

__all__ = ["LocalEngine"]

_TICK = 0.5
"""Seconds between looks at clocks and signals."""
_LEAVING = 5.0
"""Seconds that a worker without work may take to end."""
_DEATHS_WHILE_LOADING = 3


@dataclass(eq=False)
class _Child:
    """A worker process and what it was given.

    Attributes:
        given: tasks without an answer, by image_id, in the order they were sent.
        started: those of them that it has in hand.
        heard: when it last said something, or was given something while it had nothing.
    """

    device: str
    process: Any
    pipe: Any
    ready: bool = False
    alone: bool = False
    given: dict[str, Task] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    heard: float = field(default_factory=time.monotonic)
    hung: bool = False


class LocalEngine:
    """An `Engine` of child processes.

    Args:
        devices: one worker each, such as ("cuda:0", "cuda:1") or ("cpu",).
        image_timeout: seconds without a word from a busy worker, after which it counts as hung.
        ahead: tasks that a worker is given beyond one batch.
    """

    def __init__(
        self, devices: Sequence[str] = ("auto",), image_timeout: float = 600.0, ahead: int = 4
    ) -> None:
        self._devices, self._timeout, self._ahead = tuple(devices), image_timeout, ahead
        self._context = get_context("spawn")

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        """Label all tasks; the order is that of the tasks but for what runs side by side."""
        if not tasks:
            return
        _Supervision(self, plan, tasks, handle, stopping).run()

    def start(self, plan: WorkerPlan, device: str) -> _Child:
        """A new worker process for `device`."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=child_main, args=(theirs, plan, device), name=f"prelabel {device}", daemon=True
        )
        with _signals_held():
            process.start()
        theirs.close()
        return _Child(device, process, ours)

    @property
    def devices(self) -> tuple[str, ...]:
        """One worker each."""
        return self._devices

    @property
    def image_timeout(self) -> float:
        """Seconds."""
        return self._timeout

    @property
    def ahead(self) -> int:
        """Tasks beyond one batch."""
        return self._ahead


class _Supervision:
    """One run of the engine."""

    def __init__(
        self,
        engine: LocalEngine,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        self._engine, self._plan = engine, plan
        self._handle, self._stopping = handle, stopping
        self._waiting = deque(tasks)
        self._suspects: deque[Task] = deque()
        self._children: list[_Child] = []
        self._deaths_while_loading = 0
        self._halted = False

    def run(self) -> None:
        count = min(len(self._engine.devices), len(self._waiting))
        try:
            for device in self._engine.devices[:count]:
                self._children.append(self._engine.start(self._plan, device))
            while self._goes_on():
                self._feed()
                self._listen()
                self._watch()
        finally:
            self._end()

    def _goes_on(self) -> bool:
        busy = any(child.given for child in self._children)
        if self._stopping.is_set():
            self._halt()
            return busy
        return busy or bool(self._waiting) or bool(self._suspects)

    def _halt(self) -> None:
        if not self._halted:
            self._halted = True
            for child in self._children:
                _send(child, HALT)
                # What it has not begun it will not answer.
                for image_id in child.given.keys() - child.started:
                    del child.given[image_id]

    # --- work out -------------------------------------------------------------------------------

    def _feed(self) -> None:
        if self._stopping.is_set():
            return
        for child in self._children:
            if not child.ready or child.alone:
                continue
            if self._suspects and not child.given:
                child.alone = True
                self._give(child, self._suspects.popleft())
            # Suspects come first, so nothing more is given to a worker that will take one.
            elif not self._suspects or len(self._children) > 1:
                window = self._plan.options.batch_size + self._engine.ahead
                while self._waiting and len(child.given) < window:
                    self._give(child, self._waiting.popleft())

    def _give(self, child: _Child, task: Task) -> None:
        if not child.given:
            child.heard = time.monotonic()
        child.given[task.record.image_id] = task
        _send(child, task)

    # --- answers in -----------------------------------------------------------------------------

    def _listen(self) -> None:
        pipes = {child.pipe: child for child in self._children}
        for pipe in connection.wait(list(pipes), timeout=_TICK):
            child = pipes[pipe]
            try:
                message = child.pipe.recv()
            except (EOFError, OSError):
                self._bury(child)
                continue
            child.heard = time.monotonic()
            self._take(child, message)

    def _take(self, child: _Child, message: object) -> None:
        if isinstance(message, Ready):
            child.ready, self._deaths_while_loading = True, 0
            return
        if isinstance(message, LoadFailed):
            raise message.error
        if isinstance(message, Started):
            if message.image_id in child.given:
                child.started.add(message.image_id)
        elif isinstance(message, (Done, Failed)):
            image_id = message.image_id if isinstance(message, Done) else message.failure.image_id
            child.given.pop(image_id, None)
            child.started.discard(image_id)
            child.alone = False
        self._handle(message)  # type: ignore[arg-type]

    # --- deaths ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Kill what has been silent too long over an image; its pipe then closes."""
        for child in self._children:
            silent = time.monotonic() - child.heard
            if child.ready and child.given and silent > self._engine.image_timeout:
                child.hung = True
                child.process.kill()

    def _bury(self, child: _Child) -> None:
        child.process.join(_LEAVING)
        if child.process.is_alive():  # it has closed its pipe, and does not end
            child.process.kill()
            child.process.join()
        child.pipe.close()
        self._children.remove(child)
        if self._halted:
            # Asked to begin nothing more, it has left; what it had read ahead stays to do.
            return
        if not child.ready:
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= _DEATHS_WHILE_LOADING:
                raise ModelError(
                    f"the worker on {child.device} {_cause(child)} while it loaded the networks, "
                    f"{_DEATHS_WHILE_LOADING} times; is there enough memory?"
                )
        for image_id, task in reversed(child.given.items()):
            if image_id not in child.started:
                self._waiting.appendleft(task)
            elif child.alone:
                self._quarantine(child, task)
            else:
                self._suspects.appendleft(task)
        if self._waiting or self._suspects:
            self._children.append(self._engine.start(self._plan, child.device))

    def _quarantine(self, child: _Child, task: Task) -> None:
        image_id, kind = task.record.image_id, "hung" if child.hung else "killed"
        message = f"{image_id}: the worker {_cause(child)} over it, by itself too"
        self._handle(Quarantined(Failure(image_id, "label", kind, message), task.stamp))

    def _end(self) -> None:
        """All answers are in, or something was raised: no worker outlives the run."""
        for child in self._children:
            _send(child, None)
        for child in self._children:
            child.process.join(_LEAVING if not child.given else 0.0)
            if child.process.is_alive():
                child.process.kill()
                child.process.join()
            child.pipe.close()


@contextmanager
def _signals_held() -> Iterator[None]:
    """A process that is started in this block gets no interrupt before it wants to.

    A terminal sends it to the workers as well, also to one that is still importing.
    """
    if os.name == "nt":
        yield
        return
    # This helper process of Python's lets the signals through again while it starts.
    resource_tracker.ensure_running()
    held = {signal.SIGINT, signal.SIGTERM}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _send(child: _Child, message: object) -> None:
    # Where it has died, `_listen` will hear of it.
    with suppress(OSError):
        child.pipe.send(message)


def _cause(child: _Child) -> str:
    code = child.process.exitcode
    if child.hung:
        return "said nothing for too long"
    if code is not None and code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with code {code}" if code else f"ended (process {os.getpid()})"
