"""Boundary IoU, against erosion step by step as its authors' code does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from prelabel.errors import LabelError
from prelabel.review.boundary import boundary_iou, boundary_ious, boundary_radius, rims


def erode_rim(mask: np.ndarray, radius: int) -> np.ndarray:
    """A mask less what is left of it after `radius` erosions by 3 x 3, unset all around."""
    square = np.ones((3, 3), dtype=bool)
    inner = ndimage.binary_erosion(np.pad(mask, 1), square, iterations=radius)[1:-1, 1:-1]
    return np.asarray(mask & ~inner)


def judge(mask: np.ndarray, other: np.ndarray, radius: int) -> float:
    first, second = erode_rim(mask, radius), erode_rim(other, radius)
    union = np.count_nonzero(first | second)
    return np.count_nonzero(first & second) / union if union else 0.0


def test_the_rim_of_a_square_by_hand() -> None:
    id_map = np.zeros((9, 9), np.int32)
    id_map[1:8, 1:8] = 5
    found = rims(id_map, 2) & (id_map == 5)
    expected = id_map == 5
    expected[3:6, 3:6] = False
    assert np.array_equal(found, expected)


def test_the_border_of_the_image_is_an_edge() -> None:
    near = rims(np.ones((5, 7), np.int32), 1)
    expected = np.ones((5, 7), dtype=bool)
    expected[1:-1, 1:-1] = False
    assert np.array_equal(near, expected)


def test_the_width_is_two_per_cent_of_the_diagonal() -> None:
    assert boundary_radius((480, 640)) == 16
    assert boundary_radius((3, 4)) == 1
    assert boundary_radius((300, 400), ratio=0.1) == 50


def test_a_large_inside_does_not_hide_a_bad_edge() -> None:
    true = np.zeros((200, 200), dtype=bool)
    true[20:180, 20:180] = True
    shifted = np.roll(true, 3, axis=1)
    mask_iou = np.count_nonzero(true & shifted) / np.count_nonzero(true | shifted)
    assert mask_iou > 0.96
    assert boundary_iou(true, true) == 1.0
    # Rims 6 wide: of 40 x 154 - ... pixels, the two upright ones share 3 columns each.
    assert boundary_iou(true, shifted) == pytest.approx(judge(true, shifted, 6))
    assert 0.5 < boundary_iou(true, shifted) < 0.7


def test_empty_masks_and_single_pixels() -> None:
    nothing, one = np.zeros((3, 3), dtype=bool), np.zeros((3, 3), dtype=bool)
    one[1, 1] = True
    assert boundary_iou(nothing, nothing) == 0.0
    assert boundary_iou(one, nothing) == 0.0
    assert boundary_iou(one, one) == 1.0
    assert boundary_iou(one[:1, :1] | True, one[:1, :1] | True) == 1.0


def test_maps_of_different_sizes_are_refused() -> None:
    with pytest.raises(LabelError, match=r"one size \(H, W\), got \(2, 3\) and \(3, 2\)"):
        boundary_iou(np.zeros((2, 3), dtype=bool), np.zeros((3, 2), dtype=bool))


shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20)


@st.composite
def maps(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Two int32 maps of blocks, so that some segments have an inside."""
    height, width = draw(shapes)
    size = draw(st.integers(1, 6))
    blocks = (height // size + 1, width // size + 1)
    first, second = (
        draw(hnp.arrays(np.int32, blocks, elements=st.integers(0, 3)))
        .repeat(size, 0)
        .repeat(size, 1)[:height, :width]
        for _ in range(2)
    )
    return first, second


@given(maps(), st.integers(1, 4))
def test_rims_are_what_erosion_takes(pair: tuple[np.ndarray, np.ndarray], radius: int) -> None:
    id_map, _ = pair
    expected = np.zeros(id_map.shape, dtype=bool)
    for segment_id in np.unique(id_map):
        expected |= erode_rim(id_map == segment_id, radius)
    assert np.array_equal(rims(id_map, radius), expected)


@given(maps(), st.floats(0.02, 0.4))
def test_all_pairs_at_once_are_each_by_itself(
    pair: tuple[np.ndarray, np.ndarray], ratio: float
) -> None:
    first, second = pair
    radius = boundary_radius(first.shape, ratio)
    wanted = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3)]
    found = boundary_ious(first, second, wanted, ratio)
    assert found == pytest.approx(
        {(a, b): judge(first == a, second == b, radius) for a, b in wanted}
    )


@settings(max_examples=50)
@given(maps())
def test_what_is_predicted_in_void_is_left_out(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, guess = pair
    radius = boundary_radius(truth.shape)
    found = boundary_ious(truth, guess, [(1, 2)], void=0)[1, 2]
    first = erode_rim(truth == 1, radius)
    second = erode_rim(guess == 2, radius) & (truth != 0)
    union = np.count_nonzero(first | second)
    assert found == pytest.approx(np.count_nonzero(first & second) / union if union else 0.0)
