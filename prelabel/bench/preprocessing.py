"""What `preprocess: fast` changes, and what it saves."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import PanopticWriter
from prelabel.config import Config, default_config
from prelabel.data import Frame, ImageRecord, PanopticLabel
from prelabel.demo.export import write_scenes
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.scenes import draw_scene
from prelabel.models.preprocess import (
    Preprocess,
    Recipe,
    fast_pixels,
    longest_side,
    short_and_long,
)
from prelabel.pipeline import Pipeline
from prelabel.review.evaluate import evaluate

__all__ = ["Difference", "compare_inputs", "compare_labels"]

_STAGES = ("detect", "segment", "stuff")
_TRIES = 5


@dataclass(frozen=True, slots=True)
class Difference:
    """Of one network's input, fast against exact.

    Attributes:
        mean, largest: absolute difference in steps of 8-bit pixels.
        exact, fast: seconds for one picture, the least of five.
    """

    mean: float
    largest: float
    exact: float
    fast: float


def compare_inputs(pixels: NDArray[np.uint8], device: str) -> dict[str, Difference]:
    """One picture, uint8 (H, W, 3), made ready for each full-size network in both ways."""
    from transformers import (
        GroundingDinoImageProcessorPil,
        SamImageProcessorPil,
        ViTImageProcessorPil,
    )

    size = (pixels.shape[0], pixels.shape[1])
    return {
        "detect": _compare(
            GroundingDinoImageProcessorPil(), pixels, short_and_long(size, 800, 1333), device
        ),
        "segment": _compare(SamImageProcessorPil(), pixels, longest_side(size, 1024), device),
        "stuff": _compare(
            ViTImageProcessorPil(size={"height": 352, "width": 352}), pixels, (352, 352), device
        ),
    }


def _compare(
    processor: Any, pixels: NDArray[np.uint8], size: tuple[int, int], device: str
) -> Difference:
    recipe = Recipe.of(processor)

    def exact() -> Any:
        done = processor(images=pixels, input_data_format="channels_last", return_tensors="pt")
        return done["pixel_values"].to(device)

    def fast() -> Any:
        return fast_pixels(pixels, size, recipe, device)

    slow, wanted = _timed(exact)
    quick, found = _timed(fast)
    deviations = np.array(recipe.std, dtype=np.float32)[:, None, None] * 255
    inside = wanted[0, :, : size[0], : size[1]]
    steps = np.abs((found[0] - inside).cpu().numpy()) * deviations
    return Difference(float(steps.mean()), float(steps.max()), slow, quick)


def _timed(make: Callable[[], Any]) -> tuple[float, Any]:
    """The least seconds of some tries, and what was made. Reading a value waits for the device."""
    best, made = float("inf"), None
    for _ in range(_TRIES):
        start = time.perf_counter()
        made = make()
        made.flatten()[-1].item()
        best = min(best, time.perf_counter() - start)
    return best, made


def compare_labels(count: int, seed: int, device: str) -> dict[str, float]:
    """The embedded networks on held-out scenes, all three fast against all three exact.

    Returns:
        Panoptic quality of both, and the share of pixels whose category differs.
    """
    labels = {kind: _label(_config(kind), count, seed, device) for kind in get_args(Preprocess)}
    pairs = zip(labels["exact"], labels["fast"], strict=True)
    changed = [(_categories(exact) != _categories(fast)).mean() for exact, fast in pairs]
    quality = {f"{kind}.pq": _quality(made, seed) for kind, made in labels.items()}
    return {**quality, "changed": float(np.mean(changed))}


def _config(kind: Preprocess) -> Config:
    config = default_config(ONTOLOGY)
    update: Mapping[str, Any] = {
        stage: getattr(config, stage).model_copy(update={"preprocess": kind}) for stage in _STAGES
    }
    return config.model_copy(update=update)


def _label(config: Config, count: int, seed: int, device: str) -> list[PanopticLabel]:
    pipeline = Pipeline.from_config(config, device=device).load()
    names = [f"scene-{index + 1:06d}.png" for index in range(count)]
    return [
        pipeline.run([Frame(ImageRecord(name, name), draw_scene("heldout", seed, index).pixels)])[
            0
        ].label
        for index, name in enumerate(names)
    ]


def _categories(label: PanopticLabel) -> NDArray[np.int32]:
    ids = [0, *(segment.category_id for segment in label.segments)]
    return np.array(ids, dtype=np.int32)[label.id_map]


def _quality(labels: list[PanopticLabel], seed: int) -> float:
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        write_scenes(root / "truth", seed=seed, count=len(labels))
        with PanopticWriter(root / "found" / "panoptic.json", ONTOLOGY) as writer:
            for index, label in enumerate(labels):
                writer.add(label.image_id, label, index + 1)
        found = evaluate(root / "found" / "panoptic.json", root / "truth" / "panoptic.json")
    return float(found.all.pq)
