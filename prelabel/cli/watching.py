"""What people and programs see of a run while it goes on."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Self

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.text import Text

from prelabel.cli.console import make_console, printable, show_event
from prelabel.data import Failure, ImageRecord
from prelabel.job.progress import Progress
from prelabel.job.protocol import Remark

__all__ = ["EventLines", "RunDisplay", "duration"]

_EVERY = 10.0
"""Seconds between lines, off a terminal."""


class _TwoLines(Bar):
    """A bar, and a line below it."""

    below = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar and the line."""
        yield from super().get_renderables()
        if self.below:
            yield Text(self.below, style="dim", no_wrap=True, overflow="ellipsis")


class RunDisplay:
    """An `Observer` that draws a bar on a terminal and writes lines elsewhere, on stderr."""

    def __init__(self) -> None:
        self._console = make_console(stderr=True)
        self._bar: _TwoLines | None = None
        self._task = TaskID(0)
        self._progress = Progress(0)
        self._written: float | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def started(self, total: int) -> None:
        self._progress = Progress(total)
        if self._console.is_terminal:
            self._bar = _TwoLines(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[told]}"),
                console=self._console,
                expand=True,
            )
            self._task = self._bar.add_task("loading", total=total, told="")
            self._bar.start()

    def begun(self, seconds: float) -> None:
        del seconds
        self._progress.begin()
        if self._bar is not None:
            self._bar.update(self._task, description="labelling", completed=self._progress.seen)

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        self._progress.count(seconds)
        self._step()

    def failed(self, failure: Failure) -> None:
        self._progress.count(None)
        self._print(f"failed ({failure.stage}, {failure.kind}): {failure.message}")
        self._step()

    def quarantined(self, failure: Failure) -> None:
        self._progress.count(None)
        self._print(f"quarantined ({failure.kind}): {failure.message}")
        self._step()

    def skipped(self, record: ImageRecord) -> None:
        self._progress.skipped += 1

    def failed_before(self, failure: Failure) -> None:
        self._progress.skipped += 1

    def remarked(self, remark: Remark) -> None:
        self._print(f"{remark.level}: {remark}")

    def stopping(self) -> None:
        self._print("interrupted: finishing the images in hand; once more stops at once")

    def _step(self) -> None:
        progress, left = self._progress, self._progress.seconds_left()
        told = f"{progress.rate():.2f} images/s"
        if left is not None and progress.seen < progress.total:
            told += f", {duration(left)} left"
        told += f", {progress.failed} failed"
        stages = ", ".join(f"{name} {each:.2f}" for name, each in progress.seconds_each().items())
        below = f"seconds per image: {stages}" if stages else ""
        if self._bar is not None:
            self._bar.below = below
            self._bar.update(self._task, completed=progress.seen, told=told)
        elif self._is_due():
            self._print(f"{progress.seen} of {progress.total} images, {told}; {below}".rstrip("; "))

    def _is_due(self) -> bool:
        now, last = time.monotonic(), self._progress.seen == self._progress.total
        if last or self._written is None or now - self._written >= _EVERY:
            self._written = now
            return True
        return False

    def _print(self, text: str) -> None:
        self._console.print(printable(text))


def duration(seconds: float) -> str:
    """For people: "42 s", "12 min", "3 h 20 min", "2 d 4 h"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours = minutes // 60
    return f"{hours} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class EventLines:
    """An `Observer` that writes one JSON object per line on stdout."""

    def started(self, total: int) -> None:
        show_event("started", {"total": total})

    def begun(self, seconds: float) -> None:
        show_event("begun", {"loading_seconds": round(seconds, 3)})

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        stages = {stage: round(value, 4) for stage, value in seconds.items()}
        event = {"image_id": record.image_id, "segments": segments, "seconds": stages}
        show_event("done", event)

    def failed(self, failure: Failure) -> None:
        show_event("failed", dataclasses.asdict(failure))

    def quarantined(self, failure: Failure) -> None:
        show_event("quarantined", dataclasses.asdict(failure))

    def skipped(self, record: ImageRecord) -> None:
        """Not told one by one: a resumed run has thousands; the summary counts them."""

    def failed_before(self, failure: Failure) -> None:
        """As `skipped`."""

    def remarked(self, remark: Remark) -> None:
        show_event("remark", dataclasses.asdict(remark))

    def stopping(self) -> None:
        show_event("stopping", {})
