from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import ArrayLike

from prelabel.boxes import (
    box_areas,
    box_iou,
    box_of,
    clip_boxes,
    from_cxcywh_norm,
    from_xywh,
    to_xywh,
)
from prelabel.data import Mask
from prelabel.errors import LabelError

corners = st.integers(0, 40)
boxes_strategy = st.lists(st.tuples(corners, corners, corners, corners), max_size=5)


def ordered(boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    rows = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    return np.concatenate(
        [np.minimum(rows[:, :2], rows[:, 2:]), np.maximum(rows[:, :2], rows[:, 2:])], 1
    )


def test_iou_of_known_boxes() -> None:
    boxes = [[0, 0, 4, 2]]
    others = [[0, 0, 4, 2], [2, 0, 6, 2], [4, 0, 8, 2], [1, 0, 2, 1]]
    assert box_iou(boxes, others).tolist() == [[1.0, 4 / 12, 0.0, 1 / 8]]


def test_boxes_that_share_only_an_edge_do_not_overlap() -> None:
    assert box_iou([[0, 0, 1, 1]], [[1, 0, 2, 1]]).tolist() == [[0.0]]


def test_boxes_without_area_have_iou_zero() -> None:
    point = [[3, 3, 3, 3]]
    assert box_iou(point, point).tolist() == [[0.0]]
    assert box_areas([[5, 5, 2, 9]]).tolist() == [0.0]


@pytest.mark.parametrize("nothing", [[], np.empty((0, 4), dtype=np.float32)])
def test_no_boxes(nothing: ArrayLike) -> None:
    some = [[0, 0, 1, 1], [0, 0, 2, 2]]
    assert box_iou(nothing, some).shape == (0, 2)
    assert box_iou(some, nothing).shape == (2, 0)
    assert to_xywh(nothing).shape == (0, 4)
    assert from_cxcywh_norm(nothing, (10, 20)).shape == (0, 4)


def test_boxes_of_another_shape_are_refused() -> None:
    with pytest.raises(LabelError, match=r"expected boxes \(N, 4\), got \(1, 3\)"):
        box_areas([[1, 2, 3]])


@given(boxes_strategy, boxes_strategy)
def test_iou_is_symmetric_and_within_bounds(
    first: list[tuple[int, int, int, int]], second: list[tuple[int, int, int, int]]
) -> None:
    iou = box_iou(ordered(first), ordered(second))
    assert np.array_equal(iou, box_iou(ordered(second), ordered(first)).T)
    assert iou.size == 0 or (iou.min() >= 0 and iou.max() <= 1)


@given(st.tuples(corners, corners, corners, corners), st.tuples(corners, corners, corners, corners))
def test_iou_counts_pixels(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> None:
    maps = []
    for x0, y0, x1, y1 in ordered([a, b]).astype(int):
        drawn = np.zeros((40, 40), dtype=bool)
        drawn[y0:y1, x0:x1] = True
        maps.append(drawn)
    union = np.count_nonzero(maps[0] | maps[1])
    expected = np.count_nonzero(maps[0] & maps[1]) / union if union else 0.0
    assert box_iou(ordered([a]), ordered([b]))[0, 0] == pytest.approx(expected)


def test_clipping_to_a_portrait_image() -> None:
    boxes = np.array([[-3, -2, 50, 80], [5, 6, 7, 8]], dtype=np.float32)
    clipped = clip_boxes(boxes, (60, 40))
    assert clipped.dtype == np.float32
    assert clipped.tolist() == [[0, 0, 40, 60], [5, 6, 7, 8]]
    assert boxes[0, 0] == -3


def test_xywh_of_a_known_box() -> None:
    assert to_xywh([[2, 3, 7, 11]]).tolist() == [[2, 3, 5, 8]]


@given(boxes_strategy)
def test_xywh_round_trip(boxes: list[tuple[int, int, int, int]]) -> None:
    rows = ordered(boxes)
    assert np.array_equal(from_xywh(to_xywh(rows)), rows)


def test_normalised_centres_use_width_for_x_and_height_for_y() -> None:
    boxes = from_cxcywh_norm([[0.5, 0.25, 0.2, 0.1], [0.5, 0.5, 1.0, 1.0]], (200, 100))
    assert boxes.dtype == np.float32
    np.testing.assert_allclose(boxes, [[40, 40, 60, 60], [0, 0, 100, 200]], rtol=1e-6)


def test_box_of_a_drawn_map() -> None:
    drawn = np.array(
        [
            [0, 0, 0, 0, 0, 0],
            [0, 0, 0, 1, 0, 0],
            [0, 1, 0, 0, 0, 0],
            [0, 0, 0, 0, 0, 0],
        ],
        dtype=bool,
    )
    assert box_of(drawn) == (1, 1, 4, 3)
    assert box_of(np.zeros((4, 6), dtype=bool)) == (0, 0, 0, 0)
    assert box_of(np.ones((1, 1), dtype=bool)) == (0, 0, 1, 1)


@given(hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=8)))
def test_box_of_agrees_with_the_tight_mask(drawn: np.ndarray) -> None:
    assert box_of(drawn) == Mask.from_full(drawn).box
