"""What a coordinator and its workers say to each other, whatever engine is between them.

A worker gets tasks and answers with events, per image: `Started`, then one of `Done`, `Failed` or
`Quarantined`; a `Remark` is what it logs on the way. `Broken` says that the output refuses: it ends
the run, since every image would fail in the same way. All of it is picklable.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeAlias

from prelabel.data import Explanation, Failure, Frame, ImageRecord, PanopticLabel, Trace
from prelabel.ports import ImageSource

__all__ = [
    "Broken",
    "Done",
    "Engine",
    "Event",
    "Failed",
    "LabelledImage",
    "Labeller",
    "Quarantined",
    "Remark",
    "Started",
    "Task",
    "WorkerOptions",
    "WorkerPlan",
]


class LabelledImage(Protocol):
    """What a labeller says about one image; `pipeline.Labelled` is one."""

    @property
    def label(self) -> PanopticLabel: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def explanations(self) -> tuple[Explanation, ...]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...


class Labeller(Protocol):
    """Labels frames, in order; `pipeline.Pipeline` is one."""

    def run(
        self, frames: Sequence[Frame], *, explain: bool | None = None
    ) -> Sequence[LabelledImage]: ...


@dataclass(frozen=True, slots=True)
class Task:
    """One image to label; `stamp` is what `ImageSource.stamp` said of it."""

    record: ImageRecord
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """How a worker labels.

    Attributes:
        tool: name and version, kept with each label.
        fingerprint: of the config and weights, kept with each label.
        explain: whether explanations are made and kept.
        batch_size: images that go through the networks together.
        ahead_bytes: most bytes of images that are decoded ahead of the networks, and as many of
            labels that wait to be written.
    """

    tool: str
    fingerprint: str
    explain: bool = False
    batch_size: int = 1
    ahead_bytes: int = 64 * 2**20


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """What a worker needs to begin, picklable.

    Attributes:
        make_labeller: loads the networks onto a device; called once per worker.
        source: where the images are read.
        root: the run's folder, where labels are written.
        options: see `WorkerOptions`.
    """

    make_labeller: Callable[[str], Labeller]
    source: ImageSource
    root: Path
    options: WorkerOptions


@dataclass(frozen=True, slots=True)
class Started:
    """A worker has this image in hand."""

    image_id: str


@dataclass(frozen=True, slots=True)
class Done:
    """The label of this image is on disk.

    Attributes:
        segments: how many there are in it.
        seconds: wall-clock per stage, with "read" and "write".
        stamp: of the image that was read.
    """

    image_id: str
    segments: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """An image that cannot be labelled."""

    failure: Failure
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """An image that killed or hung its worker, the last time all by itself."""

    failure: Failure
    stamp: str = ""


@dataclass(frozen=True, slots=True)
class Broken:
    """The output cannot be written: `number` is the errno."""

    number: int
    reason: str
    filename: str


@dataclass(frozen=True, slots=True)
class Remark:
    """What was logged: a warning that is no failure.

    Attributes:
        image_id: of the image, or the images of a batch, that it was said over; "" for none.
        stage: that it was said in, or "".
        level: "warning" or "error".
        text: of it.
    """

    image_id: str
    stage: str
    level: str
    text: str

    def __str__(self) -> str:
        # Many texts name their image already.
        image = "" if self.image_id in self.text else self.image_id
        where = ", ".join(part for part in (image, self.stage) if part)
        return f"{self.text} ({where})" if where else self.text


Event: TypeAlias = Started | Done | Failed | Quarantined | Broken | Remark


class Engine(Protocol):
    """Gets tasks done by one or many workers.

    `run` calls `handle` in the calling thread, once per event, and returns when every task has its
    answer; after `stopping` is set, when the images in hand have theirs. It raises what a worker
    raises while it loads.
    """

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None: ...
