"""Scenes as the segmenter sees them: resized, padded, with their targets at hand."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage
from torch import Tensor

from prelabel.demo.scenes import ONTOLOGY, Scene, draw_scene
from prelabel.demo.segmenter_network import GRID, IMAGE_SIZE

__all__ = [
    "MEAN",
    "STD",
    "Sample",
    "ScenePool",
    "Target",
    "flip",
    "id_cells",
    "input_size",
    "pixel_values",
    "prepare",
    "zoom",
]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
_MEAN, _STD = np.array(MEAN, np.float32), np.array(STD, np.float32)
_THINGS = frozenset(category.category_id for category in ONTOLOGY.things)
_LEAST = 20
"""Pixels of the network's input that a segment must have to be prompted for."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a prompt can ask for: the pixels of `Sample.ids` or `Sample.parts` with this value."""

    value: int
    isthing: bool
    ispart: bool


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """A scene at the network's input size.

    Attributes:
        pixels: uint8 (h, w, 3), unpadded, the longest side 256.
        ids: uint8 (256, 256), segment ids; 0 is padding.
        parts: uint8 (256, 256), connected parts of those stuff segments that have several; else 0.
        category_ids: of the segments 1..N.
        targets: all that can be asked for.
    """

    pixels: NDArray[np.uint8]
    ids: NDArray[np.uint8]
    parts: NDArray[np.uint8]
    category_ids: tuple[int, ...]
    targets: tuple[Target, ...]

    @property
    def size(self) -> tuple[int, int]:
        return self.pixels.shape[0], self.pixels.shape[1]

    def mask(self, target: Target) -> NDArray[np.bool_]:
        """bool (256, 256)."""
        found: NDArray[np.bool_] = (self.parts if target.ispart else self.ids) == target.value
        return found


def input_size(height: int, width: int) -> tuple[int, int]:
    """The size that `SamImageProcessor` gives an image: (height, width), the longest side 256."""
    scale = IMAGE_SIZE / max(height, width)
    return int(height * scale + 0.5), int(width * scale + 0.5)


def prepare(scene: Scene) -> Sample:
    """Resize as transformers' image processor does, and find what can be asked for."""
    height, width = input_size(*scene.id_map.shape)
    resized = Image.fromarray(scene.pixels).resize((width, height), Image.Resampling.BILINEAR)
    small = Image.fromarray(scene.id_map.astype(np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    ids = np.zeros((IMAGE_SIZE, IMAGE_SIZE), np.uint8)
    ids[:height, :width] = np.asarray(small)
    parts = np.zeros_like(ids)
    areas = np.bincount(ids.ravel(), minlength=len(scene.category_ids) + 1)
    targets = []
    for value, category_id in enumerate(scene.category_ids, 1):
        if areas[value] >= _LEAST:
            isthing = category_id in _THINGS
            targets.append(Target(value, isthing, False))
            if not isthing:
                targets += _number_parts(ids == value, parts)
    pixels = np.asarray(resized)
    return Sample(pixels, ids, parts, scene.category_ids, tuple(targets))


def _number_parts(mask: NDArray[np.bool_], parts: NDArray[np.uint8]) -> list[Target]:
    """Write the larger connected parts of one stuff segment into `parts`, if there are several."""
    labelled, count = ndimage.label(mask, np.ones((3, 3), int))
    if count < 2:
        return []
    areas = np.bincount(labelled.ravel())[1:]
    found = []
    for label in np.flatnonzero(areas >= max(64, 0.1 * areas.sum())) + 1:
        value = int(parts.max()) + 1
        parts[labelled == label] = value
        found.append(Target(value, False, True))
    return found


def zoom(scene: Scene, rng: np.random.Generator) -> Scene:
    """A part of the scene, 0.4 to 0.9 of its height and width: large things are rare otherwise."""
    height, width = scene.id_map.shape
    share = float(rng.uniform(0.4, 0.9))
    rows, columns = max(64, int(height * share)), max(64, int(width * share))
    top = int(rng.integers(0, max(1, height - rows + 1)))
    left = int(rng.integers(0, max(1, width - columns + 1)))
    part = slice(top, top + rows), slice(left, left + columns)
    return Scene(np.ascontiguousarray(scene.pixels[part]), scene.id_map[part], scene.category_ids)


class ScenePool:
    """Scenes of one split, drawn when first asked for; the last `capacity` are kept.

    `zoomed` of them are parts of scenes (see `zoom`), always the same ones.
    """

    def __init__(self, split: str, seed: int, capacity: int = 4096, zoomed: float = 0.0) -> None:
        self._key = split, seed
        self._capacity = capacity
        self._zoomed = zoomed
        self._kept: OrderedDict[int, Sample] = OrderedDict()

    def __getitem__(self, index: int) -> Sample:
        if index not in self._kept:
            split, seed = self._key
            scene = draw_scene(split, seed, index)
            rng = np.random.default_rng((seed, index))
            if rng.random() < self._zoomed:
                scene = zoom(scene, rng)
            self._kept[index] = prepare(scene)
            if len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
        return self._kept[index]


def flip(sample: Sample) -> Sample:
    """The sample mirrored left to right; the padding stays on the right."""
    height, width = sample.size
    ids, parts = np.zeros_like(sample.ids), np.zeros_like(sample.parts)
    ids[:height, :width] = sample.ids[:height, :width][:, ::-1]
    parts[:height, :width] = sample.parts[:height, :width][:, ::-1]
    pixels = np.ascontiguousarray(sample.pixels[:, ::-1])
    return Sample(pixels, ids, parts, sample.category_ids, sample.targets)


def pixel_values(samples: Sequence[Sample], gains: NDArray[np.float32] | None = None) -> Tensor:
    """float32 (B, 3, 256, 256): normalised, then padded with zeros, as the image processor does.

    Args:
        gains: float32 (B, 3), factors of the three channels, or None.
    """
    batch = np.zeros((len(samples), IMAGE_SIZE, IMAGE_SIZE, 3), np.float32)
    for index, sample in enumerate(samples):
        height, width = sample.size
        pixels = sample.pixels.astype(np.float32) / 255
        if gains is not None:
            pixels = np.minimum(pixels * gains[index], 1.0)
        batch[index, :height, :width] = (pixels - _MEAN) / _STD
    return torch.from_numpy(batch.transpose(0, 3, 1, 2).copy())


def id_cells(maps: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(256, 256) -> (16384, 4): the four pixels of each cell, in cell order."""
    split = maps.reshape(GRID, 2, 2, 2, GRID, 2, 2, 2)
    return split.transpose(0, 4, 1, 5, 2, 6, 3, 7).reshape(-1, 4)
