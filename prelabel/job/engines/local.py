"""The engine of one machine: supervised worker processes, one per device."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import connection, get_context, resource_tracker
from typing import Any, cast

from prelabel.job.engines.service import child_main
from prelabel.job.engines.supervision import Line, supervise
from prelabel.job.protocol import Event, Task, WorkerPlan

__all__ = ["LocalEngine"]

_LEAVING = 5.0
"""Seconds that a worker without work may take to end."""


class LocalEngine:
    """An `Engine` of child processes, and their `Crew`.

    Args:
        devices: one worker each, such as ("cuda:0", "cuda:1") or ("cpu",).
        image_timeout: seconds without a word from a busy worker, after which it counts as hung.
        ahead: tasks that a worker is given beyond one batch.
    """

    hears_all = True
    """A pipe holds what was said until it is read."""

    def __init__(
        self, devices: Sequence[str] = ("auto",), image_timeout: float = 600.0, ahead: int = 4
    ) -> None:
        self.places = tuple(devices)
        self.image_timeout, self.ahead = image_timeout, ahead
        self._context = get_context("spawn")

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        """Label all tasks; the order is that of the tasks but for what runs side by side."""
        supervise(self, plan, tasks, handle, stopping)

    def start(self, plan: WorkerPlan, place: str) -> Line:
        """A new worker process for the device `place`."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(
            target=child_main, args=(theirs, plan, place), name=f"prelabel {place}", daemon=True
        )
        with _signals_held():
            process.start()
        theirs.close()
        return _Process(process, ours)

    def wait(self, lines: Sequence[Line], seconds: float) -> Sequence[Line]:
        """Those whose pipe holds something, or is closed."""
        pipes = {line.pipe: line for line in cast("Sequence[_Process]", lines)}
        return [pipes[cast("Any", pipe)] for pipe in connection.wait(list(pipes), timeout=seconds)]


class _Process:
    """A `Line` to a process."""

    def __init__(self, process: Any, pipe: Any) -> None:
        self._process, self.pipe = process, pipe

    def send(self, message: object) -> None:
        with suppress(OSError):
            self.pipe.send(message)

    def receive(self) -> Sequence[object]:
        try:
            return [self.pipe.recv()]
        except OSError as error:
            raise EOFError from error

    def kill(self) -> None:
        self._process.kill()

    def bury(self) -> str:
        self._process.join(_LEAVING)
        if self._process.is_alive():  # it has closed its pipe, and does not end
            self._process.kill()
            self._process.join()
        self.pipe.close()
        code = self._process.exitcode
        if code is not None and code < 0:
            return f"was ended by {signal.Signals(-code).name}"
        return f"ended with code {code}" if code else "ended"

    def leave(self, *, busy: bool) -> None:
        self._process.join(0.0 if busy else _LEAVING)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self.pipe.close()


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
