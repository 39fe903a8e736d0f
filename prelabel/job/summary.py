"""What a run did, counted while it goes."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prelabel.data import Failure
from prelabel.files import write_atomically

__all__ = ["Summary", "Tally", "write_summary"]

_MOST_ERRORS = 10
_COUNTS = ("done", "skipped", "failed", "quarantined", "todo")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: `total = todo + done + failed + skipped + quarantined`.

    Attributes:
        total: images the run was about.
        done: labelled now.
        failed: with a failure each, now or before.
        quarantined: killed or hung their worker, now or before.
        skipped: labelled before in the same way.
        segments: in the labels made now.
        seconds: wall-clock per stage, added up over workers, with "read" and "write".
        wall_seconds: of the whole loop, with loading.
        loading_seconds: of it until the first image was begun.
        failures: one per failed or quarantined image.
        peak_memory_mb: most memory that one process held, MiB; None where no system tells.
        interrupted: whether a signal ended it.
    """

    total: int
    done: int = 0
    failed: int = 0
    quarantined: int = 0
    skipped: int = 0
    segments: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    loading_seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    peak_memory_mb: float | None = None
    interrupted: bool = False

    @property
    def todo(self) -> int:
        """Left over by an interrupt or a broken output."""
        return self.total - self.done - self.failed - self.skipped - self.quarantined

    @property
    def errors(self) -> list[dict[str, object]]:
        """The ten commonest errors: stage, kind, how often, and one of them in words."""
        counts = Counter((failure.stage, failure.kind) for failure in self.failures)
        examples = {(failure.stage, failure.kind): failure.message for failure in self.failures}
        return [
            {"stage": stage, "kind": kind, "count": count, "example": examples[stage, kind]}
            for (stage, kind), count in counts.most_common(_MOST_ERRORS)
        ]

    def to_json(self) -> dict[str, object]:
        """As in `summary.json`; seconds to the millisecond."""
        document = dataclasses.asdict(self) | {"todo": self.todo, "errors": self.errors}
        document["seconds"] = {name: round(value, 3) for name, value in self.seconds.items()}
        document["wall_seconds"] = round(self.wall_seconds, 3)
        document["loading_seconds"] = round(self.loading_seconds, 3)
        document["images_per_second"] = round(self.images_per_second, 3)
        return document

    @property
    def images_per_second(self) -> float:
        """Labels made now per second after loading."""
        seconds = self.wall_seconds - self.loading_seconds
        return self.done / seconds if seconds > 0 else 0.0

    def __str__(self) -> str:
        counts = {name: getattr(self, name) for name in _COUNTS}
        return ", ".join(f"{count} {name}" for name, count in counts.items() if count)


class Tally:
    """The counts of a run while it goes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.failed = self.quarantined = self.skipped = self.segments = 0
        self.failures: list[Failure] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.interrupted = False
        self.loading_seconds = 0.0
        self._start = time.perf_counter()

    def loaded(self) -> bool:
        """The first image is in hand; False where that is known already."""
        if self.loading_seconds:
            return False
        self.loading_seconds = time.perf_counter() - self._start
        return True

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        """Add one image's stages."""
        for stage, value in seconds.items():
            self.seconds[stage] += value

    def summary(self) -> Summary:
        """What is known so far."""
        return Summary(
            total=self.total,
            done=self.done,
            failed=self.failed,
            quarantined=self.quarantined,
            skipped=self.skipped,
            segments=self.segments,
            seconds=dict(self.seconds),
            wall_seconds=time.perf_counter() - self._start,
            loading_seconds=self.loading_seconds,
            failures=tuple(self.failures),
            peak_memory_mb=_peak_memory_mb(),
            interrupted=self.interrupted,
        )


def write_summary(root: Path, summary: Summary) -> None:
    """Write `summary.json`. Raises OSError."""
    text = json.dumps(summary.to_json(), ensure_ascii=True, indent=2) + "\n"
    write_atomically(root / "summary.json", text.encode())


def _peak_memory_mb() -> float | None:
    """Of this process or of the largest of its ended workers."""
    if sys.platform == "win32":
        return None
    import resource

    # macOS counts bytes, Linux kibibytes.
    unit = 2**20 if sys.platform == "darwin" else 2**10
    workers = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    own = _own_peak_kib() or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(max(workers, own) / unit, 1)


def _own_peak_kib() -> int | None:
    """Of this program alone: on Linux `ru_maxrss` begins with what the process's parent held."""
    try:
        text = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) if found else None
