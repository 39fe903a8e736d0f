"""Merge, on maps drawn by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from prelabel.data import (
    Category,
    Detections,
    Instances,
    Mask,
    Ontology,
    PanopticLabel,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.options import MergeOptions
from prelabel.stages.merge import merge, stuff_score, thing_score

CAR, DOG, SKY, ROAD = 1, 2, 3, 4
ONTOLOGY = Ontology(
    (
        Category(CAR, "car", True),
        Category(DOG, "dog", True),
        Category(SKY, "sky", False),
        Category(ROAD, "road", False),
    )
)
ANY_SIZE = MergeOptions(
    min_area=0.0, min_score=0.0, min_visible=0.25, fill_void=False, max_speck=0.0, max_hole=0.0
)


def _map(*rows: str) -> NDArray[np.bool_]:
    return np.array([[character == "#" for character in row] for row in rows])


def _things(*items: tuple[int, float, NDArray[np.bool_]]) -> Instances:
    """Instances (category_id, score, full mask), with perfect masks' scores and boxes."""
    count = len(items)
    class_scores = np.zeros((count, 2), dtype=np.float32)
    for row, (category_id, score, _) in enumerate(items):
        class_scores[row] = score / 2
        class_scores[row, category_id - 1] = score
    ones, ids = np.ones(count, dtype=np.float32), np.arange(count, dtype=np.int32)
    masks = tuple(Mask.from_full(full) for _, _, full in items)
    detections = Detections(
        np.array([mask.box for mask in masks], dtype=np.float32).reshape(-1, 4),
        np.array([category_id for category_id, _, _ in items], dtype=np.int32),
        np.array([score for _, score, _ in items], dtype=np.float32),
        class_scores,
        ids,
        np.zeros(count, dtype=np.int32),
    )
    return Instances(detections, masks, ones, ones)


def _stuff(*items: tuple[int, float, NDArray[np.bool_]]) -> StuffRegions:
    count = len(items)
    ones = np.ones(count, dtype=np.float32)
    return StuffRegions(
        np.array([category_id for category_id, _, _ in items], dtype=np.int32),
        tuple(Mask.from_full(full) for _, _, full in items),
        ones,
        ones,
        np.array([prob for _, prob, _ in items], dtype=np.float32),
        np.full(count, SKY, dtype=np.int32),
        np.zeros(count, dtype=np.float32),
        ones > 0,
    )


def _merge(
    size: tuple[int, int],
    things: Instances | None = None,
    stuff: StuffRegions | None = None,
    options: MergeOptions = ANY_SIZE,
    scores: StuffScores | None = None,
    ontology: Ontology = ONTOLOGY,
) -> tuple[PanopticLabel, Trace]:
    none = things or _things(), stuff or StuffRegions.empty(), scores or StuffScores.empty()
    return merge("a", size, *none, ontology, options)


def _rough(**rows: list[float]) -> StuffScores:
    """Rough maps of one row each: `sky=[…]`, `road=[…]`."""
    ids = np.array([ONTOLOGY.by_name[name].category_id for name in rows], dtype=np.int32)
    probs = np.array([[row] for row in rows.values()], dtype=np.float32)
    return StuffScores(ids, np.zeros(len(ids), dtype=np.int32), probs)


def _rules(trace: Trace) -> dict[str, tuple[str, str]]:
    return {row.candidate_id: (row.rule, row.beaten_by) for row in trace.candidates}


def test_nothing_proposed_is_all_void() -> None:
    label, trace = _merge((2, 3))
    assert not label.id_map.any()
    assert label.segments == ()
    assert trace.candidates == ()


def test_a_thing_stands_in_front_of_better_stuff() -> None:
    things = _things((CAR, 0.3, _map("......", "..##..", "......", "......")))
    stuff = _stuff((ROAD, 0.99, np.ones((4, 6), dtype=bool)))
    label, trace = _merge((4, 6), things, stuff)
    assert label.id_map.tolist() == [
        [2, 2, 2, 2, 2, 2],
        [2, 2, 1, 1, 2, 2],
        [2, 2, 2, 2, 2, 2],
        [2, 2, 2, 2, 2, 2],
    ]
    assert [segment.category_id for segment in label.segments] == [CAR, ROAD]
    assert label.segments[0].box == (2, 1, 4, 2)
    assert trace.losses == {("stuff:0", "thing:0"): 2}


def test_of_two_things_the_better_keeps_the_overlap() -> None:
    things = _things((CAR, 0.5, _map("####..")), (DOG, 0.9, _map("..####")))
    label, trace = _merge((1, 6), things)
    assert label.id_map.tolist() == [[2, 2, 1, 1, 1, 1]]
    assert [segment.category_id for segment in label.segments] == [DOG, CAR]
    assert trace.losses == {("thing:0", "thing:1"): 2}


def test_a_small_thing_inside_a_large_one_survives() -> None:
    things = _things((CAR, 0.9, _map("######", "######")), (DOG, 0.4, _map("......", "..##..")))
    label, _ = _merge((2, 6), things)
    assert label.id_map.tolist() == [[1] * 6, [1, 1, 2, 2, 1, 1]]


def test_the_same_object_under_two_names_is_one() -> None:
    things = _things((CAR, 0.9, _map("####..")), (DOG, 0.8, _map("#####.")))
    label, trace = _merge((1, 6), things)
    assert label.id_map.tolist() == [[1, 1, 1, 1, 0, 0]]
    assert _rules(trace)["thing:1"] == ("duplicate", "thing:0")


def test_a_part_of_the_same_category_is_a_duplicate() -> None:
    things = _things((CAR, 0.9, _map("######")), (CAR, 0.8, _map("##....")))
    _, trace = _merge((1, 6), things)
    assert _rules(trace) == {"thing:0": ("kept", ""), "thing:1": ("duplicate", "thing:0")}


def test_a_covered_thing_has_no_segment() -> None:
    # The dog is too large beside the car to count as lying on it.
    things = _things((CAR, 0.9, _map("#####.")), (DOG, 0.8, _map(".#####")))
    options = ANY_SIZE.model_copy(update={"min_visible": 0.3, "duplicate_iou": 0.9})
    label, trace = _merge((1, 6), things, options=options)
    assert label.id_map.tolist() == [[1, 1, 1, 1, 1, 0]]
    assert _rules(trace)["thing:1"] == ("covered", "thing:0")


def test_what_a_dropped_candidate_held_goes_back() -> None:
    # The best candidate keeps too little of the image; the one behind it gets its pixel.
    things = _things((DOG, 0.9, _map("#.....")), (CAR, 0.8, _map("######")))
    options = ANY_SIZE.model_copy(update={"min_area": 0.3})
    label, trace = _merge((1, 6), things, options=options)
    assert label.id_map.tolist() == [[1] * 6]
    assert _rules(trace)["thing:0"][0] == "too-small"


def test_regions_of_one_stuff_category_are_one_segment() -> None:
    stuff = _stuff(
        (SKY, 0.9, _map("##....")), (ROAD, 0.8, _map("..##..")), (SKY, 0.7, _map("....##"))
    )
    label, trace = _merge((1, 6), stuff=stuff)
    assert label.id_map.tolist() == [[1, 1, 2, 2, 1, 1]]
    sky = label.segments[0]
    assert (sky.category_id, sky.area, sky.source) == (SKY, 4, "stuff:0+stuff:2")
    assert sky.score == pytest.approx((stuff_score(0.9, 1, 1) + stuff_score(0.7, 1, 1)) / 2)
    assert _rules(trace)["stuff:2"] == ("merged", "")


def test_rough_maps_decide_between_regions_pixel_by_pixel() -> None:
    stuff = _stuff((SKY, 0.9, _map("####..")), (ROAD, 0.8, _map("..####")))
    scores = _rough(sky=[0.9, 0.9, 0.9, 0.2, 0.1, 0.1], road=[0.1, 0.1, 0.2, 0.9, 0.9, 0.9])
    label, trace = _merge((1, 6), stuff=stuff, scores=scores)
    assert label.id_map.tolist() == [[1, 1, 1, 2, 2, 2]]
    assert trace.losses == {("stuff:0", "stuff:1"): 1, ("stuff:1", "stuff:0"): 1}
    assert set(trace.loss_rules.values()) == {"likelier-here"}


def test_by_region_the_better_score_keeps_what_two_regions_share() -> None:
    stuff = _stuff((SKY, 0.9, _map("####..")), (ROAD, 0.8, _map("..####")))
    scores = _rough(sky=[0.9, 0.9, 0.9, 0.2, 0.1, 0.1], road=[0.1, 0.1, 0.2, 0.9, 0.9, 0.9])
    options = ANY_SIZE.model_copy(update={"by_pixel": False})
    label, trace = _merge((1, 6), stuff=stuff, scores=scores, options=options)
    assert label.id_map.tolist() == [[1, 1, 1, 1, 2, 2]]
    assert trace.loss_rules == {("stuff:1", "stuff:0"): "better-score"}


def test_a_small_region_of_stuff_inside_a_better_one_does_not_lie_on_top() -> None:
    stuff = _stuff((SKY, 0.9, _map("######")), (ROAD, 0.5, _map("..##..")))
    label, _ = _merge((1, 6), stuff=stuff)
    assert label.id_map.tolist() == [[1] * 6]


def test_the_rules_between_things_are_told() -> None:
    things = _things((CAR, 0.9, _map("######")), (DOG, 0.4, _map("..##..")))
    stuff = _stuff((SKY, 0.9, _map("####..")))
    _, trace = _merge((1, 6), things, stuff)
    assert trace.loss_rules == {("thing:0", "thing:1"): "on-top"}
    assert _rules(trace)["stuff:0"] == ("too-small", "thing:0")
    overlapping = _things((CAR, 0.9, _map("####..")), (DOG, 0.5, _map("..####")))
    _, trace = _merge((1, 6), overlapping)
    assert trace.loss_rules == {("thing:1", "thing:0"): "better-score"}


def test_specks_and_holes_go() -> None:
    rows = _map("#####....#", "##.##.....", "#####.....")
    options = ANY_SIZE.model_copy(update={"max_speck": 0.1, "max_hole": 0.1})
    label, trace = _merge((3, 10), _things((CAR, 0.9, rows)), options=options)
    assert label.id_map.tolist() == [[1] * 5 + [0] * 5] * 3
    assert trace.candidates[0].mask.area == 15


def test_a_category_may_have_its_own_least_area() -> None:
    ontology = Ontology((Category(CAR, "car", True, min_area=0.5), *ONTOLOGY.categories[1:]))
    things = _things((CAR, 0.9, _map("##....")), (DOG, 0.8, _map("...##.")))
    label, trace = _merge((1, 6), things, ontology=ontology)
    assert label.id_map.tolist() == [[0, 0, 0, 1, 1, 0]]
    assert _rules(trace) == {"thing:0": ("too-small", ""), "thing:1": ("kept", "")}


def test_regions_of_stuff_reach_the_least_area_together() -> None:
    stuff = _stuff((SKY, 0.9, _map("#.....")), (SKY, 0.8, _map("...#..")))
    options = ANY_SIZE.model_copy(update={"min_area": 0.3})
    label, _ = _merge((1, 6), stuff=stuff, options=options)
    assert label.id_map.tolist() == [[1, 0, 0, 1, 0, 0]]
    options = ANY_SIZE.model_copy(update={"min_area": 0.4})
    label, trace = _merge((1, 6), stuff=stuff, options=options)
    assert not label.segments
    assert {rule for rule, _ in _rules(trace).values()} == {"too-small"}


def test_void_goes_to_the_likeliest_stuff_present() -> None:
    stuff = _stuff((SKY, 0.9, _map("#.....")), (ROAD, 0.9, _map(".....#")))
    scores = _rough(sky=[0.9, 0.6, 0.6, 0.2, 0.2, 0.1], road=[0.1, 0.4, 0.4, 0.8, 0.8, 0.9])
    label, _ = _merge((1, 6), stuff=stuff, scores=scores, options=MergeOptions(min_area=0))
    assert label.id_map.tolist() == [[1, 1, 1, 2, 2, 2]]


def test_void_stays_where_no_stuff_is_likely() -> None:
    stuff = _stuff((SKY, 0.9, _map("#...")))
    scores = _rough(sky=[0.9, 0.3, 0.2, 0.25])
    options = MergeOptions(min_area=0, fill_threshold=0.25)
    label, _ = _merge((1, 4), stuff=stuff, scores=scores, options=options)
    assert label.id_map.tolist() == [[1, 1, 0, 1]]


def test_doubtful_and_empty_candidates_are_out() -> None:
    things = _things((CAR, 0.001, _map("##....")), (DOG, 0.9, _map("......")))
    label, trace = _merge((1, 6), things, options=MergeOptions(min_score=0.1))
    assert label.segments == ()
    assert _rules(trace) == {"thing:0": ("low-score", ""), "thing:1": ("too-small", "")}


def test_runner_up_and_margin() -> None:
    label, _ = _merge((1, 2), _things((DOG, 0.8, _map("##"))))
    segment = label.segments[0]
    assert segment.runner_up == CAR
    assert segment.score == pytest.approx(thing_score(0.8, 1, 1, 1))
    # The runner-up scored half as much, so its own score would have been √½ of the winner's.
    assert segment.margin == pytest.approx(segment.score * (1 - 0.5**0.5), rel=1e-5)


def test_the_score_is_category_times_quality_times_agreement() -> None:
    assert thing_score(0.5, 0.9, 0.4, 0.8) == pytest.approx((0.5 * 0.6 * 0.8) ** 0.5)
    assert stuff_score(0.5, 0.6, 0.8) == pytest.approx((0.5 * 0.6 * 0.8) ** 0.5)
    assert stuff_score(0.9, 0.0, 1.0) == pytest.approx(0.45**0.5)  # rough: nobody drew its edge


def test_a_mask_that_does_not_fill_its_box_is_worth_less() -> None:
    things = _things((CAR, 0.9, _map("##....")), (DOG, 0.8, _map("..####")))
    boxes = np.array([[0, 0, 4, 1], [2, 0, 6, 1]], dtype=np.float32)
    looser = dataclasses.replace(
        things, detections=dataclasses.replace(things.detections, boxes=boxes)
    )
    _, trace = _merge((1, 6), looser)
    scores = {row.candidate_id: row.score for row in trace.candidates}
    assert scores == {
        "thing:1": pytest.approx(0.8**0.5),
        "thing:0": pytest.approx((0.9 * 0.5) ** 0.5),
    }


def test_one_pixel() -> None:
    label, _ = _merge((1, 1), _things((CAR, 0.9, _map("#"))), options=MergeOptions())
    assert label.id_map.tolist() == [[1]]


@settings(max_examples=60)
@given(st.data())
def test_any_proposals_make_a_valid_label(data: st.DataObject) -> None:
    """PanopticLabel checks itself; here: order of proposals does not matter, losses add up."""
    size = data.draw(st.tuples(st.integers(1, 7), st.integers(1, 7)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    scores = rng.permutation(np.linspace(0.05, 0.95, 12))
    items = [
        (int(rng.integers(1, 5)), float(score), rng.random(size) < rng.random()) for score in scores
    ]
    items = items[: data.draw(st.integers(0, 12))]
    things = [item for item in items if item[0] <= DOG]
    stuff = [item for item in items if item[0] > DOG]
    label, trace = _merge(size, _things(*things), _stuff(*stuff))
    again, _ = _merge(size, _things(*things[::-1]), _stuff(*stuff[::-1]))
    assert np.array_equal(label.id_map > 0, again.id_map > 0)
    assert sorted(s.area for s in label.segments) == sorted(s.area for s in again.segments)
    by_segment = {s.segment_id: s.category_id for s in label.segments}
    for row in trace.candidates:
        if row.segment_id:
            assert by_segment[row.segment_id] == row.category_id
            lost = sum(n for (loser, _), n in trace.losses.items() if loser == row.candidate_id)
            assert lost < row.mask.area
        else:
            assert row.rule in {"duplicate", "covered", "too-small", "low-score"}
