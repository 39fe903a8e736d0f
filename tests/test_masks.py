from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from prelabel.data import Mask
from prelabel.errors import LabelError
from prelabel.masks import (
    boundary,
    connected_components,
    containment,
    decode_rle,
    dilate,
    encode_rle,
    erode,
    fill_holes,
    intersection,
    mask_iou,
    remove_specks,
    resize_at,
    resize_probs,
    resize_window,
)

maps = hnp.arrays(np.bool_, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9))
pairs = hnp.array_shapes(min_dims=2, max_dims=2, max_side=9).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.bool_, shape), hnp.arrays(np.bool_, shape))
)
EMPTY = Mask(0, 0, np.zeros((0, 0), dtype=bool))


def draw(*rows: str) -> np.ndarray:
    """A map from rows of '#' (set) and '.' (unset)."""
    return np.array([[pixel == "#" for pixel in row] for row in rows], dtype=bool)


def show(full: np.ndarray) -> list[str]:
    return ["".join("#" if pixel else "." for pixel in row) for row in full]


# --- pairs ------------------------------------------------------------------------------------


def test_iou_and_containment_of_known_masks() -> None:
    big = Mask.from_full(draw("####..", "####..", "......", "......"))
    small = Mask.from_full(draw("......", "..###.", "......", "......"))
    assert intersection(big, small) == 2
    assert mask_iou(big, small) == pytest.approx(2 / 9)
    assert containment(big, small) == pytest.approx(2 / 3)


def test_masks_that_do_not_touch() -> None:
    left, right = Mask.from_full(draw("#..")), Mask.from_full(draw("..#"))
    assert mask_iou(left, right) == 0.0
    assert containment(left, right) == 0.0


def test_an_empty_mask_overlaps_nothing() -> None:
    assert mask_iou(EMPTY, EMPTY) == 0.0
    assert containment(EMPTY, Mask.from_full(draw("#"))) == 0.0


@given(pairs)
def test_iou_equals_that_of_full_maps_and_is_symmetric(
    drawn: tuple[np.ndarray, np.ndarray],
) -> None:
    first, second = drawn
    a, b = Mask.from_full(first), Mask.from_full(second)
    union = np.count_nonzero(first | second)
    assert intersection(a, b) == np.count_nonzero(first & second)
    assert mask_iou(a, b) == (np.count_nonzero(first & second) / union if union else 0.0)
    assert mask_iou(a, b) == mask_iou(b, a)
    assert containment(a, b) == containment(b, a)
    assert mask_iou(a, b) <= containment(a, b) <= 1.0


@given(maps)
def test_a_mask_is_itself(drawn: np.ndarray) -> None:
    mask = Mask.from_full(drawn)
    expected = 1.0 if drawn.any() else 0.0
    assert mask_iou(mask, mask) == containment(mask, mask) == expected


# --- parts ------------------------------------------------------------------------------------


def test_components_touch_over_corners_and_come_in_raster_order() -> None:
    drawn = draw(
        "..#..#",
        ".#....",
        "......",
        "##...#",
    )
    parts = connected_components(drawn)
    assert [part.box for part in parts] == [(1, 0, 3, 2), (5, 0, 6, 1), (0, 3, 2, 4), (5, 3, 6, 4)]
    assert show(parts[0].bitmap) == [".#", "#."]


def test_a_component_leaves_out_what_only_lies_in_its_box() -> None:
    ring, dot = connected_components(
        draw("#####", "#...#", "#.#.#", "#...#", "#####"),
    )
    assert ring.area == 16
    assert dot.box == (2, 2, 3, 3)


def test_nothing_has_no_components() -> None:
    assert connected_components(np.zeros((4, 6), dtype=bool)) == []


@given(maps)
def test_components_are_disjoint_and_add_up(drawn: np.ndarray) -> None:
    parts = [part.to_full(drawn.shape) for part in connected_components(drawn)]
    assert np.array_equal(sum(part.astype(int) for part in parts) + np.zeros(drawn.shape), drawn)


def test_specks_go_by_their_part_of_the_mask() -> None:
    mask = Mask.from_full(draw("####.#", "####..", "......", ".##..."))
    # 11 pixels: parts of 8, 1 and 2, which are 73, 9 and 18 per cent.
    assert show(remove_specks(mask, 0.1).to_full((4, 6))) == [
        "####..",
        "####..",
        "......",
        ".##...",
    ]
    assert show(remove_specks(mask, 0.2).to_full((4, 6))) == [
        "####..",
        "####..",
        "......",
        "......",
    ]
    assert remove_specks(mask, 0.0) == mask


def test_the_largest_part_is_never_a_speck() -> None:
    mask = Mask(3, 2, draw("#.#", "..#", "#.."))
    assert remove_specks(mask, 1.0) == Mask(5, 2, draw("#", "#"))
    assert remove_specks(EMPTY, 0.5) == EMPTY


def test_holes_go_by_their_part_of_the_mask() -> None:
    mask = Mask(1, 0, draw("######", "#.##.#", "####.#", "######"))
    # 21 pixels around holes of 1 and 2.
    assert show(fill_holes(mask, 0.05).bitmap) == ["######", "####.#", "####.#", "######"]
    assert fill_holes(mask, 0.1).area == 24
    assert fill_holes(mask, 0.0) == mask


def test_what_is_open_to_the_edge_is_no_hole() -> None:
    bay = Mask(0, 0, draw("####", "#..#", "#.##"))
    assert fill_holes(bay, 1.0) == bay


def test_a_gap_over_a_corner_is_closed() -> None:
    # The mask is 8-connected, so its background is 4-connected and cannot escape diagonally.
    mask = Mask(0, 0, draw(".###", "#..#", "####"))
    assert show(fill_holes(mask, 1.0).bitmap) == [".###", "####", "####"]
    assert fill_holes(EMPTY, 0.5) == EMPTY


# --- growing and shrinking --------------------------------------------------------------------


def test_dilating_a_pixel_draws_a_disc() -> None:
    drawn = np.zeros((5, 6), dtype=bool)
    drawn[2, 2] = True
    assert show(dilate(drawn, 1)) == ["......", "..#...", ".###..", "..#...", "......"]
    assert show(dilate(drawn, 1.5)) == ["......", ".###..", ".###..", ".###..", "......"]
    assert show(dilate(drawn, 2)) == ["..#...", ".###..", "#####.", ".###..", "..#..."]


def test_eroding_spares_the_border_of_the_image() -> None:
    drawn = draw("####..", "####..", "####..", "####..")
    assert show(erode(drawn, 1)) == ["###...", "###...", "###...", "###..."]
    assert show(erode(drawn, 2)) == ["##....", "##....", "##....", "##...."]


@pytest.mark.parametrize("change", [dilate, erode])
@pytest.mark.parametrize("value", [True, False])
@pytest.mark.parametrize("size", [(1, 1), (4, 6), (9, 2)])
def test_all_and_nothing_stay(change: object, value: bool, size: tuple[int, int]) -> None:
    drawn = np.full(size, value)
    assert np.array_equal(change(drawn, 3), drawn)  # type: ignore[operator]


@given(maps, st.sampled_from([0, 0.5, 1, 1.5, 2, 2.9, 4]))
def test_dilation_reaches_exactly_the_radius(drawn: np.ndarray, radius: float) -> None:
    expected = np.zeros_like(drawn)
    rows, columns = np.indices(drawn.shape)
    for row, column in np.argwhere(drawn):
        expected |= (rows - row) ** 2 + (columns - column) ** 2 <= radius**2
    assert np.array_equal(dilate(drawn, radius), expected)
    assert np.array_equal(erode(~drawn, radius), ~expected)


def test_boundary_is_inside_the_mask_and_not_at_the_border() -> None:
    drawn = draw("####..", "####..", "####..", "####..")
    assert show(boundary(drawn)) == ["...#..", "...#..", "...#..", "...#.."]
    assert show(boundary(draw(".....", ".###.", ".###.", ".###.", "....."))) == [
        ".....",
        ".###.",
        ".#.#.",
        ".###.",
        ".....",
    ]
    assert not boundary(np.ones((3, 3), dtype=bool)).any()


# --- run lengths ------------------------------------------------------------------------------


def test_run_lengths_of_a_known_mask() -> None:
    rle = encode_rle(Mask(1, 0, draw("##", "#.")), (3, 4))
    # Down the columns: 3 unset, 2 set, 1 unset, 1 set, 5 unset. From the fourth on, differences to
    # two before: 3, 2, 1, -1, 4, each a character of 48 plus the number modulo 32.
    assert rle == {"size": [3, 4], "counts": "321O4"}
    assert decode_rle(rle) == Mask(1, 0, draw("##", "#."))


def test_long_runs_take_several_characters() -> None:
    drawn = np.zeros((300, 200), dtype=bool)
    drawn[10:290, 50:150] = True
    drawn[100, 100] = False
    rle = encode_rle(Mask.from_full(drawn), drawn.shape)
    assert decode_rle(rle) == Mask.from_full(drawn)


@given(maps)
def test_run_length_round_trip(drawn: np.ndarray) -> None:
    mask = Mask.from_full(drawn)
    rle = encode_rle(mask, drawn.shape)
    assert rle["size"] == list(drawn.shape)
    assert decode_rle(rle) == mask


@pytest.mark.parametrize(
    "rle",
    [
        {"size": [3, 4], "counts": "99"},
        {"size": [4, 4], "counts": "321O4"},
        {"size": [3, 4], "counts": "321O4Q"},
        {"size": [3, 4], "counts": "321O4 "},
        {"size": [3, 4], "counts": "\u00e9"},
        {"size": [3, 4], "counts": "O<="},
        {"size": [3, 4], "counts": ""},
        {"size": [3, 4], "counts": None},
        {"size": [3, 4]},
        {"size": [3], "counts": "321O4"},
    ],
)
def test_broken_run_lengths_are_refused(rle: dict[str, object]) -> None:
    with pytest.raises(LabelError, match="cannot be decoded"):
        decode_rle(rle)  # type: ignore[arg-type]


# --- resizing ---------------------------------------------------------------------------------


def test_doubling_two_pixels() -> None:
    # Centres of the four new pixels lie at -0.25, 0.25, 0.75 and 1.25 of the old ones.
    resized = resize_probs(np.array([[[0.0, 1.0]]], dtype=np.float32), (1, 4))
    assert resized.dtype == np.float32
    assert resized.tolist() == [[[0.0, 0.25, 0.75, 1.0]]]


def test_portrait_map_by_hand() -> None:
    probs = np.array([[0.0], [0.4], [0.8]], dtype=np.float32)
    # Three rows to two: centres at 0.25 and 1.75.
    np.testing.assert_allclose(resize_probs(probs, (2, 2)), [[0.1, 0.1], [0.7, 0.7]], atol=1e-7)


def test_one_pixel_fills_the_image() -> None:
    assert (resize_probs(np.full((1, 1), 0.3, dtype=np.float32), (3, 2)) == np.float32(0.3)).all()
    assert resize_probs(np.empty((0, 1, 1), dtype=np.float32), (3, 2)).shape == (0, 3, 2)


def test_a_map_without_pixels_is_refused() -> None:
    with pytest.raises(LabelError, match="0 pixels"):
        resize_probs(np.empty((1, 0, 3), dtype=np.float32), (3, 3))


@settings(deadline=None)  # the first call into torch takes long
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 7)),
        elements=st.floats(0, 1, width=32),
    ),
    st.tuples(st.integers(1, 15), st.integers(1, 15)),
)
def test_resizing_agrees_with_torch(probs: np.ndarray, size: tuple[int, int]) -> None:
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(probs)[None], size=size, mode="bilinear", align_corners=False
    )[0]
    np.testing.assert_allclose(resize_probs(probs, size), expected.numpy(), atol=1e-6)


@given(
    hnp.arrays(np.float32, (2, 3, 4), elements=st.floats(0, 1, width=32)),
    st.tuples(st.integers(1, 30), st.integers(1, 30)),
)
def test_resized_probabilities_stay_between_the_old_ones(
    probs: np.ndarray, size: tuple[int, int]
) -> None:
    resized = resize_probs(probs, size)
    assert resized.min() >= probs.min() - 1e-6
    assert resized.max() <= 1.0


@given(st.data())
def test_a_resized_window_is_that_part_of_the_whole(data: st.DataObject) -> None:
    sides = st.integers(1, 9)
    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    probs = rng.random((data.draw(sides), data.draw(sides)), dtype=np.float32)
    size = data.draw(sides), data.draw(sides)
    edges = [sorted((data.draw(st.integers(0, n)), data.draw(st.integers(0, n)))) for n in size]
    rows, columns = (slice(*pair) for pair in edges)
    whole = resize_probs(probs[None], size)[0]
    np.testing.assert_array_equal(resize_window(probs, size, (rows, columns)), whole[rows, columns])
    pixels = np.nonzero(rng.random(size) < 0.5)
    np.testing.assert_array_equal(resize_at(probs, size, pixels), whole[pixels])
