"""Scenes as the networks see them: drawn once, resized as the exported processors do, kept.

Training draws from the split "train" alone, and looks at "val" to see how it goes; "heldout" is for
the figures that are published.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers.image_transforms import get_size_with_aspect_ratio

from prelabel.demo.networks import IMAGE_MEAN, IMAGE_STD
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.scenes import Scene, draw_scene
from prelabel.demo.tokenizers import COMMON_WORDS

__all__ = [
    "DISTRACTORS",
    "BoxedScene",
    "MappedScene",
    "ScenePool",
    "aspect_size",
    "box_scene",
    "flip_boxed",
    "map_scene",
    "scene_boxes",
    "to_batch",
    "world_words",
]

_T = TypeVar("_T")

_ABSENT = """
    cat horse cow sheep goat pig bird duck swan owl chicken fish whale shark dolphin bear wolf fox
    deer rabbit mouse lion tiger elephant giraffe zebra monkey snake frog turtle bee butterfly
    train tram bicycle motorcycle airplane helicopter rocket kite tent bridge fountain statue
    flag rope ladder barrel bottle cup plate bowl knife fork spoon book phone clock vase mirror
    window door chair sofa desk bed lamp pillow blanket carpet curtain television computer keyboard
    guitar piano drum violin hat shoe shirt coat dress glove crown apple banana orange pizza cake
    bread cheese pen pencil scissors hammer nail wheel surfboard skateboard racket helmet snow ice
    suitcase backpack handbag oven sink toilet bathtub
"""


def world_words() -> tuple[str, ...]:
    """Every prompt of the drawn world, for the vocabularies."""
    return tuple(prompt for category in ONTOLOGY for prompt in category.prompts)


def _distractors() -> tuple[str, ...]:
    used = {word for prompt in world_words() for word in prompt.split()}
    return tuple(word for word in _ABSENT.split() if word not in used and word in COMMON_WORDS)


DISTRACTORS = _distractors()
"""Things that the world does not hold: asked for in training, and never there."""


@dataclass(frozen=True, slots=True, eq=False)
class MappedScene:
    """One scene for the stuff scorer.

    Attributes:
        pixels: uint8 (edge, edge, 3) RGB at the network's input size.
        categories: uint8 (edge, edge), the category id of each pixel, 0 for void.
    """

    pixels: NDArray[np.uint8]
    categories: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class BoxedScene:
    """One scene for the detector.

    Attributes:
        pixels: uint8 (h, w, 3) RGB at the network's input size.
        boxes: float32 (N, 4), centre, width and height as fractions of the image.
        category_ids: int64 (N,), things only.
    """

    pixels: NDArray[np.uint8]
    boxes: NDArray[np.float32]
    category_ids: NDArray[np.int64]


class ScenePool(Generic[_T]):
    """Scenes of one split by index, each drawn and prepared when first asked for."""

    def __init__(self, split: str, seed: int, count: int, prepare: Callable[[Scene], _T]) -> None:
        self._split, self._seed, self._prepare = split, seed, prepare
        self._kept: dict[int, _T] = {}
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> _T:
        if not 0 <= index < self._count:
            raise IndexError(index)
        if index not in self._kept:
            self._kept[index] = self._prepare(draw_scene(self._split, self._seed, index))
        return self._kept[index]


def map_scene(scene: Scene, edge: int) -> MappedScene:
    """Resize to a square; the categories by their nearest pixel."""
    lookup = np.array([0, *scene.category_ids], dtype=np.uint8)
    categories = Image.fromarray(lookup[scene.id_map])
    pixels = Image.fromarray(scene.pixels).resize((edge, edge), Image.Resampling.BILINEAR)
    nearest = categories.resize((edge, edge), Image.Resampling.NEAREST)
    return MappedScene(np.asarray(pixels), np.asarray(nearest))


def aspect_size(size: tuple[int, int], edges: tuple[int, int]) -> tuple[int, int]:
    """(height, width) that Grounding DINO's processor gives an image of `size`."""
    height, width = get_size_with_aspect_ratio(size, *edges)
    return int(height), int(width)


def scene_boxes(scene: Scene) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Visible things: boxes float32 (N, 4) xyxy pixels, category ids and areas int64 (N,)."""
    boxes, ids, areas = [], [], []
    for segment_id, category_id in enumerate(scene.category_ids, start=1):
        if not ONTOLOGY.by_id[category_id].isthing:
            continue
        rows, columns = np.nonzero(scene.id_map == segment_id)
        if not len(rows):
            continue
        boxes.append((columns.min(), rows.min(), columns.max() + 1, rows.max() + 1))
        ids.append(category_id)
        areas.append(len(rows))
    return (
        np.array(boxes, dtype=np.float32).reshape(-1, 4),
        np.array(ids, dtype=np.int64),
        np.array(areas, dtype=np.int64),
    )


def box_scene(scene: Scene, size: tuple[int, int]) -> BoxedScene:
    """Resize to `size` (height, width) and take the boxes of the things."""
    height, width = scene.id_map.shape
    boxes, ids, _ = scene_boxes(scene)
    scaled = boxes / np.array([width, height, width, height], dtype=np.float32)
    low, high = scaled[:, :2], scaled[:, 2:]
    cxcywh = np.concatenate([(low + high) / 2, high - low], axis=1)
    pixels = Image.fromarray(scene.pixels).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return BoxedScene(np.asarray(pixels), cxcywh, ids)


def flip_boxed(scene: BoxedScene) -> BoxedScene:
    """The scene mirrored left to right."""
    boxes = scene.boxes.copy()
    boxes[:, 0] = 1 - boxes[:, 0]
    return BoxedScene(scene.pixels[:, ::-1], boxes, scene.category_ids)


def to_batch(images: Sequence[NDArray[np.uint8]]) -> Tensor:
    """Normalised float32 (B, 3, h, w) from uint8 (h, w, 3) RGB of one size."""
    stacked = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(IMAGE_MEAN).view(3, 1, 1)
    std = torch.tensor(IMAGE_STD).view(3, 1, 1)
    return (stacked - mean) / std
