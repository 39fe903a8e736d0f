"""What is wrong with a detection: focal loss per token, L1 and generalised IoU per box.

transformers' own loss trains no proposals (it detaches the boxes and scores the learned queries),
and looks targets up wrongly where images of a batch have different prompts; so these are our own.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from prelabel.demo.training.detector_forward import Jittered, Predictions
from prelabel.demo.training.prompts import TokenBatch

__all__ = ["Truth", "assign_positions", "detection_losses", "generalised_iou", "match"]

_LEVEL_EDGES = (0.12, 0.32, 0.6)
"""Square root of a box's share of the image at which the next coarser level takes over.

Finer than where proposals of that size start: on coarse levels a thing has a single position.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Truth:
    """The true boxes of a batch that its prompts ask for.

    Attributes:
        boxes: per image, float32 (N, 4) cxcywh fractions.
        tokens: per image, float32 (N, T), one at each token of every phrase of the box's category.
    """

    boxes: list[Tensor]
    tokens: list[Tensor]

    @classmethod
    def of(cls, boxes: list[Tensor], category_ids: list[Tensor], batch: TokenBatch) -> Truth:
        """Keep what the prompts ask for; the rest must stay silent."""
        kept_boxes, kept_tokens = [], []
        for part, ids, owners in zip(boxes, category_ids, batch.owners, strict=True):
            tokens = (owners[None, :] == ids[:, None]).float()
            asked = tokens.sum(1) > 0
            kept_boxes.append(part[asked])
            kept_tokens.append(tokens[asked])
        return cls(kept_boxes, kept_tokens)

    @property
    def count(self) -> int:
        return sum(len(part) for part in self.boxes)


def detection_losses(
    said: Predictions, truth: Truth, jittered: Jittered | None, mask: Tensor
) -> dict[str, Tensor]:
    """Loss parts to be summed; `mask` is bool (B, T), False for padding."""
    layers = len(said.logits)
    parts: dict[str, Tensor] = {}
    for layer in range(layers):
        logits, boxes = said.logits[layer], said.boxes[layer]
        pairs = [
            match(logits[at], boxes[at], truth.boxes[at], truth.tokens[at])
            for at in range(len(truth.boxes))
        ]
        _add(parts, "own", _score(logits, boxes, pairs, truth, mask), 1 / layers)
        if jittered is not None:
            known = [_known(row) for row in jittered.truth]
            ignored = jittered.truth == -2
            part = _score(
                said.jittered_logits[layer], said.jittered_boxes[layer], known, truth, mask, ignored
            )
            _add(parts, "near", part, 1 / layers)
    places = [assign_positions(boxes, said.shapes) for boxes in truth.boxes]
    dense = _score(said.dense_logits, said.dense_boxes, places, truth, mask)
    _add(parts, "dense", dense, 1.0)
    return parts


def _add(parts: dict[str, Tensor], name: str, values: tuple[Tensor, Tensor], weight: float) -> None:
    for suffix, value in zip(("class", "box"), values, strict=True):
        key = f"{name}_{suffix}"
        parts[key] = parts.get(key, value.new_zeros(())) + weight * value


def _known(row: Tensor) -> tuple[Tensor, Tensor]:
    queries = torch.nonzero(row >= 0).flatten()
    return queries, row[queries]


def _score(
    logits: Tensor,
    boxes: Tensor,
    pairs: list[tuple[Tensor, Tensor]],
    truth: Truth,
    mask: Tensor,
    ignored: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Class and box loss of (B, Q, T) logits and (B, Q, 4) boxes with (query, true box) pairs."""
    targets = torch.zeros_like(logits)
    said, wanted = [], []
    for at, (queries, true) in enumerate(pairs):
        targets[at, queries] = truth.tokens[at][true]
        said.append(boxes[at, queries])
        wanted.append(truth.boxes[at][true])
    weight = mask[:, None, :].expand_as(logits)
    if ignored is not None:
        weight = weight & ~ignored[:, :, None]
    class_loss = _focal(logits, targets, weight) / targets.sum().clamp(min=1)
    near, far = torch.cat(said), torch.cat(wanted)
    if not len(near):
        return class_loss, boxes[:, :0].sum()
    distance = (near - far).abs().sum(-1).mean()
    overlap = (1 - generalised_iou(near, far)).mean()
    return class_loss, 5 * distance + 2 * overlap


def _focal(logits: Tensor, targets: Tensor, weight: Tensor) -> Tensor:
    """Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017: alpha 0.25, gamma 2."""
    # Far below zero, with target zero, costs nothing; it is much faster than leaving elements out.
    logits = logits.masked_fill(~weight, -50.0)
    cross = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    miss = (logits.sigmoid() - targets).abs()
    alpha = 0.25 * targets + 0.75 * (1 - targets)
    return 4 * (alpha * miss.square() * cross).sum()


@torch.no_grad()
def match(logits: Tensor, boxes: Tensor, true: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The cheapest one-to-one pairs of queries (Q, …) and true boxes (N, 4) of one image."""
    if not len(true):
        none = torch.empty(0, dtype=torch.int64)
        return none, none
    positive = tokens / tokens.sum(1, keepdim=True)
    probs = logits.masked_fill(torch.isinf(logits), -50.0).sigmoid().clamp(1e-6, 1 - 1e-6)
    gain = 0.25 * (1 - probs).square() * -probs.log() - 0.75 * probs.square() * -(1 - probs).log()
    distance = torch.cdist(boxes, true, p=1)
    overlap = generalised_iou(boxes[:, None], true[None])
    cost = 2 * gain @ positive.T + 5 * distance - 2 * overlap
    queries, chosen = linear_sum_assignment(np.nan_to_num(cost.numpy(), nan=1e4, posinf=1e4))
    return torch.from_numpy(queries), torch.from_numpy(chosen)


def assign_positions(boxes: Tensor, shapes: tuple[tuple[int, int], ...]) -> tuple[Tensor, Tensor]:
    """Pairs (position, true box) for the proposals: positions near a box's centre on its level.

    Several positions answer for one box, since a single one would rarely be seen; where boxes
    compete the smaller wins (Tian et al., "FCOS", ICCV 2019, sections 3.1 and 3.2).
    """
    positions, chosen, start = [], [], 0
    sizes = (boxes[:, 2] * boxes[:, 3]).sqrt()
    levels = torch.bucketize(sizes, torch.tensor(_LEVEL_EDGES))
    levels = levels.clamp(max=len(shapes) - 1)
    for level, (height, width) in enumerate(shapes):
        here = torch.nonzero(levels == level).flatten()
        if len(here):
            rows = (torch.arange(height) + 0.5) / height
            columns = (torch.arange(width) + 0.5) / width
            part = boxes[here]
            # At least the cell that holds the centre, at most the middle half of the box.
            reach_x = (0.25 * part[:, 2]).clamp(min=0.5 / width)
            reach_y = (0.25 * part[:, 3]).clamp(min=0.5 / height)
            in_x = (columns[None] - part[:, :1]).abs() <= reach_x[:, None]
            in_y = (rows[None] - part[:, 1:2]).abs() <= reach_y[:, None]
            inside = (in_y[:, :, None] & in_x[:, None, :]).flatten(1)
            area = torch.where(inside, (part[:, 2] * part[:, 3])[:, None], torch.inf)
            smallest, winner = area.min(dim=0)
            places = torch.nonzero(torch.isfinite(smallest)).flatten()
            positions.append(places + start)
            chosen.append(here[winner[places]])
        start += height * width
    if not positions:
        none = torch.empty(0, dtype=torch.int64)
        return none, none
    return torch.cat(positions), torch.cat(chosen)


def generalised_iou(one: Tensor, other: Tensor) -> Tensor:
    """Rezatofighi et al., CVPR 2019, of cxcywh boxes (..., 4) that broadcast."""
    low_a, high_a = one[..., :2] - one[..., 2:] / 2, one[..., :2] + one[..., 2:] / 2
    low_b, high_b = other[..., :2] - other[..., 2:] / 2, other[..., :2] + other[..., 2:] / 2
    common = (torch.minimum(high_a, high_b) - torch.maximum(low_a, low_b)).clamp(min=0).prod(-1)
    union = one[..., 2:].prod(-1) + other[..., 2:].prod(-1) - common
    hull = (torch.maximum(high_a, high_b) - torch.minimum(low_a, low_b)).prod(-1)
    return common / union.clamp(min=1e-9) - (hull - union) / hull.clamp(min=1e-9)
