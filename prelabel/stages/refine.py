"""Rough maps of stuff become regions with edges, by points handed to the segmenter.

Per connected component of each rough map: a few spread points inside, negatives on rivals and
things, the candidate chosen by predicted IoU × agreement with the component, bounded by its
surroundings. Where the segmenter disagrees altogether, a large rough component is kept as it is;
a small one is taken for a mistake of the rough map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.boxes import box_of
from prelabel.data import Instances, Mask, Ontology, StuffRegions, StuffScores
from prelabel.masks import dilate, resize_probs, resize_window
from prelabel.models.roles import PADDING, Embedding, MaskLogits, PromptableSegmenter, Prompts
from prelabel.options import RefineOptions
from prelabel.stages.sample import inner_points, near_points

__all__ = ["Component", "Workspace", "refine_stuff", "rough_components"]

_LONGEST = 384
"""Longest side, in pixels, of the grid on which regions are compared."""
_LOGIT_CAP = 6.0
"""Mask prompts are logits cut at ± this, about the range the segmenter itself puts out."""


@dataclass(frozen=True, slots=True, eq=False)
class Workspace:
    """The rough maps on a common working grid.

    Attributes:
        size: (height, width) of the original image, pixels.
        probs: float32 (C, h, w) in [0, 1], over the whole image.
        things: bool (h, w), pixels that some thing claims.
    """

    size: tuple[int, int]
    probs: NDArray[np.float32]
    things: NDArray[np.bool_]

    @property
    def grid(self) -> tuple[int, int]:
        """(height, width) of the working grid, cells."""
        return self.probs.shape[1], self.probs.shape[2]

    @classmethod
    def build(cls, size: tuple[int, int], scores: StuffScores, instances: Instances) -> Workspace:
        """Bring rough maps and things to the working grid."""
        scale = min(1.0, _LONGEST / max(size))
        grid = max(1, round(size[0] * scale)), max(1, round(size[1] * scale))
        things = np.zeros(size, dtype=np.bool_)
        for mask in instances.masks:
            things[mask.window] |= mask.bitmap
        rows = np.minimum(((np.arange(grid[0]) + 0.5) / scale).astype(np.intp), size[0] - 1)
        columns = np.minimum(((np.arange(grid[1]) + 0.5) / scale).astype(np.intp), size[1] - 1)
        return cls(size, resize_probs(scores.probs, grid), things[np.ix_(rows, columns)])


@dataclass(frozen=True, slots=True, eq=False)
class Component:
    """One connected component of a rough map.

    Attributes:
        index: which of the rough maps.
        region: bool (h, w) on the working grid.
    """

    index: int
    region: NDArray[np.bool_]


def refine_stuff(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    scores: StuffScores,
    instances: Instances,
    ontology: Ontology,
    options: RefineOptions,
    rng: np.random.Generator,
) -> StuffRegions:
    """Regions of stuff in pixels of the original image, by connected component."""
    if not len(scores):
        return StuffRegions.empty()
    height, width = (int(edge) for edge in embedding.size)
    work = Workspace.build((height, width), scores, instances)
    components = rough_components(work, _thresholds(scores, ontology, options), options)
    if not components:
        return StuffRegions.empty()
    prompts = _prompts(segmenter, embedding, work, components, options, rng)
    found = segmenter.masks(embedding, prompts, multimask=True)
    choices = [
        _choose(segmenter, embedding, work, component, found, index, options)
        for index, component in enumerate(components)
    ]
    kept = [row for row, choice in enumerate(choices) if choice is not None]
    if not kept:
        return StuffRegions.empty()
    return _regions(
        work,
        scores.category_ids,
        [components[row] for row in kept],
        [choice for choice in choices if choice is not None],
    )


def _thresholds(
    scores: StuffScores, ontology: Ontology, options: RefineOptions
) -> NDArray[np.float32]:
    """float32 (C,): each category's own threshold, else the stage's."""
    own = [ontology.by_id[int(category_id)].mask_threshold for category_id in scores.category_ids]
    return np.array(
        [options.threshold if value is None else value for value in own], dtype=np.float32
    )


def rough_components(
    work: Workspace, thresholds: NDArray[np.float32], options: RefineOptions
) -> list[Component]:
    """The connected components (8 neighbours) of each category's rough map, largest first.

    A pixel belongs to the category of highest probability, if that reaches its threshold and no
    thing is there. A category whose every component is too small keeps its largest, so that thin
    classes survive.
    """
    winner = work.probs.argmax(axis=0)
    sure = (work.probs >= thresholds[:, None, None]) & ~work.things
    least = options.min_component * winner.size
    components = []
    for index in range(len(work.probs)):
        labels, count = ndimage.label((winner == index) & sure[index], structure=np.ones((3, 3)))
        if not count:
            continue
        areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
        order = np.argsort(-areas, kind="stable")[: options.max_components]
        kept = [label for label in order if areas[label] >= least]
        if not kept and areas[order[0]] >= least * options.rescue:
            kept = [order[0]]
        components += [Component(index, labels == label + 1) for label in kept]
    return components


def _prompts(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    work: Workspace,
    components: list[Component],
    options: RefineOptions,
    rng: np.random.Generator,
) -> Prompts:
    """Points of all components, padded to the same number; on request their maps as logits."""
    winner, best = work.probs.argmax(axis=0), work.probs.max(axis=0)
    total = options.positives + options.negatives
    points = np.zeros((len(components), total, 2), dtype=np.float32)
    labels = np.full((len(components), total), PADDING, dtype=np.int32)
    scale = np.array(work.size[::-1]) / np.array(work.grid[::-1])
    for row, component in enumerate(components):
        rivals = ((winner != component.index) & (best >= options.threshold)) | work.things
        inside = inner_points(component.region, options.positives, rng)
        outside = near_points(_core(rivals), component.region, options.negatives, rng)
        both = np.concatenate([inside, outside])
        points[row, : len(both)] = (both + 0.5) * scale
        labels[row, : len(both)] = [1] * len(inside) + [0] * len(outside)
    masks = _mask_prompts(segmenter, embedding, work, components) if options.mask_prompt else None
    return Prompts(points=points, labels=labels, masks=masks)


def _core(region: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The region less its rim, where rough maps are least to be trusted; all of it if thin."""
    core = ndimage.binary_erosion(region, iterations=3, border_value=1)
    return core if core.any() else region


def _mask_prompts(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    work: Workspace,
    components: list[Component],
) -> NDArray[np.float32]:
    maps = []
    for component in components:
        probs = np.clip(work.probs[component.index], 1e-3, 1 - 1e-3)
        logits = np.clip(np.log(probs / (1 - probs)), -_LOGIT_CAP, _LOGIT_CAP)
        maps.append(np.where(dilate(component.region, 3), logits, -_LOGIT_CAP))
    return segmenter.to_logit_grid(embedding, np.stack(maps).astype(np.float32), fill=-_LOGIT_CAP)


@dataclass(frozen=True, slots=True, eq=False)
class _Choice:
    """What became of a component: its mask over the original image and how well it fits."""

    mask: Mask
    iou: float
    agreement: float
    refined: bool


def _choose(
    segmenter: PromptableSegmenter,
    embedding: Embedding,
    work: Workspace,
    component: Component,
    found: MaskLogits,
    row: int,
    options: RefineOptions,
) -> _Choice | None:
    """The candidate of highest IoU × agreement, within reach; else a large rough component."""
    radius = max(1.0, options.reach * min(work.grid))
    reach = dilate(component.region, radius)
    small = (segmenter.upscale(embedding, found.logits[row], work.grid) > 0) & reach & ~work.things
    agreements = [_iou(candidate, component.region) for candidate in small]
    best = int(np.argmax(found.ious[row] * np.array(agreements)))
    if agreements[best] < options.min_agreement:
        if np.count_nonzero(component.region) < options.min_rough * component.region.size:
            return None
        return _Choice(_enlarge(component.region, work.size), 0.0, 1.0, refined=False)
    full = segmenter.upscale(embedding, found.logits[row, best][None], work.size)[0] > 0
    bound = _enlarge(reach, work.size)
    mask = _crop(full[bound.window] & bound.bitmap, bound.x0, bound.y0)
    return _Choice(mask, float(found.ious[row, best]), float(agreements[best]), refined=True)


def _iou(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    union = int(np.count_nonzero(a | b))
    return int(np.count_nonzero(a & b)) / union if union else 0.0


def _enlarge(cells: NDArray[np.bool_], size: tuple[int, int]) -> Mask:
    """Cells bool (h, w) over the image as its pixels, cut where the interpolation is one half."""
    x0, y0, x1, y1 = box_of(cells)
    high, wide = size[0] / cells.shape[0], size[1] / cells.shape[1]
    # A pixel is between the centres of two cells, so that one cell around them is enough.
    window = (
        slice(max(math.floor((y0 - 1) * high), 0), min(math.ceil((y1 + 1) * high), size[0])),
        slice(max(math.floor((x0 - 1) * wide), 0), min(math.ceil((x1 + 1) * wide), size[1])),
    )
    inside = resize_window(cells.astype(np.float32), size, window) > 0.5
    return _crop(inside, window[1].start, window[0].start)


def _crop(inside: NDArray[np.bool_], x0: int, y0: int) -> Mask:
    """The mask of a window bool (h, w) that begins at a pixel of the image."""
    tight = Mask.from_full(inside)
    return Mask(tight.x0 + x0, tight.y0 + y0, tight.bitmap) if tight.bitmap.size else tight


def _regions(
    work: Workspace,
    category_ids: NDArray[np.int32],
    components: Iterable[Component],
    choices: list[_Choice],
) -> StuffRegions:
    """Put the choices into arrays, with each region's mean probability and its rival's."""
    owners = [component.index for component in components]
    means = np.stack([_inside(work.probs, component.region) for component in components])
    own = means[np.arange(len(owners)), owners]
    means[np.arange(len(owners)), owners] = -1.0
    rival = means.argmax(axis=1)
    rival_probs = np.maximum(means[np.arange(len(owners)), rival], 0.0)
    return StuffRegions(
        category_ids=category_ids[owners],
        masks=tuple(choice.mask for choice in choices),
        ious=np.array([choice.iou for choice in choices], dtype=np.float32),
        agreements=np.array([choice.agreement for choice in choices], dtype=np.float32),
        probs=own.astype(np.float32),
        rivals=np.where(rival_probs > 0, category_ids[rival], 0).astype(np.int32),
        rival_probs=rival_probs.astype(np.float32),
        refined=np.array([choice.refined for choice in choices], dtype=np.bool_),
    )


def _inside(probs: NDArray[np.float32], region: NDArray[np.bool_]) -> NDArray[np.float32]:
    """float32 (C,): each map's mean over the region."""
    return np.asarray(probs[:, region].mean(axis=1), dtype=np.float32)
