"""What an examination before a run finds: good, doubtful or bad, and what to do about it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

from prelabel.errors import PrelabelError

__all__ = ["Finding", "Status", "attempt", "fail", "ok", "warn"]

Status: TypeAlias = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an examination.

    Attributes:
        subject: what was looked at.
        status: "fail" keeps a run from starting or from being of use, "warn" does not.
        text: what was found, and what to do where it is not "ok".
    """

    subject: str
    status: Status
    text: str


def ok(subject: str, text: str) -> Finding:
    return Finding(subject, "ok", text)


def warn(subject: str, text: str) -> Finding:
    return Finding(subject, "warn", text)


def fail(subject: str, text: str) -> Finding:
    return Finding(subject, "fail", text)


def attempt(subject: str, examine: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of `examine`, where an error that was foreseen is the last of them."""
    try:
        yield from examine()
    except PrelabelError as error:
        yield fail(subject, str(error))
    except OSError as error:
        yield fail(subject, f"{error.filename or ''}: {error.strerror or error}".lstrip(": "))
