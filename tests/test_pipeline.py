"""All stages in a row: exact on painted images, and alike in any order."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import prelabel
from prelabel.config import Config, build_config
from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.pipeline import STAGES, Pipeline
from prelabel.review.overlay import draw_overlay, most_doubtful

COLORS = {"c": (200, 0, 0), "d": (0, 200, 0), "s": (0, 0, 200), "r": (80, 80, 80)}
NAMES = {"c": "car", "d": "dog", "s": "sky", "r": "road"}


def _config() -> Config:
    def entries(letters: str) -> list[object]:
        return [{"name": NAMES[letter], "color": list(COLORS[letter])} for letter in letters]

    paint: dict[str, object] = {"kind": "paint"}
    document: dict[str, object] = {
        "ontology": {"things": entries("cd"), "stuff": entries("sr")},
        "detect": paint,
        "segment": paint,
        "stuff": paint,
        "refine": {"min_component": 0.0, "reach": 0.0},
        "merge": {"min_area": 0.0},
    }
    return build_config(document, "test")  # type: ignore[arg-type]


def _paint(rows: list[str], image_id: str = "a") -> Frame:
    pixels = np.array([[COLORS[letter] for letter in row] for row in rows], dtype=np.uint8)
    return Frame(ImageRecord(image_id, image_id), pixels)


SCENE = [
    "ssssss",
    "sscsss",
    "rccrdd",
    "rrrrdd",
]


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_config(_config(), device="cpu").load()


def test_a_painted_scene_is_labelled_exactly(pipeline: Pipeline) -> None:
    result = pipeline.run([_paint(SCENE)])[0]
    assert result.label.id_map.tolist() == [
        [3, 3, 3, 3, 3, 3],
        [3, 3, 1, 3, 3, 3],
        [4, 1, 1, 4, 2, 2],
        [4, 4, 4, 4, 2, 2],
    ]
    names = [pipeline.ontology.by_id[s.category_id].name for s in result.label.segments]
    assert names == ["car", "dog", "sky", "road"]
    assert [s.area for s in result.label.segments] == [3, 4, 11, 6]
    assert set(result.seconds) == set(STAGES) - {"explain"}
    assert result.explanations == ()
    assert {row.rule for row in result.trace.candidates} <= {"kept", "merged"}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_painting_without_touching_twins_is_exact(data: st.DataObject) -> None:
    """Each pixel gets its own colour's category, whatever the picture's shape."""
    height, width = data.draw(st.tuples(st.integers(1, 8), st.integers(1, 8)))
    rows = ["".join(data.draw(st.sampled_from("sr")) for _ in range(width)) for _ in range(height)]
    y, x = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    rows[y] = rows[y][:x] + "c" + rows[y][x + 1 :]
    pipeline = Pipeline.from_config(
        _config().model_copy(
            update={"refine": _config().refine.model_copy(update={"max_components": 99})}
        ),
        device="cpu",
    )
    label = pipeline.run([_paint(rows)])[0].label
    found = {s.segment_id: pipeline.ontology.by_id[s.category_id].name for s in label.segments}
    assert [[found.get(int(i)) for i in row] for row in label.id_map] == [
        [NAMES[letter] for letter in row] for row in rows
    ]


def test_alone_or_among_others_the_same(pipeline: Pipeline) -> None:
    frames = [_paint(SCENE, "a"), _paint(SCENE[::-1], "b"), _paint(["s"], "c")]
    together = [result.label for result in pipeline.run(frames)]
    backwards = [result.label for result in pipeline.run(frames[::-1])][::-1]
    alone = [pipeline.run([frame])[0].label for frame in frames]
    for first, second, third in zip(together, backwards, alone, strict=True):
        assert np.array_equal(first.id_map, second.id_map)
        assert np.array_equal(first.id_map, third.id_map)
        assert first.segments == second.segments == third.segments


def test_label_takes_paths_pictures_and_arrays(pipeline: Pipeline, tmp_path: Path) -> None:
    pixels = _paint(SCENE).pixels
    Image.fromarray(pixels).save(tmp_path / "scene.png")
    from_path = pipeline.label(tmp_path / "scene.png")
    assert from_path.image_id == "scene.png"
    for image in (pixels, Image.fromarray(pixels), str(tmp_path / "scene.png")):
        assert np.array_equal(pipeline.label(image).id_map, from_path.id_map)
    with pytest.raises(ConfigError, match="expected an image uint8"):
        pipeline.label(pixels[..., 0])
    (tmp_path / "broken.png").write_bytes(b"<html>")
    with pytest.raises(ImageError, match=r"broken\.png"):
        pipeline.label(tmp_path / "broken.png")


def test_explanations_name_their_reasons(pipeline: Pipeline) -> None:
    result = pipeline.run([_paint(SCENE)], explain=True)[0]
    car, _, sky, _ = result.explanations
    assert [e.segment_id for e in result.explanations] == [1, 2, 3, 4]
    assert car.prompt == "car"
    assert car.scores["detector"] == pytest.approx(0.9)
    assert car.words == {"car": 1.0, "dog": 0.0}
    assert set(car.heatmaps) == {"sampling", "attention"}
    assert set(sky.heatmaps) == {"rough", "attention"}
    assert sky.heatmaps["rough"].values.shape == (4, 6)
    # The sky's rough map is its own colour; the car's sample lies in the middle of its box.
    assert (sky.heatmaps["rough"].values > 0.5).tolist() == [
        [letter == "s" for letter in row] for row in SCENE
    ]
    assert np.argwhere(car.heatmaps["sampling"].values == 1).tolist() == [[2, 2]]
    assert all(e.heatmaps["attention"].values.max() == 1 for e in result.explanations)
    assert "explain" in result.seconds


def test_pixels_lost_are_told(pipeline: Pipeline) -> None:
    explanations = pipeline.run([_paint(SCENE)], explain=True)[0].explanations
    assert all(dict(e.pixels_lost_to) == {} for e in explanations)


def test_a_config_travels_to_another_process() -> None:
    assert pickle.loads(pickle.dumps(_config())) == _config()


def test_the_public_names() -> None:
    assert prelabel.Pipeline is Pipeline
    assert all(getattr(prelabel, name) for name in prelabel.__all__)


def test_overlays_show_what_they_are_given(pipeline: Pipeline) -> None:
    frame = _paint([row * 20 for row in SCENE for _ in range(20)])
    result = pipeline.run([frame], explain=True)[0]
    plain = draw_overlay(frame, result.label, pipeline.ontology)
    full = draw_overlay(frame, result.label, pipeline.ontology, result.explanations)
    assert full.width > plain.width
    doubtful = most_doubtful(result.label)
    assert doubtful is not None
    assert doubtful.score == min(s.score for s in result.label.segments)
    empty = Pipeline.from_config(_config(), device="cpu").run(
        [Frame(ImageRecord("w", "w"), np.full((3, 1, 3), 255, dtype=np.uint8))], explain=True
    )[0]
    assert draw_overlay(frame, result.label, pipeline.ontology).size == plain.size
    one = draw_overlay(_paint(["s"]), pipeline.run([_paint(["s"])])[0].label, pipeline.ontology)
    assert one.height > 1
    assert most_doubtful(empty.label) is None


def test_an_error_says_its_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    pipeline = Pipeline.from_config(_config(), device="cpu")

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("no")

    monkeypatch.setattr(pipeline.stuff_scorer, "score", fail)
    with pytest.raises(RuntimeError) as caught:
        pipeline.run([_paint(SCENE)])
    assert caught.value.__notes__ == ["stage: score"]


def test_a_thread_of_an_image_is_refused_by_name(pipeline: Pipeline) -> None:
    assert pipeline.run([_paint(["s" * 50])])[0].label.size == (1, 50)
    with pytest.raises(ImageError, match="wire is 51 x 1 pixels") as caught:
        pipeline.run([_paint(["s" * 51], "wire")])
    assert caught.value.kind == "too-thin"
