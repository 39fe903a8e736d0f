"""What both sides of the benchmark work on: one picture, ten boxes, one component per class.

Random weights would decide by chance how much there is to segment. So the networks run in full,
and their answers are then replaced: the same boxes, the same rough maps, the same masks.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Category, Detections, Frame, ImageRecord, Ontology, StuffScores

__all__ = ["BOXES", "SIZE", "Workload", "build_workload"]

SIZE = (960, 1280)
"""(height, width) of the picture, pixels."""
BOXES = 10
_MAP = 352
"""Side of the rough maps, cells, as CLIPSeg's."""
_THINGS_FROM = 0.8
"""Things stand below this share of the height, stuff above it."""


@dataclass(frozen=True, slots=True, eq=False)
class Workload:
    """One image's work.

    Attributes:
        frame: uint8 (960, 1280, 3) of smooth noise.
        ontology: ten things and C kinds of stuff, one prompt each.
        detections: ten boxes side by side along the lower edge.
        scores: one rectangular component per class above them.
        cells: float32 (C, 4), the components' boxes, xyxy pixels.
    """

    frame: Frame
    ontology: Ontology
    detections: Detections
    scores: StuffScores
    cells: NDArray[np.float32]


def build_workload(classes: int) -> Workload:
    """The work for so many stuff classes, the same at each call."""
    cells = _cells(classes)
    things = [Category(1 + index, f"thing {index}", True) for index in range(BOXES)]
    stuff = [Category(101 + index, f"stuff {index}", False) for index in range(classes)]
    return Workload(
        Frame(ImageRecord("bench", ""), _picture()),
        Ontology((*things, *stuff)),
        _detections(),
        _scores(cells),
        cells,
    )


def _picture() -> NDArray[np.uint8]:
    rng = np.random.default_rng(0)
    coarse = rng.uniform(0, 255, (SIZE[0] // 32, SIZE[1] // 32, 3))
    full = np.kron(coarse, np.ones((32, 32, 1))) + rng.normal(0, 8, (*SIZE, 3))
    return np.clip(full, 0, 255).astype(np.uint8)


def _detections() -> Detections:
    height, width = SIZE
    left = np.arange(BOXES) * width / BOXES + 10
    top = np.full(BOXES, height * _THINGS_FROM + 10)
    right, bottom = left + width / BOXES - 20, np.full(BOXES, height - 10.0)
    ids = np.arange(BOXES, dtype=np.int32)
    return Detections(
        boxes=np.stack([left, top, right, bottom], axis=1).astype(np.float32),
        category_ids=ids + 1,
        scores=np.full(BOXES, 0.8, dtype=np.float32),
        class_scores=np.where(np.eye(BOXES), 0.8, 0.05).astype(np.float32),
        query_ids=ids,
        prompt_ids=np.zeros(BOXES, dtype=np.int32),
    )


def _cells(classes: int) -> NDArray[np.float32]:
    height, width = SIZE[0] * _THINGS_FROM, SIZE[1]
    columns = int(np.ceil(np.sqrt(classes * width / height)))
    rows = -(-classes // columns)
    index = np.arange(classes)
    left, top = index % columns * width / columns, index // columns * height / rows
    boxes = [left + 8, top + 8, left + width / columns - 8, top + height / rows - 8]
    return np.stack(boxes, axis=1).astype(np.float32)


def _scores(cells: NDArray[np.float32]) -> StuffScores:
    probs = np.full((len(cells), _MAP, _MAP), 0.02, dtype=np.float32)
    scale = np.array([_MAP / SIZE[1], _MAP / SIZE[0]] * 2)
    for row, (x0, y0, x1, y1) in enumerate(np.round(cells * scale).astype(int)):
        probs[row, y0:y1, x0:x1] = 0.9
    ids = np.arange(len(cells), dtype=np.int32)
    return StuffScores(ids + 101, np.zeros(len(cells), dtype=np.int32), probs)
