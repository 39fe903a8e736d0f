"""The nouns refuse what breaks their rules, and survive being stored."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prelabel.archive import read_archive, write_archive
from prelabel.data import (
    Candidate,
    Category,
    Detections,
    Frame,
    Heatmap,
    ImageRecord,
    Instances,
    Mask,
    Ontology,
    PanopticLabel,
    Segment,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.errors import ConfigError, LabelError


def _segment(segment_id: int, area: int, *, category_id: int = 1, isthing: bool = True) -> Segment:
    return Segment(segment_id, category_id, isthing, area, (0, 0, 1, 1), 0.5, None, 0.5, "thing:0")


def _detections(count: int) -> Detections:
    rng = np.random.default_rng(count)
    return Detections(
        boxes=rng.random((count, 4), dtype=np.float32),
        category_ids=np.full(count, 7, dtype=np.int32),
        scores=rng.random(count, dtype=np.float32),
        class_scores=rng.random((count, 3), dtype=np.float32),
        query_ids=np.arange(count, dtype=np.int32),
        prompt_ids=np.zeros(count, dtype=np.int32),
    )


class TestCategories:
    def test_without_prompts_asks_for_its_name(self) -> None:
        assert Category(1, "car", True).prompts == ("car",)

    @pytest.mark.parametrize(
        ("category_id", "name", "prompts", "words"),
        [
            (0, "car", (), "ids start at 1"),
            (-3, "car", (), "ids start at 1"),
            (1, " ", (), "empty name"),
            (1, "St. Bernard", (), "separate prompts"),
            (1, "dog", ("dog?",), "separate prompts"),
            (1, "dog", ("",), "empty prompt"),
        ],
    )
    def test_refuses(
        self, category_id: int, name: str, prompts: tuple[str, ...], words: str
    ) -> None:
        with pytest.raises(ConfigError, match=words):
            Category(category_id, name, True, prompts)

    def test_ids_and_names_are_unique(self) -> None:
        with pytest.raises(ConfigError, match="id 1"):
            Ontology((Category(1, "car", True), Category(1, "sky", False)))
        with pytest.raises(ConfigError, match="name 'car'"):
            Ontology((Category(1, "car", True), Category(2, "car", False)))
        with pytest.raises(ConfigError, match="empty"):
            Ontology(())

    def test_splits_into_things_and_stuff(self) -> None:
        car, sky = Category(5, "car", True), Category(2, "sky", False)
        ontology = Ontology((car, sky))
        assert ontology.things == (car,)
        assert ontology.stuff == (sky,)
        assert ontology.by_name["sky"] is sky
        assert pickle.loads(pickle.dumps(ontology)) == ontology


class TestMask:
    def test_is_cropped_tightly(self) -> None:
        full = np.zeros((4, 6), dtype=bool)
        full[1, 2:5] = full[2, 3] = True
        mask = Mask.from_full(full)
        assert mask.box == (2, 1, 5, 3)
        assert mask.area == 4
        assert np.array_equal(mask.bitmap, [[1, 1, 1], [0, 1, 0]])

    def test_of_nothing_has_no_area(self) -> None:
        mask = Mask.from_full(np.zeros((3, 3), dtype=bool))
        assert mask.area == 0
        assert not mask.to_full((3, 3)).any()

    @given(arrays(bool, st.tuples(st.integers(1, 9), st.integers(1, 9))))
    def test_round_trip(self, full: np.ndarray) -> None:
        assert np.array_equal(Mask.from_full(full).to_full(full.shape), full)

    def test_that_does_not_fit_is_refused(self) -> None:
        with pytest.raises(LabelError, match="does not fit"):
            Mask(2, 2, np.ones((2, 2), dtype=bool)).to_full((3, 3))


class TestPanopticLabel:
    def test_score_counts_void_as_zero(self) -> None:
        id_map = np.array([[1, 1, 0, 0]], dtype=np.int32)
        assert PanopticLabel("a", id_map, (_segment(1, 2),)).score == pytest.approx(0.25)

    def test_nothing_found_is_a_label(self) -> None:
        assert PanopticLabel("a", np.zeros((2, 3), np.int32), ()).score == 0.0

    @pytest.mark.parametrize(
        ("pixels", "segments", "words"),
        [
            ([[1, 2]], (_segment(1, 1),), "holds id 2"),
            ([[1, 1]], (_segment(1, 1),), "area 1"),
            ([[0, 0]], (_segment(1, 0),), "area 0"),
            ([[2, 2]], (_segment(2, 2),), "expected segment ids 1..1"),
            ([[-1, 1]], (_segment(1, 1),), "at least 0"),
            (
                [[1, 2]],
                (_segment(1, 1, isthing=False), _segment(2, 1, isthing=False)),
                "more than one segment",
            ),
        ],
    )
    def test_refuses(
        self, pixels: list[list[int]], segments: tuple[Segment, ...], words: str
    ) -> None:
        with pytest.raises(LabelError, match=words):
            PanopticLabel("a", np.array(pixels, dtype=np.int32), segments)


def test_a_frame_is_rgb() -> None:
    record = ImageRecord("a", "a")
    assert Frame(record, np.zeros((3, 5, 3), np.uint8)).size == (3, 5)
    for wrong in (np.zeros((3, 5), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((3, 5, 3))):
        with pytest.raises(LabelError, match="expected pixels"):
            Frame(record, wrong)


def test_scores_stay_in_the_unit_interval() -> None:
    with pytest.raises(LabelError, match=r"in \[0, 1\]"):
        Heatmap("why?", np.full((2, 2), 1.5, dtype=np.float32))
    with pytest.raises(LabelError, match=r"in \[0, 1\]"):
        Heatmap("why?", np.full((2, 2), np.nan, dtype=np.float32))


def test_detections_are_indexed_like_arrays() -> None:
    found = _detections(4)
    assert len(found[found.scores > 2]) == 0
    assert np.array_equal(found[np.array([3, 1])].query_ids, [3, 1])
    assert len(Detections.empty(3)) == 0


@pytest.mark.parametrize("count", [0, 1, 3])
def test_stage_outputs_are_stored(tmp_path: Path, count: int) -> None:
    masks = tuple(Mask(i, 2 * i, np.eye(3 + i, 5, dtype=bool)) for i in range(count))
    values, ids = np.linspace(0, 1, count, dtype=np.float32), np.ones(count, dtype=np.int32)
    instances = Instances(_detections(count), masks, values, values)
    regions = StuffRegions(ids, masks, values, values, values, ids, values, ids > 0)
    scores = StuffScores(ids, ids, np.zeros((count, 2, 3), np.float32))

    instances.save(tmp_path / "instances.npz")
    again = Instances.load(tmp_path / "instances.npz")
    assert again.masks == masks
    assert np.array_equal(again.detections.class_scores, instances.detections.class_scores)

    regions.save(tmp_path / "regions.npz")
    assert StuffRegions.load(tmp_path / "regions.npz").masks == masks

    scores.save(tmp_path / "scores.npz")
    assert StuffScores.load(tmp_path / "scores.npz").probs.shape == (count, 2, 3)
    with pytest.raises(LabelError, match="expected"):
        StuffScores.load(tmp_path / "regions.npz")


def test_traces_are_stored(tmp_path: Path) -> None:
    mask = Mask(1, 2, np.ones((2, 3), dtype=bool))
    trace = Trace(
        "ä/b.jpg",
        (
            Candidate("thing:0", 3, True, mask, 0.8, "kept", "", 1),
            Candidate("thing:1", 3, True, mask, 0.7, "duplicate", "thing:0"),
        ),
        {("thing:1", "thing:0"): 6},
        {("thing:1", "thing:0"): "better-score"},
    )
    trace.save(tmp_path / "trace.npz")
    assert Trace.load(tmp_path / "trace.npz") == trace
    empty = Trace("c", ())
    empty.save(tmp_path / "empty.npz")
    assert Trace.load(tmp_path / "empty.npz") == empty


def test_archives_never_hold_pickles(tmp_path: Path) -> None:
    with pytest.raises(LabelError, match="dtype object"):
        write_archive(tmp_path / "a.npz", "Thing", 1, {"x": np.array([{}], dtype=object)})
    (tmp_path / "b.npz").write_bytes(b"no archive")
    with pytest.raises(LabelError, match="cannot be read"):
        read_archive(tmp_path / "b.npz", "Thing", 1)
    write_archive(tmp_path / "c.npz", "Thing", 1, {"x": np.arange(3)})
    with pytest.raises(LabelError, match="expected"):
        read_archive(tmp_path / "c.npz", "Thing", 2)
    assert [path.name for path in tmp_path.glob(".*")] == []
