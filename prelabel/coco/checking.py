"""Every broken rule of a COCO panoptic file, JSON and PNGs, in the order in which it stands."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prelabel.coco.codec import read_id_map
from prelabel.coco.loose import (
    LooseAnnotation,
    LooseCategory,
    LooseFile,
    LooseImage,
    LooseSegment,
    read_loose,
)
from prelabel.coco.records import ImageId, measure_ids
from prelabel.coco.rules import Problem
from prelabel.errors import LabelError

__all__ = ["PngHeader", "check_panoptic", "read_png_header"]

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLORS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}


def check_panoptic(path: Path) -> Iterator[Problem]:
    """Yield every broken rule; one PNG is open at a time.

    One cause gives one problem where that can be told: what is wrong already is not asked for more.

    Raises:
        ConfigError: there is no such file.
        LabelError: it is no JSON, or holds no object.
    """
    file = read_loose(Path(path))
    yield from file.faults
    yield from _check_empty(file)
    yield from _check_categories(file.categories)
    yield from _check_images(file)
    yield from _check_annotations(file)


def _check_empty(file: LooseFile) -> Iterator[Problem]:
    for key in ("categories", "images"):
        if file.document.get(key) == []:
            yield Problem("empty", f"{key} is an empty list")


def _check_categories(categories: Sequence[LooseCategory]) -> Iterator[Problem]:
    ids: set[int] = set()
    names: set[str] = set()
    for row in categories:
        yield from row.faults
        if row.category_id is not None and row.category_id in ids:
            message = f"{row.place}.id is {row.category_id}, which another category has"
            yield Problem("duplicate-category", message)
        elif row.name is not None and row.name in names:
            message = f"{row.place}.name is {row.name!r}, which another category has"
            yield Problem("duplicate-category", message)
        ids |= set() if row.category_id is None else {row.category_id}
        names |= set() if row.name is None else {row.name}


def _check_images(file: LooseFile) -> Iterator[Problem]:
    annotated = {row.image_id for row in file.annotations}
    ids: set[ImageId] = set()
    names: set[str] = set()
    for row in file.images:
        name = row.file_name or ""
        yield from row.faults
        if row.image_id is not None and row.image_id in ids:
            message = f"{row.place}.id is {row.image_id!r}, which another image has"
            yield Problem("duplicate-image-id", message, name)
        elif row.image_id is not None and row.image_id not in annotated:
            message = f"{row.place} has no annotation"
            # A broken list of annotations is told as such.
            if isinstance(file.document.get("annotations"), list):
                yield Problem("no-annotation", message, name)
        if row.file_name is not None and row.file_name in names:
            message = f"{row.place}.file_name is {name!r}, which another image has"
            yield Problem("duplicate-file-name", message, name)
        ids |= set() if row.image_id is None else {row.image_id}
        names |= set() if row.file_name is None else {row.file_name}


# --- annotations ------------------------------------------------------------------------------


def _check_annotations(file: LooseFile) -> Iterator[Problem]:
    images: dict[ImageId, LooseImage] = {}
    for image in file.images:
        if image.image_id is not None:
            images.setdefault(image.image_id, image)
    categories: dict[int, LooseCategory] = {}
    for category in file.categories:
        if category.category_id is not None:
            categories.setdefault(category.category_id, category)
    seen: set[ImageId] = set()
    pngs: set[str] = set()
    for row in file.annotations:
        found = None if row.image_id is None else images.get(row.image_id)
        name = (found.file_name if found else None) or row.file_name or ""
        yield from row.faults
        if (
            row.image_id is not None
            and found is None
            and isinstance(file.document.get("images"), list)
        ):
            message = f"{row.place}.image_id is {row.image_id!r}, which images[] does not list"
            yield Problem("unknown-image", message, name)
        if row.image_id is not None and row.image_id in seen:
            message = f"{row.place} is another annotation of image {row.image_id!r}"
            yield Problem("duplicate-annotation", message, name)
        again = row.file_name is not None and row.file_name in pngs
        if again:
            message = f"{row.place}.file_name is {row.file_name!r}, which another annotation has"
            # A second annotation of the same image is one problem, not two.
            if row.image_id not in seen:
                yield Problem("duplicate-png", message, name)
        elif row.file_name is not None and row.safe and not _named_png(row.file_name):
            message = f"{row.place}.file_name is {row.file_name!r}; it ends in .png"
            yield Problem("png-name", message, name)
        seen |= set() if row.image_id is None else {row.image_id}
        pngs |= set() if row.file_name is None else {row.file_name}
        yield from _check_segments(row, categories, name)
        if row.file_name is not None and row.safe and not again:
            yield from _check_png(file.folder / row.file_name, row, found, name)


def _named_png(file_name: str) -> bool:
    return file_name.lower().endswith(".png")


def _check_segments(
    annotation: LooseAnnotation, categories: Mapping[int, LooseCategory], image: str
) -> Iterator[Problem]:
    ids: set[int] = set()
    stuff: Counter[int] = Counter()
    for segment in annotation.segments or ():
        yield from segment.faults
        if segment.segment_id is not None and segment.segment_id in ids:
            message = f"segment {segment.segment_id} stands twice in {annotation.place}"
            yield Problem("duplicate-segment", message, image, segment.segment_id)
            continue
        ids |= set() if segment.segment_id is None else {segment.segment_id}
        if segment.category_id is None:
            continue
        category = categories.get(segment.category_id)
        told = f"segment {segment.segment_id} is of category {segment.category_id}"
        if category is None:
            message = f"{told}, which categories[] does not list"
            yield Problem("unknown-category", message, image, segment.segment_id)
        elif category.isthing is False:
            stuff[segment.category_id] += 1
            if stuff[segment.category_id] > 1:
                message = f"{told} ({category.name}), stuff that another segment is of"
                yield Problem("stuff-twice", message, image, segment.segment_id)


# --- the PNG ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PngHeader:
    """What a PNG says about itself: size in pixels, bits per channel, and the kind of colour."""

    width: int
    height: int
    depth: int
    color: int

    @property
    def is_rgb8(self) -> bool:
        return (self.depth, self.color) == (8, 2)

    def __str__(self) -> str:
        return f"{self.depth}-bit {_COLORS.get(self.color, 'of an unknown kind')}"


def read_png_header(path: Path) -> PngHeader:
    """Read a PNG's first chunk; Pillow would turn 16-bit RGB into 8 without a word.

    Raises:
        LabelError: the file is missing, or is no PNG.
    """
    try:
        with path.open("rb") as stream:
            head = stream.read(26)
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror or error}") from error
    if len(head) < 26 or head[:8] != _SIGNATURE or head[12:16] != b"IHDR":
        raise LabelError(f"{path} is no PNG")
    return PngHeader(*struct.unpack(">IIBB", head[16:26]))


def _check_png(
    path: Path, annotation: LooseAnnotation, image: LooseImage | None, name: str
) -> Iterator[Problem]:
    if not path.is_file():
        yield Problem("png-missing", f"{path} is not there", name)
        return
    try:
        header = read_png_header(path)
        id_map = read_id_map(path) if header.color in (2, 6) and header.depth == 8 else None
    except LabelError as error:
        yield Problem("png-unreadable", str(error), name)
        return
    if not header.is_rgb8:
        yield Problem("png-mode", f"{path} is {header}, not 8-bit RGB", name)
    size = (header.height, header.width)
    if image is not None and image.height is not None and image.width is not None:
        listed = (image.height, image.width)
        if listed != size:
            message = f"{path} has (height, width) {size}, images[] says {listed}"
            yield Problem("png-size", message, name)
    if id_map is not None and annotation.segments is not None:
        yield from _check_pixels(id_map, annotation.segments, name)


def _check_pixels(
    id_map: NDArray[np.int32], segments: Sequence[LooseSegment], image: str
) -> Iterator[Problem]:
    measured = measure_ids(id_map)
    known: dict[int, LooseSegment] = {}
    for segment in segments:
        if segment.segment_id is not None:
            known.setdefault(segment.segment_id, segment)
    for segment_id, segment in known.items():
        if segment_id not in measured:
            message = f"segment {segment_id} has no pixel in the PNG"
            yield Problem("empty-segment", message, image, segment_id)
            continue
        area, (x0, y0, x1, y1) = measured[segment_id]
        if segment.area is not None and segment.area != area:
            message = f"segment {segment_id} says area {segment.area}, its pixels are {area}"
            yield Problem("area", message, image, segment_id)
        box = (x0, y0, x1 - x0, y1 - y0)
        if segment.box_xywh is not None and segment.box_xywh != box:
            message = (
                f"segment {segment_id} says bbox {list(segment.box_xywh)}, its pixels {list(box)}"
            )
            yield Problem("bbox", message, image, segment_id)
    # An id that cannot be read may be the one that is missing here.
    if any(_unreadable(segment) for segment in segments):
        return
    for segment_id in sorted(measured.keys() - known.keys()):
        message = f"{measured[segment_id][0]} pixels have id {segment_id}, which is not listed"
        yield Problem("unlisted-id", message, image, segment_id)


def _unreadable(segment: LooseSegment) -> bool:
    return segment.segment_id is None and not any(
        fault.rule == "segment-id" for fault in segment.faults
    )
