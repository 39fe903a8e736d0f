"""Masks follow the picture's edges, and only those."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from prelabel.data import Detections, Instances, Mask, StuffRegions
from prelabel.masks import mask_iou
from prelabel.stages.snap import Guide, invert, snap_masks


def _picture(truth: np.ndarray, noise: float = 0.0) -> np.ndarray:
    """uint8 (H, W, 3): what is set is red, the rest green, with noise of that deviation."""
    colours = np.where(truth[..., None], (200, 40, 40), (40, 160, 60)).astype(np.float64)
    colours += np.random.default_rng(0).normal(0, noise, colours.shape)
    return np.clip(colours, 0, 255).astype(np.uint8)


def _blocky(truth: np.ndarray, cell: int) -> np.ndarray:
    """The map on a grid of cells, each set where at least half of it is."""
    height, width = (side // cell for side in truth.shape)
    shares = truth.reshape(height, cell, width, cell).mean(axis=(1, 3))
    return np.kron(shares >= 0.5, np.ones((cell, cell), dtype=bool))


def _disc(side: int = 96) -> np.ndarray:
    y, x = np.mgrid[:side, :side]
    return np.asarray((x - 50) ** 2 + (y - 44) ** 2 <= 25**2)


@pytest.mark.parametrize("noise", [0.0, 20.0])
def test_a_blocky_mask_finds_the_edge(noise: float) -> None:
    truth = _disc()
    drawn = Mask.from_full(_blocky(truth, 8))
    real = Mask.from_full(truth)
    snapped = Guide(_picture(truth, noise), 0.05).snap(drawn)
    assert mask_iou(drawn, real) < 0.93
    assert mask_iou(snapped, real) > 0.985


def test_a_picture_without_edges_keeps_a_straight_one() -> None:
    full = np.zeros((64, 64), dtype=bool)
    full[:, :30] = True
    flat = np.full((64, 64, 3), 90, dtype=np.uint8)
    assert Guide(flat, 0.05).snap(Mask.from_full(full)) == Mask.from_full(full)


def test_what_is_thin_and_without_contrast_stays() -> None:
    full = np.zeros((64, 64), dtype=bool)
    full[:, 30:32] = True
    flat = np.full((64, 64, 3), 90, dtype=np.uint8)
    assert Guide(flat, 0.05).snap(Mask.from_full(full)) == Mask.from_full(full)


def test_large_pictures_are_filtered_small() -> None:
    truth = np.kron(_disc(), np.ones((16, 16), dtype=bool))  # 1536 pixels a side
    drawn = Mask.from_full(_blocky(truth, 64))
    real = Mask.from_full(truth)
    snapped = Guide(_picture(truth), 0.03).snap(drawn)
    assert mask_iou(drawn, real) < 0.96
    assert mask_iou(snapped, real) > 0.985


def test_an_empty_mask_and_a_whole_one() -> None:
    guide = Guide(_picture(_disc()), 0.05)
    empty = Mask(0, 0, np.zeros((0, 0), dtype=bool))
    whole = Mask.from_full(np.ones((96, 96), dtype=bool))
    assert guide.snap(empty) == empty
    assert guide.snap(whole) == whole


def _candidates(full: np.ndarray) -> tuple[Instances, StuffRegions]:
    mask, one = Mask.from_full(full), np.ones(1, dtype=np.float32)
    ids = np.ones(1, dtype=np.int32)
    box = np.array([mask.box], dtype=np.float32)
    detections = Detections(box, ids, one, one[None], ids, ids)
    things = Instances(detections, (mask,), one, one)
    return things, StuffRegions(ids, (mask,), one, one, one, ids, one, one > 0)


def test_things_and_regions_alike() -> None:
    truth = _disc()
    things, regions = snap_masks(*_candidates(_blocky(truth, 8)), _picture(truth), 0.05)
    assert things.masks == regions.masks
    assert mask_iou(things.masks[0], Mask.from_full(truth)) > 0.985


@pytest.mark.parametrize("reach", [0.0, 0.004])
def test_less_than_half_a_pixel_changes_nothing(reach: float) -> None:
    candidates = _candidates(_blocky(_disc(), 8))
    assert snap_masks(*candidates, _picture(_disc()), reach) == candidates
    things = dataclasses.replace(
        candidates[0],
        detections=Detections.empty(1),
        masks=(),
        ious=np.empty(0, np.float32),
        stabilities=np.empty(0, np.float32),
    )
    assert snap_masks(things, StuffRegions.empty(), _picture(_disc()), 0.05)[0] is things


def test_covariances_are_inverted_even_of_nearly_grey_pictures() -> None:
    rng = np.random.default_rng(0)
    grey = rng.normal(0, 0.3, (4, 5, 1, 20)) + rng.normal(0, 1e-4, (4, 5, 3, 20))
    covariances = grey @ np.swapaxes(grey, -1, -2) / 20 + 3e-4 * np.eye(3)
    inverses = np.moveaxis(invert(np.moveaxis(covariances, (-2, -1), (0, 1))), (0, 1), (-2, -1))
    np.testing.assert_allclose(inverses, np.linalg.inv(covariances), rtol=1e-4)
