"""Segment and refine, on painted images with the exact networks, and with a stubborn one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prelabel.data import (
    Category,
    Detections,
    Frame,
    ImageRecord,
    Instances,
    Ontology,
    StuffRegions,
    StuffScores,
)
from prelabel.models.paint import PaintDetector, PaintOptions, PaintSegmenter, PaintStuffScorer
from prelabel.models.roles import PADDING, Embedding, MaskLogits, Prompts
from prelabel.options import RefineOptions
from prelabel.stages.refine import Workspace, refine_stuff, rough_components
from prelabel.stages.sample import generator_for
from prelabel.stages.segment import segment_things, stabilities

BALL, SKY, ROAD = 1, 2, 3
COLORS = {BALL: (250, 0, 0), SKY: (0, 0, 250), ROAD: (90, 90, 90)}
ONTOLOGY = Ontology(
    (
        Category(BALL, "ball", True, color=COLORS[BALL]),
        Category(SKY, "sky", False, color=COLORS[SKY]),
        Category(ROAD, "road", False, color=COLORS[ROAD]),
    )
)


def _paint(rows: list[str]) -> Frame:
    keys = {"b": COLORS[BALL], "s": COLORS[SKY], "r": COLORS[ROAD], ".": (255, 255, 255)}
    pixels = np.array([[keys[letter] for letter in row] for row in rows], dtype=np.uint8)
    return Frame(ImageRecord("a", "a"), pixels)


def _letters(rows: list[str], letter: str) -> NDArray[np.bool_]:
    return np.array([[character == letter for character in row] for row in rows])


class _Recorder(PaintSegmenter):
    """Remembers its prompts."""

    seen: Prompts | None = None

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        self.seen = prompts
        return super().masks(embedding, prompts, multimask=multimask)


class _Stubborn(PaintSegmenter):
    """Answers every prompt with the whole image."""

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        answer = super().masks(embedding, prompts, multimask=multimask)
        return MaskLogits(np.full_like(answer.logits, 5.0), answer.ious)


def _run(
    rows: list[str], segmenter: PaintSegmenter, options: RefineOptions
) -> tuple[Instances, StuffRegions]:
    frame, paint = _paint(rows), PaintOptions()
    embedding = segmenter.embed([frame])[0]
    found = PaintDetector(paint).detect([frame], ONTOLOGY)[0].detections
    instances = segment_things(segmenter, embedding, found)
    scores = PaintStuffScorer(paint).score([frame], ONTOLOGY)[0]
    rng = generator_for("a")
    return instances, refine_stuff(segmenter, embedding, scores, instances, ONTOLOGY, options, rng)


SCENE = [
    "ssssssss",
    "ssssssss",
    "ssbbssss",
    "rrbbrrrr",
    "rrrrrrrr",
]
EXACT = RefineOptions(min_component=0.0, reach=0.2, min_rough=0.0)


def test_things_get_their_masks() -> None:
    instances, _ = _run(SCENE, PaintSegmenter(PaintOptions()), EXACT)
    assert len(instances) == 1
    assert np.array_equal(instances.masks[0].to_full((5, 8)), _letters(SCENE, "b"))
    assert instances.stabilities[0] == 1.0


def test_stuff_gets_its_regions() -> None:
    _, regions = _run(SCENE, PaintSegmenter(PaintOptions()), EXACT)
    assert regions.category_ids.tolist() == [SKY, ROAD]
    assert np.array_equal(regions.masks[0].to_full((5, 8)), _letters(SCENE, "s"))
    assert np.array_equal(regions.masks[1].to_full((5, 8)), _letters(SCENE, "r"))
    assert regions.refined.all()
    assert regions.agreements.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("transposed", [False, True])
def test_portrait_and_landscape_alike(transposed: bool) -> None:
    rows = ["".join(column) for column in zip(*SCENE, strict=True)] if transposed else SCENE
    _, regions = _run(rows, PaintSegmenter(PaintOptions()), EXACT)
    size = (len(rows), len(rows[0]))
    assert np.array_equal(regions.masks[0].to_full(size), _letters(rows, "s"))


def test_each_component_is_asked_for_by_itself() -> None:
    rows = ["ssrss", "ssrss"]
    segmenter = _Recorder(PaintOptions())
    _, regions = _run(rows, segmenter, EXACT)
    assert regions.category_ids.tolist() == [SKY, SKY, ROAD]
    assert [mask.box for mask in regions.masks] == [(0, 0, 2, 2), (3, 0, 5, 2), (2, 0, 3, 2)]


def test_points_lie_on_their_own_and_negatives_on_rivals() -> None:
    segmenter = _Recorder(PaintOptions())
    _run(SCENE, segmenter, EXACT)
    assert segmenter.seen is not None
    points, labels = segmenter.seen.points, segmenter.seen.labels
    assert points is not None and labels is not None
    for row, letter in enumerate("sr"):
        under = [SCENE[int(y)][int(x)] for x, y in points[row]]
        assert {u for u, label in zip(under, labels[row], strict=True) if label == 1} == {letter}
        negative = {u for u, label in zip(under, labels[row], strict=True) if label == 0}
        assert negative and letter not in negative
        assert 4 <= (labels[row] == 1).sum() <= EXACT.positives
        assert set(labels[row].tolist()) <= {0, 1, PADDING}


def test_mask_prompts_are_logits_of_the_component() -> None:
    segmenter = _Recorder(PaintOptions())
    _run(SCENE, segmenter, EXACT.model_copy(update={"mask_prompt": True}))
    assert segmenter.seen is not None and segmenter.seen.masks is not None
    sky = segmenter.seen.masks[0]
    assert sky.shape == (8, 8)
    assert np.array_equal(sky[:5] > 0, _letters(SCENE, "s"))
    assert (sky[5:] < 0).all()


def test_the_rough_map_is_kept_where_the_segmenter_disagrees() -> None:
    rows = ["s" + "." * 9] * 2 + ["." * 10] * 8
    options = EXACT.model_copy(update={"reach": 1.0})
    _, regions = _run(rows, _Stubborn(PaintOptions()), options)
    assert regions.refined.tolist() == [False]
    assert regions.ious.tolist() == [0.0]
    assert np.array_equal(regions.masks[0].to_full((10, 10)), _letters(rows, "s"))


def test_a_small_rough_component_that_is_not_confirmed_is_dropped() -> None:
    rows = ["s" + "." * 9] * 2 + ["." * 10] * 8
    _, regions = _run(rows, _Stubborn(PaintOptions()), EXACT.model_copy(update={"min_rough": 0.03}))
    assert len(regions) == 0


def test_a_bloated_mask_is_cut_to_its_surroundings() -> None:
    rows = ["s" * 12] * 8 + ["." * 12] * 4
    options = EXACT.model_copy(update={"reach": 0.1})
    _, regions = _run(rows, _Stubborn(PaintOptions()), options)
    assert regions.refined.tolist() == [True]
    assert regions.masks[0].box == (0, 0, 12, 9)


def test_nothing_sure_gives_no_regions() -> None:
    _, regions = _run(["....", "...."], PaintSegmenter(PaintOptions()), EXACT)
    assert len(regions) == 0


def test_one_pixel() -> None:
    _, regions = _run(["s"], PaintSegmenter(PaintOptions()), EXACT)
    assert [mask.box for mask in regions.masks] == [(0, 0, 1, 1)]


def test_thin_classes_survive_but_noise_does_not() -> None:
    probs = np.zeros((2, 40, 100), dtype=np.float32)
    probs[0] = 0.8
    probs[1, 20, :4] = 0.9  # a wire: below the least area, above a quarter of it
    probs[1, 5, 50] = 0.9
    work = Workspace((40, 100), probs, np.zeros((40, 100), dtype=bool))
    thresholds = np.full(2, 0.5, dtype=np.float32)
    components = rough_components(work, thresholds, RefineOptions(min_component=0.002))
    assert [(part.index, int(part.region.sum())) for part in components] == [(0, 3995), (1, 4)]


def test_large_images_are_compared_on_a_small_grid() -> None:
    frame = Frame(ImageRecord("a", "a"), np.zeros((900, 1500, 3), dtype=np.uint8))
    scores = StuffScores(
        np.array([SKY], np.int32), np.zeros(1, np.int32), np.ones((1, 4, 4), np.float32)
    )
    none = segment_things(
        PaintSegmenter(PaintOptions()),
        PaintSegmenter(PaintOptions()).embed([frame])[0],
        Detections.empty(1),
    )
    work = Workspace.build(frame.size, scores, none)
    assert work.grid == (230, 384)


def test_stability_compares_a_mask_with_itself() -> None:
    logits = np.array([[[3.0, 0.5, -0.5, -3.0]], [[-9.0, -9.0, -9.0, -9.0]]], dtype=np.float32)
    assert stabilities(logits).tolist() == pytest.approx([1 / 3, 0.0])


class _Speckled(PaintSegmenter):
    """Offers half of the 10 × 10 pixels that are meant, and all of them with a speck far off."""

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        logits = np.full((1, 2, 40, 40), -5.0, dtype=np.float32)
        logits[0, 0, 5:15, 5:10] = 5.0
        logits[0, 1, 5:15, 5:15] = logits[0, 1, 38, 38] = 5.0
        return MaskLogits(logits, np.full((1, 2), 0.9, dtype=np.float32))


def test_a_speck_far_off_does_not_spoil_the_choice_of_a_mask() -> None:
    segmenter = _Speckled(PaintOptions())
    embedding = segmenter.embed([_paint(["." * 40] * 40)])[0]
    found = Detections(
        np.array([[5, 5, 15, 15]], np.float32),
        np.array([BALL], np.int32),
        np.array([0.9], np.float32),
        np.array([[0.9]], np.float32),
        np.zeros(1, np.int32),
        np.zeros(1, np.int32),
    )
    (mask,) = segment_things(segmenter, embedding, found).masks
    assert mask.box == (5, 5, 39, 39)
