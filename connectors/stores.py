"""Images in stores that fsspec knows: S3, Google Cloud, Azure, memory, archives and others.

Addresses are fsspec's URLs. Credentials and endpoints come from the environment, as each store's
own package documents, or from fsspec's `FSSPEC_<PROTOCOL>_<OPTION>` variables.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError
from prelabel.images import MAX_BYTES, decode
from prelabel.redaction import redact

from .base import RemoteError, insist

__all__ = ["StorePlace"]

TOTAL_SECONDS = 60.0
"""Longest time for one image."""

_T = TypeVar("_T")
_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""Protocols whose package one of this package's extras installs."""
_VERSIONS = ("ETag", "etag", "md5", "content_md5", "md5Hash")
"""What stores call the digest of an object."""
_CHANGES = ("LastModified", "last_modified", "updated", "mtime", "created")
"""What stores call the time of an object's last change."""


@dataclass(frozen=True, slots=True)
class StorePlace:
    """What lies below a URL of fsspec's; a name is the rest of an object's path."""

    root: str

    @classmethod
    def at(cls, url: str) -> StorePlace:
        """Raises ConfigError: fsspec, or the package of that protocol, is not installed."""
        place = cls(url)
        place._open()
        return place

    def uri(self, name: str) -> str:
        address = f"{self.root.rstrip('/')}/{name}" if name else self.root
        return str(redact(address))

    def read(self, name: str, record: ImageRecord) -> Frame:
        """Fetch and decode, with two more tries where that may help."""
        return decode(insist(lambda: self._fetch(name, record)), record)

    def stamp(self, name: str) -> str:
        """Asks the store; `listing` has the stamps of all at once."""
        try:
            store, path = self._locate(name)
            return stamp_of(_within(TOTAL_SECONDS, lambda: store.info(path)))
        except Exception:  # as in `_fetch`; reading the image will say what is wrong
            return ""

    def listing(self) -> dict[str, str]:
        """The stamp of every object below, by name. No object is opened.

        Raises:
            ConfigError: the store refuses, or there is no such place.
        """
        store, root = self._open()
        try:
            found: Mapping[str, Any] = store.find(root, detail=True)
        except MemoryError:
            raise
        except Exception as error:  # each store's package has errors of its own
            raise ConfigError(
                f"the source {redact(self.root)} cannot be listed: {_sentence(error)}"
            ) from error
        prefix = root.rstrip("/") + "/"
        return {
            path.removeprefix(prefix): stamp_of(info)
            for path, info in found.items()
            if path.startswith(prefix)
        }

    def _fetch(self, name: str, record: ImageRecord) -> bytes:
        store, path = self._locate(name)

        def fetch() -> bytes:
            try:
                return bytes(store.cat_file(path, start=0, end=MAX_BYTES + 1))
            except (FileNotFoundError, PermissionError, MemoryError):
                raise
            except Exception:
                # Asked for a range of an empty object, S3 answers with an error.
                if store.info(path).get("size") == 0:
                    return b""
                raise

        try:
            return _within(TOTAL_SECONDS, fetch)
        except MemoryError:
            raise
        except Exception as error:  # each store's package has errors of its own
            raise RemoteError(
                f"{record.image_id}: cannot be fetched, {_sentence(error)}", kind=_kind(error)
            ) from error

    def _locate(self, name: str) -> tuple[Any, str]:
        store, root = self._open()
        return store, f"{root.rstrip('/')}/{name}" if name else root

    def _open(self) -> tuple[Any, str]:
        """fsspec's file system and the root's path in it; fsspec keeps one for each thread."""
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise ConfigError(
                f'{redact(self.root)} needs fsspec: pip install "prelabel[fsspec]"'
            ) from error
        try:
            store, root = url_to_fs(self.root)
        except ImportError as error:
            raise ConfigError(f"{redact(self.root)}: {_missing(self.root, error)}") from error
        except ValueError as error:
            raise ConfigError(
                f"{redact(self.root)}: {error}; give a folder, list:FILE, coco:FILE, or a URL "
                "that fsspec knows, such as s3://bucket/prefix"
            ) from error
        return store, str(root)


def stamp_of(info: Mapping[str, Any]) -> str:
    """What changes when an object does: its digest, or else size and time."""
    for key in _VERSIONS:
        if info.get(key):
            return str(info[key]).strip('"')
    changed = next((info[key] for key in _CHANGES if info.get(key)), None)
    if isinstance(changed, datetime):  # some stores list seconds where they tell dates
        changed = changed.timestamp()
    if isinstance(changed, float):
        changed = f"{changed:.6f}"
    return "" if changed is None else f"{info.get('size')}-{changed}"


def _missing(url: str, error: ImportError) -> str:
    extra = _EXTRAS.get(url.partition(":")[0])
    if extra is not None:
        return f'needs a package that is not installed: pip install "prelabel[{extra}]"'
    return f"needs a package that is not installed: {error}"


def _within(seconds: float, call: Callable[[], _T]) -> _T:
    """What `call` returns; its thread is given up when the time is over.

    Few stores' packages can be told how long a whole call may take.
    """
    answers: queue.SimpleQueue[tuple[_T, None] | tuple[None, BaseException]] = queue.SimpleQueue()

    def answer() -> None:
        try:
            answers.put((call(), None))
        except BaseException as error:
            answers.put((None, error))

    threading.Thread(target=answer, daemon=True).start()
    try:
        value, error = answers.get(timeout=seconds)
    except queue.Empty:
        raise TimeoutError(f"no answer within {seconds:g} s") from None
    if error is not None:
        raise error
    return value  # type: ignore[return-value]


def _kind(error: Exception) -> str:
    """The kind of failure that an error of any store's package means."""
    if isinstance(error, FileNotFoundError):
        return "gone"
    name = type(error).__name__
    if isinstance(error, PermissionError) or "Credential" in name or "Forbidden" in name:
        return "denied"
    if isinstance(error, TimeoutError) or "Timeout" in name:
        return "timeout"
    return "unavailable"


def _sentence(error: Exception) -> str:
    return str(redact(str(error))).strip().rstrip(".") or type(error).__name__
