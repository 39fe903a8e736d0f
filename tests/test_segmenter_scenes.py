"""Scenes as the segmenter sees them."""

from __future__ import annotations

import numpy as np
import pytest

from prelabel.demo.scenes import Scene, draw_scene
from prelabel.demo.training.segmenter_scenes import (
    ScenePool,
    flip,
    input_size,
    pixel_values,
    prepare,
    zoom,
)


def _scene() -> Scene:
    """Sky (11) in two parts, left and right of a tree (5); 40 rows, 80 columns."""
    ids = np.ones((40, 80), np.int32)
    ids[:, 30:50] = 2
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, :30] = 200
    return Scene(pixels, ids, (11, 5))


def test_the_longest_side_is_the_networks() -> None:
    assert input_size(400, 200) == (256, 128)
    assert input_size(200, 301) == (170, 256)
    assert input_size(256, 256) == (256, 256)


def test_what_can_be_asked_for() -> None:
    sample = prepare(_scene())
    assert sample.size == (128, 256)
    assert (sample.ids[128:] == 0).all()
    assert [(t.value, t.isthing, t.ispart) for t in sample.targets] == [
        (1, False, False),
        (1, False, True),
        (2, False, True),
        (2, True, False),
    ]
    left = sample.mask(sample.targets[1])
    assert left[:128, :96].all()
    assert left.sum() == 128 * 96


def test_a_mirrored_sample_keeps_its_padding() -> None:
    sample = prepare(_scene())
    mirrored = flip(sample)
    assert (mirrored.ids[128:] == 0).all()
    assert mirrored.mask(sample.targets[1])[:128, 160:].all()
    assert (mirrored.pixels[:, 200:] == sample.pixels[:, :56][:, ::-1]).all()
    assert (flip(mirrored).ids == sample.ids).all()


def test_padding_is_zero_after_normalisation() -> None:
    values = pixel_values([prepare(_scene())])
    assert values.shape == (1, 3, 256, 256)
    assert (values[0, :, 128:] == 0).all()
    assert (values[0, :, :128, :64] > 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_an_enlarged_part_is_a_scene(seed: int) -> None:
    whole = draw_scene("val", 0, 1)
    part = zoom(whole, np.random.default_rng(seed))
    assert part.pixels.shape[:2] == part.id_map.shape
    assert min(part.id_map.shape) >= 64
    assert part.id_map.size < whole.id_map.size
    assert set(np.unique(part.id_map)) <= set(np.unique(whole.id_map))


def test_a_pool_gives_the_same_scene_again() -> None:
    pool = ScenePool("val", 0, capacity=1, zoomed=0.5)
    first = pool[3]
    assert pool[3] is first
    assert pool[4] is not first
    again = pool[3]
    assert again is not first
    assert (again.ids == first.ids).all()
