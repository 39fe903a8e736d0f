"""A labeller and a source without networks and files, to rehearse what befalls a job.

Used by the tests and benchmarks of engines, and by anyone who tries an engine on a new cluster.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from prelabel.data import Explanation, Frame, ImageRecord, PanopticLabel, Segment, Trace
from prelabel.errors import ConfigError, ImageError, LoadError, ModelError

__all__ = ["Rehearsal", "RehearsalSource", "Rehearsed"]


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """One label, as a pipeline would give it."""

    label: PanopticLabel
    trace: Trace
    explanations: tuple[Explanation, ...]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """A labeller that makes one segment of each image, or does what an image tells it to.

    Attributes:
        seconds: how long each image takes.
        faults: by image_id: "raise", "memory", "exit" and "kill" (the process ends), "hang",
            "load" (a network that was needed only now does not load).
        once: a folder; a fault that left its mark there does not happen again.
        loading: "" or a fault while loading.
        log: a file that gets a line per image begun.
    """

    seconds: float = 0.0
    faults: Mapping[str, str] = field(default_factory=dict)
    once: Path | None = None
    loading: str = ""
    log: Path | None = None

    def __call__(self, device: str) -> Rehearsal:
        """`WorkerPlan.make_labeller`."""
        if self.loading == "raise":
            raise ModelError(f"nothing can be loaded onto {device}")
        if self.loading:
            _happen(self.loading, device)
        return self

    def run(self, frames: Sequence[Frame], *, explain: bool | None = None) -> list[Rehearsed]:
        """Label frames; a fault of one befalls all of its batch."""
        return [self._one(frame, bool(explain)) for frame in frames]

    def _one(self, frame: Frame, explain: bool) -> Rehearsed:
        image_id = frame.record.image_id
        if self.log is not None:
            with self.log.open("a") as stream:
                stream.write(f"{image_id} {os.getpid()}\n")
        time.sleep(self.seconds)
        fault = self.faults.get(image_id, "")
        if fault and self._happens(image_id):
            _happen(fault, image_id)
        height, width = frame.size
        box = (0, 0, width, height)
        segment = Segment(1, 1, True, height * width, box, 0.5, None, 0.5, "")
        label = PanopticLabel(image_id, np.ones(frame.size, dtype=np.int32), (segment,))
        reasons = (Explanation(1, "x", {}, {}, None, 0.0, {}, {}),) if explain else ()
        return Rehearsed(label, Trace(image_id, ()), reasons, {"detect": self.seconds})

    def _happens(self, image_id: str) -> bool:
        if self.once is None:
            return True
        mark = self.once / f"{image_id}.happened"
        if mark.exists():
            return False
        mark.touch()
        return True


def _happen(fault: str, what: str) -> None:
    if fault == "raise":
        raise ValueError(f"{what} is odd")
    if fault == "memory":
        raise MemoryError
    if fault == "load":
        raise LoadError(f"nothing loads for {what}")
    if fault == "exit":
        os._exit(9)
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    while fault == "hang":
        time.sleep(60)
    raise ConfigError(f"no fault is called {fault!r}")


@dataclass(frozen=True, slots=True)
class RehearsalSource:
    """An `ImageSource` of grey images that are nowhere.

    Attributes:
        ids: of the images.
        bad: of those that cannot be read.
        size: (height, width) of each, pixels.
        stamps: by image_id, where it is not "".
    """

    ids: tuple[str, ...] = ("a", "b", "c")
    bad: tuple[str, ...] = ()
    size: tuple[int, int] = (2, 3)
    stamps: Mapping[str, str] = field(default_factory=dict)

    def records(self) -> Iterator[ImageRecord]:
        """One record per id."""
        if not self.ids:
            raise ConfigError("the source is empty")
        for image_id in self.ids:
            yield ImageRecord(image_id, f"nowhere/{image_id}")

    def read(self, record: ImageRecord) -> Frame:
        """Grey pixels. Raises ImageError for what is bad."""
        if record.image_id in self.bad:
            raise ImageError(f"{record.image_id}: damaged", kind="truncated")
        return Frame(record, np.full((*self.size, 3), 128, dtype=np.uint8))

    def stamp(self, record: ImageRecord) -> str:
        """What `stamps` says."""
        return self.stamps.get(record.image_id, "")
