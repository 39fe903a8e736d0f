"""Images below a URL that fsspec knows, such as `s3://bucket/prefix` or `memory://photos`."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import PurePosixPath

from prelabel.coco import check_relative
from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, LabelError
from prelabel.images import SUFFIXES

from .base import is_run_folder, refuse_twins
from .stores import StorePlace

__all__ = ["FsspecSource"]

_LOGGER = logging.getLogger(__name__)


class FsspecSource:
    """An `ImageSource` over the objects below a URL, by the same rules as a folder.

    `image_id` is the object's name below the URL. Objects are told by suffix; hidden ones and the
    output of earlier runs are left out. The listing brings every stamp along, so that `stamp` asks
    nobody; a copy in another process asks the store.

    Args:
        location: a URL, with fsspec's chaining where wanted: `zip://*::s3://bucket/a.zip`.
    """

    def __init__(self, location: str) -> None:
        if location.startswith(("http://", "https://")):
            raise ConfigError(
                f"{location}: a web server cannot be listed; write the addresses into a file, one "
                "per line, and give list:FILE"
            )
        self._place = StorePlace.at(location)
        self._stamps: dict[str, str] = {}

    def __getstate__(self) -> dict[str, object]:
        return {"_place": self._place, "_stamps": {}}

    def records(self) -> Iterator[ImageRecord]:
        """Every image, by id. Raises ConfigError: the store refuses, or holds no image there."""
        stamps = self._place.listing()
        ids = sorted(name for name in _outside_runs(stamps) if _is_image(name))
        if not ids:
            known = ", ".join(sorted(SUFFIXES))
            raise ConfigError(f"the source {self._place.uri('')} holds no image ({known})")
        refuse_twins(ids, "the objects")
        self._stamps = {image_id: stamps[image_id] for image_id in ids}
        for image_id in ids:
            yield ImageRecord(image_id, self._place.uri(image_id))

    def read(self, record: ImageRecord) -> Frame:
        """Fetch and decode one image. Raises ImageError."""
        return self._place.read(record.image_id, record)

    def stamp(self, record: ImageRecord) -> str:
        """The object's digest, or else size and time."""
        known = self._stamps.get(record.image_id)
        return self._place.stamp(record.image_id) if known is None else known


def _is_image(name: str) -> bool:
    parts = name.split("/")
    if PurePosixPath(name).suffix.lower() not in SUFFIXES or any(
        part.startswith(".") and part not in (".", "..") for part in parts
    ):
        return False
    try:
        check_relative(name, "source")
    except LabelError:
        _LOGGER.warning("the object %a is left out: its name leads out of its folder", name)
        return False
    return True


def _outside_runs(names: dict[str, str]) -> list[str]:
    """The names that are not the output of an earlier run."""
    inside: dict[str, set[str]] = {}
    for name in names:
        if name.endswith(("/config.yaml", "/job.db")) or name in ("config.yaml", "job.db"):
            inside[name.rpartition("/")[0]] = set()
    for name in names:
        parts = name.split("/")
        for depth, part in enumerate(parts):
            above = "/".join(parts[:depth])
            if above in inside:
                inside[above].add(part)
    runs = [folder for folder, held in inside.items() if is_run_folder(held)]
    for folder in runs:
        _LOGGER.warning(
            "%s is the output of a run and is left out of the source", folder or "the URL itself"
        )
    prefixes = tuple(f"{folder}/" if folder else "" for folder in runs)
    return [name for name in names if not name.startswith(prefixes)]
