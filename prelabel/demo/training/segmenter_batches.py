"""Batches for the training of the segmenter: images, their truth per cell, and prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from prelabel.demo.training.segmenter_losses import Cells, MaskTargets, pure_patches, weigh_cells
from prelabel.demo.training.segmenter_prompts import (
    END,
    NOTHING,
    Prompt,
    box_of,
    draw_box_prompt,
    draw_point_prompt,
    jitter_box,
    point_counts,
)
from prelabel.demo.training.segmenter_scenes import (
    Sample,
    ScenePool,
    Target,
    flip,
    id_cells,
    pixel_values,
)

__all__ = [
    "Batch",
    "choose_targets",
    "draw_batch",
    "draw_prompts",
    "draw_seeds",
    "mask_targets",
    "prompt_tensors",
]


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Images and their truth.

    Attributes:
        pixel_values: float32 (B, 3, 256, 256).
        cells: the truth in cell order.
        quarters: uint8 (B, 2, 16384, 4), `ids` and `parts` at the four pixels of each cell.
    """

    samples: list[Sample]
    pixel_values: Tensor
    cells: Cells
    quarters: Tensor


def draw_batch(pool: ScenePool, indices: Sequence[int], rng: np.random.Generator) -> Batch:
    """The scenes with these indices, half of them mirrored, in varied light."""
    samples = [pool[index] for index in indices]
    samples = [flip(sample) if rng.random() < 0.5 else sample for sample in samples]
    count = len(samples)
    gains = rng.uniform(0.85, 1.15, (count, 1)) * rng.uniform(0.94, 1.06, (count, 3))
    cells, quarters = _cells(samples)
    return Batch(samples, pixel_values(samples, gains.astype(np.float32)), cells, quarters)


def draw_seeds(
    batch: Batch, count: int, rng: np.random.Generator
) -> tuple[Tensor, list[list[Target]]]:
    """Patches int64 (B, count) that one segment owns nearly alone, and that segment."""
    seeds = np.zeros((len(batch.samples), count), np.int64)
    chosen: list[list[Target]] = []
    for index, sample in enumerate(batch.samples):
        targets = [target for target in sample.targets if not target.ispart]
        chosen.append([targets[i] for i in rng.integers(0, len(targets), count)])
        for slot, target in enumerate(chosen[-1]):
            purity = pure_patches(batch.cells.ids[index], target.value).numpy()
            good = np.flatnonzero(purity > min(0.6, purity.max() - 1e-3))
            seeds[index, slot] = rng.choice(good)
    return torch.from_numpy(seeds), chosen


def _cells(samples: Sequence[Sample]) -> tuple[Cells, Tensor]:
    quarters = np.stack([[id_cells(s.ids), id_cells(s.parts)] for s in samples])
    classes, boxes, things, edges = [], [], [], []
    for sample, (ids, _) in zip(samples, quarters, strict=True):
        named = np.array((0, *sample.category_ids), np.int64)
        isthing, corners = np.zeros(256, bool), np.zeros((256, 4), np.float32)
        for target in sample.targets:
            if target.isthing:
                isthing[target.value] = True
                corners[target.value] = box_of(sample.mask(target))
        owner = ids[:, 0]
        classes.append(named[owner])
        boxes.append(corners[owner])
        things.append(isthing[owner])
        edges.append(id_cells(_edges(sample.ids)).mean(1))
    tensors = torch.from_numpy(quarters)
    cells = Cells(
        ids=tensors[:, 0, :, 0].contiguous(),
        classes=torch.from_numpy(np.stack(classes)),
        boxes=torch.from_numpy(np.stack(boxes)),
        isthing=torch.from_numpy(np.stack(things)),
        edges=torch.from_numpy(np.stack(edges).astype(np.float32)),
        valid=(tensors[:, 0] > 0).float().mean(-1),
    )
    return cells, tensors


def _edges(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """uint8 (256, 256): 1 where a neighbour to the side or below belongs to another segment."""
    edges = np.zeros_like(ids)
    across, down = ids[:, 1:] != ids[:, :-1], ids[1:] != ids[:-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    edges[1:] |= down
    edges[:-1] |= down
    edges[ids == 0] = 0
    return edges


def mask_targets(batch: Batch, asked: list[list[Target]]) -> MaskTargets:
    """The truth of what is asked for, `asked[image][prompt]`."""
    values = torch.tensor([[t.value for t in row] for row in asked], dtype=torch.uint8)
    layer = torch.tensor([[int(t.ispart) for t in row] for row in asked])
    quarters = torch.stack([q[which] for q, which in zip(batch.quarters, layer, strict=True)])
    truth = (quarters == values[..., None, None]).float().mean(-1)
    boxes = np.stack(
        [[box_of(s.mask(t)) for t in row] for s, row in zip(batch.samples, asked, strict=True)]
    )
    return weigh_cells(truth, torch.from_numpy(boxes), batch.cells)


def choose_targets(
    sample: Sample, boxes: int, points: int, rng: np.random.Generator
) -> list[Target]:
    """Things mostly for boxes, stuff mostly for points; all things before any one twice."""
    things = [t for t in sample.targets if t.isthing] or list(sample.targets)
    stuff = [t for t in sample.targets if not t.isthing and not t.ispart] or things
    parts = [t for t in sample.targets if t.ispart] or stuff
    rest = max(1, boxes // 6)
    order = rng.permutation(len(things))
    chosen = [things[order[i % len(order)]] for i in range(boxes - rest)]
    chosen += [stuff[i] for i in rng.integers(0, len(stuff), rest)]
    for _ in range(points):
        draw = rng.random()
        kind = things if draw < 0.35 else stuff if draw < 0.8 else parts
        chosen.append(kind[int(rng.integers(0, len(kind)))])
    return chosen


def draw_prompts(
    batch: Batch, asked: list[list[Target]], kind: str, rng: np.random.Generator
) -> list[list[Prompt]]:
    """One prompt, "box" or "point", for each target; some points come with a loose box."""
    rows = []
    for sample, targets in zip(batch.samples, asked, strict=True):
        row = []
        for target in targets:
            mask = sample.mask(target)
            if kind == "box":
                row.append(draw_box_prompt(mask, sample.size, rng))
                continue
            loose = jitter_box(box_of(mask), sample.size, rng) if rng.random() < 0.15 else None
            row.append(draw_point_prompt(mask, sample.size, point_counts(rng), rng, box=loose))
        rows.append(row)
    return rows


def prompt_tensors(prompts: list[list[Prompt]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points, labels, boxes and whether the box counts, padded to the longest prompt."""
    longest = 1 + max(len(p.labels) for row in prompts for p in row)
    shape = len(prompts), len(prompts[0])
    points = np.zeros((*shape, longest, 2), np.float32)
    labels = np.full((*shape, longest), NOTHING, np.int64)
    boxes = np.zeros((*shape, 4), np.float32)
    boxed = np.zeros(shape, bool)
    for i, row in enumerate(prompts):
        for j, prompt in enumerate(row):
            count = len(prompt.labels)
            points[i, j, :count] = prompt.points
            labels[i, j, :count] = prompt.labels
            if prompt.box is None:
                labels[i, j, count] = END
            else:
                boxes[i, j], boxed[i, j] = prompt.box, True
    arrays = points, labels, boxes, boxed
    first, second, third, fourth = (torch.from_numpy(array) for array in arrays)
    return first, second, third, fourth
