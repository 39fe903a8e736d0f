from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from prelabel.coco import PanopticWriter, measure_segments
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError, LabelError
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
Drawn = tuple[np.ndarray, Mapping[int, int]]


def draw(*rows: str) -> np.ndarray:
    """An id map from rows of digits; '.' is void."""
    return np.array(
        [[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.int32
    )


def write(path: Path, images: Mapping[str, Drawn], ontology: Ontology = ONTOLOGY) -> Path:
    with PanopticWriter(path, ontology) as writer:
        for number, (name, (id_map, categories)) in enumerate(images.items(), start=1):
            writer.add_map(name, id_map, measure_segments(id_map, categories), number)
    return path


def edit(path: Path, **changes: object) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
    return path


TRUE_A: Drawn = (draw("1112", "1112", "1112"), {1: CAR, 2: SKY})
TRUE_B: Drawn = (draw("11", "22", "22"), {1: DOG, 2: SKY})


def row(
    isthing: bool, pq: float, sq: float, rq: float, tp: int, fp: int, fn: int
) -> dict[str, object]:
    figures = {"pq": pytest.approx(pq), "sq": pytest.approx(sq), "rq": pytest.approx(rq)}
    return {**figures, "tp": tp, "fp": fp, "fn": fn, "isthing": isthing}


def test_ids_of_images_and_categories_and_their_order_do_not_matter(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A, "b.jpg": TRUE_B})
    renumbered = Ontology(
        tuple(
            Category(90 - c.category_id, c.name, c.isthing) for c in reversed(ONTOLOGY.categories)
        )
    )
    images = {
        name: (id_map, {i: 90 - category for i, category in categories.items()})
        for name, (id_map, categories) in (("b.jpg", TRUE_B), ("a.jpg", TRUE_A))
    }
    prediction = write(tmp_path / "pred.json", images, renumbered)
    assert evaluate(prediction, truth).all.pq == 1.0


def test_an_extension_that_differs_still_matches(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"x/a.png": TRUE_A, "y/a.png": TRUE_B})
    prediction = write(tmp_path / "pred.json", {"y/a.jpg": TRUE_B, "x/a.jpg": TRUE_A})
    assert evaluate(prediction, truth).all.pq == 1.0


def test_folders_that_one_side_does_not_have_still_match(tmp_path: Path) -> None:
    flat = {"a.png": TRUE_A, "b.png": TRUE_B}
    deep = {"y/b.jpg": TRUE_B, "x/a.jpg": TRUE_A}
    for truth, prediction in ((flat, deep), (deep, flat)):
        files = [write(tmp_path / "p.json", prediction), write(tmp_path / "t.json", truth)]
        assert evaluate(*files).all.pq == 1.0


@pytest.mark.parametrize("other", [{"y/a.png": TRUE_A}, {"a.png": TRUE_A, "y/a.png": TRUE_A}])
def test_folders_that_differ_do_not_match(tmp_path: Path, other: dict[str, Drawn]) -> None:
    truth = write(tmp_path / "truth.json", {"x/a.png": TRUE_A, "z/a.png": TRUE_A})
    with pytest.raises(ConfigError, match="images do not match"):
        evaluate(write(tmp_path / "pred.json", other), truth)


def test_an_exact_name_goes_before_a_similar_one(tmp_path: Path) -> None:
    images = {"a.png": TRUE_A, "a.jpg": TRUE_B}
    truth = write(tmp_path / "truth.json", images)
    prediction = write(tmp_path / "pred.json", dict(reversed(images.items())))
    assert evaluate(prediction, truth).all.pq == 1.0


def test_names_that_could_mean_either_do_not_match(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.png": TRUE_A, "a.bmp": TRUE_A})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A})
    with pytest.raises(ConfigError, match="images do not match"):
        evaluate(prediction, truth)


def test_a_missing_prediction_is_an_error_or_a_miss(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A, "b.jpg": TRUE_B})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A})
    with pytest.raises(ConfigError) as caught:
        evaluate(prediction, truth)
    for part in ("'b.jpg'", str(prediction), str(truth)):
        assert part in str(caught.value)
    result = evaluate(prediction, truth, EvaluateOptions(PairOptions(missing="miss")))
    assert {quality.name: quality.to_json() for quality in result.per_class} == {
        "car": row(True, 1, 1, 1, 1, 0, 0),
        "dog": row(True, 0, 0, 0, 0, 0, 1),
        "sky": row(False, 2 / 3, 1, 2 / 3, 1, 0, 1),
        "sea": row(False, 0, 0, 0, 0, 0, 0),
    }


def test_no_prediction_at_all_is_all_misses(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    prediction = write(tmp_path / "pred.json", {})
    assert evaluate(prediction, truth, EvaluateOptions(PairOptions(missing="miss"))).all.pq == 0.0
    with pytest.raises(ConfigError, match="nothing to compare with"):
        evaluate(truth, prediction)


def test_an_extra_prediction_is_an_error_or_left_out(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A, "b.jpg": TRUE_B})
    with pytest.raises(ConfigError) as caught:
        evaluate(prediction, truth)
    for part in ("'b.jpg'", "'a.jpg'", str(prediction), str(truth)):
        assert part in str(caught.value)
    assert evaluate(prediction, truth, EvaluateOptions(PairOptions(extra="ignore"))).all.pq == 1.0


def test_categories_that_differ_are_named_on_both_sides(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    other = Ontology((Category(CAR, "automobile", True), *ONTOLOGY.categories[1:]))
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A}, other)
    choices: tuple[Literal["error", "miss"], ...] = ("error", "miss")
    for missing in choices:
        with pytest.raises(ConfigError) as caught:
            evaluate(prediction, truth, EvaluateOptions(PairOptions(missing=missing)))
        for part in ("'automobile'", "'car'", str(prediction), str(truth)):
            assert part in str(caught.value)


def test_a_category_that_was_not_asked_for_is_an_error_or_a_miss(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    fewer = Ontology((Category(SKY, "sky", False),))
    prediction = write(
        tmp_path / "pred.json",
        {"a.jpg": (draw("...2") * np.ones((3, 1), np.int32), {2: SKY})},
        fewer,
    )
    with pytest.raises(ConfigError, match=r"only .*truth\.json lists 'car', 'dog', 'sea'"):
        evaluate(prediction, truth)
    result = evaluate(prediction, truth, EvaluateOptions(PairOptions(missing="miss")))
    assert [quality.pq for quality in result.per_class] == [0.0, 0.0, 1.0, 0.0]


def test_the_truth_says_what_is_a_thing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    stuff = Ontology(tuple(Category(c.category_id, c.name, False) for c in ONTOLOGY))
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A}, stuff)
    with caplog.at_level(logging.WARNING):
        assert evaluate(prediction, truth).things.n == 1
    assert "isthing of 'car'" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"images": []}, "annotation of image 1, but images"),
        ({"images": [{"id": 1, "file_name": "a.jpg"}] * 2}, "image id 1 twice"),
        ({"categories": []}, "lists no categories"),
        ({"categories": [{"id": 1, "name": "car", "isthing": 1}] * 2}, "category id 1 twice"),
        (
            {"categories": [{"id": i, "name": "car", "isthing": 1} for i in (1, 2)]},
            "category 'car' twice",
        ),
    ],
)
def test_files_that_name_things_twice_or_not_at_all_are_refused(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    broken = edit(write(tmp_path / "broken.json", {"a.jpg": TRUE_A}), **changes)
    for pair in ((broken, truth), (truth, broken)):
        with pytest.raises((LabelError, ConfigError), match=message) as caught:
            evaluate(*pair)
        assert "broken.json" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    with pytest.raises(ConfigError, match=r"none\.json cannot be read"):
        evaluate(tmp_path / "none.json", truth)
