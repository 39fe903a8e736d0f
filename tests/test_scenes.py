from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from prelabel.coco import read_panoptic
from prelabel.data import PanopticLabel, Segment
from prelabel.demo.export import write_scenes
from prelabel.demo.scenes import ONTOLOGY, SPLITS, Scene, draw_scene
from prelabel.errors import ConfigError

EXPECTED = {
    ("train", 0): "e198d3645a29045a",
    ("train", 7): "8f15f2cacacef243",
    ("val", 0): "31e2f07aad3002bd",
    ("val", 7): "3dc55cdc81ad9c94",
    ("heldout", 0): "439645055b25fc75",
    ("heldout", 7): "41bd16c166ffdfaf",
}
"""The first digits of sha256 over pixels, id map and categories, by (split, index), seed 1."""


def _digest(scene: Scene) -> str:
    content = scene.pixels.tobytes() + scene.id_map.tobytes() + bytes(scene.category_ids)
    return hashlib.sha256(content).hexdigest()[:16]


def _label(scene: Scene) -> PanopticLabel:
    """The truth as a label, whose own checks then hold: ids, areas, one segment per stuff."""
    segments = []
    for number, category_id in enumerate(scene.category_ids, start=1):
        rows, columns = np.nonzero(scene.id_map == number)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        isthing = ONTOLOGY.by_id[category_id].isthing
        whole = tuple(int(side) for side in box)
        segments.append(
            Segment(number, category_id, isthing, len(rows), whole, 1.0, None, 1.0, "truth")
        )
    return PanopticLabel("scene", scene.id_map, tuple(segments))


@given(split=st.sampled_from(SPLITS), seed=st.integers(0, 10_000), index=st.integers(0, 1_000_000))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_a_scene_is_exact(split: str, seed: int, index: int) -> None:
    scene = draw_scene(split, seed, index)
    height, width = scene.id_map.shape
    assert scene.pixels.shape == (height, width, 3)
    assert scene.pixels.dtype == np.uint8
    assert scene.id_map.dtype == np.int32
    assert 200 <= min(height, width) <= max(height, width) <= 640
    assert scene.id_map.min() == 1
    label = _label(scene)
    things = [segment for segment in label.segments if segment.isthing]
    assert 2 <= len(things) <= 8
    assert min(segment.area for segment in label.segments) >= max(24, 0.001 * height * width)
    assert label.score == 1.0


def test_things_differ_from_their_surroundings() -> None:
    # A truth that did not match the picture would give no step of colour along its borders.
    inside, border = [], []
    for index in range(20):
        scene = draw_scene("heldout", 3, index)
        step = np.abs(np.diff(scene.pixels.astype(np.int32), axis=1)).max(axis=2)
        edge = scene.id_map[:, 1:] != scene.id_map[:, :-1]
        border.append(step[edge].mean())
        inside.append(step[~edge].mean())
    assert np.mean(border) > 4 * np.mean(inside)


def test_the_same_key_draws_the_same_scene_everywhere() -> None:
    # The embedded networks were trained on these pictures: a change here means training again.
    drawn = {
        (split, index): _digest(draw_scene(split, 1, index)) for split in SPLITS for index in (0, 7)
    }
    assert drawn == EXPECTED


def test_splits_seeds_and_indices_differ() -> None:
    keys = [("train", 1, 0), ("val", 1, 0), ("heldout", 1, 0), ("train", 2, 0), ("train", 1, 1)]
    assert len({_digest(draw_scene(*key)) for key in keys}) == len(keys)


def test_every_category_and_every_orientation_occurs() -> None:
    seen: set[int] = set()
    orientations: set[int] = set()
    wanted = {category.category_id for category in ONTOLOGY}
    for index in range(200):
        scene = draw_scene("heldout", 1, index)
        seen.update(scene.category_ids)
        height, width = scene.id_map.shape
        orientations.add(int(np.sign(height - width)))
        if seen == wanted and len(orientations) == 3:
            break
    assert seen == wanted
    assert orientations == {-1, 0, 1}


def test_the_ontology_has_things_stuff_and_safe_prompts() -> None:
    assert len(ONTOLOGY.things) >= 8
    assert len(ONTOLOGY.stuff) >= 6
    prompts = [prompt for category in ONTOLOGY for prompt in category.prompts]
    assert len(prompts) == len(set(prompts))
    assert all(category.prompts[0] == category.name for category in ONTOLOGY)
    assert len({category.color for category in ONTOLOGY}) == len(ONTOLOGY)


@pytest.mark.parametrize(
    ("split", "seed", "index", "named"),
    [("test", 1, 0, "'test'"), ("train", -1, 0, "-1"), ("train", 1, -2, "-2")],
)
def test_a_wrong_key_is_a_sentence(split: str, seed: int, index: int, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        draw_scene(split, seed, index)


def test_written_scenes_read_back_as_the_truth(tmp_path: Path) -> None:
    write_scenes(tmp_path, seed=5, count=3)
    panoptic = read_panoptic(tmp_path / "panoptic.json")
    record = json.loads((tmp_path / "panoptic.json").read_text())
    assert [image["file_name"] for image in record["images"]] == [
        "scene-000001.png",
        "scene-000002.png",
        "scene-000003.png",
    ]
    assert [image["id"] for image in record["images"]] == [1, 2, 3]
    assert len(record["categories"]) == len(ONTOLOGY)
    for index, annotation in enumerate(panoptic.annotations):
        scene = draw_scene("heldout", 5, index)
        with Image.open(tmp_path / "images" / f"scene-{index + 1:06d}.png") as image:
            assert np.array_equal(np.asarray(image), scene.pixels)
        assert np.array_equal(panoptic.id_map(annotation), scene.id_map)
        listed = {segment.segment_id: segment.category_id for segment in annotation.segments}
        assert listed == dict(enumerate(scene.category_ids, start=1))


def test_a_larger_count_begins_with_the_same_scenes(tmp_path: Path) -> None:
    write_scenes(tmp_path / "one", seed=2, count=1)
    write_scenes(tmp_path / "two", seed=2, count=2)
    name = "scene-000001.png"
    for folder in ("images", "panoptic"):
        one, two = (tmp_path / count / folder / name for count in ("one", "two"))
        assert one.read_bytes() == two.read_bytes()


def test_scenes_cannot_be_written_into_a_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(ConfigError, match="taken"):
        write_scenes(tmp_path / "taken", seed=1, count=1)
    with pytest.raises(ConfigError, match="at least 1"):
        write_scenes(tmp_path, seed=1, count=0)
