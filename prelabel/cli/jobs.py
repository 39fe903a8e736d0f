"""The status, repair and join commands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from prelabel.cli import console
from prelabel.cli.results import show_errors
from prelabel.job.joining import join_runs
from prelabel.job.repair import repair_run
from prelabel.job.status import read_status

__all__ = ["join_command", "repair_command", "status_command"]

_MOST_NAMES = 10


def status_command(run: Path, state: Path | None, *, as_json: bool) -> None:
    """Print how far a run is."""
    status = read_status(run, state)
    document = status.to_json()
    if as_json:
        console.show_json(document)
        return
    rows = [("images", str(status.total))]
    rows += [(name, str(count)) for name, count in status.counts.items() if count]
    rows.append(("a process works on it", "yes" if status.running else "no"))
    console.show_table(f"Run {run}", ("", ""), rows)
    errors = document["errors"]
    show_errors(errors if isinstance(errors, list) else [])


def repair_command(run: Path, state: Path | None) -> None:
    """Make the ledger anew and say what was found."""
    found = repair_run(run, state)
    console.show_line(f"{len(found.rows)} labels are whole; the ledger says so again")
    if found.damaged:
        console.show_line(
            f"{len(found.damaged)} are damaged or were made in another way, and will be made "
            f"again: {_some(found.damaged)}"
        )


def join_command(shards: Sequence[Path], out: Path, state: Path | None = None) -> int:
    """Join and say what came together; returns the exit code."""
    joined = join_runs(shards, out, state)
    console.show_line(
        f"{joined.done} labels in {out}, {joined.failed} images failed or quarantined"
    )
    if joined.missing:
        console.show_line(
            f"{len(joined.missing)} labels are missing in their shard, and stay to do: "
            f"{_some(joined.missing)}"
        )
    return 3 if joined.failed or joined.missing else 0


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return ", ".join(names[:_MOST_NAMES]) + more
