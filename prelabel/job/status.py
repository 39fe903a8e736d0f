"""How far a run is, read from its ledger; also while it goes on."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import Failure
from prelabel.errors import ConfigError
from prelabel.job.ledger import LEDGER_NAME, Ledger, ledger_path
from prelabel.job.lock import is_locked
from prelabel.job.summary import Summary

__all__ = ["RunStatus", "read_status"]


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run's counts: `total = todo + done + failed + skipped + quarantined`.

    Attributes:
        counts: images by status, "done", "failed", "quarantined", "skipped" and "todo".
        total: images of the source when the run last began.
        running: whether a process works on it now.
        fingerprint: of the config and weights that the labels were made with.
        failures: of failed and quarantined images.
    """

    counts: dict[str, int]
    total: int
    running: bool
    fingerprint: str
    failures: tuple[Failure, ...]

    def to_json(self) -> dict[str, object]:
        """For `prelabel status --json`."""
        errors = Summary(0, failures=self.failures).errors
        return {
            **{"total": self.total, **self.counts},
            **{"running": self.running, "fingerprint": self.fingerprint, "errors": errors},
        }


def read_status(run: Path, state: Path | None = None) -> RunStatus:
    """Read the ledger of `run`, which lies in `state` where that is given.

    Raises:
        ConfigError: there is no ledger, or it is damaged.
    """
    path = ledger_path(run, state)
    if not path.is_file():
        raise ConfigError(
            f"{run} is no run folder: it has no {LEDGER_NAME}; if it was run with --state, give it "
            f"here too; if it has labels, `prelabel repair {run}` makes one"
        )
    with Ledger(path) as ledger:
        rows = ledger.rows()
        total = int(ledger.meta("total") or len(rows))
        fingerprint = ledger.meta("fingerprint") or ""
    counts = Counter(row.status for row in rows.values())
    known = {name: counts[name] for name in ("done", "failed", "quarantined", "skipped")}
    failures = tuple(
        Failure(image_id, row.stage, row.kind, row.message)
        for image_id, row in rows.items()
        if row.status in ("failed", "quarantined")
    )
    total = max(total, len(rows))
    return RunStatus(
        {**known, "todo": total - len(rows)}, total, is_locked(run), fingerprint, failures
    )
