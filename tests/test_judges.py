"""What prelabel writes and counts, judged by readers that were written elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import evaluatePanoptic
from pycocotools import mask as coco_mask
from transformers.models.detr.image_processing_pil_detr import prepare_coco_panoptic_annotation

from prelabel.coco import PanopticWriter, measure_segments, read_panoptic
from prelabel.data import Category, Ontology, PanopticLabel, Segment
from prelabel.masks import decode_rle
from prelabel.review.evaluate import evaluate

ONTOLOGY = Ontology(
    (
        Category(1, "car", True),
        Category(20, "dog", True),
        Category(30, "person", True),
        Category(133, "sky", False),
        Category(5, "sea", False),
        Category(6, "never seen", False),
    )
)
USED = [category.category_id for category in ONTOLOGY][:-1]


def scatter(rng: np.random.Generator, size: tuple[int, int], count: int) -> np.ndarray:
    """An id map int32 (H, W) of nearest seeds: `count` segments, some of them void."""
    height, width = size
    seeds = rng.random((count, 2)) * size
    rows, columns = np.mgrid[0:height, 0:width]
    apart = (rows[..., None] - seeds[:, 0]) ** 2 + (columns[..., None] - seeds[:, 1]) ** 2
    ids = rng.choice(np.arange(1, 400), size=count, replace=False) * 41_000
    ids[rng.random(count) < 0.15] = 0
    nearest: np.ndarray = ids[apart.argmin(axis=-1)].astype(np.int32)
    return nearest


def disturb(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    """The same map shifted a little, with some segments renamed, joined or dropped."""
    moved = np.roll(truth, rng.integers(0, 4, size=2), axis=(0, 1))
    for segment_id in np.unique(truth):
        chance = rng.random()
        if chance < 0.1:
            moved[moved == segment_id] = 0
        elif chance < 0.2:
            moved[moved == segment_id] = rng.choice(np.unique(truth))
        elif chance < 0.4:
            moved[moved == segment_id] = 7 + rng.integers(0, 2**23)
    return moved


def draw_pair(folder: Path, seed: int, images: int = 12) -> tuple[Path, Path]:
    """A truth with void and crowd, and a prediction that is partly right, as COCO files."""
    rng = np.random.default_rng(seed)
    truth, prediction = folder / "truth.json", folder / "prediction.json"
    with PanopticWriter(truth, ONTOLOGY) as true, PanopticWriter(prediction, ONTOLOGY) as guess:
        for number in range(1, images + 1):
            size = (int(rng.integers(1, 60)), int(rng.integers(1, 60)))
            true_map = scatter(rng, size, int(rng.integers(1, 14)))
            id_map = disturb(rng, true_map)
            categories = {int(i): int(rng.choice(USED)) for i in np.unique(true_map)}
            guessed = {
                int(i): categories.get(int(i), USED[0])
                if rng.random() < 0.8
                else int(rng.choice(USED))
                for i in np.unique(id_map)
            }
            crowd = {i for i in categories if rng.random() < 0.15}
            name = f"set/{number}.jpg"
            true.add_map(
                name, true_map, measure_segments(true_map, categories, crowd=crowd), number
            )
            guess.add_map(name, id_map, measure_segments(id_map, guessed), number)
    return prediction, truth


@pytest.mark.parametrize("seed", range(4))
def test_quality_agrees_with_cityscapesscripts(tmp_path: Path, seed: int) -> None:
    prediction, truth = draw_pair(tmp_path, seed)
    theirs = evaluatePanoptic(
        truth, truth.with_suffix(""), prediction, prediction.with_suffix(""), tmp_path / "out.json"
    )
    ours = evaluate(prediction, truth).to_json()
    for group in ("all", "things", "stuff"):
        assert ours[group] == pytest.approx(theirs[group.capitalize()], abs=1e-6)
    assert ours["all"]["n"] >= 3  # type: ignore[index]
    for category in ONTOLOGY:
        mine = ours["per_class"][category.name]  # type: ignore[index]
        expected = theirs["per_class"][category.category_id]
        assert {key: mine[key] for key in expected} == pytest.approx(expected, abs=1e-6)


def test_the_drawn_pairs_hold_every_case(tmp_path: Path) -> None:
    prediction, truth = draw_pair(tmp_path, seed=0)
    rows = evaluate(prediction, truth).per_class
    assert min(sum(row.tp for row in rows), sum(row.fp for row in rows)) > 5
    assert sum(row.fn for row in rows) > 5
    assert any(row.pq not in (0.0, 1.0) and row.sq < 1.0 for row in rows)
    file = read_panoptic(truth)
    assert any(segment.iscrowd for row in file.annotations for segment in row.segments)
    assert any((file.id_map(row) == 0).any() for row in file.annotations)


@pytest.mark.parametrize("seed", [10, 11])
def test_annotations_agree_with_transformers(tmp_path: Path, seed: int) -> None:
    _, truth = draw_pair(tmp_path, seed)
    file, content = read_panoptic(truth), json.loads(truth.read_text())
    for annotation, target in zip(file.annotations, content["annotations"], strict=True):
        image = file.images_by_id[annotation.image_id]
        pixels = np.zeros((image.height or 0, image.width or 0, 3), np.uint8)
        theirs = prepare_coco_panoptic_annotation(
            pixels, target, file.folder, input_data_format="channels_last"
        )
        id_map = file.id_map(annotation)
        segments = annotation.segments
        assert theirs["image_id"].tolist() == [annotation.image_id]
        assert theirs["class_labels"].tolist() == [s.category_id for s in segments]
        assert theirs["iscrowd"].tolist() == [s.iscrowd for s in segments]
        assert theirs["area"].tolist() == [s.area for s in segments]
        assert theirs["masks"].sum(axis=(1, 2)).tolist() == [s.area for s in segments]
        for mask, box, segment in zip(theirs["masks"], theirs["boxes"], segments, strict=True):
            assert np.array_equal(mask, id_map == segment.segment_id)
            # Their box names the last pixel inside, ours the width and height.
            x, y, width, height = segment.box_xywh or (0, 0, 0, 0)
            assert box.tolist() == [x, y, x + width - 1, y + height - 1]


@pytest.mark.parametrize("seed", [20, 21])
def test_areas_and_boxes_agree_with_pycocotools(tmp_path: Path, seed: int) -> None:
    file = read_panoptic(draw_pair(tmp_path, seed)[0])
    checked = 0
    for annotation in file.annotations:
        id_map = file.id_map(annotation)
        for segment in annotation.segments:
            rle = coco_mask.encode(np.asfortranarray(id_map == segment.segment_id, dtype=np.uint8))
            assert coco_mask.area(rle) == segment.area
            assert coco_mask.toBbox(rle).tolist() == list(segment.box_xywh or ())
            checked += 1
    assert checked > 30


def test_a_label_of_the_pipeline_reads_the_same_everywhere(tmp_path: Path) -> None:
    id_map = np.array([[2, 2, 2], [2, 1, 0], [2, 1, 1], [3, 3, 3]], np.int32)
    label = PanopticLabel(
        "portrait.jpg",
        id_map,
        (
            Segment(1, 20, True, 3, (1, 1, 3, 3), 0.9, 1, 0.4, "thing:0"),
            Segment(2, 133, False, 5, (0, 0, 3, 3), 0.8, None, 0.8, "stuff:0"),
            Segment(3, 5, False, 3, (0, 3, 3, 4), 0.7, 133, 0.1, "stuff:1"),
        ),
    )
    path = tmp_path / "panoptic.json"
    with PanopticWriter(path, ONTOLOGY) as writer:
        writer.add("portrait.jpg", label, 1)
    target = json.loads(path.read_text())["annotations"][0]
    theirs = prepare_coco_panoptic_annotation(
        np.zeros((4, 3, 3), np.uint8), target, path.with_suffix("")
    )
    assert theirs["class_labels"].tolist() == [20, 133, 5]
    assert theirs["area"].tolist() == [3, 5, 3]
    for mask, segment in zip(theirs["masks"], label.segments, strict=True):
        assert np.array_equal(mask.astype(bool), label.mask(segment.segment_id))
    quality = evaluatePanoptic(
        path, path.with_suffix(""), path, path.with_suffix(""), tmp_path / "out.json"
    )
    assert quality["All"] == {"pq": 1.0, "sq": 1.0, "rq": 1.0, "n": 3}


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_of_pycocotools_are_read(seed: int) -> None:
    rng = np.random.default_rng(seed)
    full = scatter(rng, (int(rng.integers(1, 90)), int(rng.integers(1, 90))), 6) > 8_000_000
    theirs = coco_mask.encode(np.asfortranarray(full, dtype=np.uint8))
    mask = decode_rle({"size": theirs["size"], "counts": theirs["counts"].decode()})
    assert np.array_equal(mask.to_full(full.shape), full)
