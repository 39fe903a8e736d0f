"""The contracts of `prelabel.ports` as tests that any connector can run, and a platform in memory.

In a test file of your own, for pytest:

    from connectors.testing import SourceContract

    class TestMySource(SourceContract):
        def make_source(self):
            return MySource("somewhere with at least two images")

Each class says what else it needs. `MemoryPlatform` keeps the contract of a platform, and fails
when it is told to.
"""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pytest

from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, ConnectorError, ImageError
from prelabel.ports import (
    Delivery,
    ImageSource,
    LabelPlatform,
    LabelSink,
    Outcome,
    PushRules,
    RemoteLabel,
)

__all__ = ["MemoryPlatform", "PlatformContract", "SinkContract", "SourceContract", "example_label"]

_ABSENT = "prelabel-contract/absent.png"


def example_label(image_id: str, ontology: Ontology, size: tuple[int, int]) -> PanopticLabel:
    """A label of (height, width) with a column per category, ids from 1, the last category's as
    wide as the rest; the top right pixel is void. Two rows, and two columns more than there are
    categories, will do.
    """
    id_map = np.zeros(size, dtype=np.int32)
    segments = []
    for segment_id, category in enumerate(ontology, start=1):
        last = segment_id == len(ontology)
        stop = size[1] if last else segment_id
        id_map[:, segment_id - 1 : stop] = segment_id
        box = (segment_id - 1, 0, stop, size[0])
        id_map[0, -1] = 0
        area = int((id_map == segment_id).sum())
        score = segment_id / (len(ontology) + 1)
        segments.append(
            Segment(
                segment_id=segment_id,
                category_id=category.category_id,
                isthing=category.isthing,
                area=area,
                box=box,
                score=score,
                runner_up=None,
                margin=score,
                source="test",
            )
        )
    return PanopticLabel(image_id, id_map, tuple(segments))


class SourceContract:
    """What every `ImageSource` promises. Needs `make_source`."""

    def make_source(self) -> ImageSource:
        """A new source of the same images, two or more, all of which can be read."""
        raise NotImplementedError

    def test_it_is_a_source(self) -> None:
        assert isinstance(self.make_source(), ImageSource)

    def test_records_are_unique_and_in_a_stable_order(self) -> None:
        source = self.make_source()
        records = list(source.records())
        assert len(records) >= 2, "the contract needs two images or more"
        ids = [record.image_id for record in records]
        assert all(isinstance(image_id, str) and image_id for image_id in ids)
        assert len(set(ids)) == len(ids)
        assert records == list(source.records()) == list(self.make_source().records())

    def test_images_are_upright_rgb_and_keep_their_record(self) -> None:
        source = self.make_source()
        for record in source.records():
            frame = source.read(record)
            assert frame.record == record
            assert frame.pixels.dtype == np.uint8

    def test_a_pickled_copy_reads_what_the_original_listed(self) -> None:
        source = self.make_source()
        records = list(source.records())
        copy = pickle.loads(pickle.dumps(source))
        for record in records:
            assert np.array_equal(copy.read(record).pixels, source.read(record).pixels)
            assert copy.stamp(record) == source.stamp(record)

    def test_an_image_that_is_not_there_is_an_image_error(self) -> None:
        source = self.make_source()
        next(iter(source.records()))
        with pytest.raises(ImageError) as caught:
            source.read(ImageRecord(_ABSENT, _ABSENT, _ABSENT))
        assert caught.value.kind

    def test_a_stamp_is_text_and_does_not_change_by_itself(self) -> None:
        source = self.make_source()
        for record in source.records():
            assert isinstance(source.stamp(record), str)
            assert source.stamp(record) == source.stamp(record)


class SinkContract:
    """What every `LabelSink` promises. Needs `make_sink` and `read_back`.

    `keeps` tells which categories the format has room for; all, if it is left as it is.
    """

    ontology = Ontology((Category(4, "car", True), Category(2, "sky", False)))

    def keeps(self, category: Category) -> bool:
        """Whether segments of this category come back."""
        return True

    def make_sink(self) -> LabelSink:
        """A new sink with an empty target."""
        raise NotImplementedError

    def read_back(self) -> dict[str, tuple[np.typing.NDArray[np.int32], dict[int, int]]]:
        """What the last sink wrote, by image_id: the id map, and category_id by segment id.

        Pixels of segments that the format has no room for are void.
        """
        raise NotImplementedError

    def _deliveries(self) -> list[Delivery]:
        names = ("a.png", "b/a.png", "ü.jpg")
        labels = [example_label(name, self.ontology, (5, 7)) for name in names]
        return [Delivery(ImageRecord(label.image_id, ""), label) for label in labels]

    def test_it_is_a_sink(self) -> None:
        assert isinstance(self.make_sink(), LabelSink)

    def test_labels_come_back_to_the_pixel(self) -> None:
        sink, deliveries = self.make_sink(), self._deliveries()
        sink.check(self.ontology)
        for delivery in deliveries:
            sink.push(delivery)
        sink.finalize()
        self._compare(deliveries)

    def test_twice_is_once(self) -> None:
        sink, deliveries = self.make_sink(), self._deliveries()
        sink.check(self.ontology)
        for delivery in [*deliveries, *deliveries]:
            sink.push(delivery)
        sink.finalize()
        self._compare(deliveries)

    def test_the_status_says_whether_there_is_a_label(self) -> None:
        sink, (first, *_) = self.make_sink(), self._deliveries()
        sink.check(self.ontology)
        assert sink.remote_status(first.record) is None
        sink.push(first)
        assert sink.remote_status(first.record)
        sink.finalize()

    def test_a_push_before_the_check_is_refused(self) -> None:
        with pytest.raises(ConnectorError):
            self.make_sink().push(self._deliveries()[0])

    def _compare(self, deliveries: list[Delivery]) -> None:
        found = self.read_back()
        kept = {one.category_id for one in self.ontology if self.keeps(one)}
        assert found.keys() == {delivery.record.image_id for delivery in deliveries}
        for delivery in deliveries:
            id_map, category_ids = found[delivery.record.image_id]
            wanted = {
                one.segment_id: one.category_id
                for one in delivery.label.segments
                if one.category_id in kept
            }
            expected = delivery.label.id_map
            assert np.array_equal(id_map, np.where(np.isin(expected, [*wanted]), expected, 0))
            assert category_ids == wanted


class PlatformContract:
    """What every `LabelPlatform` promises.

    Needs `make_platform`, `make_delivery`, `let_a_person_label` and `ontology`.
    """

    ontology: Ontology
    """Categories that the platform has, by name; the ids are another matter."""

    def make_platform(self) -> LabelPlatform:
        """A new connection to the same platform, empty of labels when a test begins."""
        raise NotImplementedError

    def make_delivery(self) -> Delivery:
        """A label of `ontology` for an image that the platform has."""
        raise NotImplementedError

    def let_a_person_label(self, record: ImageRecord) -> None:
        """Do on the platform what a person does there, with other pixels."""
        raise NotImplementedError

    def _checked(self) -> LabelPlatform:
        platform = self.make_platform()
        platform.check(self.ontology)
        return platform

    def _push(self, platform: LabelPlatform, delivery: Delivery, **rules: bool) -> Outcome:
        return platform.push(delivery, PushRules(**rules), lambda text: None)

    def test_it_is_a_platform(self) -> None:
        assert isinstance(self.make_platform(), LabelPlatform)

    def test_a_category_that_it_lacks_is_named(self) -> None:
        strange = Ontology((Category(1, "prelabel contract", True),))
        with pytest.raises(ConfigError, match="prelabel contract"):
            self.make_platform().check(strange)

    def test_the_status_before_and_after(self) -> None:
        delivery, platform = self.make_delivery(), self._checked()
        assert platform.remote_status(delivery.record) == ""
        assert platform.remote_status(ImageRecord(_ABSENT, "")) is None
        self._push(platform, delivery)
        status = self._fresh_status(delivery)
        assert status
        assert not platform.is_human(status)

    def _fresh_status(self, delivery: Delivery) -> str | None:
        return self._checked().remote_status(delivery.record)

    def test_what_was_sent_is_there_to_the_pixel(self) -> None:
        delivery, platform = self.make_delivery(), self._checked()
        assert platform.verify(delivery)
        assert self._push(platform, delivery) == "sent"
        assert platform.verify(delivery) == ""
        found = platform.pull(self._listed(platform, delivery))
        assert np.array_equal(found.id_map, delivery.label.id_map)
        theirs = {one.category_id: one.name for one in platform.ontology()}
        names = {key: theirs[value] for key, value in found.category_ids.items()}
        ours = self.ontology.by_id
        assert names == {
            one.segment_id: ours[one.category_id].name for one in delivery.label.segments
        }

    def _listed(self, platform: LabelPlatform, delivery: Delivery) -> ImageRecord:
        (record,) = platform.listing([self._fresh_status(delivery) or ""])
        return record

    def test_twice_is_once(self) -> None:
        delivery = self.make_delivery()
        notes: list[str] = []
        for _ in range(2):
            platform = self._checked()
            assert platform.push(delivery, PushRules(), notes.append) == "sent"
            assert platform.verify(delivery) == ""
            self._listed(platform, delivery)

    def test_what_was_noted_can_be_used(self) -> None:
        delivery, notes = self.make_delivery(), list[str]()
        self._checked().push(delivery, PushRules(), notes.append)
        platform = self._checked()
        noted = Delivery(delivery.record, delivery.label, noted=notes[-1] if notes else "")
        assert platform.push(noted, PushRules(), notes.append) == "sent"
        assert platform.verify(delivery) == ""

    def test_a_person_s_work_is_left_alone(self) -> None:
        delivery = self.make_delivery()
        self.let_a_person_label(delivery.record)
        platform = self._checked()
        assert platform.is_human(platform.remote_status(delivery.record) or "")
        assert self._push(platform, delivery) == "human"
        assert platform.verify(delivery)

    def test_a_person_may_come_after_the_check(self) -> None:
        delivery, platform = self.make_delivery(), self._checked()
        self.let_a_person_label(delivery.record)
        assert self._push(platform, delivery) == "human"
        assert platform.is_human(self._fresh_status(delivery) or "")

    def test_a_person_s_work_gives_way_where_that_is_asked_for(self) -> None:
        delivery = self.make_delivery()
        self.let_a_person_label(delivery.record)
        platform = self._checked()
        assert self._push(platform, delivery, overwrite_human=True) == "sent"
        assert platform.verify(delivery) == ""

    def test_an_image_that_is_not_there_is_gone(self) -> None:
        delivery, platform = self.make_delivery(), self._checked()
        with pytest.raises(ConnectorError) as caught:
            self._push(platform, Delivery(ImageRecord(_ABSENT, ""), delivery.label))
        assert caught.value.kind == "gone"
        assert not caught.value.retryable


# --- a platform in memory ---------------------------------------------------------------------


@dataclass(eq=False)
class _Held:
    status: str
    label: PanopticLabel


class MemoryPlatform:
    """A `LabelPlatform` in this process, with the ids of its own ontology.

    Args:
        ontology: the platform's.
        names: image_ids that it has.

    Attributes:
        held: labels by image_id, with their status: "", "draft" or "human".
        fail: called before each push and verify with its name; raises what is to go wrong.
        pushes: image_ids in the order in which labels arrived.
    """

    def __init__(self, ontology: Ontology, names: Collection[str]) -> None:
        self._ontology, self._names = ontology, set(names)
        self.held: dict[str, _Held] = {}
        self.fail: Callable[[str], None] = lambda what: None
        self.pushes: list[str] = []
        self._known: dict[str, str] = {}
        self._lock = threading.Lock()

    def ontology(self) -> Ontology:
        return self._ontology

    def check(self, ontology: Ontology) -> tuple[str, ...]:
        missing = [one.name for one in ontology if one.name not in self._ontology.by_name]
        if missing:
            raise ConfigError(f"the platform has no category {', '.join(missing)}")
        self._ours = ontology.by_id
        self._known = {name: self._status(name) for name in self._names}
        return ()

    def _status(self, name: str) -> str:
        return self.held[name].status if name in self.held else ""

    def remote_status(self, record: ImageRecord) -> str | None:
        return self._known.get(record.image_id)

    def is_human(self, status: str) -> bool:
        return status == "human"

    def label_by_hand(self, image_id: str, label: PanopticLabel) -> None:
        """A person's work; `label` has the platform's ids."""
        self.held[image_id] = _Held("human", label)

    def push(self, delivery: Delivery, rules: PushRules, note: Callable[[str], None]) -> Outcome:
        name = delivery.record.image_id
        if name not in self._names:
            raise ConnectorError(f"the platform has no image {name!r}", kind="gone")
        self.fail("push")
        with self._lock:
            if self._status(name) == "human" and not rules.overwrite_human:
                return "human"
            note(f"memory:{name}")
            self.held[name] = _Held("draft", self._translated(delivery.label))
            self.pushes.append(name)
        self.fail("pushed")
        return "sent"

    def _translated(self, label: PanopticLabel) -> PanopticLabel:
        theirs = self._ontology.by_name
        segments = tuple(
            replace(
                one,
                category_id=theirs[self._ours[one.category_id].name].category_id,
                runner_up=None,
            )
            for one in label.segments
        )
        return PanopticLabel(label.image_id, label.id_map.copy(), segments)

    def verify(self, delivery: Delivery) -> str:
        self.fail("verify")
        held = self.held.get(delivery.record.image_id)
        if held is None:
            return "it has no label"
        if held.status != "draft":
            return f"its status is {held.status}"
        wanted = self._translated(delivery.label)
        same = np.array_equal(held.label.id_map, wanted.id_map)
        return "" if same and held.label.segments == wanted.segments else "it is another one"

    def listing(self, statuses: Collection[str]) -> Iterator[ImageRecord]:
        for name in sorted(self._names):
            if self._status(name) in statuses:
                yield ImageRecord(name, f"memory:{name}")

    def pull(self, record: ImageRecord) -> RemoteLabel:
        self.fail("pull")
        held = self.held.get(record.image_id)
        if held is None:
            raise ConnectorError(f"{record.image_id} has no label", kind="gone")
        ids = {one.segment_id: one.category_id for one in held.label.segments}
        return RemoteLabel(record, held.status, held.label.id_map, ids)
