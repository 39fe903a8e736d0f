"""The images that a COCO file lists: any JSON with `images[]` of `id` and `file_name`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from prelabel.coco import check_relative, parse_json
from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, LabelError

from .base import open_place, refuse_twins

__all__ = ["CocoImagesSource"]

_SPACE = re.compile(rb"[ \t\r\n]*")
_STRING = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_PLAIN = re.compile(rb"[^\s,{}\[\]\":]+")
_NESTING = re.compile(_STRING.pattern + rb"|[\[{\]}]", re.DOTALL)


class CocoImagesSource:
    """An `ImageSource` over `images[]` of a COCO file, in its order.

    `image_id` is `file_name`, a path below the root that stays inside it on any system; `ref` is
    COCO's own id. Nothing else of the file is read, however large its annotations are.

    Args:
        location: `FILE` or `FILE::ROOT`. ROOT is a folder, `https://…`, or a URL that fsspec knows,
            of which `file_name` is the rest; without it, it is the file's own folder.
    """

    def __init__(self, location: str) -> None:
        file, _, root = location.partition("::")
        if not file:
            raise ConfigError("the COCO file is missing; give coco:FILE or coco:FILE::ROOT")
        self.file = Path(file).expanduser()
        self._place = open_place(root or str(self.file.parent))

    def records(self) -> Iterator[ImageRecord]:
        """Every image. Raises ConfigError: no such file, no images, or a wrong one among them."""
        records = [
            self._record(entry, f"{self.file}: images[{index}]")
            for index, entry in enumerate(_read_images(self.file))
        ]
        if not records:
            raise ConfigError(f"{self.file} lists no image: images[] is empty")
        refuse_twins([record.image_id for record in records], f"{self.file}: the file_names")
        _refuse_equal_refs(records, self.file)
        yield from records

    def read(self, record: ImageRecord) -> Frame:
        """Read or fetch one image. Raises ImageError."""
        return self._place.read(record.image_id, record)

    def stamp(self, record: ImageRecord) -> str:
        """As the root tells it."""
        return self._place.stamp(record.image_id)

    def _record(self, entry: object, where: str) -> ImageRecord:
        if not isinstance(entry, dict):
            raise ConfigError(f"{where} is no object; expected one with id and file_name")
        name, ref = entry.get("file_name"), entry.get("id")
        if not isinstance(name, str):
            raise ConfigError(f"{where}.file_name is {name!r}; expected a text")
        if not isinstance(ref, int | str) or isinstance(ref, bool):
            raise ConfigError(f"{where}.id is {ref!r}; expected an integer")
        try:
            check_relative(name, f"{where}.file_name")
        except LabelError as error:
            raise ConfigError(str(error)) from error
        return ImageRecord(name, self._place.uri(name), str(ref))


def _refuse_equal_refs(records: list[ImageRecord], file: Path) -> None:
    seen: dict[str, str] = {}
    for record in records:
        if record.ref in seen:
            raise ConfigError(
                f"{file}: {seen[record.ref]!a} and {record.image_id!a} have the same id "
                f"{record.ref}; each image needs its own"
            )
        seen[record.ref] = record.image_id


# --- one key of a large document --------------------------------------------------------------


def _read_images(file: Path) -> list[object]:
    """The list at the top-level key `images`; what stands beside it is passed over unread.

    The annotations of a large set are hundreds of megabytes that would be gigabytes of objects.
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"the COCO file {file} cannot be read: {error.strerror or error}"
        ) from error
    found = [value for key, value in _members(data, file) if key == "images"]
    if len(found) != 1:
        how = "stands twice" if found else "is missing"
        raise ConfigError(f"{file}: images {how}; expected one list of images")
    try:
        images = parse_json(found[0].decode("utf-8"), f"{file}: images")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file} is not UTF-8 text: {error}") from error
    except LabelError as error:
        raise ConfigError(str(error)) from error
    if not isinstance(images, list):
        raise ConfigError(f"{file}: images is no list")
    return images


def _members(data: bytes, file: Path) -> Iterator[tuple[str, bytes]]:
    """Keys and unparsed values of the object that a JSON document is."""
    place = _after(data, _skip(data, 3 if data.startswith(b"\xef\xbb\xbf") else 0), b"{", file)
    while True:
        place = _skip(data, place)
        if data[place : place + 1] == b"}":
            break
        key = _STRING.match(data, place)
        if key is None:
            raise _broken(file, place)
        start = _skip(data, _after(data, _skip(data, key.end()), b":", file))
        end = _value_end(data, start, file)
        yield str(parse_json(key[0].decode("utf-8", "replace"), str(file))), data[start:end]
        place = _skip(data, end)
        if data[place : place + 1] == b",":
            place += 1
        elif data[place : place + 1] != b"}":
            raise _broken(file, place)
    if _skip(data, place + 1) != len(data):
        raise _broken(file, place + 1)


def _value_end(data: bytes, start: int, file: Path) -> int:
    """Where the value ends that begins at `start`."""
    if data[start : start + 1] not in (b"[", b"{"):
        plain = _STRING.match(data, start) or _PLAIN.match(data, start)
        if plain is None:
            raise _broken(file, start)
        return plain.end()
    depth = 0
    for token in _NESTING.finditer(data, start):
        if token[0] in (b"[", b"{"):
            depth += 1
        elif token[0] in (b"]", b"}"):
            depth -= 1
            if not depth:
                return token.end()
    raise _broken(file, len(data))


def _skip(data: bytes, place: int) -> int:
    space = _SPACE.match(data, place)
    return space.end() if space else place


def _after(data: bytes, place: int, sign: bytes, file: Path) -> int:
    if data[place : place + 1] != sign:
        raise _broken(file, place)
    return place + 1


def _broken(file: Path, place: int) -> ConfigError:
    return ConfigError(f"{file} is not valid JSON, or cut short, at byte {place}")
