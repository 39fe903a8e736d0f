"""Labels into a COCO panoptic file: `panoptic.json` and one PNG per image in `panoptic/`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from prelabel.coco import PanopticWriter
from prelabel.data import ImageRecord, Ontology, image_key
from prelabel.errors import ConfigError, ConnectorError
from prelabel.ports import Delivery

from .coco_numbers import ImageNumbers

__all__ = ["CocoPanopticSink"]


class CocoPanopticSink:
    """A `LabelSink` that writes `panoptic.json` and `panoptic/*.png` into a folder.

    `file_name` of an image is its `image_id`, its PNG is named by the image's key, as in
    the run. COCO ids are those of the source where it has whole numbers, else counted from 1.
    Labels are written at once, the JSON by `finalize`. The format has no room for runners-up and
    evidence.

    Args:
        location: the folder; made where it is missing.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("the folder to export to is empty; name one")
        self.json_path = Path(location).expanduser() / "panoptic.json"
        self._stack = ExitStack()
        self._writer: PanopticWriter | None = None
        self._numbers = ImageNumbers()
        self._pushed: set[str] = set()

    def check(self, ontology: Ontology) -> None:
        """Open the file. Raises ConfigError: the folder cannot be written."""
        self._writer = self._stack.enter_context(PanopticWriter(self.json_path, ontology))

    def push(self, delivery: Delivery) -> None:
        """Write one label's PNG; the same image twice is once."""
        if self._writer is None:
            raise ConnectorError("check the ontology before the first push")
        record = delivery.record
        if record.image_id not in self._pushed:
            png_name = f"{image_key(record.image_id)}.png"
            number = self._numbers.number(record)
            self._writer.add(record.image_id, delivery.label, number, png_name=png_name)
            self._pushed.add(record.image_id)

    def remote_status(self, record: ImageRecord) -> str | None:
        """The word "written" for an image that was pushed here, else None."""
        return "written" if record.image_id in self._pushed else None

    def finalize(self) -> None:
        """Write the JSON."""
        self._stack.close()
        self._writer = None
