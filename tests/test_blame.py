"""Which stage made a mistake, by hand-made traces, and by a run that was stored."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from prelabel.coco import CocoSegment, PanopticWriter, measure_segments
from prelabel.data import (
    Candidate,
    Category,
    ImageRecord,
    Mask,
    Ontology,
    PanopticLabel,
    Segment,
    Trace,
    image_key,
)
from prelabel.errors import ConfigError
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.review.blame import Blame, blame_mistakes
from prelabel.review.compare import compare
from prelabel.review.evaluate import EvaluateOptions, evaluate
from prelabel.review.pairs import PairOptions

CAR, DOG, SKY, SEA = 1, 2, 3, 4
ONTOLOGY = Ontology(
    (
        Category(CAR, "car", True),
        Category(DOG, "dog", True),
        Category(SKY, "sky", False),
        Category(SEA, "sea", False),
    )
)


def draw(*rows: str) -> np.ndarray:
    """An id map from rows of digits; '.' is void."""
    return np.array(
        [[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.int32
    )


def candidate(
    name: str, category_id: int, row: str, rule: str = "kept", segment_id: int = 0
) -> Candidate:
    """One whose mask is where `row` has a cross."""
    mask = Mask.from_full(np.array([[pixel == "x" for pixel in row]]))
    isthing = category_id in (CAR, DOG)
    return Candidate(name, category_id, isthing, mask, 0.5, rule, segment_id=segment_id)


LOSSES = {("thing:0", "thing:1"): 3, ("thing:0", "thing:2"): 2, ("thing:0", "stuff:0"): 2}
RULES = {("thing:0", "thing:1"): "better-score", ("thing:0", "thing:2"): "on-top"}


def blame(
    true_row: str,
    true_categories: Mapping[int, int],
    row: str,
    predicted: Mapping[int, int],
    *candidates: Candidate,
    losses: Mapping[tuple[str, str], int] | None = None,
) -> list[tuple[str, str, str]]:
    """(kind, stage, reason) of each mistake in a picture of one row."""
    true_map = draw(true_row)
    segments = {i: CocoSegment(i, category_id) for i, category_id in true_categories.items()}
    image = compare(true_map, segments, draw(row), predicted, {CAR, DOG})
    same = {number: number for number in (CAR, DOG, SKY, SEA)}
    blames = blame_mistakes(image, true_map, Trace("a", candidates, losses or {}, RULES), same)
    return [
        (mistake.kind, found.stage, found.reason)
        for mistake, found in zip(image.mistakes, blames, strict=True)
    ]


def test_what_no_stage_found() -> None:
    assert blame("1111", {1: CAR}, "....", {}) == [("missed", "detect", "not found")]
    assert blame("1111", {1: SKY}, "....", {}) == [("missed", "score", "not found")]


@pytest.mark.parametrize("rule", ["duplicate", "covered", "too-small", "low-score", "a new rule"])
def test_a_good_candidate_that_the_merge_threw_away(rule: str) -> None:
    lost = candidate("thing:0", CAR, "xxx.", rule)
    assert blame("1111", {1: CAR}, "....", {}, lost) == [("missed", "merge", rule)]


def test_a_good_candidate_whose_pixels_went_elsewhere() -> None:
    kept = candidate("thing:0", CAR, "xxxx", "kept", 1)
    front = candidate("thing:1", DOG, ".xxx", "kept", 2)
    found = blame("1111", {1: CAR}, "1222", {1: CAR, 2: DOG}, kept, front)
    # The dog covers three quarters of the car, so it is what the car was taken for.
    assert found == [("wrong-class", "merge", "overlap"), ("duplicate", "merge", "duplicate kept")]
    found = blame("1111", {1: CAR}, "1222", {1: CAR, 2: DOG}, kept, front, losses=LOSSES)
    assert found[0] == ("wrong-class", "merge", "overlap, better-score")


def test_the_detector_named_it_wrong() -> None:
    dog = candidate("thing:0", DOG, "xxxx", "kept", 1)
    assert blame("1111", {1: CAR}, "1111", {1: DOG}, dog) == [
        ("wrong-class", "detect", "wrong class")
    ]
    sea = candidate("stuff:0", SEA, "xxxx", "merged", 1)
    assert blame("1111", {1: SKY}, "1111", {1: SEA}, sea) == [
        ("wrong-class", "score", "wrong class")
    ]


def test_stuff_over_a_thing_means_that_the_thing_was_not_found() -> None:
    sky = candidate("stuff:0", SKY, "xxxx", "kept", 1)
    assert blame("1111", {1: CAR}, "1111", {1: SKY}, sky) == [
        ("wrong-class", "detect", "not found")
    ]


@pytest.mark.parametrize(("category_id", "stage"), [(CAR, "segment"), (SKY, "refine")])
def test_the_mask_was_bad(category_id: int, stage: str) -> None:
    small = candidate("x:0", category_id, "xx......", "kept", 1)
    found = blame("11111111", {1: category_id}, "11......", {1: category_id}, small)
    assert found == [("bad-mask", stage, "bad mask")]


def test_regions_of_one_stuff_are_taken_together() -> None:
    left = candidate("stuff:0", SKY, "xxx.....", "kept", 1)
    right = candidate("stuff:1", SKY, ".....xxx", "low-score")
    found = blame("11111111", {1: SKY}, "111.....", {1: SKY}, left, right)
    assert found == [("bad-mask", "merge", "low-score")]
    # Two cars of half an object each are not one good candidate.
    pieces = [dataclasses.replace(row, category_id=CAR, isthing=True) for row in (left, right)]
    found = blame("11111111", {1: CAR}, "111.....", {1: CAR}, *pieces)
    assert found == [("bad-mask", "segment", "bad mask")]


def test_a_segment_where_nothing_is() -> None:
    car = candidate("thing:0", CAR, "xx......", "kept", 2)
    found = blame("11111111", {1: SKY}, "22111111", {1: SKY, 2: CAR}, car)
    assert found == [("spurious", "detect", "nothing there")]
    sea = candidate("stuff:0", SEA, "xx......", "kept", 2)
    found = blame("11111111", {1: SKY}, "22111111", {1: SKY, 2: SEA}, sea)
    assert found == [("spurious", "score", "nothing there")]


def test_a_good_mask_of_which_the_merge_left_a_useless_rest() -> None:
    car = candidate("thing:0", CAR, "xxxxxxxx....", "kept", 2)
    dog = candidate("thing:1", DOG, ".xxxxxxx....", "kept", 1)
    found = blame(
        "222222223333", {2: CAR, 3: SKY}, "211111113333", {2: CAR, 1: DOG, 3: SKY}, car, dog
    )
    # The dog over the car is the car's mistake; the car's rest lies on a car that has a segment.
    assert found == [("wrong-class", "merge", "overlap"), ("duplicate", "merge", "duplicate kept")]


# --- from a stored run ------------------------------------------------------------------------

TRUTH = draw("112233", "112233")
LABEL = draw("111122", "111122")


def write_file(path: Path, images: Mapping[str, np.ndarray], categories: Mapping[int, int]) -> Path:
    with PanopticWriter(path, ONTOLOGY) as writer:
        for number, (name, id_map) in enumerate(images.items(), start=1):
            writer.add_map(name, id_map, measure_segments(id_map, categories), number)
    return path


def store_run(root: Path, image_id: str) -> Path:
    """A run with one label: a car of four columns, a sky of two; a dog was a duplicate."""
    segments = (
        Segment(1, CAR, True, 8, (0, 0, 4, 2), 0.9, None, 0.9, "thing:0"),
        Segment(2, SKY, False, 4, (4, 0, 6, 2), 0.9, None, 0.9, "stuff:0"),
    )
    store = LabelStore(root)
    record = ImageRecord(image_id, image_id)
    car, dog = LABEL == 1, TRUTH == 2
    candidates = (
        Candidate("thing:0", CAR, True, Mask.from_full(car), 0.9, "kept", segment_id=1),
        Candidate("thing:1", DOG, True, Mask.from_full(dog), 0.5, "duplicate", "thing:0"),
        Candidate("stuff:0", SKY, False, Mask.from_full(LABEL == 2), 0.9, "kept", segment_id=2),
    )
    store.write_trace(image_key(image_id), Trace(image_id, candidates))
    label = PanopticLabel(image_id, LABEL, segments)
    store.write(record, label, Provenance("test", "f"), source_sha256="")
    return root


def test_a_stored_run_names_the_stages(tmp_path: Path) -> None:
    run = store_run(tmp_path / "run", "a.jpg")
    prediction = write_file(tmp_path / "pred.json", {"a.jpg": LABEL}, {1: CAR, 2: SKY})
    truth = write_file(tmp_path / "truth.json", {"a.jpg": TRUTH}, {1: CAR, 2: DOG, 3: SKY})
    result = evaluate(prediction, truth, EvaluateOptions(run=run))
    assert result.blames is not None
    found = {(row.category, row.kind): (row.blame, row.count) for row in result.blames}
    # The car's IoU is one half: no match, and its mask is as the segmenter made it.
    assert found == {
        ("car", "bad-mask"): (Blame("segment", "bad mask"), 1),
        ("dog", "missed"): (Blame("merge", "duplicate"), 1),
    }
    rows = json.loads(json.dumps(result.to_json()))
    assert {row["stage"] for row in rows["blame"]} == {"segment", "merge"}
    assert {row["stage"] for row in rows["worst"][0]["mistakes"]} == {"segment", "merge"}


def test_an_image_that_was_not_labelled_is_the_runs(tmp_path: Path) -> None:
    run = store_run(tmp_path / "run", "a.jpg")
    prediction = write_file(tmp_path / "pred.json", {"a.jpg": LABEL}, {1: CAR, 2: SKY})
    images = {"a.jpg": TRUTH, "b.jpg": TRUTH}
    truth = write_file(tmp_path / "truth.json", images, {1: CAR, 2: DOG, 3: SKY})
    result = evaluate(prediction, truth, EvaluateOptions(PairOptions(missing="miss"), run))
    assert result.blames is not None
    counts = {row.blame: row.count for row in result.blames if row.category == "sky"}
    assert counts == {Blame("run", "not labelled"): 1}


def test_another_runs_labels_are_refused(tmp_path: Path) -> None:
    run = store_run(tmp_path / "run", "a.jpg")
    truth = write_file(tmp_path / "truth.json", {"a.jpg": TRUTH}, {1: CAR, 2: DOG, 3: SKY})
    other = write_file(tmp_path / "pred.json", {"a.jpg": TRUTH}, {1: CAR, 2: DOG, 3: SKY})
    with pytest.raises(ConfigError, match=r"for 'a\.jpg' is not the label in"):
        evaluate(other, truth, EvaluateOptions(run=run))
    recoloured = write_file(tmp_path / "cats.json", {"a.jpg": LABEL}, {1: DOG, 2: SKY})
    with pytest.raises(ConfigError, match="is not the label in"):
        evaluate(recoloured, truth, EvaluateOptions(run=run))
    named = write_file(tmp_path / "named.json", {"b.jpg": LABEL}, {1: CAR, 2: SKY})
    truth_b = write_file(tmp_path / "truth_b.json", {"b.jpg": TRUTH}, {1: CAR, 2: DOG, 3: SKY})
    with pytest.raises(ConfigError, match=r"has no label of 'b\.jpg'"):
        evaluate(named, truth_b, EvaluateOptions(run=run))


def test_a_trace_that_is_gone_is_told(tmp_path: Path) -> None:
    run = store_run(tmp_path / "run", "a.jpg")
    prediction = write_file(tmp_path / "pred.json", {"a.jpg": LABEL}, {1: CAR, 2: SKY})
    (run / "traces" / f"{image_key('a.jpg')}.npz").unlink()
    with pytest.raises(ConfigError, match="is missing, so nothing tells"):
        evaluate(prediction, prediction, EvaluateOptions(run=run))
