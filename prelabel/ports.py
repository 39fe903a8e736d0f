"""Where images come from and where labels go: the contracts of a connector.

A connector is a class that takes one text, its location, and plays one of three roles or more: an
`ImageSource`, a `LabelSink` that writes files, or a `LabelPlatform` where people correct labels.
The docstrings here are the specification; `connectors.testing` holds each as a suite of tests.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Explanation, Frame, ImageRecord, Ontology, PanopticLabel

__all__ = [
    "Delivery",
    "ImageSource",
    "LabelPlatform",
    "LabelSink",
    "Outcome",
    "PushRules",
    "RemoteLabel",
]


@runtime_checkable
class ImageSource(Protocol):
    """Images, listed without opening them.

    `records` yields each image once, in a stable order, with a unique `image_id`. It opens no
    image: 100,000 records are listed in seconds. It raises ConfigError where the source is missing
    or empty.

    `read` decodes one record to uint8 (H, W, 3) RGB with EXIF applied, and asks the platform again
    where an address has expired. It raises ImageError where this one image cannot be read, and
    nothing else; it comes back within minutes, whatever a server or a special file does.

    `stamp` tells cheaply, without opening the image, whether it is still the same one: another text
    means another image. "" means that it cannot be told, or that the image is gone.

    A source travels to worker processes: it is picklable at any time, and its copy reads every
    record that the original listed. What it caches stays behind.
    """

    def records(self) -> Iterator[ImageRecord]: ...

    def read(self, record: ImageRecord) -> Frame: ...

    def stamp(self, record: ImageRecord) -> str: ...


@dataclass(frozen=True, slots=True)
class Delivery:
    """One label on its way into a file or to a platform.

    Attributes:
        record: the image.
        label: what is to be there.
        evidence: why, where that was stored.
        tool: name and version of what made it.
        fingerprint: of the config and weights that made it.
        noted: what an earlier, interrupted push of the same label noted, or "".
    """

    record: ImageRecord
    label: PanopticLabel
    evidence: tuple[Explanation, ...] = ()
    tool: str = ""
    fingerprint: str = ""
    noted: str = ""


@runtime_checkable
class LabelSink(Protocol):
    """Labels, handed over one by one, for files that are derived from a run.

    `check` is called once, before the first push, and raises ConfigError where the ontology does
    not fit the target or the target cannot be written.

    `push` is idempotent: the same image twice is once. It keeps every pixel, category and score
    that its format has room for, and its own documentation says for what there is none.

    `remote_status` is the target's own word for the label of a record, or None where it has none.

    `finalize` is called once, after the last push, and completes what is one file for all. Before
    it, and where it is never called since a push failed, nothing at the target may look complete.
    """

    def check(self, ontology: Ontology) -> None: ...

    def push(self, delivery: Delivery) -> None: ...

    def remote_status(self, record: ImageRecord) -> str | None: ...

    def finalize(self) -> None: ...


Outcome: TypeAlias = Literal["sent", "human"]
"""What became of a push: the label is there, or a person's work was there and was left alone."""


@dataclass(frozen=True, slots=True)
class PushRules:
    """What a push may do.

    Attributes:
        overwrite_human: a person's label gives way too.
        pin_doubts: where the platform can, a remark is pinned at the most doubtful spot.
    """

    overwrite_human: bool = False
    pin_doubts: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RemoteLabel:
    """A label as a platform holds it.

    Attributes:
        record: the image.
        status: the platform's own word.
        id_map: int32 (H, W), segment ids below 2^24, 0 is void.
        category_ids: of each segment by its id; every id of the map is in it.
        updated: when it was last changed, as the platform says it, or "".
    """

    record: ImageRecord
    status: str
    id_map: NDArray[np.int32]
    category_ids: Mapping[int, int] = field(default_factory=dict)
    updated: str = ""


@runtime_checkable
class LabelPlatform(Protocol):
    """A place where people correct labels: pre-labels go there, and come back reviewed.

    Every call comes back within minutes, whatever the network does. What a later call may cure is
    tried again inside, and in the end a ConnectorError with `retryable`. A ConnectorError of kind
    "denied" means that the credentials do not suffice and no other push will do better, of kind
    "gone" that the platform has no such image; any other is about this image alone. No message, log
    or return value holds a secret. `push`, `verify` and `pull` are called from several threads.

    `ontology` is the platform's, with its own ids. Raises ConfigError where there is none.

    `check` is called once, before the first push, and raises ConfigError where credentials are
    missing, the target is unknown or of the wrong kind, or a category of `ontology` is missing
    there. It returns remarks for people, such as categories that will never be pre-labelled. It
    learns the state of every image, so that `remote_status` needs no call of its own.

    `remote_status` is the platform's own word for the label of a record as of `check`, "" for an
    image without label, None where the platform has no such image.

    `is_human` says whether a label of that status is a person's work.

    `push` puts one label there as a pre-label, with its scores and what made it. Unless the rules
    say so it leaves a person's work alone: it asks for the state right before it writes, and
    returns "human". It is idempotent: the same label twice is once, also where the first was cut
    short at any point. What it makes on the way that a later try can use, it tells by `note`.

    `verify` reads a label back and returns in what it differs from the delivery, or "": status,
    segments, categories and every pixel.

    `listing` yields the records whose label has one of the statuses, by image_id; `pull` reads one.
    """

    def ontology(self) -> Ontology: ...

    def check(self, ontology: Ontology) -> tuple[str, ...]: ...

    def remote_status(self, record: ImageRecord) -> str | None: ...

    def is_human(self, status: str) -> bool: ...

    def push(
        self, delivery: Delivery, rules: PushRules, note: Callable[[str], None]
    ) -> Outcome: ...

    def verify(self, delivery: Delivery) -> str: ...

    def listing(self, statuses: Collection[str]) -> Iterator[ImageRecord]: ...

    def pull(self, record: ImageRecord) -> RemoteLabel: ...
