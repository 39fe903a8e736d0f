"""How far a run is: what watches it, and the arithmetic of rates."""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from typing import Protocol

from prelabel.data import Failure, ImageRecord
from prelabel.job.protocol import Remark

__all__ = ["Observer", "Progress", "Silence"]


class Observer(Protocol):
    """Told what happens in a run, in order; it must not raise and cannot change the run."""

    def started(self, total: int) -> None: ...

    def begun(self, seconds: float) -> None:
        """The first image is in hand; `seconds` went into loading."""

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        """A label is on disk; `seconds` are those of each stage."""

    def failed(self, failure: Failure) -> None: ...

    def quarantined(self, failure: Failure) -> None:
        """An image took its worker down, the last time all by itself."""

    def skipped(self, record: ImageRecord) -> None:
        """An image was labelled before, in the same way."""

    def failed_before(self, failure: Failure) -> None:
        """An image failed or was quarantined in an earlier run, and is not tried again."""

    def remarked(self, remark: Remark) -> None:
        """A worker has something to say about what it does."""

    def stopping(self) -> None:
        """A first interrupt came: the image in hand will be the last."""


class Silence:
    """An observer that does nothing."""

    def started(self, total: int) -> None: ...

    def begun(self, seconds: float) -> None: ...

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None: ...

    def failed(self, failure: Failure) -> None: ...

    def quarantined(self, failure: Failure) -> None: ...

    def skipped(self, record: ImageRecord) -> None: ...

    def failed_before(self, failure: Failure) -> None: ...

    def remarked(self, remark: Remark) -> None: ...

    def stopping(self) -> None: ...


_WINDOW = 60.0
"""Seconds over which the rate is taken, or the last few images where they took longer."""
_FEW = 10
_MOST = 1000


class Progress:
    """Counts of a run and what follows from them.

    The rate is that of late, so that it follows a run whose images grow. Skipped images cost no
    time, and do not count for it; neither does loading, which ends with `begin`.
    """

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.total, self.done, self.failed, self.skipped = total, 0, 0, 0
        self._clock = clock
        # When it began, and when each of the last images had its answer.
        self._marks: deque[float] = deque([clock()], maxlen=_MOST)
        self._seconds: defaultdict[str, float] = defaultdict(float)

    @property
    def seen(self) -> int:
        """Images that are behind us."""
        return self.done + self.failed + self.skipped

    def begin(self) -> None:
        """The first image is in hand."""
        self._marks = deque([self._clock()], maxlen=_MOST)

    def count(self, seconds: Mapping[str, float] | None) -> None:
        """An image is labelled, with the seconds of its stages; or, with None, it failed."""
        self._marks.append(self._clock())
        if seconds is None:
            self.failed += 1
            return
        self.done += 1
        for stage, value in seconds.items():
            self._seconds[stage] += value

    def rate(self) -> float:
        """Images per second of late, 0.0 before the first."""
        now, marks = self._clock(), self._marks
        late = sum(at >= now - _WINDOW for at in marks)
        count = min(max(late, _FEW), len(marks) - 1)
        elapsed = now - marks[-count - 1]
        return count / elapsed if count and elapsed > 0 else 0.0

    def seconds_left(self) -> float | None:
        """Seconds to the end at this rate, None before the first image."""
        rate = self.rate()
        return (self.total - self.seen) / rate if rate > 0 else None

    def seconds_each(self) -> dict[str, float]:
        """Mean seconds of each stage per image that was labelled."""
        return {stage: value / self.done for stage, value in self._seconds.items()}
