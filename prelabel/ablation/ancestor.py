"""The algorithm of segments-ai/panoptic-segment-anything on stored outputs, written straight down.

Its authors' steps: boxes over 0.3, one mask for each, without a choice; rough maps upsampled, the
likeliest class over 0.1 per pixel; pixels of things taken out; each class eroded by a square of 20
pixels, which also eats from the image's border; 1000 points times the class's share of the image,
drawn with replacement in proportion to probability; one question per class with all its points, the
most of the three masks' probabilities; the likeliest class over 0.1 again; things painted over it
in the detector's order. Mended is only what crashed: portrait images. Segments of no pixel, which
its files list, are left out, since a file with them cannot be scored.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.ablation.outputs import Outputs
from prelabel.masks import resize_probs
from prelabel.models.roles import Prompts
from prelabel.stages.sample import generator_for

__all__ = ["label_as_ancestor"]

_BOX_THRESHOLD = 0.3
_BACKGROUND = 0.1
_EROSION = 20
_POINTS = 1000
_FULL_SIDE = 1024
"""Longest side, in pixels, of the photographs that 20 pixels fit: what SAM sees."""


def label_as_ancestor(
    outputs: Outputs, *, scaled: bool
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """The ancestor's label.

    Args:
        outputs: of one image.
        scaled: whether the erosion shrinks with images smaller than `_FULL_SIDE`.

    Returns:
        int32 (H, W) segment ids, 0 is void, and the category_id of each.
    """
    things = _things(outputs)
    taken = np.zeros(outputs.truth.size, dtype=np.bool_)
    for mask, _ in things:
        taken |= mask
    side = _EROSION
    if scaled:
        side = max(1, round(_EROSION * max(outputs.truth.size) / _FULL_SIDE))
    winner = _likeliest(_refine(outputs, taken, side))
    id_map = np.zeros(outputs.truth.size, dtype=np.int32)
    categories: dict[int, int] = {}
    for row, category_id in enumerate(outputs.scores.category_ids, start=1):
        categories[len(categories) + 1] = int(category_id)
        id_map[winner == row] = len(categories)
    for mask, category_id in things:
        categories[len(categories) + 1] = category_id
        id_map[mask] = len(categories)
    seen = {int(value) for value in np.unique(id_map)}
    return id_map, {key: value for key, value in categories.items() if key in seen}


def _things(outputs: Outputs) -> list[tuple[NDArray[np.bool_], int]]:
    """Masks bool (H, W) with their category_id, in the order of the detector's queries."""
    found = outputs.detections[outputs.detections.scores >= _BOX_THRESHOLD]
    found = found[np.argsort(found.query_ids, kind="stable")]
    if not len(found):
        return []
    segmenter, embedding = outputs.segmenter, outputs.embedding
    answer = segmenter.masks(embedding, Prompts(boxes=found.boxes), multimask=False)
    full = segmenter.upscale(embedding, answer.logits[:, 0], outputs.truth.size) > 0
    return [(mask, int(key)) for mask, key in zip(full, found.category_ids, strict=True)]


def _likeliest(probs: NDArray[np.float32]) -> NDArray[np.intp]:
    """(H, W): 1 + the likeliest of (C, H, W), 0 where none is likelier than the background."""
    background = np.full((1, *probs.shape[1:]), _BACKGROUND, dtype=np.float32)
    return np.asarray(np.concatenate([background, probs]).argmax(axis=0))


def _refine(outputs: Outputs, taken: NDArray[np.bool_], side: int) -> NDArray[np.float32]:
    """(C, H, W): probabilities after one question per class."""
    rough = resize_probs(outputs.scores.probs, outputs.truth.size)
    winner = _likeliest(rough)
    winner[taken] = 0
    rng = generator_for(outputs.name)
    refined = np.zeros_like(rough)
    for row in range(len(rough)):
        region = ndimage.binary_erosion(winner == row + 1, structure=np.ones((side, side)))
        points = _draw(region, rough[row], rng)
        if len(points):
            refined[row] = _ask(outputs, points)
    return refined


def _draw(
    region: NDArray[np.bool_], probs: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """(n, 2) xy of `_POINTS` times the region's share of the image."""
    y, x = np.nonzero(region)
    count = int(_POINTS * region.mean())
    if not count:
        return np.empty((0, 2), dtype=np.float32)
    weights = probs[y, x].astype(np.float64)
    chosen = rng.choice(len(y), count, p=weights / weights.sum())
    return np.stack([x[chosen], y[chosen]], axis=1).astype(np.float32)


def _ask(outputs: Outputs, points: NDArray[np.float32]) -> NDArray[np.float32]:
    """(H, W): the most of the three masks' probabilities for all points together."""
    labels = np.ones((1, len(points)), dtype=np.int32)
    prompts = Prompts(points=points[None], labels=labels)
    answer = outputs.segmenter.masks(outputs.embedding, prompts, multimask=True)
    best = (1 / (1 + np.exp(-answer.logits[0]))).max(axis=0)
    full = outputs.segmenter.upscale(outputs.embedding, best[None], outputs.truth.size)
    return np.asarray(full[0])
