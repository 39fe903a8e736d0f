"""Where images come from and where labels go: the two contracts of a connector."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from prelabel.data import Explanation, Frame, ImageRecord, Ontology, PanopticLabel

__all__ = ["ImageSource", "LabelSink"]


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


@runtime_checkable
class LabelSink(Protocol):
    """Labels, handed over one by one.

    `check` is called once, before any model loads, and raises ConfigError where the ontology does
    not fit the target. `push` is idempotent: twice is once. `remote_status` is the target's own
    word for the label of a record, or None where it has none. `finalize` is called once at the end,
    also after failures, and completes what is one file for all.
    """

    def check(self, ontology: Ontology) -> None: ...

    def push(self, label: PanopticLabel, evidence: tuple[Explanation, ...] = ()) -> None: ...

    def remote_status(self, record: ImageRecord) -> str | None: ...

    def finalize(self) -> None: ...
