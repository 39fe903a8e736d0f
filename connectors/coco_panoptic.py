"""Labels into a COCO panoptic file: `panoptic.json` and one PNG per image in `panoptic/`."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from prelabel.coco import PanopticWriter
from prelabel.data import Explanation, ImageRecord, Ontology, PanopticLabel, image_key
from prelabel.errors import ConfigError, ConnectorError

__all__ = ["CocoPanopticSink"]


class CocoPanopticSink:
    """A `LabelSink` that writes `panoptic.json` and `panoptic/*.png` into a folder.

    `file_name` of an image is its `image_id`, its PNG is named by the image's key, as in
    the run. COCO ids are counted from 1 in the order of the pushes: pushed in sorted order, an
    image's id is its rank. Labels are written at once, the JSON by `finalize`.

    Args:
        location: the folder; made where it is missing.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("the folder to export to is empty; name one")
        self.json_path = Path(location).expanduser() / "panoptic.json"
        self._stack = ExitStack()
        self._writer: PanopticWriter | None = None
        self._pushed: set[str] = set()

    def check(self, ontology: Ontology) -> None:
        """Open the file. Raises ConfigError: the folder cannot be written."""
        self._writer = self._stack.enter_context(PanopticWriter(self.json_path, ontology))

    def push(self, label: PanopticLabel, evidence: tuple[Explanation, ...] = ()) -> None:
        """Write one label's PNG; the same image twice is once. The format has no evidence."""
        if self._writer is None:
            raise ConnectorError("check the ontology before the first push")
        if label.image_id not in self._pushed:
            png_name = f"{image_key(label.image_id)}.png"
            self._writer.add(label.image_id, label, len(self._pushed) + 1, png_name=png_name)
            self._pushed.add(label.image_id)

    def remote_status(self, record: ImageRecord) -> str | None:
        """The word "written" for an image that was pushed here, else None."""
        return "written" if record.image_id in self._pushed else None

    def finalize(self) -> None:
        """Write the JSON."""
        self._stack.close()
        self._writer = None
