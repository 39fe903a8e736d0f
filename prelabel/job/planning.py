"""What a run has to do: the source's images against what the ledger and the folder hold."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prelabel.data import Failure, ImageRecord, image_key
from prelabel.job.ledger import Row
from prelabel.job.protocol import Task

__all__ = ["Plan", "label_keys", "make_plan", "reap"]

_FOLDERS = ("", "labels", "traces", "explanations")


@dataclass(slots=True)
class Plan:
    """The images of one run, each in exactly one list.

    Attributes:
        todo: to be labelled now.
        skipped: labelled before, in the same way.
        failed: failed before, and not asked for again.
        quarantined: killed their worker before, and not asked for again.
    """

    todo: list[Task] = field(default_factory=list)
    skipped: list[ImageRecord] = field(default_factory=list)
    failed: list[Failure] = field(default_factory=list)
    quarantined: list[Failure] = field(default_factory=list)

    @property
    def total(self) -> int:
        return len(self.todo) + len(self.skipped) + len(self.failed) + len(self.quarantined)


def make_plan(
    tasks: Sequence[Task],
    rows: Mapping[str, Row],
    keys: Collection[str],
    *,
    explain: bool,
    retry: Collection[str],
) -> Plan:
    """Decide for each image.

    Args:
        tasks: the source's images with their stamps of now.
        rows: of the ledger, those made in another way left out.
        keys: of the labels that are in the folder.
        explain: whether explanations are asked for.
        retry: "failed", "quarantined", both or none: what is tried again.
    """
    plan = Plan()
    for task in tasks:
        image_id = task.record.image_id
        row = rows.get(image_id)
        if row is None or row.stamp != task.stamp:
            plan.todo.append(task)
        elif row.status == "done":
            there = image_key(image_id) in keys and (row.explained or not explain)
            if there:
                plan.skipped.append(task.record)
            else:
                plan.todo.append(task)
        elif row.status == "skipped":
            plan.skipped.append(task.record)
        elif row.status in retry:
            plan.todo.append(task)
        else:
            before = plan.failed if row.status == "failed" else plan.quarantined
            before.append(Failure(image_id, row.stage, row.kind, row.message))
    return plan


def label_keys(root: Path) -> set[str]:
    """The keys of the pairs that are in `root`/labels; their content is not looked at."""
    suffixes: dict[str, int] = {}
    with os.scandir(root / "labels") as entries:
        for entry in entries:
            stem, _, suffix = entry.name.rpartition(".")
            if suffix in ("png", "json") and not entry.name.startswith("."):
                suffixes[stem] = suffixes.get(stem, 0) + 1
    return {stem for stem, count in suffixes.items() if count == 2}


def reap(root: Path) -> int:
    """Remove the unfinished files that a killed process left in `root`; returns how many."""
    count = 0
    for name in _FOLDERS:
        folder = root / name
        if folder.is_dir():
            for part in folder.glob(".*.part"):
                part.unlink(missing_ok=True)
                count += 1
    return count
