"""Images that a text file lists, one path or address per line."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.redaction import redact

from .base import LocalPlace, Place, is_url, open_place, refuse_twins

__all__ = ["ListSource"]

ALLOW_PRIVATE = "::allow-private"
"""Behind the file's name: web addresses may be private, or without TLS."""
STORES = frozenset(
    {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oci", "oss", "hf", "memory"}
)
"""Protocols whose server the user's own settings name, so that a line cannot choose it."""


class ListSource:
    """An `ImageSource` over the lines of a UTF-8 text file, in their order.

    A line is a path, relative to the list file or absolute, an `https://` address, or the URL of an
    object in a store. Blank lines, and lines that begin with `#`, are passed over; blanks around a
    line do not count. `image_id` is the line as written, but for secrets in an address, which are
    replaced by `***`: signatures change and must not be stored. A line that stands twice is an
    error.

    Args:
        location: the file's path, with `::allow-private` behind it where addresses may be private.
    """

    def __init__(self, location: str) -> None:
        self._allow_private = location.endswith(ALLOW_PRIVATE)
        location = location.removesuffix(ALLOW_PRIVATE)
        if not location:
            raise ConfigError("the list of images is empty; give list:FILE")
        self.file = Path(location).expanduser()
        self._folder = LocalPlace(str(self.file.parent))
        self._signed: dict[str, str] | None = None

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_signed": None}

    def records(self) -> Iterator[ImageRecord]:
        """Every image. Raises ConfigError: no such file, no line in it, or one stands twice."""
        lines = self._lines()
        if not lines:
            raise ConfigError(f"{self.file} lists no image; write one path or address per line")
        ids = [redact(line) for line in lines]
        refuse_twins(ids, f"{self.file}: the lines")
        self._signed = {
            image_id: line for image_id, line in zip(ids, lines, strict=True) if image_id != line
        }
        for image_id in ids:
            yield ImageRecord(image_id, self._uri(image_id))

    def read(self, record: ImageRecord) -> Frame:
        """Read or fetch one image. Raises ImageError."""
        line = self._line(record.image_id)
        if not is_url(line):
            return self._folder.read(line, record)
        return self._elsewhere(line, record).read("", record)

    def stamp(self, record: ImageRecord) -> str:
        """Of files; addresses would have to be asked one by one."""
        return "" if is_url(record.image_id) else self._folder.stamp(record.image_id)

    def _uri(self, image_id: str) -> str:
        return image_id if is_url(image_id) else self._folder.uri(image_id)

    def _elsewhere(self, line: str, record: ImageRecord) -> Place:
        scheme = line.partition("://")[0].lower()
        if scheme not in STORES | {"http", "https"} or "::" in line:
            raise ImageError(
                f"{record.image_id}: {scheme}:// is not followed from a list; https and "
                f"{', '.join(sorted(STORES))} are",
                kind="refused",
            )
        try:
            return _place(line, self._allow_private)
        except ConfigError as error:
            raise ImageError(f"{record.image_id}: {error}", kind="refused") from error

    def _line(self, image_id: str) -> str:
        """The line behind an id, read again only where something was taken out of it."""
        if "***" not in image_id:
            return image_id
        if self._signed is None:
            self._signed = {redact(line): line for line in self._lines()}
        return self._signed.get(image_id, image_id)

    def _lines(self) -> list[str]:
        try:
            data = self.file.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"the list {self.file} cannot be read: {error.strerror or error}"
            ) from error
        if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data:
            raise ConfigError(
                f"the list {self.file} is no UTF-8 text (UTF-16, or no text at all); save it as "
                "UTF-8"
            )
        # Names that are not valid Unicode come through, as they do from a folder.
        text = os.fsdecode(data.removeprefix(b"\xef\xbb\xbf"))
        lines = (line.strip(" \t\r") for line in text.split("\n"))
        return [line for line in lines if line and not line.startswith("#")]


@lru_cache(maxsize=256)
def _place(line: str, allow_private: bool) -> Place:
    return open_place(line, allow_private=allow_private)
