"""The engine without processes: the worker runs in the caller's thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from prelabel.job.protocol import Event, Task, WorkerPlan
from prelabel.job.remarks import remarks
from prelabel.job.worker import Worker

__all__ = ["InlineEngine"]


class InlineEngine:
    """An `Engine` in this process. What kills the process ends the run; it can be resumed."""

    def __init__(self, device: str = "auto") -> None:
        self._device = device

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        """Label all tasks, in order."""
        events: queue.SimpleQueue[Event] = queue.SimpleQueue()

        def drain() -> None:
            while not events.empty():
                handle(events.get())

        try:
            with remarks(events.put):
                worker = Worker(plan, plan.make_labeller(self._device), events.put)

                def between() -> None:
                    if stopping.is_set():
                        worker.halt()
                    drain()

                worker.run(_until(stopping, tasks), between)
        finally:
            # After an interrupt too: what is on disk belongs into the ledger.
            drain()


def _until(stopping: threading.Event, tasks: Sequence[Task]) -> Iterator[Task]:
    for task in tasks:
        if stopping.is_set():
            return
        yield task
