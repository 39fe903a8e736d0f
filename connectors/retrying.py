"""Calls to a platform that are tried again: one pace for all threads, and an end to patience.

| kind | what happened | tried again |
|---|---|---|
| busy | asked to come back later (429, 503, 408, 425) | when the server says, else soon |
| broken | the server failed (other 5xx), or answered what is no answer | yes |
| lost | no connection, or it ended half-way | yes |
| timeout | no answer in time | yes |
| expired | an address that was signed for a while is no longer good | yes, with a new one |
| denied | credentials are missing or do not suffice (401, 403) | no |
| gone | there is no such thing (404, 410) | no |
| conflict | something else is there already (409) | no |
| refused | the server does not take it (other 4xx) | no |

What is tried again must be harmless twice: a caller passes whole steps, such as "ask for the state,
then write", and not single requests.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_before_delay,
)
from tenacity.wait import wait_random_exponential
from urllib3.exceptions import InvalidHeader
from urllib3.util import Retry

from prelabel.errors import ConnectorError

__all__ = ["CallError", "Insistence", "Pace", "Patience", "seconds_to_wait", "status_kind"]

_RETRYABLE = frozenset({"busy", "broken", "lost", "timeout", "expired"})
_KINDS = {401: "denied", 403: "denied", 404: "gone", 410: "gone", 409: "conflict"}
_KINDS |= {408: "busy", 425: "busy", 429: "busy", 503: "busy"}
_SPREAD = 0.25
"""Seconds over which threads that waited for the same moment are spread."""

_MOST_TRIES = 10

T = TypeVar("T")


class CallError(ConnectorError):
    """One call to a platform failed; `kind` as above, `retry_after` in seconds, 0 if not told."""

    def __init__(self, message: str, *, kind: str, retry_after: float = 0.0) -> None:
        super().__init__(message, retryable=kind in _RETRYABLE, kind=kind)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Patience:
    """How long is waited, in seconds.

    Attributes:
        answer: for a connection, for the next bytes, and for a whole answer's body.
        step: for a step with all its tries; no try begins after that.
        first, longest: bounds of the pauses between tries, which double and are random.
    """

    answer: float = 30.0
    step: float = 120.0
    first: float = 0.5
    longest: float = 20.0


class Pace:
    """When a platform may be asked next: one for all threads that ask it."""

    def __init__(self) -> None:
        self._not_before = 0.0
        self._lock = threading.Lock()

    def hold(self, seconds: float) -> None:
        """Let nobody ask for so long."""
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def wait(self, longest: float) -> None:
        """Wait until asking is allowed.

        Raises:
            CallError: that takes more than `longest` seconds.
        """
        while (left := self._not_before - time.monotonic()) > 0:
            if left > longest:
                raise CallError(
                    f"the platform asks to wait for {left:.0f} s", kind="busy", retry_after=left
                )
            time.sleep(left + random.uniform(0, min(_SPREAD, left)))


class Insistence:
    """Tries a step until it succeeds, fails for good, or patience ends."""

    def __init__(self, pace: Pace, patience: Patience) -> None:
        self._pace = pace
        self._patience = patience
        self._random = wait_random_exponential(
            multiplier=patience.first, max=patience.longest, min=patience.first / 2
        )

    def __call__(self, step: Callable[[], T]) -> T:
        """What `step` returns.

        Raises:
            CallError: the last one.
        """
        tries = Retrying(
            retry=retry_if_exception(_is_retryable),
            stop=stop_before_delay(self._patience.step) | stop_after_attempt(_MOST_TRIES),
            wait=self._pause,
            reraise=True,
        )
        return tries(step)

    def _pause(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        asked = error.retry_after if isinstance(error, CallError) else 0.0
        if asked:
            # All threads wait, not only the one that was told to.
            self._pace.hold(asked)
        return max(asked, float(self._random(state)))


def _is_retryable(error: BaseException) -> bool:
    return isinstance(error, CallError) and error.retryable


def status_kind(status: int) -> str:
    """The kind of an HTTP status of 400 or more."""
    return _KINDS.get(status, "broken" if status >= 500 else "refused")


def seconds_to_wait(retry_after: str | None) -> float:
    """Seconds from a Retry-After header, given in seconds or as a date; 0 where it says nothing."""
    if not retry_after:
        return 0.0
    try:
        return max(0.0, float(Retry().parse_retry_after(retry_after)))
    except (InvalidHeader, ValueError, OverflowError):
        return 0.0
