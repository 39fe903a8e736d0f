"""A run's things as a COCO instances file, judged by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from connectors.coco_instances import CocoInstancesSink
from prelabel.coco import measure_segments
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, ConnectorError, LabelError
from prelabel.ports import Delivery

ONTOLOGY = Ontology(
    (Category(4, "car", True, (), (1, 2, 3)), Category(2, "sky", False), Category(90, "dog", True))
)
THINGS = {4, 90}

# The way in which pycocotools decodes.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def label_of(image_id: str, id_map: np.ndarray, category_ids: dict[int, int]) -> PanopticLabel:
    segments = []
    for one in measure_segments(id_map, category_ids):
        x, y, width, height = (int(side) for side in one.box_xywh or ())
        score = 1 / (1 + one.segment_id)
        segments.append(
            Segment(
                one.segment_id,
                one.category_id,
                one.category_id in THINGS,
                one.area or 0,
                (x, y, x + width, y + height),
                score,
                None,
                score,
                "test",
            )
        )
    return PanopticLabel(image_id, id_map, tuple(segments))


def ring() -> PanopticLabel:
    """A car with a hole, through which a dog of one pixel is seen, before the sky; one void."""
    id_map = np.full((5, 7), 3, np.int32)
    id_map[1:4, 1:6] = 1
    id_map[2, 2:5] = 3
    id_map[2, 3] = 2
    id_map[0, 0] = 0
    return label_of("b/ring.png", id_map, {1: 4, 2: 90, 3: 2})


def export(folder: Path, *labels: PanopticLabel) -> dict[str, object]:
    sink = CocoInstancesSink(str(folder))
    sink.check(ONTOLOGY)
    for label in labels:
        sink.push(Delivery(ImageRecord(label.image_id, ""), label))
    sink.finalize()
    document: dict[str, object] = json.loads((folder / "instances.json").read_text())
    return document


def read(folder: Path) -> COCO:
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(folder / "instances.json")


def test_a_hole_a_lone_pixel_and_a_score_survive(tmp_path: Path) -> None:
    label = ring()
    export(tmp_path, label)
    file = read(tmp_path)
    car, dog = file.loadAnns(file.getAnnIds(catIds=[4, 90]))
    assert np.array_equal(file.annToMask(car), label.mask(1))
    assert np.array_equal(file.annToMask(dog), label.mask(2))
    assert (car["area"], car["bbox"], car["iscrowd"]) == (12, [1, 1, 5, 3], 0)
    assert (dog["area"], dog["bbox"], dog["score"]) == (1, [3, 2, 1, 1], pytest.approx(1 / 3))
    assert [car["id"], dog["id"]] == [1, 2]
    assert [car["segment_id"], dog["segment_id"]] == [1, 2]


def test_stuff_is_left_out_and_images_without_things_are_listed(tmp_path: Path) -> None:
    sky = label_of("a.png", np.full((2, 3), 1, np.int32), {1: 2})
    empty = PanopticLabel("b.png", np.zeros((1, 1), np.int32), ())
    document = export(tmp_path, sky, empty)
    assert document["annotations"] == []
    assert document["images"] == [
        {"id": 1, "file_name": "a.png", "height": 2, "width": 3},
        {"id": 2, "file_name": "b.png", "height": 1, "width": 1},
    ]
    names = [(row["id"], row["name"]) for row in document["categories"]]  # type: ignore[index]
    assert names == [(4, "car"), (90, "dog")]
    assert read(tmp_path).getAnnIds() == []


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_every_mask_comes_back_to_the_pixel(
    tmp_path_factory: pytest.TempPathFactory, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(1, 30, 2))
    drawn = rng.choice(5, size, p=rng.dirichlet(np.ones(5)))
    id_map = (np.unique(drawn, return_inverse=True)[1].reshape(size) - rng.integers(2)).clip(0)
    categories = dict(enumerate(rng.permutation([4, 90, 2, 4, 90]).tolist(), start=1))
    label = label_of("x.png", id_map.astype(np.int32), categories)
    folder = tmp_path_factory.mktemp("instances")
    export(folder, label)
    file = read(folder)
    things = [one for one in label.segments if one.isthing]
    annotations = file.loadAnns(file.getAnnIds())
    assert [row["segment_id"] for row in annotations] == [one.segment_id for one in things]
    for row, one in zip(annotations, things, strict=True):
        assert np.array_equal(file.annToMask(row), label.mask(one.segment_id))
        assert (row["area"], row["category_id"]) == (one.area, one.category_id)


def test_it_is_evaluated_as_truth_and_as_results(tmp_path: Path) -> None:
    export(tmp_path, ring())
    with contextlib.redirect_stdout(io.StringIO()):
        truth = read(tmp_path)
        results = truth.loadRes(truth.dataset["annotations"])
        judge = COCOeval(truth, results, "segm")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    assert judge.stats[0] == pytest.approx(1.0)


def test_the_file_is_whole_or_the_older_one(tmp_path: Path) -> None:
    export(tmp_path, ring())
    before = (tmp_path / "instances.json").read_bytes()
    sink = CocoInstancesSink(str(tmp_path))
    sink.check(ONTOLOGY)
    label = ring()
    sink.push(Delivery(ImageRecord(label.image_id, ""), label))
    with pytest.raises(LabelError, match="inside its folder"):
        sink.push(Delivery(ImageRecord("../up.png", ""), label))
    assert (tmp_path / "instances.json").read_bytes() == before
    del sink
    assert [path.name for path in tmp_path.iterdir()] == ["instances.json"]
    export(tmp_path, label)
    assert (tmp_path / "instances.json").read_bytes() == before


def test_misuse_and_bad_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder to export to is empty"):
        CocoInstancesSink("")
    with pytest.raises(ConfigError, match=r"no things.*coco-panoptic"):
        CocoInstancesSink(str(tmp_path)).check(Ontology((Category(2, "sky", False),)))
    with pytest.raises(ConnectorError, match="before the first push"):
        CocoInstancesSink(str(tmp_path)).push(Delivery(ImageRecord("a", ""), ring()))
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        CocoInstancesSink(str(tmp_path / "file")).check(ONTOLOGY)
