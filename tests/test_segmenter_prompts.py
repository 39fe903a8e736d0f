"""Prompts of the segmenter: where points and boxes may lie."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelabel.demo.training.segmenter_prompts import (
    INSIDE,
    OUTSIDE,
    box_of,
    draw_box_prompt,
    draw_point_prompt,
    draw_rough_logits,
    jitter_box,
    point_counts,
    sample_inside,
    sample_outside,
)

_SIZE = (20, 32)


@st.composite
def _masks(draw: st.DrawFn) -> np.ndarray:
    """A filled rectangle in a 20 x 32 image, padded to 32 x 32."""
    y0, x0 = draw(st.integers(0, 19)), draw(st.integers(0, 31))
    y1, x1 = draw(st.integers(y0 + 1, 20)), draw(st.integers(x0 + 1, 32))
    mask = np.zeros((32, 32), bool)
    mask[y0:y1, x0:x1] = True
    return mask


_seeds = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def test_the_box_is_half_open() -> None:
    mask = np.zeros((4, 6), bool)
    mask[1, 2:5] = mask[2, 3] = True
    assert box_of(mask).tolist() == [2, 1, 5, 3]


def test_the_box_of_one_pixel() -> None:
    mask = np.zeros((3, 3), bool)
    mask[2, 0] = True
    assert box_of(mask).tolist() == [0, 2, 1, 3]


@settings(max_examples=60, deadline=None)
@given(_masks(), _seeds, st.integers(1, 12))
def test_points_inside_lie_on_the_object(
    mask: np.ndarray, rng: np.random.Generator, count: int
) -> None:
    points = sample_inside(mask, count, rng).astype(int)
    assert points.shape == (count, 2)
    assert mask[points[:, 1], points[:, 0]].all()


@settings(max_examples=60, deadline=None)
@given(_masks(), _seeds, st.integers(0, 8))
def test_points_outside_lie_off_the_object_and_in_the_image(
    mask: np.ndarray, rng: np.random.Generator, count: int
) -> None:
    points = sample_outside(mask, _SIZE, count, rng).astype(int)
    assert len(points) == (0 if mask.sum() == 20 * 32 else count)
    assert not mask[points[:, 1], points[:, 0]].any()
    assert (points[:, 1] < 20).all()
    assert (points[:, 0] < 32).all()


def test_an_object_that_fills_the_image_has_no_points_outside() -> None:
    mask = np.zeros((8, 8), bool)
    mask[:4] = True
    assert sample_outside(mask, (4, 8), 5, np.random.default_rng(0)).shape == (0, 2)


@settings(max_examples=80, deadline=None)
@given(_masks(), _seeds)
def test_a_jittered_box_stays_inside_and_near(mask: np.ndarray, rng: np.random.Generator) -> None:
    box = box_of(mask)
    x0, y0, x1, y1 = loose = jitter_box(box, _SIZE, rng)
    assert 0 <= x0 < x1 <= 32
    assert 0 <= y0 < y1 <= 20
    sides = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    assert (np.abs(loose - box) <= np.maximum(0.1 * sides, 1) + 1e-4).all()


@settings(max_examples=40, deadline=None)
@given(_masks(), _seeds)
def test_prompts_say_which_points_are_inside(mask: np.ndarray, rng: np.random.Generator) -> None:
    for prompt in (
        draw_point_prompt(mask, _SIZE, (8, 4), rng),
        draw_box_prompt(mask, _SIZE, rng),
    ):
        at = prompt.points.astype(int)
        expected = np.where(mask[at[:, 1], at[:, 0]], INSIDE, OUTSIDE)
        assert prompt.labels.tolist() == expected.tolist()


def test_counts_are_those_of_the_pipeline() -> None:
    rng = np.random.default_rng(0)
    counts = [point_counts(rng) for _ in range(400)]
    assert {inside for inside, _ in counts} == set(range(1, 11))
    assert {outside for _, outside in counts} == set(range(6))
    assert counts.count((8, 4)) > 80


@pytest.mark.parametrize("seed", range(5))
def test_a_rough_map_resembles_its_object(seed: int) -> None:
    mask = np.zeros((64, 64), bool)
    mask[16:48, 16:48] = True
    logits = draw_rough_logits(mask, np.random.default_rng(seed))
    assert logits.dtype == np.float32
    assert np.isfinite(logits).all()
    rough = logits > 0
    assert (rough & mask).sum() / (rough | mask).sum() > 0.5
    assert logits[32, 32] > 0 > logits[2, 2]
