"""A circuit breaker: when a platform fails again and again, nobody asks it for a while."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

__all__ = ["Breaker"]


class Breaker:
    """Shared by all threads that call one platform.

    After `limit` failures in a row it opens: callers wait. After a pause one of them tries; success
    closes it, failure doubles the pause. Once it has been open for `patience` seconds since the
    last success, it gives up for good.

    Args:
        limit: failures in a row, over all threads.
        pause: seconds before the first new try.
        longest: seconds that a pause may grow to.
        patience: seconds, see above.
        on_open: told the seconds of each pause.
    """

    def __init__(
        self,
        limit: int,
        pause: float = 15.0,
        longest: float = 240.0,
        patience: float = 900.0,
        on_open: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._limit, self._first, self._longest = limit, pause, longest
        self.patience, self._on_open = patience, on_open
        self._failures = 0
        self._pause = pause
        self._until: float | None = None
        self._opened = 0.0
        self._probing = False
        self._given_up = False
        self._changed = threading.Condition()

    @property
    def given_up(self) -> bool:
        return self._given_up

    def stop(self) -> None:
        """Let nobody through any more."""
        with self._changed:
            self._given_up = True
            self._changed.notify_all()

    def allow(self) -> bool:
        """Wait until the platform may be asked; False means never."""
        with self._changed:
            while not self._given_up:
                if self._until is None:
                    return True
                left = self._until - time.monotonic()
                if left <= 0 and not self._probing:
                    self._probing = True
                    return True
                self._changed.wait(max(left, 0.05) if not self._probing else None)
            return False

    def succeeded(self) -> None:
        """A call came through."""
        with self._changed:
            self._failures, self._until, self._pause = 0, None, self._first
            self._probing = False
            self._changed.notify_all()

    def failed(self) -> bool:
        """A call failed in a way that a later one may not; whether it was closed until now."""
        with self._changed:
            was_closed = self._until is None
            self._failures += 1
            if self._failures < self._limit and was_closed:
                return True
            now = time.monotonic()
            if was_closed:
                self._opened = now
            elif self._probing:
                self._pause = min(2 * self._pause, self._longest)
            else:
                return False  # a call that began before it opened
            self._probing = False
            self._until = now + self._pause
            self._given_up = now + self._pause - self._opened > self.patience
            self._changed.notify_all()
        if not self._given_up:
            self._on_open(self._pause)
        return was_closed
