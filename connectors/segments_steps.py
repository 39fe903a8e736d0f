"""What is done to one sample of Segments.ai, in steps that are each harmless twice."""

from __future__ import annotations

import io
import threading
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prelabel.data import ImageRecord
from prelabel.errors import LabelError
from prelabel.ports import Delivery, Outcome, PushRules

from .retrying import CallError
from .segments_dataset import Dataset, fetch_file
from .segments_labels import (
    doubtful_spot,
    list_annotations,
    parse_bitmap,
    priority,
    write_bitmap,
)

__all__ = ["PRELABELED", "Found", "Samples", "Steps", "is_human"]

PRELABELED = "PRELABELED"
_OURS = ("", "UNLABELED", PRELABELED)
_REMARK = "prelabel: "
"""How an issue begins that was pinned here."""


def is_human(status: str) -> bool:
    """Whether a person has worked on a label of that status."""
    return status not in _OURS


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A label as it was read.

    Attributes:
        status: the platform's word.
        id_map: int32 (H, W), as in the bitmap.
        category_ids: by segment id, as in the list of annotations.
        updated: when it was last changed.
    """

    status: str
    id_map: NDArray[np.int32]
    category_ids: dict[int, int]
    updated: str


class Steps:
    """The steps, for many threads.

    Args:
        dataset: where.
        category_ids: the platform's by ours.
        names: of our categories.
    """

    def __init__(
        self, dataset: Dataset, category_ids: dict[int, int], names: dict[int, str]
    ) -> None:
        self._dataset = dataset
        self.category_ids = category_ids
        self._names = names
        self._pinned: set[str] | None = None
        self._lock = threading.Lock()

    def upload(self, delivery: Delivery) -> str:
        png = write_bitmap(delivery.label.id_map)

        def step(client: Any) -> str:
            # A new stream for each try: a failed one leaves it at its end.
            return str(client.upload_asset(io.BytesIO(png), "label.png").url)

        return self._dataset.calls(step)

    def write(self, uuid: str, delivery: Delivery, url: str, rules: PushRules) -> Outcome:
        entries = list_annotations(delivery.label, self.category_ids, self._names)
        labelset = self._dataset.location.labelset
        score = min(max(float(delivery.label.score), 0.0), 1.0)

        def step(client: Any) -> Outcome:
            from segments.typing import ImageSegmentationLabelAttributes

            # The API overwrites whatever is there, so it is asked at the last moment.
            now = _get_label(client, uuid, labelset)
            if now is not None and is_human(_status(now)) and not rules.overwrite_human:
                return "human"
            attributes = ImageSegmentationLabelAttributes(
                annotations=entries, segmentation_bitmap={"url": url}, format_version="0.1"
            )
            client.add_label(uuid, labelset, attributes, label_status=PRELABELED, score=score)
            return "sent"

        return self._dataset.calls(step)

    def describe(self, uuid: str, delivery: Delivery) -> None:
        """The sample's place in the queue, and what made its label."""
        made = {"prelabel_tool": delivery.tool, "prelabel_fingerprint": delivery.fingerprint}

        def step(client: Any) -> None:
            sample = client.get_sample(uuid)
            # Metadata are replaced as a whole: what others wrote there is sent along.
            metadata = {**(sample.metadata or {}), **made}
            wanted = priority(delivery.label)
            if metadata != sample.metadata or sample.priority != wanted:
                client.update_sample(uuid, metadata=metadata, priority=wanted)

        self._dataset.calls(step)

    def pin(self, uuid: str, delivery: Delivery) -> None:
        spot = doubtful_spot(delivery.label, self._names, delivery.evidence)
        if spot is None:
            return
        anchor = {"type": "location", "location": {"type": "2d", "x": spot.x, "y": spot.y}}

        def step(client: Any) -> None:
            with self._lock:
                if self._pinned is None:
                    issues = client.get_issues(self._dataset.location.name)
                    self._pinned = {
                        one.sample_uuid for one in issues if one.description.startswith(_REMARK)
                    }
                if uuid in self._pinned:
                    return
            try:
                client.add_issue(uuid, _REMARK + spot.text, anchor=anchor)
            except BaseException:
                with self._lock:
                    self._pinned = None  # it may be there all the same: ask again
                raise
            with self._lock:
                if self._pinned is not None:
                    self._pinned.add(uuid)

        self._dataset.calls(step)

    def pull(self, record: ImageRecord) -> Found | None:
        """The label of `record.ref`, or None where there is none.

        Raises:
            LabelError: it has no bitmap that can be read.
        """

        def step(client: Any) -> Any:
            label = _get_label(client, record.ref, self._dataset.location.labelset)
            if label is None:
                return None
            bitmap = getattr(label.attributes, "segmentation_bitmap", None)
            if bitmap is None:
                raise LabelError(f"{record.image_id}: its label has no bitmap")
            url = str(bitmap.signed_url or bitmap.url or "")
            return label, fetch_file(url, record, self._dataset.location.allow_private)

        found = self._dataset.calls(step)
        if found is None:
            return None
        label, png = found
        entries = {one.id: one.category_id for one in label.attributes.annotations}
        id_map = parse_bitmap(png, record.image_id)
        return Found(_status(label), id_map, entries, str(label.updated_at))


class Samples:
    """The dataset's samples as of one moment."""

    def __init__(self) -> None:
        self.statuses: dict[str, str] = {}
        self._names: dict[str, str] = {}
        self._tails: dict[str, list[str]] = {}
        self._asked: dict[str, set[str]] = {}
        """Names of the images that mean a sample, by its uuid."""

    def add(self, sample: Any, status: str) -> None:
        self.statuses[sample.uuid] = status
        self._names[sample.name] = sample.uuid
        self._tails.setdefault(PurePosixPath(sample.name).name, []).append(sample.uuid)

    def find(self, record: ImageRecord) -> str | None:
        """The uuid: by the record's own, by name, or by the last part of the name.

        A last part that two have, of the samples or of the images that were asked for, is nobody's:
        one would get the label of the other.
        """
        if record.ref in self.statuses:
            return record.ref
        name = record.image_id
        if name in self._names:
            self._asked.setdefault(self._names[name], set()).add(name)
            return self._names[name]
        tails = self._tails.get(PurePosixPath(name).name, [])
        if len(tails) != 1:
            return None
        asked = self._asked.setdefault(tails[0], set())
        asked.add(name)
        return tails[0] if len(asked) == 1 else None


def _get_label(client: Any, uuid: str, labelset: str) -> Any:
    """The SDK's label, or None where there is none."""
    try:
        return client.get_label(uuid, labelset)
    except CallError as error:
        if error.kind == "gone":
            return None
        raise


def _status(label: Any) -> str:
    return str(getattr(label.label_status, "value", label.label_status))
