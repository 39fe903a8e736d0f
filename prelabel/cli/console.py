"""What people see: tables and bars on a terminal, plain lines elsewhere, JSON for programs.

Names come from files and are never read as markup.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.logging import RichHandler
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import (
    Progress as Bar,
)
from rich.table import Table
from rich.text import Text

from prelabel.data import Failure, ImageRecord
from prelabel.job.progress import Progress

__all__ = [
    "EventLines",
    "RunDisplay",
    "note",
    "set_up_logging",
    "show_event",
    "show_json",
    "show_line",
    "show_table",
]

_EVERY = 10
"""Off a terminal, a line is written after so many images."""


def _console(*, stderr: bool = False) -> Console:
    # Made anew, so that it writes to what sys.stdout is now.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def show_line(text: str) -> None:
    """A line on stdout."""
    _console().print(_printable(text))


def note(text: str) -> None:
    """A line on stderr: errors, and what is going on."""
    _console(stderr=True).print(_printable(text))


def show_json(document: Mapping[str, object]) -> None:
    """A document on stdout, for programs."""
    sys.stdout.write(json.dumps(document, ensure_ascii=True, allow_nan=False, indent=2) + "\n")


def show_event(name: str, document: Mapping[str, object]) -> None:
    """A line of JSON on stdout, at once, for programs that watch."""
    line = json.dumps({"event": name, **document}, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; all columns but the first are numbers."""
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if index else "left")
    for row in rows:
        table.add_row(*(Text(_printable(cell)) for cell in row))
    Console(markup=False, highlight=False, emoji=False).print(table)


def _printable(text: str) -> str:
    """`text` without what a terminal would obey or cannot encode."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text
    )


def set_up_logging() -> None:
    """Warnings of the package to stderr."""
    handler = RichHandler(
        console=_console(stderr=True), markup=False, show_path=False, show_time=False
    )
    for name in ("prelabel", "connectors"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.WARNING)


class RunDisplay:
    """An `Observer` that draws a bar on a terminal and writes lines elsewhere, on stderr."""

    def __init__(self) -> None:
        self._console = _console(stderr=True)
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._progress = Progress(0)

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
            self._bar = Bar(
                TextColumn("labelling"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]:.1f} images/s"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[failed]} failed"),
                console=self._console,
            )
            self._task = self._bar.add_task("", total=total, rate=0.0, failed=0)
            self._bar.start()

    def done(self, record: ImageRecord, segments: int) -> None:
        self._progress.done += 1
        self._step()

    def failed(self, failure: Failure) -> None:
        self._progress.failed += 1
        self._print(f"failed ({failure.stage}, {failure.kind}): {failure.message}")
        self._step()

    def quarantined(self, failure: Failure) -> None:
        self._progress.failed += 1
        self._print(f"quarantined ({failure.kind}): {failure.message}")
        self._step()

    def skipped(self, record: ImageRecord) -> None:
        self._progress.skipped += 1
        self._step()

    def failed_before(self, failure: Failure) -> None:
        self._progress.skipped += 1
        self._step()

    def stopping(self) -> None:
        self._print("interrupted: finishing the images in hand; once more stops at once")

    def _step(self) -> None:
        progress = self._progress
        if not progress.rate() and progress.seen < progress.total:
            return  # what was done before needs no bar
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=progress.seen,
                rate=progress.rate(),
                failed=progress.failed,
            )
        elif progress.seen % _EVERY == 0 or progress.seen == progress.total:
            left = progress.seconds_left()
            ends = "" if left is None else f", {left:.0f} s left"
            self._print(
                f"{progress.seen} of {progress.total} images, {progress.rate():.1f} images/s{ends}"
                f", {progress.failed} failed"
            )

    def _print(self, text: str) -> None:
        self._console.print(_printable(text))


class EventLines:
    """An `Observer` that writes one JSON object per line on stdout."""

    def started(self, total: int) -> None:
        show_event("started", {"total": total})

    def done(self, record: ImageRecord, segments: int) -> None:
        show_event("done", {"image_id": record.image_id, "segments": segments})

    def failed(self, failure: Failure) -> None:
        show_event("failed", dataclasses.asdict(failure))

    def quarantined(self, failure: Failure) -> None:
        show_event("quarantined", dataclasses.asdict(failure))

    def skipped(self, record: ImageRecord) -> None:
        """Not told one by one: a resumed run has thousands; the summary counts them."""

    def failed_before(self, failure: Failure) -> None:
        """As `skipped`."""

    def stopping(self) -> None:
        show_event("stopping", {})
