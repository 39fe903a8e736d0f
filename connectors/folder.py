"""Images from a folder and everything below it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError
from prelabel.images import SUFFIXES

from .base import LocalPlace, is_run_folder, refuse_twins

__all__ = ["FolderSource"]

_LOGGER = logging.getLogger(__name__)


class FolderSource:
    """An `ImageSource` over the image files of a folder, at any depth.

    `image_id` is the path relative to the folder, with extension and forward slashes; the order is
    that of the ids. Files are told by suffix. Hidden files and folders are left out, and so is the
    output of an earlier run, with a warning. A link to a folder is followed once: what was already
    visited is not visited again, so loops end.

    Args:
        location: the folder's path.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("source is empty; name a folder of images")
        self.folder = Path(location).expanduser()
        self._place = LocalPlace(str(self.folder))

    def records(self) -> Iterator[ImageRecord]:
        """Every image, by id. Raises ConfigError: no such folder, or no image in it."""
        if not self.folder.exists():
            raise ConfigError(f"the source folder {self.folder} does not exist")
        if not self.folder.is_dir():
            raise ConfigError(
                f"the source {self.folder} is a file; name its folder, use `prelabel image` for "
                "one image, or list:FILE for a list of them"
            )
        ids = sorted(self._walk())
        if not ids:
            known = ", ".join(sorted(SUFFIXES))
            raise ConfigError(f"the source folder {self.folder} holds no image ({known})")
        refuse_twins(ids, "the files")
        uri = self._place.uri
        for image_id in ids:
            yield ImageRecord(image_id, uri(image_id))

    def read(self, record: ImageRecord) -> Frame:
        """Decode one image. Raises ImageError."""
        return self._place.read(record.image_id, record)

    def stamp(self, record: ImageRecord) -> str:
        """Size and time of the last change, from one look at the folder's entry."""
        return self._place.stamp(record.image_id)

    def _walk(self) -> Iterator[str]:
        visited: set[tuple[int, int]] = set()
        waiting = [(str(self.folder), "")]
        while waiting:
            folder, prefix = waiting.pop()
            entries = self._new_entries(folder, visited)
            if is_run_folder({entry.name for entry in entries}):
                self._leave_out_run(folder)
                continue
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if _is_folder(entry):
                    waiting.append((entry.path, f"{prefix}{entry.name}/"))
                elif os.path.splitext(entry.name)[1].lower() in SUFFIXES:
                    yield prefix + entry.name

    def _new_entries(self, folder: str, visited: set[tuple[int, int]]) -> list[os.DirEntry[str]]:
        """The entries by name, or none where the folder was visited before or cannot be read."""
        try:
            status = os.stat(folder)
            if (status.st_dev, status.st_ino) in visited:
                return []
            visited.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            if folder == str(self.folder):
                raise ConfigError(
                    f"the source folder {folder} cannot be read: {error.strerror}"
                ) from error
            _LOGGER.warning("%s cannot be read and is left out: %s", folder, error.strerror)
            return []

    def _leave_out_run(self, folder: str) -> None:
        if folder == str(self.folder):
            raise ConfigError(
                f"the source folder {folder} is the output of a run; name the folder of the "
                "images, and another one as out"
            )
        _LOGGER.warning("%s is the output of a run and is left out of the source", folder)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads in a circle; reading it will say so
        return False
