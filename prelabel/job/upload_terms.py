"""How an upload is done, who watches it, and what it did."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from prelabel.data import Failure
from prelabel.job.outbox import OutboxRow
from prelabel.ports import PushRules

__all__ = ["UploadObserver", "UploadOptions", "UploadSummary", "Verification"]

Verification: TypeAlias = Literal["all", "sample", "none"]


@dataclass(frozen=True, slots=True)
class UploadOptions:
    """How labels are sent.

    Attributes:
        rules: what a push may do.
        verify: which labels are read back and compared to the pixel; "sample" is one in twenty.
        jobs: threads.
        follow: go on until the run that makes the labels has ended.
        retry: send again what failed for good before.
        patience: seconds for which a platform may fail before the upload ends.
        state: a folder on this machine for the outbox, where the run's folder is on another.
    """

    rules: PushRules = field(default_factory=PushRules)
    verify: Verification = "all"
    jobs: int = 8
    follow: bool = False
    retry: bool = False
    patience: float = 900.0
    state: Path | None = None


class UploadObserver(Protocol):
    """Told what happens; from several threads, one call at a time."""

    def remark(self, text: str) -> None: ...

    def settled(self, image_id: str, row: OutboxRow) -> None: ...

    def waiting(self, seconds: float) -> None: ...

    def stopping(self) -> None: ...


@dataclass(slots=True)
class UploadSummary:
    """What an upload did: `total` is the sum of all counts and `left`.

    Attributes:
        total: labels of the run.
        verified: sent now, and read back.
        sent: sent now.
        before: sent by an earlier upload.
        human: a person's work, left alone.
        failures: final ones.
        stopped: why it ended early, or "".
        denied: whether it ended for lack of rights.
        interrupted: whether a signal ended it.
        seconds: wall-clock.
    """

    total: int = 0
    verified: int = 0
    sent: int = 0
    before: int = 0
    human: int = 0
    failures: list[Failure] = field(default_factory=list)
    stopped: str = ""
    denied: bool = False
    interrupted: bool = False
    seconds: float = 0.0

    @property
    def left(self) -> int:
        """Still to be sent, by the same command."""
        done = self.verified + self.sent + self.before + self.human + len(self.failures)
        return self.total - done
