"""Datumaro reads what the COCO sinks write: every pixel, category, id and score that it keeps."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from datumaro.components.annotation import AnnotationType
from datumaro.components.dataset import Dataset
from PIL import Image

from connectors.coco_instances import CocoInstancesSink
from connectors.coco_panoptic import CocoPanopticSink
from prelabel.coco import measure_segments
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.ports import Delivery

ONTOLOGY = Ontology(
    (
        Category(90, "dog", True),
        Category(4, "car", True),
        Category(200, "sky", False),
        Category(7, "sea", False),
    )
)
CATEGORIES = {1: 4, 2: 90, 3: 200, 4: 4, 5: 7}
"""By segment."""
IMAGES = (("wide.png", "139"), ("sub/tall.jpg", "785"), ("dot.png", ""))
SIZES = {"wide.png": (40, 61), "sub/tall.jpg": (57, 23), "dot.png": (1, 1)}

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def draw(name: str) -> PanopticLabel:
    """Nearest seeds, with a grid of void and of another segment, so that masks have holes."""
    rng, (height, width) = np.random.default_rng(len(name)), SIZES[name]
    seeds = rng.random((5, 2)) * (height, width)
    rows, columns = np.mgrid[0:height, 0:width]
    apart = (rows[..., None] - seeds[:, 0]) ** 2 + (columns[..., None] - seeds[:, 1]) ** 2
    drawn = apart.argmin(axis=-1) + 1
    drawn[(rows % 7 == 3) & (columns % 5 == 2)] = 0
    drawn[(rows % 7 == 5) & (columns % 5 == 4)] = 2
    present = [int(each) for each in np.unique(drawn) if each]
    id_map = np.searchsorted([0, *present], drawn).astype(np.int32)
    things = {category.category_id for category in ONTOLOGY.things}
    segments = []
    kinds = {new: CATEGORIES[old] for new, old in enumerate(present, start=1)}
    for one in measure_segments(id_map, kinds):
        x, y, w, h = (int(side) for side in one.box_xywh or ())
        box, score = (x, y, x + w, y + h), round(float(rng.random()), 6)
        isthing = one.category_id in things
        segments.append(
            Segment(
                one.segment_id,
                one.category_id,
                isthing,
                one.area or 0,
                box,
                score,
                None,
                score,
                "drawn",
            )
        )
    return PanopticLabel(name, id_map, tuple(segments))


@pytest.fixture(scope="module")
def labels() -> dict[str, PanopticLabel]:
    return {name: draw(name) for name, _ in IMAGES}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, labels: dict[str, PanopticLabel]) -> Path:
    """Laid out as COCO is: images/val, annotations/panoptic_val.json, and so on."""
    root = tmp_path_factory.mktemp("coco")
    for sink in (CocoPanopticSink(str(root)), CocoInstancesSink(str(root))):
        sink.check(ONTOLOGY)
        for name, ref in IMAGES:
            sink.push(Delivery(ImageRecord(name, "", ref), labels[name]))
        sink.finalize()
    (root / "annotations").mkdir()
    shutil.move(root / "panoptic.json", root / "annotations/panoptic_val.json")
    shutil.move(root / "panoptic", root / "annotations/panoptic_val")
    shutil.move(root / "instances.json", root / "annotations/instances_val.json")
    for name, (height, width) in SIZES.items():
        path = root / "images/val" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (width, height)).save(path)
    return root


def read(folder: Path, kind: str) -> tuple[Dataset, list[str]]:
    dataset = Dataset.import_from(str(folder), kind)
    return dataset, [row.name for row in dataset.categories()[AnnotationType.label]]


def item_of(dataset: Dataset, name: str) -> object:
    return dataset.get(str(Path(name).with_suffix("")), subset="val")


def test_panoptic_files(folder: Path, labels: dict[str, PanopticLabel]) -> None:
    dataset, names = read(folder, "coco_panoptic")
    assert set(names) == {"dog", "car", "sky", "sea"}
    assert len(dataset) == len(labels)
    for name, ref in IMAGES:
        item, label = item_of(dataset, name), labels[name]
        assert item.attributes["id"] == int(ref or 1)  # type: ignore[attr-defined]
        masks = {mask.id: mask for mask in item.annotations}  # type: ignore[attr-defined]
        assert masks.keys() == {one.segment_id for one in label.segments}
        for one in label.segments:
            mask = masks[one.segment_id]
            assert np.array_equal(mask.image.astype(bool), label.mask(one.segment_id))
            assert names[mask.label] == ONTOLOGY.by_id[one.category_id].name
            assert not mask.attributes["is_crowd"]


def test_instances_files(folder: Path, labels: dict[str, PanopticLabel]) -> None:
    dataset, names = read(folder, "coco_instances")
    assert set(names) == {"dog", "car"}
    assert len(dataset) == len(labels)
    found = 0
    for name, ref in IMAGES:
        item, label = item_of(dataset, name), labels[name]
        assert item.attributes["id"] == int(ref or 1)  # type: ignore[attr-defined]
        rows = item.annotations  # type: ignore[attr-defined]
        masks = [row for row in rows if row.type == AnnotationType.mask]
        things = [one for one in label.segments if one.isthing]
        masks.sort(key=lambda row: row.id)
        for mask, one in zip(masks, things, strict=True):
            assert np.array_equal(mask.image.astype(bool), label.mask(one.segment_id))
            assert names[mask.label] == ONTOLOGY.by_id[one.category_id].name
            assert mask.attributes["score"] == pytest.approx(one.score, abs=1e-6)
            assert not mask.attributes["is_crowd"]
            found += 1
    assert found >= 5
