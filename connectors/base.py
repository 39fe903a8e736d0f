"""What sources share: places that images are read from, and what is told of them.

A place is a local folder, a web address or a prefix in a store; a source gives it names. Failures
of a single image are ImageErrors of these kinds, beside those of `prelabel.images`:

| kind | what happened | tried again |
|---|---|---|
| gone | there is no such image (404, 410, no such key) | no |
| denied | credentials are missing or do not suffice (401, 403) | no |
| refused | the address is not one that is asked: not https, private, redirected too often | no |
| timeout | no connection, no bytes, or not all bytes in time | twice |
| unavailable | server busy or broken, connection lost, name unknown, half the bytes | twice |
"""

from __future__ import annotations

import os
import random
import re
import time
import unicodedata
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.images import decode

__all__ = [
    "LocalPlace",
    "Place",
    "RemoteError",
    "insist",
    "is_run_folder",
    "is_url",
    "open_place",
    "refuse_twins",
]

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PAUSES = (0.5, 2.0)
"""Seconds before the second and the third try, give or take half."""
_LONGEST_PAUSE = 30.0
"""Most seconds of a server's Retry-After that are waited."""


class Place(Protocol):
    """Where the images of a source are; picklable, and it opens nothing until it is asked."""

    def uri(self, name: str) -> str:
        """The address of an image, for people: without secrets."""

    def read(self, name: str, record: ImageRecord) -> Frame:
        """The image decoded. Raises ImageError and nothing else."""

    def stamp(self, name: str) -> str:
        """What changes when the image does, or ""."""


class RemoteError(ImageError):
    """An image that is elsewhere cannot be fetched; `retry_after` is in seconds."""

    def __init__(self, message: str, *, kind: str, retry_after: float = 0.0) -> None:
        super().__init__(message, kind=kind)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A folder of this machine; a name is a path below it, or an absolute one."""

    folder: str

    def uri(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def read(self, name: str, record: ImageRecord) -> Frame:
        return decode(self.uri(name), record)

    def stamp(self, name: str) -> str:
        """Size and time of the last change."""
        try:
            status = os.stat(self.uri(name))
        except (OSError, ValueError):
            return ""
        return f"{status.st_size}-{status.st_mtime_ns}"


def open_place(location: str, *, allow_private: bool = False) -> Place:
    """The place that `location` names: a folder, `https://…`, or a URL that fsspec knows.

    Args:
        location: a path or URL.
        allow_private: whether web addresses may be private, or without TLS.

    Raises:
        ConfigError: nothing knows that kind of URL.
    """
    if not is_url(location):
        return LocalPlace(str(Path(location).expanduser()))
    # Imported here: a folder of images needs neither TLS nor fsspec.
    if location.partition(":")[0].lower() in ("http", "https"):
        from .web import WebPlace

        return WebPlace(location, allow_private)
    from .stores import StorePlace

    return StorePlace.at(location)


def is_url(text: str) -> bool:
    """Whether `text` begins with a scheme and `://`."""
    return _URL.match(text) is not None


def insist(fetch: Callable[[], bytes]) -> bytes:
    """What `fetch` returns, with two more tries where a later one may succeed.

    Raises:
        RemoteError: the last try's.
    """
    for pause in _PAUSES:
        try:
            return fetch()
        except RemoteError as error:
            if error.kind not in ("timeout", "unavailable"):
                raise
            asked = min(error.retry_after, _LONGEST_PAUSE)
            # Spread, so that many workers do not come back in the same moment.
            time.sleep(max(asked, pause * random.uniform(0.5, 1.5)))
    return fetch()


def refuse_twins(ids: Sequence[str], what: str) -> None:
    """Raise ConfigError where two ids are equal, or look the same but differ in Unicode form."""
    if len(set(ids)) == len(ids) and all(map(str.isascii, ids)):
        return
    seen: dict[str, str] = {}
    for image_id in ids:
        form = unicodedata.normalize("NFC", image_id)
        if seen.get(form) == image_id:
            raise ConfigError(f"{what} {image_id!a} stands twice; name each image once")
        if form in seen:
            raise ConfigError(
                f"{what} {seen[form]!a} and {image_id!a} differ only in their Unicode form; "
                "rename one"
            )
        seen[form] = image_id


def is_run_folder(names: Collection[str]) -> bool:
    """Whether a folder that holds `names` is the output of `prelabel run`.

    Other tools have a `labels` folder or a `config.yaml` too, so one more trace is asked for.
    """
    return "labels" in names and "config.yaml" in names and ("traces" in names or "job.db" in names)
