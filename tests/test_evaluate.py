from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prelabel.coco import CocoSegment, PanopticWriter, measure_segments, write_id_map
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError, LabelError
from prelabel.review.evaluate import Counts, EvaluateOptions, count_image, evaluate
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


def count(
    true_map: np.ndarray,
    true_categories: Mapping[int, int],
    id_map: np.ndarray,
    predicted: Mapping[int, int],
    crowd: tuple[int, ...] = (),
) -> dict[int, Counts]:
    segments = {
        segment_id: CocoSegment(segment_id, category_id, iscrowd=segment_id in crowd)
        for segment_id, category_id in true_categories.items()
    }
    return dict(count_image(true_map, segments, id_map, predicted))


def write(path: Path, images: Mapping[str, Drawn], ontology: Ontology = ONTOLOGY) -> Path:
    with PanopticWriter(path, ontology) as writer:
        for number, (name, (id_map, categories)) in enumerate(images.items(), start=1):
            writer.add_map(name, id_map, measure_segments(id_map, categories), number)
    return path


def edit(path: Path, **changes: object) -> Path:
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
    return path


# --- one image --------------------------------------------------------------------------------


def test_a_perfect_label() -> None:
    id_map = draw("1122", "1133", "....")
    categories = {1: CAR, 2: CAR, 3: SKY}
    assert count(id_map, categories, id_map, categories) == {
        CAR: Counts(2.0, tp=2),
        SKY: Counts(1.0, tp=1),
    }


def test_iou_of_exactly_one_half_is_no_match() -> None:
    true_map, id_map = draw("112"), draw("122")
    assert count(true_map, {1: CAR, 2: SKY}, id_map, {1: CAR, 2: SKY}) == {
        CAR: Counts(fp=1, fn=1),
        SKY: Counts(fp=1, fn=1),
    }


def test_two_thirds_match() -> None:
    true_map, id_map = draw("1112"), draw("1122")
    assert count(true_map, {1: CAR, 2: DOG}, id_map, {1: CAR, 2: DOG}) == {
        CAR: Counts(2 / 3, tp=1),
        DOG: Counts(fp=1, fn=1),
    }


def test_the_right_pixels_of_the_wrong_category_do_not_match() -> None:
    id_map = draw("11", "11")
    assert count(id_map, {1: CAR}, id_map, {1: DOG}) == {CAR: Counts(fn=1), DOG: Counts(fp=1)}


def test_void_of_the_truth_is_taken_out_of_the_union() -> None:
    true_map, id_map = draw("11.....2"), draw("1111...2")
    # 2 pixels shared; the other 2 predicted ones lie in void and do not count.
    assert count(true_map, {1: CAR, 2: SKY}, id_map, {1: CAR, 2: SKY}) == {
        CAR: Counts(1.0, tp=1),
        SKY: Counts(1.0, tp=1),
    }


def test_void_of_the_prediction_counts_against_it() -> None:
    true_map, id_map = draw("111"), draw("11.")
    assert count(true_map, {1: CAR}, id_map, {1: CAR}) == {CAR: Counts(2 / 3, tp=1)}


@pytest.mark.parametrize(("true_row", "fp"), [("...2", 0), ("..22", 1), (".222", 1)])
def test_a_prediction_mostly_in_void_is_no_false_positive(true_row: str, fp: int) -> None:
    counts = count(draw(true_row), {2: SKY}, draw("1111"), {1: CAR})
    assert counts.get(CAR, Counts()) == Counts(fp=fp)
    assert counts[SKY] == Counts(fn=1)


@pytest.mark.parametrize(("true_row", "fp"), [("1112", 0), ("1122", 1), ("11.2", 0), (".122", 1)])
def test_a_prediction_mostly_in_crowd_of_its_category_is_none_either(
    true_row: str, fp: int
) -> None:
    counts = count(draw(true_row), {1: CAR, 2: SKY}, draw("1111"), {1: CAR}, crowd=(1,))
    assert counts.get(CAR, Counts()) == Counts(fp=fp)


def test_crowd_of_another_category_does_not_excuse() -> None:
    counts = count(draw("1111"), {1: DOG}, draw("1111"), {1: CAR}, crowd=(1,))
    assert counts == {CAR: Counts(fp=1)}


def test_crowd_is_neither_matched_nor_missed() -> None:
    assert count(draw("11"), {1: CAR}, draw("11"), {1: CAR}, crowd=(1,)) == {}
    assert count(draw("11"), {1: CAR}, draw(".."), {}, crowd=(1,)) == {}


def test_nothing_at_all() -> None:
    void = draw("..", "..", "..")
    assert count(void, {}, void, {}) == {}
    assert count(void, {}, draw("11", "11", "11"), {1: CAR}) == {}


def test_one_pixel() -> None:
    assert count(draw("1"), {1: CAR}, draw("1"), {1: CAR}) == {CAR: Counts(1.0, tp=1)}


def test_a_true_segment_without_pixels_is_missed() -> None:
    assert count(draw("1"), {1: CAR, 9: DOG}, draw("1"), {1: CAR})[DOG] == Counts(fn=1)


maps = hnp.arrays(np.int32, (4, 5), elements=st.integers(0, 5))


@given(maps, maps, st.lists(st.integers(1, 3), min_size=6, max_size=6))
def test_every_segment_is_counted_once(
    true_map: np.ndarray, id_map: np.ndarray, categories: list[int]
) -> None:
    true_ids, ids = (sorted(set(each.ravel().tolist()) - {0}) for each in (true_map, id_map))
    counts = count(
        true_map, {i: categories[i] for i in true_ids}, id_map, {i: categories[i] for i in ids}
    )
    assert sum(c.tp + c.fn for c in counts.values()) == len(true_ids)
    assert sum(c.tp + c.fp for c in counts.values()) <= len(ids)
    for c in counts.values():
        assert c.tp * 0.5 <= c.iou_sum <= c.tp


@given(maps, st.permutations([1, 2, 3, 4, 5]))
def test_names_of_ids_do_not_matter(true_map: np.ndarray, order: list[int]) -> None:
    lookup = np.array([0, *(1000 * number for number in order)], np.int32)
    ids = sorted(set(true_map.ravel().tolist()) - {0})
    counts = count(
        true_map, dict.fromkeys(ids, CAR), lookup[true_map], {int(lookup[i]): CAR for i in ids}
    )
    assert counts.get(CAR, Counts()) == Counts(float(len(ids)), tp=len(ids))


# --- whole files ------------------------------------------------------------------------------

TRUE_A: Drawn = (draw("1112", "1112", "1112"), {1: CAR, 2: SKY})
PRED_A: Drawn = (draw("1122", "1122", "1122"), {1: CAR, 2: SKY})
TRUE_B: Drawn = (draw("11", "22", "22"), {1: DOG, 2: SKY})


def test_figures_by_hand(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A, "b.jpg": TRUE_B})
    prediction = write(tmp_path / "pred.json", {"a.jpg": PRED_A, "b.jpg": TRUE_B})
    result = evaluate(prediction, truth)
    # car: one match of 6/9. sky: one match of 1, one miss and one false positive (3 of 6).
    # dog: one match of 1. sea does not occur.
    assert result.images == 2
    document = result.to_json()
    assert {group: document[group] for group in ("all", "things", "stuff")} == {
        "all": {
            "pq": pytest.approx((2 / 3 + 1 / 2 + 1) / 3),
            "sq": pytest.approx((2 / 3 + 1 + 1) / 3),
            "rq": pytest.approx((1 + 1 / 2 + 1) / 3),
            "n": 3,
        },
        "things": {"pq": pytest.approx(5 / 6), "sq": pytest.approx(5 / 6), "rq": 1.0, "n": 2},
        "stuff": {"pq": 0.5, "sq": 1.0, "rq": 0.5, "n": 1},
    }
    assert {quality.name: quality.to_json() for quality in result.per_class} == {
        "car": row(True, 2 / 3, 2 / 3, 1, 1, 0, 0),
        "dog": row(True, 1, 1, 1, 1, 0, 0),
        "sky": row(False, 0.5, 1, 0.5, 1, 1, 1),
        "sea": row(False, 0, 0, 0, 0, 0, 0),
    }
    assert json.loads(json.dumps(result.to_json()))["per_class"]["car"]["isthing"] is True


def row(
    isthing: bool, pq: float, sq: float, rq: float, tp: int, fp: int, fn: int
) -> dict[str, object]:
    figures = {"pq": pytest.approx(pq), "sq": pytest.approx(sq), "rq": pytest.approx(rq)}
    return {**figures, "tp": tp, "fp": fp, "fn": fn, "isthing": isthing}


@pytest.mark.parametrize("isthing", [True, False])
def test_things_alone_or_stuff_alone_divide_by_nothing(tmp_path: Path, isthing: bool) -> None:
    ontology = Ontology((Category(1, "only", isthing),))
    images = {"a.jpg": (draw("1."), {1: 1})}
    truth = write(tmp_path / "truth.json", images, ontology)
    result = evaluate(truth, truth)
    present, absent = (result.things, result.stuff)[:: 1 if isthing else -1]
    assert result.all == present
    assert (present.pq, present.n) == (1.0, 1)
    assert (absent.pq, absent.sq, absent.rq, absent.n) == (0.0, 0.0, 0.0, 0)


def test_only_void_everywhere(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": (draw("..", ".."), {})})
    assert evaluate(truth, truth).all.n == 0


def test_a_limit_takes_the_first_images_of_the_truth(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A, "b.jpg": TRUE_B})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A})
    result = evaluate(prediction, truth, EvaluateOptions(PairOptions(limit=1)))
    assert (result.images, result.all.pq, result.all.n) == (1, 1.0, 2)
    with pytest.raises(ConfigError, match="limit is 0"):
        evaluate(prediction, truth, EvaluateOptions(PairOptions(limit=0)))


def test_sizes_that_differ_are_named(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    turned = (np.ascontiguousarray(TRUE_A[0].T), TRUE_A[1])
    prediction = write(tmp_path / "pred.json", {"a.jpg": turned})
    with pytest.raises(
        LabelError, match=r"pred.a\.png has .* \(4, 3\), but .*truth.a\.png has \(3, 4\)"
    ):
        evaluate(prediction, truth)


def test_a_prediction_whose_png_and_json_disagree_is_refused(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A})
    write_id_map(tmp_path / "pred" / "a.png", np.where(TRUE_A[0] == 2, 8, 1).astype(np.int32))
    with pytest.raises(LabelError, match="only in the PNG: 8; only in the JSON: 2"):
        evaluate(prediction, truth)


def test_an_unlisted_id_of_the_truth_matches_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    prediction = write(tmp_path / "pred.json", {"a.jpg": TRUE_A})
    write_id_map(tmp_path / "truth" / "a.png", np.where(TRUE_A[0] == 2, 8, 1).astype(np.int32))
    with caplog.at_level(logging.WARNING):
        result = evaluate(prediction, truth)
    assert "does not list: 8" in caplog.text
    assert [(q.tp, q.fp, q.fn) for q in result.per_class] == [
        (1, 0, 0),
        (0,) * 3,
        (0, 1, 1),
        (0,) * 3,
    ]


@pytest.mark.parametrize(
    ("segments", "message"),
    [
        ([{"id": 1, "category_id": CAR}] * 2, "segment 1 twice"),
        ([{"id": 0, "category_id": CAR}], "id 0, which is void"),
        ([{"id": 1, "category_id": 77}], "category 77"),
    ],
)
def test_segments_that_make_no_sense_are_refused(
    tmp_path: Path, segments: list[dict[str, int]], message: str
) -> None:
    path = write(tmp_path / "truth.json", {"a.jpg": TRUE_A})
    edit(path, annotations=[{"image_id": 1, "file_name": "a.png", "segments_info": segments}])
    with pytest.raises(LabelError, match=message) as caught:
        evaluate(path, path)
    assert "a.png" in str(caught.value)
