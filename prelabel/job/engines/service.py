"""What runs where a worker is a process of its own: it is told tasks, and answers with events."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from prelabel.errors import LoadError, ModelError
from prelabel.job.protocol import Event, Task, WorkerPlan
from prelabel.job.remarks import remarks
from prelabel.job.worker import Worker

__all__ = ["HALT", "LoadFailed", "Ready", "Service", "child_main", "portable"]

HALT = "halt"
"""Told to a worker: begin nothing more."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The networks are loaded."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """They cannot be loaded."""

    error: Exception


class Service:
    """One worker that is told what to do from another thread.

    Args:
        plan: where images come from and labels go.
        emit: told each event, from any thread.
    """

    def __init__(
        self, plan: WorkerPlan, emit: Callable[[Event | Ready | LoadFailed], None]
    ) -> None:
        self._plan, self._emit = plan, emit
        self._tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._halted = threading.Event()
        self._worker: Worker | None = None

    def tell(self, message: object) -> None:
        """A task, HALT, or None: there is no more."""
        if message == HALT:
            self._halted.set()
            if self._worker is not None:
                self._worker.halt()
            self._tasks.put(None)
        else:
            assert message is None or isinstance(message, Task)
            self._tasks.put(message)

    def run(self, device: str) -> None:
        """Load, say so, and label what is told until there is no more."""
        with remarks(self._emit):
            self._work(device)

    def _work(self, device: str) -> None:
        try:
            worker = Worker(self._plan, self._plan.make_labeller(device), self._emit)
        except Exception as error:
            self._emit(LoadFailed(portable(error)))
            return
        self._worker = worker
        self._emit(Ready())
        if self._halted.is_set():
            return
        try:
            worker.run(iter(self._tasks.get, None))
        except LoadError as error:
            self._emit(LoadFailed(error))


def portable(error: Exception) -> Exception:
    """`error`, or its words where another process could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor asks for
        return ModelError(f"{type(error).__name__}: {error}")
    return error


# --- a process of this machine ------------------------------------------------------------------


def child_main(pipe: Any, plan: WorkerPlan, device: str) -> None:
    """Serve the other end of a pipe, and leave with it: no worker outlives its coordinator."""
    # A terminal's interrupt reaches the whole group; the coordinator alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # they were held while this process started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    lock = threading.Lock()

    def emit(event: Event | Ready | LoadFailed) -> None:
        try:
            with lock:
                pipe.send(event)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)

    service = Service(plan, emit)
    threading.Thread(target=_receive, args=(pipe, service), daemon=True).start()
    service.run(device)
    pipe.close()


def _receive(pipe: Any, service: Service) -> None:
    """What comes through the pipe; its end is the end of the process."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        service.tell(message)
        if message is None:
            return
