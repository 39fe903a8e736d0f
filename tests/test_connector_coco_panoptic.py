"""A run's labels as a COCO panoptic file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from connectors.coco_images import CocoImagesSource
from connectors.coco_panoptic import CocoPanopticSink
from prelabel.coco import read_panoptic
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, ConnectorError
from prelabel.job.export import export_labels
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.ports import Delivery, LabelSink

ONTOLOGY = Ontology((Category(4, "car", True, (), (1, 2, 3)), Category(2, "sky", False)))
MADE = Provenance("prelabel 0", "f00d")


def _label(image_id: str) -> PanopticLabel:
    id_map = np.array([[1, 1, 2], [0, 2, 2]], dtype=np.int32)
    car = Segment(1, 4, True, 2, (0, 0, 2, 1), 0.75, None, 0.75, "thing:0")
    sky = Segment(2, 2, False, 3, (1, 0, 3, 2), 0.5, 4, 0.25, "stuff:0")
    return PanopticLabel(image_id, id_map, (car, sky))


def _run(folder: Path, *ids: str) -> Path:
    store = LabelStore(folder)
    for image_id in ids:
        store.write(ImageRecord(image_id, image_id), _label(image_id), MADE)
    return folder


def test_a_run_becomes_a_file_in_order_of_image_id(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", "b.jpg", "a/c.png", "a/b.jpg")
    sink = CocoPanopticSink(str(tmp_path / "coco"))
    assert isinstance(sink, LabelSink)
    assert export_labels(run, sink, ONTOLOGY) == 3
    file = read_panoptic(tmp_path / "coco" / "panoptic.json")
    named = [(image.image_id, image.file_name, image.height, image.width) for image in file.images]
    assert named == [(1, "a/b.jpg", 2, 3), (2, "a/c.png", 2, 3), (3, "b.jpg", 2, 3)]
    assert [(one.category_id, one.name, one.isthing) for one in file.categories] == [
        (4, "car", True),
        (2, "sky", False),
    ]
    for annotation in file.annotations:
        assert file.id_map(annotation).tolist() == [[1, 1, 2], [0, 2, 2]]
        car, sky = annotation.segments
        assert (car.category_id, car.area, car.box_xywh, car.score) == (4, 2, (0, 0, 2, 1), 0.75)
        assert (sky.category_id, sky.area, sky.box_xywh, sky.score) == (2, 3, (1, 0, 2, 2), 0.5)


def test_exporting_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", "a.jpg", "b.jpg")
    for name in ("one", "two", "two"):
        export_labels(run, CocoPanopticSink(str(tmp_path / name)), ONTOLOGY)
    for path in sorted((tmp_path / "one").rglob("*.*")):
        assert (
            path.read_bytes()
            == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()
        )


def test_pushing_twice_is_once(tmp_path: Path) -> None:
    sink = CocoPanopticSink(str(tmp_path))
    sink.check(ONTOLOGY)
    record = ImageRecord("a.jpg", "")
    assert sink.remote_status(record) is None
    sink.push(Delivery(record, _label("a.jpg")))
    sink.push(Delivery(record, _label("a.jpg")))
    assert sink.remote_status(record) == "written"
    sink.finalize()
    assert len(json.loads((tmp_path / "panoptic.json").read_text())["images"]) == 1


def test_misuse_and_bad_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder to export to is empty"):
        CocoPanopticSink("")
    with pytest.raises(ConnectorError, match="before the first push"):
        CocoPanopticSink(str(tmp_path)).push(Delivery(ImageRecord("a", ""), _label("a")))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        CocoPanopticSink(str(tmp_path / "file")).check(ONTOLOGY)


def test_a_run_without_labels_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    with pytest.raises(ConfigError, match="holds no label yet"):
        export_labels(run, CocoPanopticSink(str(tmp_path / "coco")), ONTOLOGY)
    assert not (tmp_path / "coco").exists()


def test_images_keep_the_ids_that_their_source_has_for_them(tmp_path: Path) -> None:
    listed = [("b.jpg", "139"), ("a/c.png", "0"), ("d.jpg", "1"), ("e.jpg", "")]
    listed += [("f.jpg", "139"), ("g.jpg", "007"), ("h.jpg", "5f1c")]
    sink = CocoPanopticSink(str(tmp_path))
    sink.check(ONTOLOGY)
    for name, ref in listed:
        sink.push(Delivery(ImageRecord(name, name, ref), _label(name)))
    sink.finalize()
    file = read_panoptic(tmp_path / "panoptic.json")
    found = {image.file_name: image.image_id for image in file.images}
    assert found == {
        "b.jpg": 139,
        "a/c.png": 0,
        "d.jpg": 1,
        "e.jpg": 2,
        "f.jpg": 3,
        "g.jpg": 4,
        "h.jpg": 5,
    }


def test_images_of_a_coco_file_go_round(tmp_path: Path) -> None:
    pixels = np.zeros((2, 3, 3), np.uint8)
    listed = [{"id": 785, "file_name": "val/b.png"}, {"id": 139, "file_name": "a.png"}]
    for entry in listed:
        path = tmp_path / str(entry["file_name"])
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "images.json").write_text(json.dumps({"images": listed}))
    source = CocoImagesSource(str(tmp_path / "images.json"))
    store = LabelStore(tmp_path / "run")
    for record in source.records():
        assert source.read(record).size == (2, 3)
        store.write(record, _label(record.image_id), MADE)
    export_labels(tmp_path / "run", CocoPanopticSink(str(tmp_path)), ONTOLOGY)
    again = CocoImagesSource(f"{tmp_path / 'panoptic.json'}::{tmp_path}")
    assert sorted(again.records(), key=str) == sorted(source.records(), key=str)
