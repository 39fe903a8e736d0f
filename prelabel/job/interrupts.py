"""Signals that end a run between two images instead of in the middle of one."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from prelabel.job.progress import Observer

__all__ = ["interrupts"]


@contextmanager
def interrupts(observer: Observer) -> Iterator[threading.Event]:
    """An event that the first SIGINT or SIGTERM sets; the second raises KeyboardInterrupt."""
    event = threading.Event()

    def on_signal(number: int, _frame: FrameType | None) -> None:
        if event.is_set():
            raise KeyboardInterrupt
        event.set()
        observer.stopping()

    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    watched = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, on_signal) for number in watched]
    try:
        yield event
    finally:
        for number, handler in zip(watched, before, strict=True):
            signal.signal(number, handler)
