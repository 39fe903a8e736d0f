"""Deformable attention, some queries at a time.

Grounding DINO's encoder looks from each of some 18,000 cells at 16 places per head (Zhu et al.,
"Deformable DETR", ICLR 2021, section 4.1). transformers samples for all cells at once, 300 MB per
layer, several times over; a few hundred cells at a time are the same numbers, to the last bit,
and stay in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["sample_in_parts"]

_QUERIES = 512


def sample_in_parts(network: nn.Module) -> None:
    """Let each `MultiScaleDeformableAttention` in a network of transformers answer in parts."""
    for module in network.modules():
        if type(module).__name__ == "MultiScaleDeformableAttention":
            module.forward = partial(_sample, module.forward)


def _sample(
    forward: Any,
    value: Tensor,
    shapes: Tensor,
    shape_list: Sequence[tuple[int, int]],
    starts: Tensor,
    places: Tensor,
    weights: Tensor,
    *rest: Any,
) -> Tensor:
    """`forward` for some queries at a time.

    Args:
        forward: transformers' own.
        value: float32 (B, cells of all levels, heads, D).
        shapes, shape_list, starts: of the levels, as transformers passes them.
        places: float32 (B, Q, heads, levels, points, 2) in [0, 1], where each query looks.
        weights: float32 (B, Q, heads, levels, points).

    Returns:
        float32 (B, Q, heads · D).
    """
    import torch

    parts = [
        forward(value, shapes, shape_list, starts, some, weight, *rest)
        for some, weight in zip(
            torch.split(places, _QUERIES, dim=1), torch.split(weights, _QUERIES, dim=1), strict=True
        )
    ]
    return torch.cat(parts, dim=1)
