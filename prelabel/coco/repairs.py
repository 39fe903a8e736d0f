"""What a repair did, told rule by rule."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from prelabel.coco.rules import Problem

__all__ = ["Outcome", "Repair", "RepairLog", "RepairReport"]

Outcome: TypeAlias = Literal["repaired", "left-out", "kept"]


@dataclass(frozen=True, slots=True)
class Repair:
    """What became of one broken rule.

    Attributes:
        rule: a key of `RULES`.
        outcome: "repaired"; "left-out" where what broke the rule is not in the new file; "kept"
            where it is, still broken, for a person to decide.
        message: what was wrong, and what was done.
        image: its file_name, or "".
        segment_id: in that image, or None.
    """

    rule: str
    outcome: Outcome
    message: str
    image: str = ""
    segment_id: int | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair came to.

    Attributes:
        json_path: of the new file.
        images: how many it holds.
        repairs: in the order in which they were made.
        remaining: what is still broken in the new file.
    """

    json_path: Path
    images: int
    repairs: tuple[Repair, ...]
    remaining: tuple[Problem, ...]

    @property
    def whole(self) -> bool:
        """Whether nothing was left out and nothing is broken any more."""
        return not self.remaining and all(row.outcome == "repaired" for row in self.repairs)

    def to_json(self) -> dict[str, object]:
        return {
            "file": str(self.json_path),
            "images": self.images,
            "repairs": [row.to_json() for row in self.repairs],
            "remaining": [row.to_json() for row in self.remaining],
        }


class RepairLog:
    """Collects what is done, as it is done."""

    def __init__(self) -> None:
        self.repairs: list[Repair] = []

    def add(
        self,
        rule: str,
        outcome: Outcome,
        message: str,
        image: str = "",
        segment_id: int | None = None,
    ) -> None:
        self.repairs.append(Repair(rule, outcome, message, image, segment_id))

    def add_faults(
        self, faults: Iterable[Problem], done: str, outcome: Outcome = "repaired"
    ) -> None:
        """One entry for each fault of a value, all mended in the same way."""
        for fault in faults:
            message = f"{fault.message}; {done}"
            self.add(fault.rule, outcome, message, fault.image, fault.segment_id)
