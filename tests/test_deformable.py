"""Deformable attention in parts is deformable attention, to the last bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.models.grounding_dino import modeling_grounding_dino
from transformers.models.mm_grounding_dino import modeling_mm_grounding_dino

from prelabel.models.deformable import sample_in_parts

SHAPES = [(9, 7), (5, 4), (3, 2), (1, 1)]


def _question(batch: int, queries: int) -> tuple[Any, ...]:
    """What transformers' layers pass, some of the places outside of the image."""
    torch.manual_seed(queries)
    cells = sum(height * width for height, width in SHAPES)
    value = torch.randn(batch, cells, 2, 6)
    places = torch.rand(batch, queries, 2, len(SHAPES), 3, 2) * 1.4 - 0.2
    weights = torch.rand(batch, queries, 2, len(SHAPES), 3)
    sizes = torch.tensor(SHAPES)
    starts = sizes.prod(dim=1).cumsum(0) - sizes.prod(dim=1)
    return value, sizes, SHAPES, starts, places, weights, 64


@pytest.mark.parametrize("module", [modeling_grounding_dino, modeling_mm_grounding_dino])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("queries", [1, 511, 512, 513, 1700])
def test_every_part_is_as_it_was(module: Any, batch: int, queries: int) -> None:
    layer = module.MultiScaleDeformableAttention()
    question = _question(batch, queries)
    before = layer(*question)
    sample_in_parts(torch.nn.ModuleList([layer]))
    after = layer(*question)
    assert before.shape == (batch, queries, 12)
    assert torch.equal(before, after)
    assert after.is_contiguous()


def test_hooks_see_all_queries_at_once() -> None:
    layer, seen = modeling_grounding_dino.MultiScaleDeformableAttention(), []
    sample_in_parts(torch.nn.ModuleList([layer]))
    layer.register_forward_pre_hook(lambda _module, args: seen.append(args[4].shape))
    layer(*_question(1, 600))
    assert seen == [(1, 600, 2, 4, 3, 2)]
