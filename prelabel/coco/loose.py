"""A COCO panoptic JSON as it is, broken or not: what can be made out, and what is wrong with it.

`reading` refuses what it cannot trust; here a value of the wrong type becomes what it was meant to
be where that is plain ("7", 7.0 and 7 are 7), else None, and a fault says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from prelabel.coco.fields import (
    MAX_ID,
    Fields,
    Record,
    is_integer,
    short_text,
    tell_value,
    to_integer,
)
from prelabel.coco.reading import read_document
from prelabel.coco.records import ImageId
from prelabel.coco.rules import Problem
from prelabel.errors import LabelError

__all__ = [
    "LooseAnnotation",
    "LooseCategory",
    "LooseFile",
    "LooseImage",
    "LooseSegment",
    "read_loose",
]


@dataclass(frozen=True, slots=True)
class LooseCategory:
    """One of `categories[]`; None where a value cannot be made out."""

    record: Record
    place: str
    category_id: int | None
    name: str | None
    isthing: bool | None
    faults: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class LooseImage:
    """One of `images[]`; `safe` says whether `file_name` stays inside its folder."""

    record: Record
    place: str
    image_id: ImageId | None
    file_name: str | None
    safe: bool
    height: int | None
    width: int | None
    faults: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class LooseSegment:
    """One of `segments_info[]`; ids out of range are None."""

    record: Record
    segment_id: int | None
    category_id: int | None
    area: int | None
    box_xywh: tuple[int, int, int, int] | None
    iscrowd: bool
    faults: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class LooseAnnotation:
    """One of `annotations[]`; `segments` is None where there is no such list."""

    record: Record
    place: str
    image_id: ImageId | None
    file_name: str | None
    safe: bool
    segments: tuple[LooseSegment, ...] | None
    faults: tuple[Problem, ...]


@dataclass(frozen=True, slots=True)
class LooseFile:
    """The whole JSON; a list that is missing is empty here, and a fault."""

    path: Path
    document: Record
    categories: tuple[LooseCategory, ...]
    images: tuple[LooseImage, ...]
    annotations: tuple[LooseAnnotation, ...]
    faults: tuple[Problem, ...]

    @property
    def folder(self) -> Path:
        """Where the PNGs are: the path of the JSON without `.json`."""
        return self.path.with_suffix("")


def read_loose(path: Path) -> LooseFile:
    """Read a JSON whatever it lists; no PNG is opened.

    Raises:
        ConfigError: there is no such file.
        LabelError: it is no JSON, or holds no object.
    """
    document = read_document(path)
    if not isinstance(document, dict):
        raise LabelError(
            f"{path} holds {short_text(document)}; a COCO panoptic file holds an object"
        )
    faults: list[Problem] = []
    images = tuple(_image(*item) for item in _entries(document, "images", faults))
    names = {row.image_id: row.file_name for row in images if row.file_name is not None}
    return LooseFile(
        path,
        document,
        tuple(_category(*item) for item in _entries(document, "categories", faults)),
        images,
        tuple(_annotation(*item, names) for item in _entries(document, "annotations", faults)),
        tuple(faults),
    )


def _entries(
    record: Record, key: str, faults: list[Problem], place: str = "", image: str = ""
) -> Iterator[tuple[Record, str]]:
    """The objects of a list and where each stands; what is none is a fault."""
    inner = f"{place}.{key}" if place else key
    values = record.get(key)
    if not isinstance(values, list):
        faults.append(
            Problem("structure", f"{inner} is {tell_value(record, key)}, not a list", image)
        )
        return
    for index, value in enumerate(values):
        if isinstance(value, dict):
            yield value, f"{inner}[{index}]"
        else:
            message = f"{inner}[{index}] is {short_text(value)}, not an object"
            faults.append(Problem("structure", message, image))


# --- one entry --------------------------------------------------------------------------------


def _category(record: Record, place: str) -> LooseCategory:
    fields = Fields(record, place)
    category_id = fields.integer("id")
    if category_id is not None and category_id < 1:
        fields.fault("category-id", f"id is {category_id}; ids start at 1")
    name, isthing = fields.text("name"), fields.flag("isthing", "isthing")
    fields.optional_text("supercategory")
    fields.color("color")
    return LooseCategory(record, place, category_id, name, isthing, tuple(fields.faults))


def _image(record: Record, place: str) -> LooseImage:
    name = record.get("file_name")
    fields = Fields(record, place, name if isinstance(name, str) else "")
    image_id = fields.image_id("id")
    file_name, safe = fields.path()
    height, width = fields.size("height"), fields.size("width")
    faults = tuple(fields.faults)
    return LooseImage(record, place, image_id, file_name, safe, height, width, faults)


def _annotation(
    record: Record, place: str, names: Mapping[ImageId | None, str | None]
) -> LooseAnnotation:
    fields = Fields(record, place)
    image_id = fields.image_id("image_id")
    file_name, safe = fields.path()
    image = names.get(image_id) or file_name or ""
    faults = [Problem(row.rule, row.message, image) for row in fields.faults]
    inner: list[Problem] = []
    segments = tuple(
        _segment(*item, image) for item in _entries(record, "segments_info", inner, place, image)
    )
    listed = isinstance(record.get("segments_info"), list)
    return LooseAnnotation(
        record,
        place,
        image_id,
        file_name,
        safe,
        segments if listed else None,
        (*faults, *inner),
    )


def _segment(record: Record, place: str, image: str) -> LooseSegment:
    fields = Fields(record, place, image, to_integer(record.get("id")))
    segment_id = fields.integer("id")
    if segment_id is not None and not 1 <= segment_id <= MAX_ID:
        fields.fault("segment-id", f"id is {segment_id}; ids go from 1 to {MAX_ID}")
        segment_id = None
    category_id, area, box = (
        fields.integer("category_id"),
        fields.integer("area"),
        fields.box("bbox"),
    )
    crowd = fields.flag("iscrowd", "field")
    fields.optional_number("score")
    whole = is_integer(record.get("area"))
    return LooseSegment(
        record,
        segment_id,
        category_id,
        area if whole else None,
        box,
        bool(crowd),
        tuple(fields.faults),
    )
