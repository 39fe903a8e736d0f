"""Tries, pauses and the pace that all threads keep."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from connectors.retrying import CallError, Insistence, Pace, Patience, seconds_to_wait, status_kind

HASTY = Patience(answer=1.0, step=0.5, first=0.01, longest=0.02)


class Step:
    """Fails with each of `faults` in turn, then returns "done"."""

    def __init__(self, *faults: CallError) -> None:
        self.faults = list(faults)
        self.times: list[float] = []

    def __call__(self) -> str:
        self.times.append(time.monotonic())
        if self.faults:
            raise self.faults.pop(0)
        return "done"


def _fault(kind: str, retry_after: float = 0.0) -> CallError:
    return CallError("no", kind=kind, retry_after=retry_after)


@pytest.mark.parametrize("kind", ["busy", "broken", "lost", "timeout", "expired"])
def test_what_may_pass_is_tried_again(kind: str) -> None:
    step = Step(_fault(kind), _fault(kind))
    assert Insistence(Pace(), HASTY)(step) == "done"
    assert len(step.times) == 3


@pytest.mark.parametrize("kind", ["denied", "gone", "conflict", "refused"])
def test_what_will_not_is_not(kind: str) -> None:
    step = Step(_fault(kind))
    with pytest.raises(CallError) as caught:
        Insistence(Pace(), HASTY)(step)
    assert (caught.value.kind, caught.value.retryable, len(step.times)) == (kind, False, 1)


def test_bugs_pass_through() -> None:
    with pytest.raises(ZeroDivisionError):
        Insistence(Pace(), HASTY)(lambda: 1 // 0)


def test_patience_ends() -> None:
    step, start = Step(*[_fault("broken")] * 1000), time.monotonic()
    with pytest.raises(CallError):
        Insistence(Pace(), HASTY)(step)
    assert time.monotonic() - start < 5
    assert 2 <= len(step.times) <= 10


def test_a_server_that_says_when_is_obeyed_by_everyone() -> None:
    pace = Pace()
    step = Step(_fault("busy", 0.2))
    Insistence(pace, HASTY)(step)
    assert step.times[1] - step.times[0] >= 0.2
    pace.hold(0.2)
    start = time.monotonic()
    pace.wait(1.0)
    assert time.monotonic() - start >= 0.2


def test_a_server_that_asks_for_too_long_is_not_waited_for() -> None:
    pace, step, start = Pace(), Step(_fault("busy", 3600.0)), time.monotonic()
    with pytest.raises(CallError):
        Insistence(pace, HASTY)(step)
    with pytest.raises(CallError, match=r"asks to wait for 3\d\d\d s") as caught:
        pace.wait(120.0)
    assert caught.value.retryable
    assert time.monotonic() - start < 5


def test_retry_after_in_seconds_and_as_a_date() -> None:
    assert seconds_to_wait("7") == 7.0
    assert 3 < seconds_to_wait(formatdate(time.time() + 5, usegmt=True)) <= 5
    assert seconds_to_wait(formatdate(time.time() - 50, usegmt=True)) == 0.0
    for nothing in (None, "", "soon", "-3"):
        assert seconds_to_wait(nothing) == 0.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        *[(401, "denied"), (403, "denied"), (404, "gone"), (410, "gone"), (409, "conflict")],
        *[(429, "busy"), (503, "busy"), (408, "busy"), (500, "broken"), (502, "broken")],
        *[(400, "refused"), (413, "refused"), (422, "refused")],
    ],
)
def test_every_status_has_its_kind(status: int, kind: str) -> None:
    assert status_kind(status) == kind
