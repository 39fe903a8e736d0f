"""A dataset of Segments.ai: what its location says, what it holds, and its images."""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from PIL import ExifTags, Image

from prelabel.coco import check_relative
from prelabel.data import Frame, ImageRecord, Ontology
from prelabel.errors import ConfigError, LabelError
from prelabel.images import decode
from prelabel.redaction import redact

from .base import RemoteError
from .list_file import ALLOW_PRIVATE
from .retrying import CallError, Patience
from .segments_calls import Calls
from .segments_labels import build_ontology
from .web import fetch

__all__ = ["GROUND_TRUTH", "Dataset", "Location", "fetch_file", "is_oriented"]

GROUND_TRUTH = "ground-truth"
"""The labelset that every dataset has."""
_TASKS = ("segmentation-bitmap", "segmentation-bitmap-highres")
_STATUSES = (
    *("REVIEWED", "REVIEWING_IN_PROGRESS", "LABELED", "LABELING_IN_PROGRESS", "REJECTED"),
    *("PRELABELED", "SKIPPED", "VERIFIED", "UNLABELED"),
)
_OPEN = ("UNLABELED", "PRELABELED")
_NAME = re.compile(r"[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+")
_LABELSET = re.compile(r"[A-Za-z0-9_.-]+")
_PER_PAGE = 1000
_FETCH_KINDS = {"timeout": "timeout", "denied": "expired", "gone": "expired", "refused": "refused"}
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Location:
    """`owner/dataset`, and behind it any of `::labelset=NAME`, `::status=A,B`, `::timeout=SECONDS`
    and `::allow-private`.

    Attributes:
        name: owner/dataset.
        labelset: whose statuses count and where labels go.
        statuses: of the samples that are offered as images.
        allow_private: whether images and bitmaps may come from private addresses, or without TLS.
        timeout: seconds for one answer.
    """

    name: str
    labelset: str = GROUND_TRUTH
    statuses: tuple[str, ...] = _OPEN
    allow_private: bool = False
    timeout: float = 30.0

    @classmethod
    def parse(cls, text: str) -> Location:
        """Read a location. Raises ConfigError."""
        name, *options = text.split("::")
        if "@" in name or ":" in name:
            raise ConfigError(
                "segments-ai takes owner/dataset; a key does not belong into a location or a "
                "config, only into the environment as SEGMENTS_API_KEY"
            )
        if not _NAME.fullmatch(name):
            raise ConfigError(f"segments-ai:{name} names no dataset; expected owner/dataset")
        found: dict[str, Any] = {}
        for option in options:
            key, _, value = option.partition("=")
            if f"::{option}" == ALLOW_PRIVATE:
                found["allow_private"] = True
            elif key == "labelset":
                found["labelset"] = _labelset(value)
            elif key == "status":
                found["statuses"] = _statuses(value)
            elif key == "timeout":
                found["timeout"] = _seconds(value)
            else:
                raise ConfigError(
                    f"segments-ai:{name} knows no ::{key}; there are ::labelset=NAME, "
                    "::status=A,B, ::timeout=SECONDS and ::allow-private. A key belongs into "
                    "the environment, as SEGMENTS_API_KEY"
                )
        return cls(name, **found)


def _labelset(text: str) -> str:
    if not _LABELSET.fullmatch(text):
        raise ConfigError(f"{text!r} is no name of a labelset")
    return text


def _statuses(text: str) -> tuple[str, ...]:
    statuses = tuple(part.strip().upper() for part in text.split(","))
    for status in statuses:
        if status not in _STATUSES:
            raise ConfigError(f"no status is called {status!r}; they are {', '.join(_STATUSES)}")
    return statuses


def _seconds(text: str) -> float:
    if not re.fullmatch(r"\d+(\.\d+)?", text) or not 0.1 <= float(text) <= 600:
        raise ConfigError(f"a timeout is {text!r}; expected seconds from 0.1 to 600")
    return float(text)


class Dataset:
    """What is asked about one dataset; nothing is asked before it is needed."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.calls = Calls(Patience(answer=location.timeout))
        self._urls: dict[str, str] = {}
        self._categories: list[Any] | None = None

    @property
    def where(self) -> str:
        return f"segments-ai:{self.location.name}"

    def categories(self) -> list[Any]:
        """The SDK's categories.

        Raises:
            ConfigError: there is no such dataset, or it is not for bitmap segmentation.
        """
        if self._categories is None:
            self._categories = self._ask_categories()
        return self._categories

    def ontology(self) -> Ontology:
        """The categories with the platform's ids. Raises ConfigError."""
        return build_ontology(self.categories(), self.where)

    def _ask_categories(self) -> list[Any]:
        try:
            dataset = self.calls(lambda client: client.get_dataset(self.location.name))
        except CallError as error:
            if error.kind == "gone":
                raise ConfigError(
                    f"Segments.ai has no dataset {self.location.name!r} that this key may see; "
                    "the name is owner/dataset, as in its address"
                ) from None
            raise
        task = str(getattr(dataset.task_type, "value", dataset.task_type))
        if task not in _TASKS:
            raise ConfigError(
                f"{self.where} has the task type {task!r}; panoptic labels need "
                f"{' or '.join(_TASKS)}"
            )
        self._check_labelset()
        attributes = dataset.task_attributes
        return list((attributes.categories if attributes else None) or [])

    def _check_labelset(self) -> None:
        if self.location.labelset == GROUND_TRUTH:
            return
        found = self.calls(lambda client: client.get_labelsets(self.location.name))
        names = [labelset.name for labelset in found]
        if self.location.labelset not in names:
            raise ConfigError(
                f"{self.where} has no labelset {self.location.labelset!r}; it has "
                f"{', '.join(names)}. Add it on the platform"
            )

    def samples(self, statuses: Collection[str] | None = None) -> Iterator[tuple[Any, str]]:
        """Each sample once with the status of its label, "UNLABELED" where it has none."""
        seen: set[str] = set()
        for page in self._pages(None if statuses is None else sorted(statuses)):
            for sample in page:
                label = sample.label
                raw = label.label_status if label is not None else "UNLABELED"
                status = str(getattr(raw, "value", raw))
                # The platform filters too; a dataset that changes meanwhile shifts its pages.
                if sample.uuid in seen or (statuses is not None and status not in statuses):
                    continue
                seen.add(sample.uuid)
                yield sample, status

    def _pages(self, statuses: list[str] | None) -> Iterator[list[Any]]:
        number = 1
        while True:
            page = self._page(statuses, number)
            yield page
            if len(page) < _PER_PAGE:
                return
            number += 1

    def _page(self, statuses: list[str] | None, number: int) -> list[Any]:
        try:
            return list(
                self.calls(
                    lambda client: client.get_samples(
                        self.location.name,
                        labelset=self.location.labelset,
                        label_status=statuses,
                        per_page=_PER_PAGE,
                        page=number,
                    )
                )
            )
        except CallError as error:
            # One page past the end, where the last was full.
            if error.kind == "gone" and number > 1:
                return []
            raise

    def record(self, sample: Any) -> ImageRecord:
        """The record of a sample. Raises ConfigError: its name is no name for a file."""
        try:
            check_relative(sample.name, self.where)
        except LabelError as error:
            raise ConfigError(f"{error}; rename that sample") from error
        url = _image_url(sample)
        self._urls[sample.uuid] = url
        return ImageRecord(sample.name, _plain(url), sample.uuid)

    def read(self, record: ImageRecord) -> Frame:
        """Fetch and decode one image. Raises ImageError."""
        frame_bytes = self.image_bytes(record)
        if is_oriented(frame_bytes):
            _LOGGER.warning(
                "%s is turned by its EXIF data, and labelled as it looks upright; see on the "
                "platform that it is upright there too",
                record.image_id,
            )
        return decode(frame_bytes, record)

    def image_bytes(self, record: ImageRecord) -> bytes:
        """The image file; where its address has expired, a new one is asked for.

        Raises:
            RemoteError: it cannot be had.
        """
        try:
            return self.calls(lambda client: self._fetch_image(client, record))
        except CallError as error:
            kind = {"timeout": "timeout", "gone": "gone", "denied": "denied", "refused": "refused"}
            raise RemoteError(
                f"{record.image_id}: {error}", kind=kind.get(error.kind, "unavailable")
            ) from None

    def _fetch_image(self, client: Any, record: ImageRecord) -> bytes:
        url = self._urls.pop(record.ref, "")
        if not url:
            # Taken once: a second try asks again, and so does another process.
            url = _image_url(client.get_sample(record.ref, include_signed_url=True))
        return fetch_file(url, record, self.location.allow_private)


def fetch_file(url: str, record: ImageRecord, allow_private: bool) -> bytes:
    """What lies at an address that the platform gave.

    Raises:
        CallError: it cannot be had; of kind "expired" where a new address may help.
    """
    if not url:
        raise CallError(f"{record.image_id}: the platform gives no address", kind="gone")
    try:
        return fetch(url, record, allow_private)
    except RemoteError as error:
        kind = _FETCH_KINDS.get(error.kind, "lost")
        raise CallError(str(error), kind=kind, retry_after=error.retry_after) from None


def is_oriented(data: bytes) -> bool:
    """Whether EXIF data say that an image is to be turned before it is shown."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            return int(image.getexif().get(ExifTags.Base.Orientation, 1)) not in (0, 1)
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return False  # decoding will say what is wrong


def _image_url(sample: Any) -> str:
    image = getattr(sample.attributes, "image", None)
    if image is None:
        return ""
    return str(image.signed_url or image.url or "")


def _plain(url: str) -> str:
    """An address for people: without its query, where signatures stand."""
    parts = urlsplit(url)
    return str(redact(urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))))
