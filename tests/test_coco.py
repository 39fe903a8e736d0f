from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from prelabel.coco import (
    CocoSegment,
    category_color,
    decode_ids,
    encode_ids,
    measure_segments,
    read_id_map,
    write_id_map,
)
from prelabel.data import Category, Mask, Ontology
from prelabel.errors import LabelError

ONTOLOGY = Ontology((Category(3, "car", True, color=(10, 20, 30)), Category(7, "sky", False)))
MAP = np.array(
    [
        [2, 2, 2, 2, 2, 2],
        [2, 1, 1, 2, 0, 0],
        [0, 1, 1, 0, 0, 0],
        [0, 0, 1, 0, 0, 0],
    ],
    dtype=np.int32,
)


# --- ids as colours -------------------------------------------------------------------------------


def test_colours_of_known_ids() -> None:
    ids = np.array([[0, 1, 255], [256, 65536, 16777215]], dtype=np.int32)
    assert encode_ids(ids).tolist() == [
        [[0, 0, 0], [1, 0, 0], [255, 0, 0]],
        [[0, 1, 0], [0, 0, 1], [255, 255, 255]],
    ]


@given(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.integers(0, 2**24 - 1),
    )
)
def test_ids_survive_as_colours(ids: np.ndarray) -> None:
    decoded = decode_ids(encode_ids(ids))
    assert decoded.dtype == np.int32
    assert np.array_equal(decoded, ids)


@pytest.mark.parametrize("bad", [-1, 2**24])
def test_an_id_out_of_range_is_refused(bad: int) -> None:
    with pytest.raises(LabelError, match=str(bad)):
        encode_ids(np.array([[0, bad]], dtype=np.int32))


@pytest.mark.parametrize(
    "wrong", [np.zeros((2, 2, 3), np.int32), np.zeros((2, 2), np.float32), np.zeros(4, np.int32)]
)
def test_only_integer_maps_are_encoded(wrong: np.ndarray) -> None:
    with pytest.raises(LabelError, match="expected an id map"):
        encode_ids(wrong)


def test_only_rgb_is_decoded() -> None:
    with pytest.raises(LabelError, match="expected colours"):
        decode_ids(np.zeros((2, 2, 4), np.uint8))


def test_a_png_with_alpha_is_read_and_a_grey_one_is_not(tmp_path: Path) -> None:
    rgba = np.concatenate([encode_ids(MAP), np.full((4, 6, 1), 255, np.uint8)], axis=2)
    Image.fromarray(rgba).save(tmp_path / "rgba.png")
    Image.fromarray(MAP.astype(np.uint8)).save(tmp_path / "grey.png")
    assert np.array_equal(read_id_map(tmp_path / "rgba.png"), MAP)
    with pytest.raises(LabelError, match=r"grey\.png has mode L"):
        read_id_map(tmp_path / "grey.png")


def test_a_broken_png_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    write_id_map(path, np.arange(10000, dtype=np.int32).reshape(100, 100))
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(LabelError, match=r"cut\.png cannot be read as a PNG"):
        read_id_map(path)
    Image.fromarray(encode_ids(MAP)).save(path, format="BMP")
    with pytest.raises(LabelError, match=r"cut\.png cannot be read as a PNG"):
        read_id_map(path)
    with pytest.raises(LabelError, match=r"none\.png is missing"):
        read_id_map(tmp_path / "none.png")


# --- segments -------------------------------------------------------------------------------------


def test_measuring_a_drawn_map() -> None:
    assert measure_segments(MAP, {1: 3, 2: 7, 5: 3}, scores={1: 0.5}, crowd={2}) == (
        CocoSegment(1, 3, 5, (1, 1, 2, 3), score=0.5),
        CocoSegment(2, 7, 8, (0, 0, 6, 2), iscrowd=True),
    )


def test_measuring_ids_with_gaps_and_a_map_of_void() -> None:
    far = np.where(MAP == 1, 2**24 - 1, 0).astype(np.int32)
    assert measure_segments(far, {2**24 - 1: 3}) == (CocoSegment(2**24 - 1, 3, 5, (1, 1, 2, 3)),)
    assert measure_segments(np.zeros((1, 1), np.int32), {}) == ()


@given(
    hnp.arrays(
        np.int32,
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=6),
        elements=st.sampled_from([0, 1, 2, 9, 65535, 65536, 2**24 - 1]),
    )
)
def test_areas_and_boxes_are_those_of_the_masks(ids: np.ndarray) -> None:
    segments = measure_segments(ids, dict.fromkeys(np.unique(ids).tolist(), 3))
    assert [segment.segment_id for segment in segments] == [i for i in np.unique(ids) if i]
    for segment in segments:
        x0, y0, x1, y1 = Mask.from_full(ids == segment.segment_id).box
        assert segment.area == np.count_nonzero(ids == segment.segment_id)
        assert segment.box_xywh == (x0, y0, x1 - x0, y1 - y0)


def test_an_id_without_category_is_refused() -> None:
    with pytest.raises(LabelError, match=r"\[2\], which have no category"):
        measure_segments(MAP, {1: 3})


def test_colours_are_derived_distinct_and_never_black() -> None:
    colors = [category_color(Category(number, "x", True)) for number in range(1, 201)]
    assert len(set(colors)) == 200
    assert min(max(color) for color in colors) > 100
    assert category_color(ONTOLOGY.by_id[3]) == (10, 20, 30)
