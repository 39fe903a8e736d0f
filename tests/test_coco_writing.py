from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prelabel.coco import (
    CocoSegment,
    PanopticWriter,
    measure_segments,
    read_panoptic,
)
from prelabel.data import Category, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, LabelError

ONTOLOGY = Ontology((Category(3, "car", True, color=(10, 20, 30)), Category(7, "sky", False)))
MAP = np.array(
    [
        [2, 2, 2, 2, 2, 2],
        [2, 1, 1, 2, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
    ],
    dtype=np.int32,
)


def label_of(image_id: str) -> PanopticLabel:
    return PanopticLabel(
        image_id,
        MAP,
        (
            Segment(1, 3, True, 5, (1, 1, 3, 4), 0.123456789, None, 0.1, "thing:0"),
            Segment(2, 7, False, 8, (0, 0, 6, 2), 1.0, 3, 0.2, "stuff:0"),
        ),
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "out" / "panoptic.json"
    with PanopticWriter(path, ONTOLOGY) as writer:
        assert writer.add("photos/a.jpg", label_of("a"), 5) == tmp_path / "out/panoptic/a.png"
        assert (tmp_path / "out/panoptic/a.png").exists()
        assert not path.exists()
    file = read_panoptic(path)
    assert [(c.category_id, c.name, c.isthing) for c in file.categories] == [
        (3, "car", True),
        (7, "sky", False),
    ]
    assert file.categories[0].color == (10, 20, 30)
    (image,) = file.images
    assert (image.image_id, image.file_name) == (5, "photos/a.jpg")
    assert (image.height, image.width) == (4, 6)
    (annotation,) = file.annotations
    assert annotation.segments == (
        CocoSegment(1, 3, 5, (1, 1, 2, 3), score=0.123457),
        CocoSegment(2, 7, 8, (0, 0, 6, 2), score=1.0),
    )
    assert np.array_equal(file.id_map(annotation), MAP)


def test_the_json_spells_what_coco_defines(tmp_path: Path) -> None:
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY) as writer:
        writer.add_map("a.jpg", MAP, measure_segments(MAP, {1: 3, 2: 7}, crowd={1}), 1)
    content = json.loads((tmp_path / "p.json").read_text())
    assert list(content) == ["info", "categories", "images", "annotations"]
    assert content["annotations"] == [
        {
            "image_id": 1,
            "file_name": "a.png",
            "segments_info": [
                {"id": 1, "category_id": 3, "area": 5, "bbox": [1, 1, 2, 3], "iscrowd": 1},
                {"id": 2, "category_id": 7, "area": 8, "bbox": [0, 0, 6, 2], "iscrowd": 0},
            ],
        }
    ]
    assert content["categories"][0] == {
        "id": 3,
        "name": "car",
        "supercategory": "thing",
        "isthing": 1,
        "color": [10, 20, 30],
    }


def test_the_same_labels_give_the_same_bytes(tmp_path: Path) -> None:
    for run in ("one", "two"):
        with PanopticWriter(tmp_path / run / "panoptic.json", ONTOLOGY) as writer:
            writer.add("a.jpg", label_of("a"), 1)
            writer.add("b/a.jpg", label_of("b"), 2)
    first = {p.relative_to(tmp_path / "one"): p for p in (tmp_path / "one").rglob("*.*")}
    second = {p.relative_to(tmp_path / "two"): p for p in (tmp_path / "two").rglob("*.*")}
    assert len(first) == 3
    assert {k: p.read_bytes() for k, p in first.items()} == {
        k: p.read_bytes() for k, p in second.items()
    }


def test_equal_stems_get_different_pngs(tmp_path: Path) -> None:
    names = ["a/1.jpg", "b/1.jpg", "b/1.png", "A.jpg", "a.jpg", "é.jpg", "x" * 200 + ".jpg", ".jpg"]
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY) as writer:
        for number, name in enumerate(names):
            value = np.full((1, 1), number + 1, np.int32)
            writer.add_map(name, value, measure_segments(value, {number + 1: 3}), number)
    file = read_panoptic(tmp_path / "p.json")
    assert [image.file_name for image in file.images] == names
    pngs = [annotation.file_name for annotation in file.annotations]
    assert len({name.lower() for name in pngs}) == len(names)
    assert pngs[0] == "1.png"
    assert pngs[1].startswith("1-") and len(pngs[1]) == len("1-12345678.png")
    assert all(name.isascii() and len(name) < 100 for name in pngs)
    assert [file.id_map(row)[0, 0] for row in file.annotations] == list(range(1, len(names) + 1))


def test_a_name_that_looks_like_a_substitute_is_not_overwritten(tmp_path: Path) -> None:
    one = np.ones((1, 1), np.int32)
    segments = measure_segments(one, {1: 3})
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY) as writer:
        writer.add_map("a/1.jpg", one, segments, 1)
        substitute = writer.add_map("b/1.jpg", one, segments, 2)
    with PanopticWriter(tmp_path / "q.json", ONTOLOGY) as writer:
        taken = writer.add_map(f"{substitute.stem}.jpg", one, segments, 1)
        writer.add_map("a/1.jpg", one, segments, 2)
        other = writer.add_map("b/1.jpg", one, segments, 3)
    assert taken.name == substitute.name
    assert other.name != taken.name


def test_pngs_may_be_named_by_the_caller(tmp_path: Path) -> None:
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY) as writer:
        path = writer.add("b/a.jpg", label_of("a"), 1, png_name="a-1f3c.png")
        assert path == tmp_path / "p" / "a-1f3c.png"
        for wrong in ("A-1f3c.png", "b/a.png", "b\\a.png", "../a.png", "a.jpg", ""):
            with pytest.raises(LabelError, match=r"p\.json: "):
                writer.add("c.jpg", label_of("c"), 2, png_name=wrong)
    file = read_panoptic(tmp_path / "p.json")
    assert np.array_equal(file.id_map(file.annotations[0]), MAP)


def test_no_json_after_an_error_not_even_an_older_one(tmp_path: Path) -> None:
    path = tmp_path / "panoptic.json"
    path.write_text("an older run")
    with pytest.raises(RuntimeError), PanopticWriter(path, ONTOLOGY) as writer:
        writer.add("a.jpg", label_of("a"), 1)
        raise RuntimeError
    assert [p.name for p in tmp_path.rglob("*.*")] == ["a.png"]


def test_no_images_make_a_valid_empty_file(tmp_path: Path) -> None:
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY):
        pass
    file = read_panoptic(tmp_path / "p.json")
    assert (file.images, file.annotations) == ((), ())


@pytest.mark.parametrize(
    ("name", "number", "message"),
    [
        ("a.jpg", 2, r"'a\.jpg' was added twice"),
        ("b.jpg", 1, "image id 1 of 'b.jpg' is already taken"),
        ("../b.jpg", 2, "not a relative path"),
        ("/b.jpg", 2, "not a relative path"),
    ],
)
def test_images_that_clash_are_refused(
    tmp_path: Path, name: str, number: int, message: str
) -> None:
    with PanopticWriter(tmp_path / "p.json", ONTOLOGY) as writer:
        writer.add("a.jpg", label_of("a"), 1)
        with pytest.raises(LabelError, match=message):
            writer.add(name, label_of("b"), number)


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([CocoSegment(1, 3, 5, (1, 1, 2, 3))], r"holds the ids \[1, 2\], its segments are \[1\]"),
        (
            [CocoSegment(1, 3, 4, (1, 1, 2, 3)), CocoSegment(2, 7, 8, (0, 0, 6, 2))],
            "segment 1 says area 4",
        ),
        (
            [CocoSegment(1, 3, 5, (1, 1, 3, 4)), CocoSegment(2, 7, 8, (0, 0, 6, 2))],
            r"box \(1, 1, 3, 4\) \(xywh\), its pixels 5 and \(1, 1, 2, 3\)",
        ),
        (
            [CocoSegment(1, 4, 5, (1, 1, 2, 3)), CocoSegment(2, 7, 8, (0, 0, 6, 2))],
            "category 4, which the ontology does not list",
        ),
        (
            [CocoSegment(1, 3, 5, (1, 1, 2, 3), score=87.0), CocoSegment(2, 7, 8, (0, 0, 6, 2))],
            "score 87.0",
        ),
        (
            [CocoSegment(1, 3, 5, (1, 1, 2, 3)), CocoSegment(2, 7, 8, (0, 0, 6, 2))] * 2,
            "its segments are",
        ),
    ],
)
def test_segments_that_contradict_the_map_are_refused(
    tmp_path: Path, segments: list[CocoSegment], message: str
) -> None:
    writer = PanopticWriter(tmp_path / "p.json", ONTOLOGY)
    with writer, pytest.raises(LabelError, match=message):
        writer.add_map("a.jpg", MAP, segments, 1)
    assert read_panoptic(tmp_path / "p.json").images == ()


def test_the_name_of_the_file_ends_in_json(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"ends in \.json"):
        PanopticWriter(tmp_path / "panoptic", ONTOLOGY)


def test_an_output_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "panoptic").write_text("in the way")
    with pytest.raises(ConfigError, match=r"panoptic cannot be made"):
        PanopticWriter(tmp_path / "panoptic.json", ONTOLOGY).__enter__()
