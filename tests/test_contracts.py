"""The contracts of connectors, run on those that ship and on a platform in memory."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco_mask

from connectors.coco_instances import CocoInstancesSink
from connectors.coco_panoptic import CocoPanopticSink
from connectors.folder import FolderSource
from connectors.label_folder import LabelFolderSink
from connectors.testing import (
    MemoryPlatform,
    PlatformContract,
    SinkContract,
    SourceContract,
    example_label,
)
from prelabel.coco import read_panoptic
from prelabel.data import Category, ImageRecord, Ontology
from prelabel.errors import ConnectorError
from prelabel.label_files import iterate_labels
from prelabel.ports import Delivery, Outcome, PushRules


@pytest.fixture(autouse=True)
def _folder(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    if request.instance is not None:
        request.instance.tmp_path = tmp_path


class TestFolder(SourceContract):
    tmp_path: Path

    def make_source(self) -> FolderSource:
        for name in ("a.png", "b.png"):
            if not (self.tmp_path / name).exists():
                Image.new("RGB", (3, 2), "red").save(self.tmp_path / name)
        return FolderSource(str(self.tmp_path))


class TestCocoPanoptic(SinkContract):
    tmp_path: Path

    def make_sink(self) -> CocoPanopticSink:
        return CocoPanopticSink(str(self.tmp_path / "coco"))

    def read_back(self) -> dict[str, tuple[NDArray[np.int32], dict[int, int]]]:
        file = read_panoptic(self.tmp_path / "coco" / "panoptic.json")
        names = {image.image_id: image.file_name for image in file.images}
        return {
            names[row.image_id]: (
                file.id_map(row),
                {one.segment_id: one.category_id for one in row.segments},
            )
            for row in file.annotations
        }


# The way in which pycocotools decodes.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
class TestCocoInstances(SinkContract):
    tmp_path: Path

    def keeps(self, category: Category) -> bool:
        return category.isthing

    def make_sink(self) -> CocoInstancesSink:
        return CocoInstancesSink(str(self.tmp_path))

    def read_back(self) -> dict[str, tuple[NDArray[np.int32], dict[int, int]]]:
        document = json.loads((self.tmp_path / "instances.json").read_text())
        found = {}
        for image in document["images"]:
            id_map = np.zeros((image["height"], image["width"]), np.int32)
            rows = [row for row in document["annotations"] if row["image_id"] == image["id"]]
            for row in rows:
                id_map[coco_mask.decode(row["segmentation"]).astype(bool)] = row["segment_id"]
            ids = {row["segment_id"]: row["category_id"] for row in rows}
            found[image["file_name"]] = (id_map, ids)
        return found


class TestLabelFolder(SinkContract):
    tmp_path: Path

    def make_sink(self) -> LabelFolderSink:
        return LabelFolderSink(str(self.tmp_path))

    def read_back(self) -> dict[str, tuple[NDArray[np.int32], dict[int, int]]]:
        return {
            label.image_id: (
                label.id_map,
                {one.segment_id: one.category_id for one in label.segments},
            )
            for label, _ in iterate_labels(self.tmp_path)
        }


THEIRS = Ontology((Category(31, "car", True), Category(7, "sky", False)))


class TestMemory(PlatformContract):
    ontology = Ontology((Category(1, "sky", False), Category(2, "car", True)))

    @pytest.fixture(autouse=True)
    def _platform(self) -> None:
        self.platform = MemoryPlatform(THEIRS, ["a.png", "b.png"])

    def make_platform(self) -> MemoryPlatform:
        return self.platform

    def make_delivery(self) -> Delivery:
        label = example_label("a.png", self.ontology, (4, 5))
        return Delivery(ImageRecord("a.png", ""), label)

    def let_a_person_label(self, record: ImageRecord) -> None:
        label = example_label(record.image_id, THEIRS, (4, 6))
        self.platform.label_by_hand(record.image_id, label)


# --- what breaks a contract is found ----------------------------------------------------------


class Careless(MemoryPlatform):
    """Writes over a person's work."""

    def push(self, delivery: Delivery, rules: PushRules, note: object) -> Outcome:
        return super().push(delivery, PushRules(overwrite_human=True), lambda text: None)


class Trusting(MemoryPlatform):
    """Believes that all is well."""

    def verify(self, delivery: Delivery) -> str:
        return ""


class Vague(MemoryPlatform):
    """Does not say that an image is gone."""

    def push(self, delivery: Delivery, rules: PushRules, note: object) -> Outcome:
        if delivery.record.image_id not in self._names:
            raise ConnectorError("something is wrong", retryable=True)
        return super().push(delivery, rules, lambda text: None)


@pytest.mark.parametrize(
    ("broken", "test"),
    [
        (Careless, "test_a_person_s_work_is_left_alone"),
        (Careless, "test_a_person_may_come_after_the_check"),
        (Trusting, "test_what_was_sent_is_there_to_the_pixel"),
        (Vague, "test_an_image_that_is_not_there_is_gone"),
    ],
)
def test_a_broken_platform_fails(broken: type[MemoryPlatform], test: str) -> None:
    suite = TestMemory()
    suite.platform = broken(THEIRS, ["a.png", "b.png"])
    with pytest.raises(AssertionError):
        getattr(suite, test)()


class Leaky(FolderSource):
    """Lists an image twice."""

    def records(self):  # type: ignore[no-untyped-def]
        records = list(super().records())
        return iter([*records, records[0]])


def test_a_broken_source_fails(tmp_path: Path) -> None:
    suite = TestFolder()
    suite.tmp_path = tmp_path
    suite.make_source()
    suite.make_source = lambda: Leaky(str(tmp_path))  # type: ignore[method-assign]
    with pytest.raises(AssertionError):
        suite.test_records_are_unique_and_in_a_stable_order()
