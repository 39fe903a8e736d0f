"""The validate and fix commands."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from prelabel.cli import console
from prelabel.coco import RULES, check_panoptic, repair_panoptic

__all__ = ["fix_command", "validate_command"]

_BROKEN = 3


def validate_command(file: Path, *, as_json: bool) -> int:
    """Name every broken rule of a COCO panoptic file; returns the exit code."""
    counts: Counter[str] = Counter()
    listed = []
    for problem in check_panoptic(file):
        counts[problem.rule] += 1
        if as_json:
            listed.append(problem.to_json())
        else:
            console.show_line(_line(problem.rule, problem.image, problem.message))
    if as_json:
        by_rule = dict(counts.most_common())
        document = {"file": str(file), "clean": not counts, "by_rule": by_rule, "problems": listed}
        console.show_json(document)
    elif counts:
        _show_counts("Broken rules", counts)
        problems = "1 problem" if counts.total() == 1 else f"{counts.total()} problems"
        console.show_line(f"{file}: {problems}; prelabel fix repairs what it can")
    else:
        console.show_line(f"{file} is clean")
    return _BROKEN if counts else 0


def fix_command(file: Path, out: Path, *, as_json: bool) -> int:
    """Repair a COCO panoptic file into a new folder; returns the exit code."""
    report = repair_panoptic(file, out)
    if as_json:
        console.show_json(report.to_json())
        return 0 if report.whole else _BROKEN
    for repair in report.repairs:
        console.show_line(f"{repair.outcome}: {_line(repair.rule, repair.image, repair.message)}")
    counts = Counter(repair.outcome for repair in report.repairs)
    told = ", ".join(
        f"{count} {outcome}" for outcome, count in sorted(counts.items(), reverse=True)
    )
    state = "is still broken" if report.remaining else "is clean"
    console.show_line(f"{report.json_path}: {report.images} images, {told or 'nothing to repair'}")
    console.show_line(f"the new file {state}")
    return 0 if report.whole else _BROKEN


def _line(rule: str, image: str, message: str) -> str:
    return f"{rule}: {image}: {message}" if image else f"{rule}: {message}"


def _show_counts(title: str, counts: Counter[str]) -> None:
    rows: Iterable[tuple[str, str]] = (
        (f"{rule}: {RULES[rule]}", str(count)) for rule, count in counts.most_common()
    )
    console.show_table(title, ("rule", "times"), rows)
