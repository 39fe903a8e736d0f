"""Images from a folder and everything below it."""

from __future__ import annotations

import logging
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError
from prelabel.images import SUFFIXES, decode

__all__ = ["FolderSource"]

_LOGGER = logging.getLogger(__name__)


class FolderSource:
    """An `ImageSource` over the image files of a folder, at any depth.

    `image_id` is the path relative to the folder, with extension and forward slashes; the order is
    that of the ids. Files are told by suffix. Hidden files and folders are left out. A link to a
    folder is followed once: what was already visited is not visited again, so loops end.

    Args:
        location: the folder's path.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("source is empty; name a folder of images")
        self.folder = Path(location).expanduser()

    def records(self) -> Iterator[ImageRecord]:
        """Every image, by id. Raises ConfigError: no such folder, or no image in it."""
        if not self.folder.exists():
            raise ConfigError(f"the source folder {self.folder} does not exist")
        if not self.folder.is_dir():
            raise ConfigError(
                f"the source {self.folder} is a file; name its folder, or use `prelabel image`"
            )
        ids = sorted(self._walk(self.folder, ""))
        if not ids:
            known = ", ".join(sorted(SUFFIXES))
            raise ConfigError(f"the source folder {self.folder} holds no image ({known})")
        _refuse_twins(ids)
        for image_id in ids:
            yield ImageRecord(image_id, str(self.folder / image_id))

    def read(self, record: ImageRecord) -> Frame:
        """Decode one image. Raises ImageError."""
        return decode(record.uri, record)

    def _walk(self, folder: Path, prefix: str) -> Iterator[str]:
        visited: set[tuple[int, int]] = set()
        waiting = [(folder, prefix)]
        while waiting:
            folder, prefix = waiting.pop()
            try:
                status = folder.stat()
                if (status.st_dev, status.st_ino) in visited:
                    continue
                visited.add((status.st_dev, status.st_ino))
                with os.scandir(folder) as entries:
                    listed = sorted(entries, key=lambda entry: entry.name)
            except OSError as error:
                if folder == self.folder:
                    raise ConfigError(
                        f"the source folder {folder} cannot be read: {error.strerror}"
                    ) from error
                _LOGGER.warning("%s cannot be read and is left out: %s", folder, error.strerror)
                continue
            for entry in listed:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    waiting.append((folder / entry.name, f"{prefix}{entry.name}/"))
                elif Path(entry.name).suffix.lower() in SUFFIXES:
                    yield prefix + entry.name


def _refuse_twins(ids: list[str]) -> None:
    """Two ids that differ only in Unicode form look the same to people and to other systems."""
    seen: dict[str, str] = {}
    for image_id in ids:
        form = unicodedata.normalize("NFC", image_id)
        if form in seen:
            raise ConfigError(
                f"the files {seen[form]!a} and {image_id!a} differ only in their Unicode form; "
                "rename one"
            )
        seen[form] = image_id
