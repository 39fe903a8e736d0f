"""Encoding once changes nothing, and neither do an image's companions: on shrunken networks."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from prelabel.bench.parity import (
    Figure,
    clipseg_difference,
    figures_json,
    figures_table,
    grounding_dino_difference,
)
from prelabel.config import default_config
from prelabel.data import Frame, ImageRecord, PanopticLabel
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.scenes import draw_scene
from prelabel.demo.tokenizers import COMMON_WORDS
from prelabel.models.clipseg import ClipSeg
from prelabel.models.grounding_dino import GroundingDino
from prelabel.pipeline import Pipeline

PROMPTS = ("sky", "road", "a photo of water", "a wall of red bricks")
THINGS = tuple(dict.fromkeys(COMMON_WORDS))[:300]
"""Some 600 tokens, which take three prompt lists."""


def _noise(height: int, width: int) -> Frame:
    rng = np.random.default_rng(height * 1000 + width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(ImageRecord(f"{height}x{width}", ""), pixels)


# --- against the stock forward ------------------------------------------------------------------


def test_clipseg_equals_the_stock_forward_with_the_image_repeated(checkpoints: Path) -> None:
    frames = [_noise(60, 90), _noise(90, 60)]
    assert clipseg_difference(checkpoints / "clipseg", frames, PROMPTS) == 0
    assert clipseg_difference(checkpoints / "clipseg", frames[:1], PROMPTS[:1]) == 0


def test_grounding_dino_equals_a_stock_forward_per_prompt_list(checkpoints: Path) -> None:
    folder = checkpoints / "grounding-dino"
    scores, edges, lists = grounding_dino_difference(folder, [_noise(60, 90)], THINGS)
    assert (scores, edges, lists) == (0, 0, 3)


def test_a_difference_would_be_seen(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embed = ClipSeg._embed_texts
    monkeypatch.setattr(
        ClipSeg, "_embed_texts", lambda self, prompts: embed(self, prompts) * (1 + 1e-6)
    )
    frames = [_noise(60, 90)]
    assert 0 < clipseg_difference(checkpoints / "clipseg", frames, PROMPTS) < 1e-3
    prepare = GroundingDino._prepare

    def darker(self: GroundingDino, pixels: np.ndarray) -> object:
        return prepare(self, pixels // 2)

    monkeypatch.setattr(GroundingDino, "_prepare", darker)
    scores, edges, _ = grounding_dino_difference(checkpoints / "grounding-dino", frames, THINGS[:3])
    assert scores > 0
    assert edges > 0


def test_figures_tell_what_is_missed() -> None:
    figures = [Figure("a", 0.0, 0.0), Figure("longer", 2e-3, 1e-3), Figure("c", float("nan"), 1.0)]
    assert [figure.met for figure in figures] == [True, False, False]
    lines = figures_table(figures).splitlines()
    assert [line.split()[-1] for line in lines] == ["met", "MISSED", "MISSED"]
    assert lines[1].startswith("longer   2.00e-03  bound   1e-03")
    assert '"longer": {\n  "value": 0.002,' in figures_json(figures)


# --- alone, in a batch, in any order ------------------------------------------------------------


@pytest.fixture(scope="module")
def pipeline() -> Pipeline:
    return Pipeline.from_config(default_config(ONTOLOGY), device="cpu").load()


@cache
def _scenes() -> tuple[Frame, ...]:
    """Six scenes; the first two have one size, so that they go through the networks together."""
    drawn = [draw_scene("heldout", 3, index).pixels for index in range(6)]
    height, width = (min(drawn[0].shape[axis], drawn[1].shape[axis]) for axis in (0, 1))
    drawn[:2] = [pixels[:height, :width] for pixels in drawn[:2]]
    return tuple(
        Frame(ImageRecord(f"scene-{index}", ""), np.ascontiguousarray(pixels))
        for index, pixels in enumerate(drawn)
    )


@pytest.fixture(scope="module")
def alone(pipeline: Pipeline) -> tuple[PanopticLabel, ...]:
    return tuple(pipeline.run([frame])[0].label for frame in _scenes())


def test_companions_and_order_change_next_to_nothing(
    pipeline: Pipeline, alone: tuple[PanopticLabel, ...]
) -> None:
    order = [4, 1, 5, 0, 3, 2]
    together = pipeline.run([_scenes()[index] for index in order])
    for index, found in zip(order, together, strict=True):
        expected = alone[index]
        assert len(expected.segments) >= 2
        assert _categories(found.label) == _categories(expected)
        assert np.mean(found.label.id_map != expected.id_map) <= 0.001


def test_one_at_a_time_the_order_changes_no_bit(
    pipeline: Pipeline, alone: tuple[PanopticLabel, ...]
) -> None:
    for index in (3, 0):
        (found,) = pipeline.run([_scenes()[index]])
        assert np.array_equal(found.label.id_map, alone[index].id_map)
        assert found.label.segments == alone[index].segments


def _categories(label: PanopticLabel) -> list[tuple[int, int]]:
    return [(segment.segment_id, segment.category_id) for segment in label.segments]
