"""What runs in a worker process: a `Worker`, its tasks and events on a pipe."""

from __future__ import annotations

import os
import pickle
import queue
import signal
import threading
from dataclasses import dataclass
from typing import Any

from prelabel.errors import LoadError, ModelError
from prelabel.job.protocol import Event, Task, WorkerPlan
from prelabel.job.worker import Worker

__all__ = ["HALT", "LoadFailed", "Ready", "child_main", "portable"]

HALT = "halt"
"""Sent to a worker: begin nothing more."""


@dataclass(frozen=True, slots=True)
class Ready:
    """The networks are loaded."""


@dataclass(frozen=True, slots=True)
class LoadFailed:
    """They cannot be loaded."""

    error: Exception


def child_main(pipe: Any, plan: WorkerPlan, device: str) -> None:
    """Load, label what the pipe says, and leave with it: no worker outlives its coordinator."""
    # A terminal's interrupt reaches the whole group; the coordinator alone decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):  # they were held while this process started
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    lock = threading.Lock()

    def emit(event: Event | Ready | LoadFailed) -> None:
        try:
            with lock:
                pipe.send(event)
        except (BrokenPipeError, ConnectionResetError):
            os._exit(1)

    halted = threading.Event()
    workers: list[Worker] = []
    threading.Thread(target=_receive, args=(pipe, tasks, halted, workers), daemon=True).start()
    try:
        labeller = plan.make_labeller(device)
        workers.append(Worker(plan, labeller, emit))
    except Exception as error:
        emit(LoadFailed(portable(error)))
        return
    emit(Ready())
    if halted.is_set():
        return
    try:
        workers[0].run(iter(tasks.get, None))
    except LoadError as error:
        emit(LoadFailed(error))
    pipe.close()


def portable(error: Exception) -> Exception:
    """`error`, or its words where another process could not read it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # whatever its constructor asks for
        return ModelError(f"{type(error).__name__}: {error}")
    return error


def _receive(
    pipe: Any,
    tasks: queue.SimpleQueue[Task | None],
    halted: threading.Event,
    workers: list[Worker],
) -> None:
    """Tasks into the queue; the end of the pipe is the end of the process."""
    while True:
        try:
            message = pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        if message == HALT:
            halted.set()
            for worker in workers:
                worker.halt()
            tasks.put(None)
        else:
            tasks.put(message)
            if message is None:
                return
