"""Points lie where they should, are spread, and depend on the image alone."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from prelabel.stages.sample import generator_for, inner_points, near_points

_MAPS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


@given(_MAPS, st.integers(1, 10))
def test_inner_points_lie_inside_and_differ(region: np.ndarray, count: int) -> None:
    points = inner_points(region, count, generator_for("a"))
    assert len(points) <= count
    assert (len(points) > 0) == region.any()
    assert all(region[y, x] for x, y in points)
    assert len({(x, y) for x, y in points}) == len(points)


def test_the_first_point_is_the_deepest() -> None:
    region = np.zeros((9, 15), dtype=bool)
    region[1:8, 1:8] = True
    region[4, 8:15] = True
    assert inner_points(region, 1, generator_for("a")).tolist() == [[4, 4]]


def test_the_border_of_the_image_is_inside() -> None:
    # A band along the left edge is deepest at that edge, not one half from it.
    region = np.zeros((5, 9), dtype=bool)
    region[:, :3] = True
    assert inner_points(region, 1, generator_for("a"))[0, 0] == 0


def test_points_are_spread() -> None:
    points = inner_points(np.ones((40, 40), dtype=bool), 4, generator_for("a"))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    assert distances[~np.eye(4, dtype=bool)].min() > 12


def test_near_points_begin_at_the_region() -> None:
    region = np.zeros((1, 10), dtype=bool)
    region[0, :2] = True
    rivals = np.zeros((1, 10), dtype=bool)
    rivals[0, 5:] = True
    assert near_points(rivals, region, 2, generator_for("a")).tolist() == [[5, 0], [9, 0]]
    assert len(near_points(rivals, region, 0, generator_for("a"))) == 0
    assert len(near_points(~np.ones_like(rivals), region, 3, generator_for("a"))) == 0


def test_seeded_by_the_image() -> None:
    region = np.ones((60, 60), dtype=bool)
    first = inner_points(region, 8, generator_for("a.jpg"))
    assert np.array_equal(first, inner_points(region, 8, generator_for("a.jpg")))
    assert not np.array_equal(first, inner_points(region, 8, generator_for("b.jpg")))
    assert generator_for("\udcff.jpg").random() >= 0  # a file name that is not UTF-8
