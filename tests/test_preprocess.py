"""Fast resizing on the device against what the image processors do with Pillow."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GroundingDinoImageProcessorPil,
    SamImageProcessorPil,
    ViTImageProcessorPil,
)

from prelabel.data import Category, Frame, ImageRecord, Ontology
from prelabel.demo.scenes import draw_scene
from prelabel.models.clipseg import ClipSeg, ClipSegOptions
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.preprocess import Recipe, fast_pixels, longest_side, short_and_long
from prelabel.models.sam import Sam, SamOptions

SIZES = [(120, 160), (160, 120), (600, 90), (1, 1), (3, 200)]


def _pixels(size: tuple[int, int]) -> np.ndarray:
    scene = draw_scene("val", 5, 0).pixels
    return np.resize(scene, (*size, 3)) if min(size) < 50 else scene[: size[0], : size[1]]


@pytest.mark.parametrize("mode", [2, 3])
@pytest.mark.parametrize("size", SIZES)
def test_fast_is_exact_up_to_rounding(size: tuple[int, int], mode: int) -> None:
    processor = ViTImageProcessorPil(size={"height": 96, "width": 80}, resample=mode)
    pixels = np.ascontiguousarray(_pixels(size))
    exact = processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
    recipe = Recipe.of(processor)
    assert recipe.mode == {2: "bilinear", 3: "bicubic"}[mode]
    fast = fast_pixels(pixels, (96, 80), recipe, "cpu")
    assert fast.shape == (1, 3, 96, 80)
    # Pillow rounds to 8 bits after each of its two passes.
    steps = (fast - exact["pixel_values"]).abs() * torch.tensor(recipe.std).view(1, -1, 1, 1) * 255
    assert float(steps.max()) < 2.5
    assert float(steps.mean()) < 0.6


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_sizes_are_those_of_the_processors(height: int, width: int) -> None:
    sam = SamImageProcessorPil()
    expected = sam._get_preprocess_shape((height, width), 1024)
    assert longest_side((height, width), 1024) == expected


@given(st.integers(1, 120), st.integers(1, 120))
def test_the_detectors_sizes_are_those_of_its_processor(height: int, width: int) -> None:
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80})
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    done = processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
    assert short_and_long((height, width), 48, 80) == tuple(done["pixel_values"].shape[2:])


def test_a_frame_that_must_not_be_written_is_read() -> None:
    pixels = np.zeros((4, 4, 3), dtype=np.uint8)
    pixels.setflags(write=False)
    processor = GroundingDinoImageProcessorPil()
    assert fast_pixels(pixels, (2, 2), Recipe.of(processor), "cpu").isfinite().all()


def test_networks_say_nearly_the_same_of_fast_pixels() -> None:
    """The embedded networks on one scene: what `preprocess: fast` changes is small."""
    scene = draw_scene("val", 5, 1)
    frame = Frame(ImageRecord("scene", ""), scene.pixels)
    ontology = Ontology((Category(1, "person", True), Category(2, "sky", False)))
    scores = []
    for preprocess in ("exact", "fast"):
        scorer = ClipSeg(ClipSegOptions(preprocess=preprocess))
        scorer.load("cpu")
        scores.append(scorer.score([frame], ontology)[0].probs)
    assert float(np.abs(scores[0] - scores[1]).mean()) < 0.01
    embeddings = []
    for preprocess in ("exact", "fast"):
        segmenter = Sam(SamOptions(preprocess=preprocess))
        segmenter.load("cpu")
        embeddings.append(segmenter.embed([frame])[0])
    assert embeddings[0].input_size.tolist() == embeddings[1].input_size.tolist()
    spread = float(np.abs(embeddings[0].features).mean())
    assert float(np.abs(embeddings[0].features - embeddings[1].features).mean()) < 0.1 * spread
    shapes = []
    for preprocess in ("exact", "fast"):
        detector = GroundingDino(GroundingDinoOptions(preprocess=preprocess))
        detector.load("cpu")
        shapes.append(detector._prepare(frame.pixels).pixels.shape)
    assert shapes[0] == shapes[1]


def test_the_padding_of_fast_pixels_is_zero(checkpoints: Path) -> None:
    segmenter = Sam(SamOptions(weights=str(checkpoints / "sam"), preprocess="fast"))
    segmenter.load("cpu")
    item = segmenter._prepare(np.full((30, 60, 3), 255, dtype=np.uint8))
    assert item.input_size == (128, 256)
    assert item.pixels.shape == (1, 3, 256, 256)
    assert float(item.pixels[0, :, 128:].abs().max()) == 0.0
    assert float(item.pixels[0, :, :128].min()) > 1.0
