"""Segments.ai: images of a dataset, pre-labels to it, and reviewed labels back.

`segments-ai:owner/dataset`, with the key in SEGMENTS_API_KEY. docs/segments-ai.md tells what is
sent and what the scores mean.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator
from typing import Any

import numpy as np

from prelabel.data import Frame, ImageRecord, Ontology
from prelabel.errors import ConfigError, LabelError
from prelabel.ports import Delivery, Outcome, PushRules, RemoteLabel

from .base import refuse_twins

try:
    from .retrying import CallError
    from .segments_dataset import Dataset, Location
    from .segments_labels import clean_map, map_categories
    from .segments_steps import PRELABELED, Samples, Steps, is_human
except ModuleNotFoundError as error:
    if error.name not in ("requests", "tenacity", "urllib3"):
        raise
    raise ConfigError(
        'the connector segments-ai needs more packages: pip install "prelabel[segments]"'
    ) from error

__all__ = ["SegmentsAi"]

_SIZES = 20
"""So many images are looked at for their size, and all once one was wrong."""


class SegmentsAi:
    """An `ImageSource` and a `LabelPlatform`.

    `image_id` is the sample's name, `ref` its uuid. A record of another source is found by its
    name, or by the last part of it where only one sample and one image have that.

    Args:
        location: `owner/dataset`, with options behind it; see `segments_dataset.Location`.
    """

    def __init__(self, location: str) -> None:
        self._begin(Location.parse(location))

    def _begin(self, location: Location) -> None:
        self.location = location
        self._dataset = Dataset(location)
        self._samples = Samples()
        self._steps = Steps(self._dataset, {}, {})
        self._sizes_left = _SIZES

    def __getstate__(self) -> dict[str, object]:
        # Connections and signed addresses stay here.
        return {"location": self.location}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._begin(state["location"])

    # --- images -------------------------------------------------------------------------------

    def records(self) -> Iterator[ImageRecord]:
        """Samples of the location's statuses. Raises ConfigError: there is none."""
        found = self._list(self.location.statuses)
        if not found:
            raise ConfigError(
                f"{self._dataset.where} has no sample that is "
                f"{' or '.join(self.location.statuses)}; add samples there, or choose others with "
                "::status="
            )
        yield from found

    def read(self, record: ImageRecord) -> Frame:
        """Fetch and decode one image. Raises ImageError."""
        return self._dataset.read(record)

    def stamp(self, record: ImageRecord) -> str:
        """Of the image's address, without its signature: another file has another one."""
        return hashlib.sha256(record.uri.encode()).hexdigest()[:16]

    # --- labels -------------------------------------------------------------------------------

    def ontology(self) -> Ontology:
        """The dataset's categories. Raises ConfigError."""
        return self._dataset.ontology()

    def check(self, ontology: Ontology) -> tuple[str, ...]:
        """See `LabelPlatform`."""
        where = self._dataset.where
        category_ids, spare = map_categories(ontology, self.ontology(), where)
        names = {category.category_id: category.name for category in ontology}
        self._steps = Steps(self._dataset, category_ids, names)
        self._samples = Samples()
        for sample, status in self._dataset.samples():
            self._samples.add(sample, status)
        if not spare:
            return ()
        return (
            f"{where} has categories that are never pre-labelled, since the config lacks them: "
            f"{', '.join(spare)}",
        )

    def remote_status(self, record: ImageRecord) -> str | None:
        """The status as of `check`; "" for UNLABELED, None where there is no such sample."""
        uuid = self._samples.find(record)
        status = None if uuid is None else self._samples.statuses[uuid]
        return "" if status == "UNLABELED" else status

    def is_human(self, status: str) -> bool:
        """Every status but UNLABELED and PRELABELED."""
        return is_human(status)

    def push(self, delivery: Delivery, rules: PushRules, note: Callable[[str], None]) -> Outcome:
        """See `LabelPlatform`. What is noted is the address of the uploaded bitmap."""
        uuid = self._uuid(delivery.record)
        if is_human(self._samples.statuses[uuid]) and not rules.overwrite_human:
            return "human"
        self._check_size(delivery, uuid)
        url = delivery.noted
        if not url:
            url = self._steps.upload(delivery)
            note(url)
        try:
            outcome = self._steps.write(uuid, delivery, url, rules)
        except CallError as error:
            if error.kind != "conflict" or self.verify(delivery):
                raise
            outcome = "sent"
        if outcome == "sent":
            self._steps.describe(uuid, delivery)
            if rules.pin_doubts:
                self._steps.pin(uuid, delivery)
        return outcome

    def verify(self, delivery: Delivery) -> str:
        """See `LabelPlatform`."""
        label, record = delivery.label, delivery.record
        found = self._steps.pull(ImageRecord(record.image_id, record.uri, self._uuid(record)))
        if found is None:
            return "it has no label"
        if found.status != PRELABELED:
            return f"its status is {found.status}"
        ids = self._steps.category_ids
        if found.category_ids != {one.segment_id: ids[one.category_id] for one in label.segments}:
            return "its segments or their categories are others"
        if found.id_map.shape != label.size:
            return f"its bitmap has size {found.id_map.shape}, the label {label.size}"
        wrong = int(np.count_nonzero(found.id_map != label.id_map))
        return f"{wrong} pixels are others" if wrong else ""

    def listing(self, statuses: Collection[str]) -> Iterator[ImageRecord]:
        """Samples whose label has one of the statuses, by name."""
        yield from self._list(statuses)

    def pull(self, record: ImageRecord) -> RemoteLabel:
        """One label with the platform's ids; ids without entry are void, stuff is one segment."""
        found = self._steps.pull(record)
        if found is None:
            raise CallError(f"{record.image_id} has no label any more", kind="gone")
        stuff = {one.category_id for one in self.ontology().stuff}
        id_map, category_ids = clean_map(found.id_map, found.category_ids, stuff)
        return RemoteLabel(record, found.status, id_map, category_ids, found.updated)

    def _list(self, statuses: Collection[str]) -> list[ImageRecord]:
        self._dataset.categories()  # says first whether there is such a dataset
        found = [self._dataset.record(sample) for sample, _ in self._dataset.samples(statuses)]
        found.sort(key=lambda record: record.image_id)
        refuse_twins([record.image_id for record in found], f"{self._dataset.where}: the samples")
        return found

    def _uuid(self, record: ImageRecord) -> str:
        uuid = self._samples.find(record)
        if uuid is None:
            raise CallError(
                f"{self._dataset.where} has no sample called {record.image_id!r}, and none that "
                "only this image can mean; add the images to the dataset first",
                kind="gone",
            )
        return uuid

    def _check_size(self, delivery: Delivery, uuid: str) -> None:
        """Compare with the platform's image, where the label was not made from that very one.

        Raises:
            LabelError: sizes differ.
        """
        if delivery.record.ref == uuid or self._sizes_left <= 0:
            return
        record = ImageRecord(delivery.record.image_id, delivery.record.uri, uuid)
        size = self._dataset.read(record).size
        if size == delivery.label.size:
            self._sizes_left -= 1
            return
        self._sizes_left = 2**62
        turned = size == delivery.label.size[::-1]
        raise LabelError(
            f"{record.image_id}: its label has (height, width) {delivery.label.size}, the image on "
            f"the platform {size}"
            + ("; one of them is turned by EXIF data" if turned else "")
            + f". Label the platform's own images: --source {self._dataset.where}"
        )
