"""How far a run is: what watches it, and the arithmetic of rates."""

from __future__ import annotations

import time
from typing import Protocol

from prelabel.data import Failure, ImageRecord

__all__ = ["Observer", "Progress", "Silence"]


class Observer(Protocol):
    """Told what happens in a run, in order; it must not raise and cannot change the run."""

    def started(self, total: int) -> None: ...

    def done(self, record: ImageRecord, segments: int) -> None: ...

    def failed(self, failure: Failure) -> None: ...

    def quarantined(self, failure: Failure) -> None:
        """An image took its worker down, the last time all by itself."""

    def skipped(self, record: ImageRecord) -> None:
        """An image was labelled before, in the same way."""

    def failed_before(self, failure: Failure) -> None:
        """An image failed or was quarantined in an earlier run, and is not tried again."""

    def stopping(self) -> None:
        """A first interrupt came: the image in hand will be the last."""


class Silence:
    """An observer that does nothing."""

    def started(self, total: int) -> None: ...

    def done(self, record: ImageRecord, segments: int) -> None: ...

    def failed(self, failure: Failure) -> None: ...

    def quarantined(self, failure: Failure) -> None: ...

    def skipped(self, record: ImageRecord) -> None: ...

    def failed_before(self, failure: Failure) -> None: ...

    def stopping(self) -> None: ...


class Progress:
    """Counts of a run and what follows from them. Skipped images cost no time, so they do not
    count for the rate.
    """

    def __init__(self, total: int, start: float | None = None) -> None:
        self.total, self.done, self.failed, self.skipped = total, 0, 0, 0
        self._start = time.monotonic() if start is None else start

    @property
    def seen(self) -> int:
        """Images that are behind us."""
        return self.done + self.failed + self.skipped

    def rate(self, now: float | None = None) -> float:
        """Images per second so far, 0.0 before the first."""
        elapsed = (time.monotonic() if now is None else now) - self._start
        return (self.done + self.failed) / elapsed if elapsed > 0 else 0.0

    def seconds_left(self, now: float | None = None) -> float | None:
        """Seconds to the end at this rate, None before the first image."""
        rate = self.rate(now)
        return (self.total - self.seen) / rate if rate > 0 else None
