"""A fault at every operation of every scenario: what is lost, what is doubled, what is not told."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prelabel.bench.faults.audit import Holding, look
from prelabel.bench.faults.injection import Ended, Fault, run_under
from prelabel.bench.faults.scenarios import BAD, GOOD, Scenario, Stage

__all__ = ["Report", "sweep"]

_ALL_DONE, _SOME_FAILED, _DISK = 0, 3, 7


@dataclass(slots=True)
class Report:
    """What a sweep found.

    Attributes:
        points: by scenario and kind of fault, how many faults happened.
        lost: results that were there, or were said to be, and are not.
        doubled: results that are there twice, or were made again though they were there.
        findings: everything that is not as it should be, in words.
        seconds: of the whole sweep.
    """

    points: dict[str, dict[str, int]] = field(default_factory=dict)
    lost: int = 0
    doubled: int = 0
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def total(self) -> int:
        """Points altogether."""
        return sum(sum(kinds.values()) for kinds in self.points.values())

    def to_json(self) -> dict[str, object]:
        """For `scripts/fault-sweep --json`."""
        return {
            "points": self.total,
            "lost": self.lost,
            "doubled": self.doubled,
            "findings": self.findings,
            "by_scenario": self.points,
            "seconds": round(self.seconds, 1),
        }


def sweep(
    stage: Stage, chosen: list[Scenario], report: Report, *, every: int = 1, most: int | None = None
) -> Iterator[str]:
    """Break each scenario at every operation; yields a line per scenario.

    Args:
        stage: set and warm.
        chosen: the scenarios.
        report: filled while it goes.
        every: only at each so-manieth operation.
        most: at about so many operations per kind of fault, evenly spread.
    """
    start = time.monotonic()
    for scenario in chosen:
        swept = _Swept(stage, scenario, report)
        swept.prepare()
        stride = max(1, swept.operations // most) if most else scenario.stride * every
        for fault in _faults(scenario):
            swept.break_everywhere(fault, stride)
        report.seconds = time.monotonic() - start
        counts = ", ".join(f"{n} {kind}" for kind, n in report.points[scenario.name].items())
        yield f"{scenario.name}: {swept.operations} operations; {counts}"


def _faults(scenario: Scenario) -> Iterator[Fault]:
    for kind in scenario.kinds:
        yield Fault(0, kind)
        if not kind.startswith("kill"):
            yield Fault(0, kind, sticky=True)


class _Swept:
    """One scenario."""

    def __init__(self, stage: Stage, scenario: Scenario, report: Report) -> None:
        self._stage, self._scenario, self._report = stage, scenario, report
        name = scenario.name.replace(" ", "_").replace(",", "")
        self._folder = stage.folder / name
        self._template = self._folder / "template"
        self._through: Mapping[str, str] = {}
        self._expected = Holding({}, {}, {}, {}, (), ())
        self.operations = 0

    def prepare(self) -> None:
        """Make the state it begins with, and see what it comes to without any fault."""
        self._template.mkdir(parents=True)
        self._scenario.prepare(self._template)
        root = self._new_root("reference")
        ended = run_under(self._stage.main, self._scenario.command(root), Fault(), root)
        self.operations = ended.operations
        if ended.code not in (_ALL_DONE, _SOME_FAILED):
            self._find("without a fault", f"exit {ended.code}: {ended.said}")
        self._through = look(root / self._scenario.out).whole
        for command in self._scenario.after(root):
            run_under(self._stage.main, command, Fault(), root)
        self._expected = look(root / self._scenario.out)
        if self._expected.whole.keys() != set(GOOD):
            self._find("without a fault", f"labels of {sorted(self._expected.whole)}")
        self._report.points[self._scenario.name] = {}

    def break_everywhere(self, fault: Fault, stride: int) -> None:
        """Let the place of the fault rise until the command gets through without meeting it."""
        counts = self._report.points[self._scenario.name]
        name = fault.kind + (", sticky" if fault.sticky else "")
        counts[name] = 0
        # Where not every operation is tried, each kind of fault tries others.
        at = 1 + sum(name.encode()) % stride
        while self._break(Fault(at, fault.kind, fault.sticky), counts, name):
            at += stride

    def _break(self, fault: Fault, counts: dict[str, int], name: str) -> bool:
        root = self._new_root("point")
        ended = run_under(self._stage.main, self._scenario.command(root), fault, root)
        if ended.fired:
            counts[name] += 1
            self._judge_end(fault, ended, root)
            self._mend(fault, root)
        return ended.operations >= fault.at

    def _new_root(self, name: str) -> Path:
        root = self._folder / name
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(self._template, root)
        return root

    # --- right after the fault ------------------------------------------------------------------

    def _judge_end(self, fault: Fault, ended: Ended, root: Path) -> None:
        holding = look(root / self._scenario.out)
        through = holding.whole == self._through
        if ended.code is None:
            self._find(fault, f"it hung: {ended.said}")
        elif "Traceback" in ended.said or "Error:" in ended.said:
            self._find(fault, f"it said more than a sentence: {ended.said}")
        elif ended.code == _DISK:
            if "error: cannot write" not in " ".join(ended.said.split()):
                self._find(fault, f"exit 7 without saying what cannot be written: {ended.said}")
        elif ended.code < 0:
            if not fault.kind.startswith("kill"):
                self._find(fault, f"ended by signal {-ended.code}")
        elif not through or ended.code not in (_ALL_DONE, _SOME_FAILED):
            self._find(fault, f"exit {ended.code} with {len(holding.whole)} labels: {ended.said}")
        if holding.claims is None and "repair" not in self._scenario.name:
            self._find(fault, "the ledger cannot be read")
        self._count(fault, holding)

    def _count(self, fault: Fault, holding: Holding) -> None:
        if holding.lost:
            self._report.lost += len(holding.lost)
            self._find(fault, f"done, and not there: {sorted(holding.lost)}")
        if holding.doubled:
            self._report.doubled += len(holding.doubled)
            self._find(fault, f"several labels of {sorted(holding.doubled)}")

    # --- after the resume -----------------------------------------------------------------------

    def _mend(self, fault: Fault, root: Path) -> None:
        *before, last = self._scenario.after(root)
        for command in before:
            ended = run_under(self._stage.main, command, Fault(), root)
            if ended.code not in (_ALL_DONE, _SOME_FAILED):
                self._find(fault, f"then {command[0]} exits {ended.code}: {ended.said}")
        out = root / self._scenario.out
        kept = look(out)
        ended = run_under(self._stage.main, last, Fault(), root)
        if ended.code != _SOME_FAILED:
            self._find(fault, f"then {last[0]} exits {ended.code}: {ended.said}")
            return
        summary = json.loads((out / "summary.json").read_text())
        self._judge_summary(fault, summary)
        if self._scenario.resumes:
            way = next(iter(self._expected.made.values()))
            whole = sum(made == way for made in kept.made.values())
            if summary["done"] > len(GOOD) - whole:
                self._report.doubled += summary["done"] - (len(GOOD) - whole)
                self._find(fault, f"{whole} labels were whole, {summary['done']} were made")
        self._judge_final(fault, look(out))

    def _judge_summary(self, fault: Fault, summary: dict[str, int]) -> None:
        parts = ("todo", "done", "failed", "skipped", "quarantined")
        counts = {name: summary[name] for name in parts}
        total = summary["total"]
        if sum(counts.values()) != total or total != len(GOOD) + 1 or counts["failed"] != 1:
            self._find(fault, f"the summary says {counts} of {total}")

    def _judge_final(self, fault: Fault, holding: Holding) -> None:
        self._count(fault, holding)
        gone = set(GOOD) - holding.whole.keys()
        if gone:
            self._report.lost += len(gone)
            self._find(fault, f"never labelled: {sorted(gone)}")
        elif holding.whole != self._expected.whole:
            self._find(fault, "labels differ from those of a run without a fault")
        if holding.claims != {**dict.fromkeys(GOOD, "done"), BAD: "failed"}:
            self._find(fault, f"the ledger says {holding.claims}")
        if holding.strays or holding.others:
            self._find(fault, f"left over: {holding.strays + holding.others}")

    def _find(self, fault: Fault | str, what: str) -> None:
        self._report.findings.append(f"{self._scenario.name}, {fault}: {what.strip()}")
