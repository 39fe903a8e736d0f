"""Candidates made from the truth with controlled errors, in place of networks.

The three networks are played by the truth and a list of faults: a detector that misses, doubles,
misnames and groups objects; rough maps that are coarse, noisy and wrong in patches; a segmenter
that answers each prompt with the surface under it, that surface and its neighbours, and a part of
it, with ragged edges, holes and specks. So rules are judged by what they do to errors of a known
kind rather than to those of one set of weights. A scene and a seed always give the same faults, and
the same question always the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.ablation.outputs import Outputs, Truth
from prelabel.ablation.questions import Remembering
from prelabel.boxes import box_iou, box_of, clip_boxes
from prelabel.data import Detections, Frame, Mask, Ontology, StuffScores
from prelabel.errors import LabelError
from prelabel.masks import resize_probs
from prelabel.models.roles import Embedding, MaskLogits, Prompts

__all__ = ["Faults", "simulate"]


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each error is made; all are shares in [0, 1] unless they say otherwise."""

    missed: float = 0.08
    """Of things, without any box."""
    doubled: float = 0.2
    """Of things, with a second box, half of them under another category."""
    misnamed: float = 0.07
    """Of things, under another category."""
    grouped: float = 0.1
    """Of things, with a further box around it and the nearest other thing."""
    phantoms: float = 0.5
    """Boxes around nothing, per image."""
    jitter: float = 0.05
    """Deviation of each side of a box, as a share of the box's side."""
    patches: float = 1.0
    """Wrong patches in the rough maps, per image."""
    bloated: float = 0.25
    """Of answers, those that are surest of the surface and its neighbours together."""
    torn: float = 0.4
    """Of masks, with holes in them and specks beside them."""
    doubt: float = 0.06
    """Deviation of the segmenter's idea of its own IoU."""


def simulate(
    name: str,
    scene: tuple[Truth, NDArray[np.uint8]],
    ontology: Ontology,
    faults: Faults,
    seed: int = 0,
) -> Outputs:
    """What faulty networks would say about one image.

    Args:
        name: of the image; with `seed` it decides which faults are made.
        scene: what is there, and the picture uint8 (H, W, 3) RGB.
        ontology: of the scene.
        faults: how often.
        seed: another seed, other faults.
    """
    truth, pixels = scene
    rng = _generator(f"{name}/{seed}".encode())
    detections = _detect(truth, ontology, faults, rng)
    scores = _score(truth, ontology, faults, rng)
    size = np.array(truth.size, dtype=np.int32)
    embedding = Embedding(size, size, np.zeros((1, 1, 1), dtype=np.float32))
    segmenter = Remembering(_Segmenter(truth, faults, rng))
    return Outputs(name, truth, pixels, detections, scores, embedding, segmenter)


def _generator(key: bytes) -> np.random.Generator:
    digest = hashlib.sha256(key).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


# --- detector ---------------------------------------------------------------------------------


class _Boxes:
    """Boxes as they are found, one row each."""

    def __init__(self, size: tuple[int, int], things: int, rng: np.random.Generator) -> None:
        self._size, self._rng, self._things = size, rng, things
        self._boxes: list[NDArray[np.float32]] = []
        self._scores: list[NDArray[np.float64]] = []

    def add(self, box: NDArray[np.float64], column: int, score: float, jitter: float) -> None:
        """A box xyxy moved by about `jitter` of its sides, with a runner-up beside its category."""
        sides = np.tile(box[2:] - box[:2], 2)
        shaken = (box + self._rng.normal(0, jitter, 4) * sides).astype(np.float32)
        moved = clip_boxes(shaken[None], self._size)[0]
        if (moved[2:] - moved[:2] < 1).any():
            return
        row = self._rng.uniform(0.0, 0.1, self._things)
        rival = (column + int(self._rng.integers(1, self._things))) % self._things
        row[rival] = score * self._rng.uniform(0.2, 0.7)
        row[column] = score
        self._boxes.append(moved)
        self._scores.append(row)

    def detections(self, ontology: Ontology) -> Detections:
        """Best first, from queries in any order."""
        if not self._boxes:
            return Detections.empty(self._things)
        class_scores = np.stack(self._scores).astype(np.float32)
        order = np.argsort(-class_scores.max(axis=1), kind="stable")
        class_scores = class_scores[order]
        ids = np.array([category.category_id for category in ontology.things], dtype=np.int32)
        return Detections(
            boxes=np.stack(self._boxes)[order],
            category_ids=ids[class_scores.argmax(axis=1)],
            scores=class_scores.max(axis=1),
            class_scores=class_scores,
            query_ids=self._rng.permutation(len(order)).astype(np.int32),
            prompt_ids=np.zeros(len(order), dtype=np.int32),
        )


def _detect(
    truth: Truth, ontology: Ontology, faults: Faults, rng: np.random.Generator
) -> Detections:
    columns = {category.category_id: index for index, category in enumerate(ontology.things)}
    found = _Boxes(truth.size, len(columns), rng)
    real = [
        (np.array(box_of(truth.id_map == index), dtype=np.float64), columns[int(category_id)])
        for index, category_id in enumerate(truth.category_ids, start=1)
        if int(category_id) in columns
    ]
    for box, column in real:
        if rng.random() < faults.missed:
            continue
        score = float(np.clip(rng.normal(0.65, 0.15), 0.3, 0.98))
        if rng.random() < faults.misnamed:
            column, score = int(rng.integers(len(columns))), 0.8 * score
        found.add(box, column, score, faults.jitter)
        if rng.random() < faults.doubled:
            other = int(rng.integers(len(columns))) if rng.random() < 0.5 else column
            found.add(box, other, score * rng.uniform(0.5, 0.95), 2 * faults.jitter)
        if len(real) > 1 and rng.random() < faults.grouped:
            near = min((b for b, _ in real if b is not box), key=lambda b: _apart(b, box))
            both = np.concatenate([np.minimum(box, near)[:2], np.maximum(box, near)[2:]])
            found.add(both, column, score * rng.uniform(0.4, 0.9), faults.jitter)
    for _ in range(rng.poisson(faults.phantoms)):
        found.add(_anywhere(truth.size, rng), int(rng.integers(len(columns))), 0.35, 0.0)
    return found.detections(ontology)


def _apart(box: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    """Distance between the middles, pixels."""
    return float(np.hypot(*((box[:2] + box[2:]) - (other[:2] + other[2:])) / 2))


def _anywhere(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float64]:
    low, high = np.sort(rng.random((2, 2)), axis=0)
    return np.asarray(np.concatenate([low, high]) * np.tile(size[::-1], 2))


# --- stuff scorer -----------------------------------------------------------------------------

_CELLS = 64
"""Of the longer side of a rough map."""


def _score(
    truth: Truth, ontology: Ontology, faults: Faults, rng: np.random.Generator
) -> StuffScores:
    scale = _CELLS / max(truth.size)
    grid = tuple(max(1, round(side * scale)) for side in truth.size)
    rows, columns = (
        ((np.arange(cells) + 0.5) * side / cells).astype(np.intp)
        for cells, side in zip(grid, truth.size, strict=True)
    )
    category = np.concatenate([[0], truth.category_ids])[truth.id_map[np.ix_(rows, columns)]]
    ids = np.array([category.category_id for category in ontology.stuff], dtype=np.int32)
    layers = (category == ids[:, None, None]).astype(np.float32)
    # Things say nothing about what is behind them: maps reach under them from all sides.
    weight = _blur(layers.sum(axis=0), 1.5) + 1e-3
    probs = np.stack([0.85 * _blur(layer, 1.5) / weight for layer in layers])
    _spoil(probs, faults, rng)
    noise = np.stack([_blur(rng.normal(0, 1, layer.shape), 1.5) for layer in layers])
    probs = np.clip(probs + 0.3 * noise, 0.0, 1.0).astype(np.float32)
    return StuffScores(ids, np.zeros(len(ids), dtype=np.int32), probs)


def _spoil(probs: NDArray[np.float32], faults: Faults, rng: np.random.Generator) -> None:
    """Give round patches of the maps (C, h, w) to another category."""
    height, width = probs.shape[1:]
    y, x = np.mgrid[:height, :width]
    for _ in range(rng.poisson(faults.patches)):
        middle = rng.random(2) * (height, width)
        radius = rng.uniform(0.04, 0.14) * max(height, width)
        patch = (y - middle[0]) ** 2 + (x - middle[1]) ** 2 <= radius**2
        wrong = int(rng.integers(len(probs)))
        probs[:, patch] *= 0.5
        probs[wrong, patch] = rng.uniform(0.5, 0.8)


def _blur(values: NDArray[np.floating], sigma: float) -> NDArray[np.float32]:
    return np.asarray(ndimage.gaussian_filter(values, sigma, mode="nearest"), dtype=np.float32)


# --- segmenter --------------------------------------------------------------------------------

_SIDE = 256
"""Cells of the longer side of a mask."""
_TOUCHED = 0.1
"""A surface answers if it holds at least this share of the positive points."""


class _Segmenter:
    """Answers with the true surfaces under a prompt, faultily; a `PromptableSegmenter`."""

    def __init__(self, truth: Truth, faults: Faults, rng: np.random.Generator) -> None:
        self._truth, self._faults = truth, faults
        scale = min(1.0, _SIDE / max(truth.size))
        self._grid = (
            max(1, round(truth.size[0] * scale)),
            max(1, round(truth.size[1] * scale)),
        )
        rows, columns = (
            ((np.arange(cells) + 0.5) * side / cells).astype(np.intp)
            for cells, side in zip(self._grid, truth.size, strict=True)
        )
        self._surfaces = _surfaces(truth.id_map[np.ix_(rows, columns)])
        self._boxes = _surface_boxes(self._surfaces)
        self._rag = _blur(rng.normal(0, 1, self._grid), 3.0) * 4

    def load(self, device: str) -> None:
        """Nothing to load."""

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """Refused: it knows one image, and that already."""
        raise LabelError("a simulated segmenter holds its image already")

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """Three candidates in any order, or the one that comes first."""
        side = max(self._grid)
        count = 3 if multimask else 1
        logits = np.full((len(prompts), count, side, side), -8.0, dtype=np.float32)
        ious = np.zeros((len(prompts), count), dtype=np.float32)
        for row in range(len(prompts)):
            rng = _generator(_question(prompts, row))
            target, neighbours = self._meant(prompts, row)
            whole = target | neighbours
            candidates = [target, whole, _part(target, rng)]
            first = 1 if rng.random() < self._faults.bloated else 0
            order = rng.permutation(3) if multimask else [first]
            for column, which in enumerate(order):
                real = 1.0 if which == first else _iou(candidates[which], target)
                drawn = self._draw(candidates[which], rng)
                logits[row, column, : self._grid[0], : self._grid[1]] = drawn
                ious[row, column] = np.clip(real + rng.normal(0, self._faults.doubt) - 0.1, 0, 1)
        return MaskLogits(logits, ious)

    def _meant(self, prompts: Prompts, row: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """The surfaces under a prompt, and those beside them that it does not exclude."""
        scale = np.array(self._grid[::-1]) / np.array(self._truth.size[::-1])
        if prompts.boxes is not None:
            box = prompts.boxes[row] * np.tile(scale, 2)
            overlaps = box_iou(box[None], self._boxes)[0]
            chosen = np.flatnonzero(overlaps == overlaps.max())[:1]
            target = self._surfaces == chosen[0]
            inside, around = self._frame(box, 0.0), self._frame(box, 0.2)
            beside = self._beside(target)
            if (target & inside).any():
                target = target & inside
            return target, beside[self._surfaces] & around & ~target
        if prompts.points is None or prompts.labels is None:
            raise LabelError("a simulated segmenter needs boxes or points")
        points = np.floor(prompts.points[row] * scale).astype(np.intp)
        x, y = np.clip(points, 0, np.array(self._grid[::-1]) - 1).T
        under = self._surfaces[y, x]
        votes = np.bincount(under[prompts.labels[row] == 1], minlength=len(self._boxes))
        excluded = np.bincount(under[prompts.labels[row] == 0], minlength=len(self._boxes)) > 0
        answers = (votes > 0) & (votes >= _TOUCHED * votes.sum()) & ~(excluded & (votes < 2))
        if not answers.any():
            answers[votes.argmax()] = True
        target = answers[self._surfaces]
        return target, (self._beside(target) & ~excluded & ~answers)[self._surfaces]

    def _beside(self, target: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """bool (S,): the surfaces that touch a region."""
        beside = np.zeros(len(self._boxes), dtype=np.bool_)
        beside[np.unique(self._surfaces[ndimage.binary_dilation(target) & ~target])] = True
        return beside

    def _frame(self, box: NDArray[np.float64], margin: float) -> NDArray[np.bool_]:
        """bool (h, w): a box, enlarged on each side by `margin` of it."""
        width, height = box[2:] - box[:2]
        x0, y0 = box[0] - margin * width, box[1] - margin * height
        x1, y1 = box[2] + margin * width, box[3] + margin * height
        frame = np.zeros(self._grid, dtype=np.bool_)
        low, left = max(round(y0), 0), max(round(x0), 0)
        frame[low : max(round(y1), low + 1), left : max(round(x1), left + 1)] = True
        return frame

    def _draw(self, region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.float32]:
        """Logits (h, w) of a region with a ragged edge, sometimes torn."""
        torn = region
        if rng.random() < self._faults.torn and region.any():
            torn = _tear(region, rng)
        soft = ndimage.uniform_filter(torn.astype(np.float32), 5, mode="nearest") - 0.5
        shift = tuple(int(rng.integers(side)) for side in self._grid)
        return np.asarray(12 * soft + np.roll(self._rag, shift, axis=(0, 1)), dtype=np.float32)

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits over the square as float32 (M, height, width) over the image."""
        return resize_probs(logits[:, : self._grid[0], : self._grid[1]], size)

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps over the image as (M, m, m) over the square."""
        side = max(self._grid)
        square = np.full((len(maps), side, side), fill, dtype=np.float32)
        square[:, : self._grid[0], : self._grid[1]] = resize_probs(maps, self._grid)
        return square

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """Refused: nothing was looked at."""
        raise LabelError("a simulated segmenter attends to nothing")


def _question(prompts: Prompts, row: int) -> bytes:
    parts = (prompts.boxes, prompts.points, prompts.labels)
    return b"".join(part[row].tobytes() for part in parts if part is not None)


def _surfaces(id_map: NDArray[np.int32]) -> NDArray[np.intp]:
    """The connected parts of each segment, numbered from 0."""
    surfaces = np.zeros(id_map.shape, dtype=np.intp)
    count = 0
    for segment_id in np.unique(id_map):
        labels, found = ndimage.label(id_map == segment_id, structure=np.ones((3, 3)))
        surfaces[labels > 0] = labels[labels > 0] + count - 1
        count += found
    return surfaces


def _surface_boxes(surfaces: NDArray[np.intp]) -> NDArray[np.float64]:
    """float64 (S, 4) xyxy, cells."""
    windows = ndimage.find_objects(surfaces + 1)
    return np.array([(x.start, y.start, x.stop, y.stop) for y, x in windows], dtype=np.float64)


def _part(region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """What lies on one side of a line through the region's middle."""
    y, x = np.nonzero(region)
    if not len(y):
        return region
    angle = rng.uniform(0, 2 * np.pi)
    rows, columns = np.mgrid[: region.shape[0], : region.shape[1]]
    side = (rows - y.mean()) * np.sin(angle) + (columns - x.mean()) * np.cos(angle)
    return np.asarray(region & (side >= 0))


def _tear(region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """The region with a few round holes in it and specks off it, each of about 1 % of it."""
    torn = region.copy()
    radius = max(2.0, 0.06 * float(np.sqrt(region.sum())))
    rows, columns = np.mgrid[: region.shape[0], : region.shape[1]]
    for value, places in ((False, region), (True, ~region)):
        y, x = np.nonzero(places)
        for index in rng.integers(len(y), size=int(rng.integers(1, 4))) if len(y) else ():
            torn[(rows - y[index]) ** 2 + (columns - x[index]) ** 2 <= radius**2] = value
    return torn


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int((a | b).sum())
    return int((a & b).sum()) / union if union else 0.0
