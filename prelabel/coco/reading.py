"""Reading COCO panoptic files of anyone: strict about types and paths, tolerant of the rest."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Never, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.coco.codec import read_id_map
from prelabel.coco.records import CocoAnnotation, CocoCategory, CocoImage, CocoSegment, ImageId
from prelabel.errors import ConfigError, LabelError

__all__ = ["PanopticFile", "check_relative", "parse_json", "read_document", "read_panoptic"]

_Record: TypeAlias = Mapping[str, object]


@dataclass(frozen=True)
class PanopticFile:
    """A COCO panoptic file; its PNGs are opened one by one, when asked for."""

    path: Path
    categories: tuple[CocoCategory, ...]
    images: tuple[CocoImage, ...]
    annotations: tuple[CocoAnnotation, ...]

    @property
    def folder(self) -> Path:
        """Where the PNGs are: the path of the JSON without `.json`."""
        return self.path.with_suffix("")

    @cached_property
    def images_by_id(self) -> Mapping[ImageId, CocoImage]:
        return {image.image_id: image for image in self.images}

    @cached_property
    def categories_by_id(self) -> Mapping[int, CocoCategory]:
        return {category.category_id: category for category in self.categories}

    def id_map(self, annotation: CocoAnnotation) -> NDArray[np.int32]:
        """Open the annotation's PNG: segment ids int32 (H, W), 0 is void."""
        return read_id_map(self.folder / annotation.file_name)


def read_panoptic(json_path: Path) -> PanopticFile:
    """Read the JSON of a COCO panoptic file; no PNG is opened.

    `images` and `categories` may be missing, as in COCO's own result files.

    Raises:
        ConfigError: there is no such file.
        LabelError: it is no JSON, or a key is missing, of the wrong type or an unsafe path.
    """
    path = Path(json_path)
    root = _Node(read_document(path), str(path))
    return PanopticFile(
        path,
        tuple(_category(node) for node in root.items("categories", required=False)),
        tuple(_image(node) for node in root.items("images", required=False)),
        tuple(_annotation(node) for node in root.items("annotations")),
    )


def read_document(path: Path) -> object:
    """The content of a JSON file.

    Raises:
        ConfigError: there is no such file.
        LabelError: it is no JSON in UTF-8.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path} is not UTF-8 text: {error}") from error
    if not text.strip():
        raise LabelError(f"{path} is not valid JSON: it is empty")
    return parse_json(text, str(path))


def parse_json(text: str, where: str) -> object:
    """Parse JSON, refusing NaN, infinities and duplicate keys; `where` is named in the error."""

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        record = dict(items)
        if len(record) != len(items):
            keys = [key for key, _ in items]
            twice = next(key for key in keys if keys.count(key) > 1)
            raise ValueError(f"the key {twice!r} stands twice in one object")
        return record

    def finite(number: str) -> float:
        value = float(number)
        if not math.isfinite(value):
            raise ValueError(f"the number {number} is too large")
        return value

    def refuse(constant: str) -> Never:
        raise ValueError(f"{constant} is not allowed")

    try:
        value: object = json.loads(
            text, object_pairs_hook=pairs, parse_float=finite, parse_constant=refuse
        )
    except (ValueError, RecursionError) as error:
        raise LabelError(f"{where} is not valid JSON: {error}") from error
    return value


def check_relative(name: str, where: str) -> str:
    """Return `name` if it is a path that stays inside its folder, on any system.

    Raises:
        LabelError: it is empty or absolute, has a drive or `..`, or holds a NUL.
    """
    windows = PureWindowsPath(name)
    if (
        not name.strip("/\\. ")
        or "\0" in name
        or PurePosixPath(name).is_absolute()
        or windows.drive
        or windows.root
        or ".." in windows.parts
    ):
        raise LabelError(f"{where}: {name!r} is not a relative path inside its folder")
    return name


def _category(node: _Node) -> CocoCategory:
    return CocoCategory(
        node.integer("id"),
        node.text("name"),
        node.flag("isthing"),
        node.text("supercategory", ""),
        node.color("color"),
        node.extra("id", "name", "isthing", "supercategory", "color"),
    )


def _image(node: _Node) -> CocoImage:
    return CocoImage(
        node.image_id("id"),
        check_relative(node.text("file_name"), node.at("file_name")),
        node.optional_integer("height"),
        node.optional_integer("width"),
        node.extra("id", "file_name", "height", "width"),
    )


def _annotation(node: _Node) -> CocoAnnotation:
    return CocoAnnotation(
        node.image_id("image_id"),
        check_relative(node.text("file_name"), node.at("file_name")),
        tuple(_segment(item) for item in node.items("segments_info")),
        node.extra("image_id", "file_name", "segments_info"),
    )


def _segment(node: _Node) -> CocoSegment:
    box = node.numbers("bbox", 4)
    return CocoSegment(
        node.integer("id"),
        node.integer("category_id"),
        node.optional_integer("area"),
        None if box is None else (box[0], box[1], box[2], box[3]),
        node.flag("iscrowd", False),
        node.optional_number("score"),
        node.extra("id", "category_id", "area", "bbox", "iscrowd", "score"),
    )


class _Node:
    """One object of the JSON, which knows where it stands, so that errors can say so."""

    __slots__ = ("_file", "_key", "_record")

    def __init__(self, value: object, file: str, key: str = "") -> None:
        if not isinstance(value, dict):
            place = f"{file}: {key}" if key else file
            raise LabelError(f"{place} is {_short(value)}; expected an object")
        self._record: _Record = value
        self._file = file
        self._key = key

    def at(self, key: str) -> str:
        return f"{self._file}: {self._key}.{key}" if self._key else f"{self._file}: {key}"

    def wrong(self, key: str, expected: str) -> LabelError:
        if key not in self._record:
            return LabelError(f"{self.at(key)} is missing; expected {expected}")
        return LabelError(f"{self.at(key)} is {_short(self._record[key])}; expected {expected}")

    def items(self, key: str, *, required: bool = True) -> Iterator[_Node]:
        values = self._record.get(key, None if required else [])
        if not isinstance(values, list):
            raise self.wrong(key, "a list")
        for index, value in enumerate(values):
            inner = f"{self._key}.{key}" if self._key else key
            yield _Node(value, self._file, f"{inner}[{index}]")

    def text(self, key: str, default: str | None = None) -> str:
        value = self._record.get(key, default)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(key, "a string")
        return value

    def integer(self, key: str) -> int:
        value = self._record.get(key)
        # Tables of numbers turn whole columns into floats on their way through other tools.
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.wrong(key, "an integer")
        return value

    def optional_integer(self, key: str) -> int | None:
        return None if self._record.get(key) is None else self.integer(key)

    def image_id(self, key: str) -> ImageId:
        value = self._record.get(key)
        return value if isinstance(value, str) else self.integer(key)

    def flag(self, key: str, default: bool | None = None) -> bool:
        value = self._record.get(key, default)
        if value not in (0, 1):
            raise self.wrong(key, "0 or 1")
        return bool(value)

    def optional_number(self, key: str) -> float | None:
        value = self._record.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise self.wrong(key, "a number")
        return float(value)

    def numbers(self, key: str, count: int) -> list[float] | None:
        values = self._record.get(key)
        if values is None:
            return None
        if not isinstance(values, list) or len(values) != count:
            raise self.wrong(key, f"{count} numbers")
        for value in values:
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise self.wrong(key, f"{count} numbers")
        return values

    def color(self, key: str) -> tuple[int, int, int] | None:
        values = self.numbers(key, 3)
        if values is None:
            return None
        if not all(0 <= value <= 255 and value == int(value) for value in values):
            raise self.wrong(key, "three integers from 0 to 255")
        return int(values[0]), int(values[1]), int(values[2])

    def extra(self, *known: str) -> dict[str, object]:
        return {key: value for key, value in self._record.items() if key not in known}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
