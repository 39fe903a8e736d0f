"""Labels into a COCO instances file: `instances.json`, every thing with its mask as run lengths."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path

from prelabel.coco import category_record, check_relative, to_xywh
from prelabel.data import ImageRecord, Mask, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, ConnectorError
from prelabel.files import replacing
from prelabel.masks import encode_rle
from prelabel.ports import Delivery

from .coco_numbers import ImageNumbers

__all__ = ["CocoInstancesSink"]

_SCORE_DIGITS = 6
_HEAD = '{"info":{"description":"Instances written by prelabel"},\n"annotations":['


class CocoInstancesSink:
    """A `LabelSink` that writes the things of labels as `instances.json` into a folder.

    Masks are COCO's compressed run lengths, so that holes and single pixels survive, with
    `iscrowd` 0 and `area` in pixels. Each annotation has two keys beyond COCO's: `score`, and
    `segment_id`, which is the segment's in the run. Stuff, void and evidence have no room there;
    `coco-panoptic` holds the first two. An image without things is listed too.

    `file_name` of an image is its `image_id`; COCO ids are those of the source where it has whole
    numbers, else counted from 1. Annotations are written at once, and the file takes its name in
    `finalize`: memory holds a line per image.

    Args:
        location: the folder; made where it is missing.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("the folder to export to is empty; name one")
        self.json_path = Path(location).expanduser() / "instances.json"
        self._stack = ExitStack()
        self._part: Path | None = None
        self._categories: list[str] = []
        self._numbers = ImageNumbers()
        self._images: dict[str, str] = {}
        self._annotations = 0

    def check(self, ontology: Ontology) -> None:
        """Open the file. Raises ConfigError: no thing is looked for, or it cannot be written."""
        if not ontology.things:
            raise ConfigError(
                "the ontology has no things, so a file of instances would be empty; export to "
                "coco-panoptic, which holds stuff"
            )
        self._categories = [_dump(category_record(category)) for category in ontology.things]
        folder = self.json_path.parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
            part = self._stack.enter_context(replacing(self.json_path))
            part.write_text(_HEAD, encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{folder} cannot be written: {error.strerror or error}") from error
        self._part = part

    def push(self, delivery: Delivery) -> None:
        """Write one label's things; the same image twice is once."""
        if self._part is None:
            raise ConnectorError("check the ontology before the first push")
        record, label = delivery.record, delivery.label
        if record.image_id in self._images:
            return
        check_relative(record.image_id, str(self.json_path))
        number = self._numbers.number(record)
        things = [segment for segment in label.segments if segment.isthing]
        # Not held open, so that nothing is left to be closed where the export breaks off.
        with self._part.open("a", encoding="utf-8", newline="\n") as stream:
            for segment in things:
                stream.write(",\n" if self._annotations else "\n")
                self._annotations += 1
                stream.write(_dump(_annotation(self._annotations, number, segment, label)))
        height, width = label.size
        image = {"id": number, "file_name": record.image_id, "height": height, "width": width}
        self._images[record.image_id] = _dump(image)

    def remote_status(self, record: ImageRecord) -> str | None:
        """The word "written" for an image that was pushed here, else None."""
        return "written" if record.image_id in self._images else None

    def finalize(self) -> None:
        """Write what is left, and give the file its name."""
        if self._part is None:
            return
        images, categories = ",\n".join(self._images.values()), ",\n".join(self._categories)
        with self._part.open("a", encoding="utf-8", newline="\n") as stream:
            stream.write(f'\n],\n"images":[\n{images}\n],\n"categories":[\n{categories}\n]}}\n')
        self._part = None
        self._stack.close()


def _annotation(
    number: int, image_number: int, segment: Segment, label: PanopticLabel
) -> dict[str, object]:
    x0, y0, x1, y1 = segment.box
    bitmap = label.id_map[y0:y1, x0:x1] == segment.segment_id
    return {
        "id": number,
        "image_id": image_number,
        "category_id": segment.category_id,
        "segmentation": encode_rle(Mask(x0, y0, bitmap), label.size),
        "area": segment.area,
        "bbox": [*to_xywh(segment.box)],
        "iscrowd": 0,
        "score": round(segment.score, _SCORE_DIGITS),
        "segment_id": segment.segment_id,
    }


def _dump(record: dict[str, object]) -> str:
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
