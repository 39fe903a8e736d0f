"""The bench's parts, on maps drawn by hand."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from prelabel.ablation.ancestor import label_as_ancestor
from prelabel.ablation.contest import Contest
from prelabel.ablation.intervals import Draws, category_pq, figures
from prelabel.ablation.measure import SUMS, Edges, measure_label
from prelabel.ablation.outputs import Outputs, SceneKey, Truth, stored_outputs, suppress
from prelabel.ablation.questions import BestByIou, Remembering, Single
from prelabel.ablation.simulate import Faults, simulate
from prelabel.ablation.variants import ABLATIONS, OURS, Labeller
from prelabel.config import build_config, default_config
from prelabel.data import Category, Detections, Ontology, StuffScores
from prelabel.demo.ontology import ONTOLOGY as DEMO
from prelabel.models.candidates import DetectorOptions
from prelabel.models.roles import Embedding, MaskLogits, Prompts
from prelabel.ontology import ontology_document
from prelabel.options import MergeOptions, RefineOptions
from prelabel.strict_yaml import Document

CAR, DOG, SKY, ROAD = 1, 2, 3, 4
ONTOLOGY = Ontology(
    (
        Category(CAR, "car", True),
        Category(DOG, "dog", True),
        Category(SKY, "sky", False),
        Category(ROAD, "road", False),
    )
)
IDS = [CAR, DOG, SKY, ROAD]
PERFECT = Faults(*(0.0 for _ in dataclasses.fields(Faults)))


def _truth() -> Truth:
    """60 × 80: sky over road, a car on their border, a dog on the road."""
    id_map = np.full((60, 80), 4, dtype=np.int32)
    id_map[:30] = 3
    id_map[20:44, 10:40] = 1
    id_map[45:55, 55:70] = 2
    return Truth(id_map, np.array([CAR, DOG, SKY, ROAD], dtype=np.int32))


def _scene() -> tuple[Truth, np.ndarray]:
    """The truth and a picture in which each segment has one shade."""
    truth = _truth()
    return truth, np.repeat((truth.id_map * 50).astype(np.uint8)[..., None], 3, axis=2)


def _sums(truth: Truth, id_map: np.ndarray, categories: dict[int, int]) -> dict[str, list[float]]:
    sums = measure_label(truth, Edges(truth), (id_map, categories), IDS)
    return {name: sums[:, column].tolist() for column, name in enumerate(SUMS)}


# --- measures ---------------------------------------------------------------------------------


def test_a_perfect_label() -> None:
    truth = _truth()
    sums = _sums(truth, truth.id_map, dict(enumerate(IDS, start=1)))
    assert sums == {
        "iou": [1, 1, 1, 1],
        "tp": [1, 1, 1, 1],
        "fp": [0, 0, 0, 0],
        "fn": [0, 0, 0, 0],
        "accepted": [1, 1, 1, 1],
        "edge": [1, 1, 1, 1],
    }


def test_what_is_missed_and_what_is_spurious() -> None:
    truth = _truth()
    id_map = np.where(truth.id_map == 2, 4, truth.id_map).astype(np.int32)
    id_map[:5, :5] = 9
    sums = _sums(truth, id_map, {1: CAR, 3: SKY, 4: ROAD, 9: DOG})
    assert (sums["tp"], sums["fp"], sums["fn"]) == ([1, 0, 1, 1], [0, 1, 0, 0], [0, 1, 0, 0])


def test_the_edge_counts_near_the_edge_only() -> None:
    id_map = np.full((100, 100), 2, dtype=np.int32)
    id_map[:, :50] = 1
    edges = Edges(Truth(id_map, np.array([SKY, ROAD], dtype=np.int32)))
    assert edges.radius == pytest.approx(0.02 * 100 * 2**0.5)
    guess = np.zeros((100, 100), dtype=bool)
    guess[:, :51] = True
    # Within 2.83 pixels of the edge lie 3 columns on either side; one of the outer ones is taken.
    assert edges.iou(1, guess) == pytest.approx(3 / 4)
    guess[:, :40] = False
    assert edges.iou(1, guess) == pytest.approx(3 / 4)


def test_a_segment_without_an_edge_is_met() -> None:
    truth = Truth(np.ones((4, 4), dtype=np.int32), np.array([SKY], dtype=np.int32))
    assert Edges(truth).iou(1, np.zeros((4, 4), dtype=bool)) == 1.0


# --- figures and intervals --------------------------------------------------------------------


def _rows(*rows: tuple[float, ...]) -> np.ndarray:
    return np.array([rows], dtype=np.float64)


def test_figures_of_sums_written_by_hand() -> None:
    # Two categories: 2 found with IoU 0.9 and 0.7 and one missed; one spurious. A third is nowhere.
    sums = _rows((1.6, 2, 0, 1, 1, 1.2), (0, 0, 1, 0, 0, 0), (0, 0, 0, 0, 0, 0))
    found = {name: float(value) for name, value in figures(sums.sum(axis=0)).items()}
    assert found == pytest.approx(
        {
            "pq": (1.6 / 2.5 + 0) / 2,
            "sq": (0.8 + 0) / 2,
            "rq": (2 / 2.5 + 0) / 2,
            "accepted": 1 / 3,
            "boundary": 0.4,
            "boundary_of_found": 0.6,
        }
    )
    assert np.isnan(category_pq(sums.sum(axis=0))).tolist() == [False, False, True]


def test_equal_labels_differ_by_nothing() -> None:
    sums = np.random.default_rng(0).random((9, 3, len(SUMS)))
    for row in Draws(9).compare(sums, sums).values():
        assert (row.value, row.low, row.high) == (0.0, 0.0, 0.0)


def test_an_interval_holds_the_difference_and_is_the_same_again() -> None:
    rng = np.random.default_rng(1)
    sums = np.zeros((50, 1, len(SUMS)))
    sums[:, 0, SUMS.index("tp")] = 1
    sums[:, 0, SUMS.index("iou")] = 0.7 + 0.2 * rng.random(50)
    others = sums.copy()
    others[:, 0, SUMS.index("iou")] -= 0.1 * rng.random(50)
    row = Draws(50).compare(sums, others)["pq"]
    assert row.low < row.value < row.high
    assert row.value == pytest.approx(float((sums - others)[:, 0, 0].mean()))
    # Of 50 independent values uniform in 0 to 0.1, the mean's deviation is 0.1 / √12 / √50.
    assert row.high - row.low == pytest.approx(2 * 1.96 * 0.1 / 600**0.5, rel=0.25)
    assert Draws(50).compare(sums, others)["pq"] == row
    assert Draws(50).compare_categories(sums, others)[0] == row


# --- simulated candidates ---------------------------------------------------------------------


def test_the_same_name_makes_the_same_faults() -> None:
    first, again, other = (simulate(name, _scene(), ONTOLOGY, Faults()) for name in ("a", "a", "b"))
    assert np.array_equal(first.detections.boxes, again.detections.boxes)
    assert np.array_equal(first.scores.probs, again.scores.probs)
    assert not np.array_equal(first.scores.probs, other.scores.probs)
    prompts = Prompts(boxes=np.array([[10, 20, 40, 44]], dtype=np.float32))
    answers = [
        one.segmenter.masks(one.embedding, prompts, multimask=True) for one in (first, again)
    ]
    assert np.array_equal(answers[0].logits, answers[1].logits)


def test_without_faults_everything_is_found() -> None:
    outputs = simulate("a", _scene(), ONTOLOGY, PERFECT)
    label = Labeller(outputs, default_config(ONTOLOGY)).label(OURS)
    found = {row.segment_id: row.category_id for row in label.segments}
    sums = _sums(outputs.truth, label.id_map, found)
    assert (sums["tp"], sums["fp"], sums["fn"]) == ([1] * 4, [0] * 4, [0] * 4)
    assert min(sums["iou"]) > 0.8


def test_faults_are_made_as_often_as_asked() -> None:
    many = dataclasses.replace(PERFECT, doubled=1.0, phantoms=0.0)
    assert len(simulate("a", _scene(), ONTOLOGY, many).detections) == 4
    none = dataclasses.replace(PERFECT, missed=1.0)
    assert len(simulate("a", _scene(), ONTOLOGY, none).detections) == 0


# --- ways of labelling ------------------------------------------------------------------------


def test_every_ablation_changes_what_it_says_it_does() -> None:
    keys = {name: row for name, row in ABLATIONS.items() if row.refine or row.merge}
    assert len(keys) > 10
    for name, row in keys.items():
        for options, changed in ((RefineOptions(), row.refine), (MergeOptions(), row.merge)):
            assert set(changed) <= set(type(options).model_fields), name
            assert all(getattr(options, key) != value for key, value in changed.items()), name


def test_a_contest_compares_everything_with_ours() -> None:
    names = ["no-fill", "query-order", "one-mask-per-box", "region-choice-by-iou"]
    contest = Contest(default_config(ONTOLOGY), names)
    for name in "ab":
        contest.add(simulate(name, _scene(), ONTOLOGY, Faults()))
    rivals = contest.rivals()
    assert set(rivals) == {"ancestor", "ancestor_scaled", *names}
    ours = contest.ours()["pq"]
    assert isinstance(ours, float) and 0 < ours <= 1
    for rival in rivals.values():
        assert rival.ahead["pq"].value == pytest.approx(ours - rival.figures["pq"])
        document = rival.to_json()
        assert document["pq"] == rival.figures["pq"]


def test_the_ancestor_erodes_by_a_fixed_length_unless_it_is_scaled() -> None:
    outputs = simulate("a", _scene(), ONTOLOGY, PERFECT)
    # 20 pixels leave nothing of the 30 rows of sky but a strip; 1000 points times that are few.
    fixed, categories = label_as_ancestor(outputs, scaled=False)
    scaled, scaled_categories = label_as_ancestor(outputs, scaled=True)
    assert fixed.shape == scaled.shape == (60, 80)
    assert {CAR, DOG} <= set(categories.values())
    assert set(scaled_categories.values()) == set(IDS)
    assert set(np.unique(fixed)) - {0} == set(categories)


def test_an_image_without_detections_or_stuff() -> None:
    outputs = simulate("a", _scene(), ONTOLOGY, PERFECT)
    bare = dataclasses.replace(outputs, detections=Detections.empty(2), scores=StuffScores.empty())
    assert not label_as_ancestor(bare, scaled=True)[0].any()
    assert not Labeller(bare, default_config(ONTOLOGY)).label(OURS).id_map.any()


class _Counting:
    """Counts questions."""

    def __init__(self, outputs: Outputs) -> None:
        self.inner, self.asked = outputs.segmenter, 0

    def __getattr__(self, name: str) -> object:
        return getattr(self.inner, name)

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        self.asked += 1
        return self.inner.masks(embedding, prompts, multimask=multimask)


def test_a_question_is_asked_once() -> None:
    outputs = simulate("a", _scene(), ONTOLOGY, Faults())
    counting = _Counting(outputs)
    segmenter = Remembering(counting)  # type: ignore[arg-type]
    prompts = Prompts(boxes=np.array([[10, 20, 40, 44]], dtype=np.float32))
    three = segmenter.masks(outputs.embedding, prompts, multimask=True)
    again = segmenter.masks(outputs.embedding, prompts, multimask=True)
    assert again is three and counting.asked == 1
    one = Single(segmenter).masks(outputs.embedding, prompts, multimask=True)
    assert one.logits.shape[1] == 1 and counting.asked == 2
    best = BestByIou(segmenter).masks(outputs.embedding, prompts, multimask=True)
    assert best.ious.tolist() == [[three.ious.max()]]


def test_suppression_is_that_of_the_options() -> None:
    outputs = simulate("a", _scene(), ONTOLOGY, dataclasses.replace(PERFECT, doubled=1.0))
    options = DetectorOptions(box_threshold=0.0, nms_iou=0.3, cross_nms_iou=0.3)
    assert len(suppress(outputs.detections, ONTOLOGY, options)) == 2


# --- stored outputs ---------------------------------------------------------------------------


def test_networks_run_once_per_scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options, kind = default_config(DEMO), {"kind": "paint"}
    document = {"ontology": ontology_document(DEMO), "detect": kind, "segment": kind, "stuff": kind}
    config = build_config(cast("dict[str, Document]", document), "a test")
    keys = [SceneKey("val", 0, index) for index in range(2)]
    ran: list[str] = []
    first = list(stored_outputs(config, keys, tmp_path, ran.append))
    assert ran == ["val-0-000000", "val-0-000001"]
    monkeypatch.setattr("prelabel.ablation.outputs.draw_scene", None)
    again = list(stored_outputs(config, keys[1:], tmp_path, ran.append))
    assert len(ran) == 2
    assert np.array_equal(again[0].truth.id_map, first[1].truth.id_map)
    assert np.array_equal(again[0].embedding.features, first[1].embedding.features)
    assert Labeller(again[0], options).label(OURS).size == first[1].truth.size
