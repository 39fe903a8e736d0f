"""What the segmenter is trained on: losses on masks, and on the image embedding alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import SamModel

from prelabel.demo.segmenter_network import GRID, IMAGE_SIZE, MASK_SIZE
from prelabel.demo.training.segmenter_forward import map_to_cells

__all__ = ["Cells", "DenseHead", "MaskTargets", "mask_errors", "mask_ious", "prompt_losses"]


_HONESTY = 3.0
"""Weight of the error of the predicted IoU, small beside those of the masks."""


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """The truth of a batch of images, in cell order (see segmenter_forward).

    Attributes:
        ids: uint8 (B, 16384), the segment that owns the cell, 0 for padding.
        classes: int64 (B, 16384), category id, 0 for padding.
        boxes: float32 (B, 16384, 4) xyxy of the owning segment, pixels of the network's input.
        isthing: bool (B, 16384).
        edges: float32 (B, 16384) in [0, 1], how much of the cell lies at a border of segments.
        valid: float32 (B, 16384) in [0, 1], how much of the cell is not padding.
    """

    ids: Tensor
    classes: Tensor
    boxes: Tensor
    isthing: Tensor
    edges: Tensor
    valid: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class MaskTargets:
    """What the prompts ask for, in cell order.

    Attributes:
        truth: float32 (B, P, 16384) in [0, 1], the covered part of each cell.
        weight: float32 (B, P, 16384), of each cell in the cross-entropy; sums to 1 to 1.5.
        valid: float32 (B, 1, 16384).
    """

    truth: Tensor
    weight: Tensor
    valid: Tensor


def cell_centres() -> tuple[Tensor, Tensor]:
    """x and y float32 (16384,) of the cells, in cell order, pixels of the network's input."""
    steps = (torch.arange(MASK_SIZE, dtype=torch.float32) + 0.5) * (IMAGE_SIZE / MASK_SIZE)
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    return map_to_cells(x), map_to_cells(y)


def weigh_cells(truth: Tensor, boxes: Tensor, cells: Cells) -> MaskTargets:
    """Weights by place: all cells around the object count 1 together, all others one half.

    Without it an object of a hundred cells drowns among sixteen thousand; borders count threefold.

    Args:
        truth: float32 (B, P, 16384).
        boxes: float32 (B, P, 4) xyxy of the targets, pixels of the network's input.
    """
    x, y = cell_centres()
    x0, y0, x1, y1 = boxes.unsqueeze(-1).unbind(2)
    margin = 6 + 0.15 * torch.maximum(x1 - x0, y1 - y0)
    near = (x > x0 - margin) & (x < x1 + margin) & (y > y0 - margin) & (y < y1 + margin)
    valid = cells.valid.unsqueeze(1)
    importance = valid * (1 + 2 * cells.edges.unsqueeze(1))
    inner = near * importance
    outer = ~near * importance
    weight = inner / inner.sum(-1, keepdim=True).clamp(min=1)
    weight = weight + 0.5 * outer / outer.sum(-1, keepdim=True).clamp(min=500)
    return MaskTargets(truth, weight, valid)


def mask_errors(logits: Tensor, targets: MaskTargets) -> Tensor:
    """Weighted cross-entropy plus dice, float32 (B, P, M), of logits (B, P, M, 16384)."""
    values = logits.float()
    weighted = (targets.weight * targets.truth).unsqueeze(-1)
    entropy = F.softplus(values) @ targets.weight.unsqueeze(-1) - values @ weighted
    probs = values.sigmoid()
    valid = targets.valid.expand_as(targets.truth).unsqueeze(-1)
    truth = targets.truth.unsqueeze(-1)
    overlap = probs @ truth
    areas = probs @ valid + truth.sum(-2, keepdim=True)
    dice = 1 - (2 * overlap + 1) / (areas + 1)
    return (entropy + dice).squeeze(-1)


@torch.no_grad()
def mask_ious(logits: Tensor, targets: MaskTargets) -> Tensor:
    """IoU float32 (B, P, M) of the masks at threshold 0, cells taken as owned or not."""
    hard = (logits > 0).float()
    truth = (targets.truth > 0.5).float().unsqueeze(-1)
    valid = targets.valid.expand_as(targets.truth).unsqueeze(-1)
    overlap = hard @ truth
    union = hard @ valid + truth.sum(-2, keepdim=True) - overlap
    return (overlap / union.clamp(min=1)).squeeze(-1)


def prompt_losses(logits: Tensor, ious: Tensor, targets: MaskTargets) -> dict[str, Tensor]:
    """Losses of all four masks of each prompt (SAM, section 3 and appendix A).

    The single mask always learns; of the three candidates the best learns, and the others a little,
    so that none dies. The predicted IoU of every mask is held to its true one.
    """
    errors = mask_errors(logits, targets)
    candidates = errors[..., 1:]
    honest = (ious - mask_ious(logits, targets)).square().mean()
    return {
        "single": errors[..., 0].mean(),
        "multi": candidates.min(-1).values.mean() + 0.1 * candidates.mean(),
        "iou": _HONESTY * honest,
    }


class DenseHead(nn.Module):
    """Throw-away heads on the image embedding: every position is supervised, no prompt needed.

    One linear layer gives, for each of the 4 x 4 cells of a patch, the category, whether it lies at
    a border, and the distances to the sides of its owner's box: what a box prompt has to match.
    A second head turns the embedding at one patch into the kernel of a mask over the upscaled
    embedding (Tian et al. 2020, CondInst), which trains the mask decoder's upscaling as well.
    """

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.classes = classes
        self.cells = nn.Linear(channels, 16 * (classes + 5))
        self.corners = nn.Linear(channels, 2 * channels)
        self.kernel = nn.Sequential(
            nn.Linear(channels, 2 * channels),
            nn.GELU(),
            nn.Linear(2 * channels, channels // 8 + 1),
        )
        nn.init.xavier_uniform_(self.cells.weight)
        nn.init.xavier_uniform_(self.corners.weight)

    def losses(self, embedding: Tensor, cells: Cells) -> dict[str, Tensor]:
        """Losses of an embedding (B, 1024, C)."""
        out = self.cells(embedding).float().reshape(len(embedding), MASK_SIZE**2, -1)
        logits, edge, sides = out.split((self.classes, 1, 4), -1)
        named = F.cross_entropy(logits.flatten(0, 1), cells.classes.flatten(), ignore_index=0)
        border = F.binary_cross_entropy_with_logits(edge.squeeze(-1), cells.edges)
        return {"class": named, "edge": border, "box": _box_loss(sides, cells)}

    def corner_loss(self, embedding: Tensor, cells: Cells, sam: SamModel) -> Tensor:
        """Square error of the owner's two corners, in the coding in which prompts give corners.

        A patch that says "my object's corners" in the prompts' own positional coding is found by
        a box prompt with one dot product. Only patches that a thing owns at least half of count.
        """
        owned = cells.isthing.view(len(embedding), -1, 16)
        owner = owned.float().argmax(-1, keepdim=True)
        boxes = cells.boxes.view(len(embedding), -1, 16, 4)
        boxes = boxes.gather(2, owner.unsqueeze(-1).expand(-1, -1, -1, 4)).squeeze(2)
        chosen = owned.float().mean(-1) >= 0.5
        found: Tensor = self.corners(embedding).float()[chosen].view(-1, 2, embedding.shape[-1])
        if not len(found):
            return found.sum()
        places = (boxes[chosen].view(-1, 2, 2) + 0.5) / IMAGE_SIZE
        truth: Tensor = sam.shared_image_embedding(places)
        return (found - truth).square().mean()

    def instance_logits(self, embedding: Tensor, upscaled: Tensor, seeds: Tensor) -> Tensor:
        """Logits (B, S, 1, 16384) of the masks that grow from patches `seeds` int64 (B, S)."""
        at = seeds.unsqueeze(-1).expand(-1, -1, embedding.shape[-1])
        kernels: Tensor = self.kernel(embedding.gather(1, at))
        weight, bias = kernels[..., :-1], kernels[..., -1:]
        return (weight @ upscaled.transpose(1, 2) + bias).unsqueeze(2)


def _box_loss(sides: Tensor, cells: Cells) -> Tensor:
    """-log IoU of boxes given by their distances from the cell (Yu et al. 2016, UnitBox)."""
    chosen = cells.isthing
    if not chosen.any():
        return sides.sum() * 0
    x, y = cell_centres()
    place = torch.stack((x, y), -1).expand(*chosen.shape, 2)[chosen]
    boxes = cells.boxes[chosen]
    truth = torch.cat((place - boxes[:, :2], boxes[:, 2:] - place), -1).clamp(min=0.5)
    found = (sides[chosen].clamp(-5, 3)).exp() * 16
    inside = torch.minimum(found, truth)
    overlap = (inside[:, 0] + inside[:, 2]) * (inside[:, 1] + inside[:, 3])
    area = (found[:, 0] + found[:, 2]) * (found[:, 1] + found[:, 3])
    area_true = (truth[:, 0] + truth[:, 2]) * (truth[:, 1] + truth[:, 3])
    iou = overlap / (area + area_true - overlap)
    return -iou.log().mean()


def pure_patches(ids: Tensor, value: int) -> Tensor:
    """float32 (1024,): the part of each patch that segment `value` owns; ids uint8 (16384,)."""
    return (ids.view(GRID * GRID, 16) == value).float().mean(1)
