"""SAM arranged for a CPU against transformers' own, with weights drawn at random."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import SamVisionConfig
from transformers.models.sam.modeling_sam import SamVisionEncoder

from prelabel.data import Frame, ImageRecord
from prelabel.models import sam, sam_on_cpu
from prelabel.models.roles import Prompts
from prelabel.models.sam import Sam, SamOptions
from prelabel.models.sam_on_cpu import arrange_for_cpu


def _encoder(side: int, window: int, *, bias: bool = True) -> Any:
    """One windowed and one global layer over side x side cells, nothing in them zero."""
    config = SamVisionConfig(
        hidden_size=24,
        output_channels=8,
        num_hidden_layers=2,
        num_attention_heads=2,
        mlp_dim=32,
        image_size=side * 4,
        patch_size=4,
        window_size=window,
        global_attn_indexes=[1],
        qkv_bias=bias,
        attn_implementation="sdpa",
    )
    torch.manual_seed(0)
    encoder = SamVisionEncoder(config).eval().requires_grad_(False)
    for parameter in encoder.parameters():
        parameter.copy_(torch.randn_like(parameter) * 0.3)
    return encoder


def _both(encoder: Any, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the encoder says of images before and after it is arranged."""
    with torch.inference_mode():
        before = encoder(images).last_hidden_state
        arrange_for_cpu(encoder.layers)
        return before, encoder(images).last_hidden_state


@pytest.mark.parametrize("cells", [1, 300, 2**21], ids=["row by row", "some rows", "all"])
@pytest.mark.parametrize("window", [3, 4, 8], ids=["hangs over", "fits", "whole"])
def test_it_says_what_transformers_says(
    window: int, cells: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sam_on_cpu, "_CELLS", cells)
    torch.manual_seed(1)
    before, after = _both(_encoder(8, window), torch.randn(2, 3, 32, 32))
    assert before.std() > 0.1
    assert torch.allclose(before, after, atol=2e-5, rtol=0)


def test_without_a_bias_padding_is_zero() -> None:
    before, after = _both(_encoder(8, 3, bias=False), torch.randn(1, 3, 32, 32))
    assert torch.allclose(before, after, atol=2e-5, rtol=0)


def test_relative_positions_count() -> None:
    encoder = _encoder(8, 3)
    _, with_positions = _both(encoder, torch.ones(1, 3, 32, 32))
    encoder.layers[1].attn.rel_pos_w.zero_()
    with torch.inference_mode():
        without = encoder(torch.ones(1, 3, 32, 32)).last_hidden_state
    assert not torch.allclose(with_positions, without, atol=1e-3)


def test_hooks_on_global_attention_see_its_input() -> None:
    encoder, seen = _encoder(8, 4), []
    arrange_for_cpu(encoder.layers)
    encoder.layers[1].attn.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append((args, kwargs)), with_kwargs=True
    )
    with torch.inference_mode():
        encoder(torch.randn(1, 3, 32, 32))
    ((args, kwargs),) = seen
    assert not args
    assert kwargs["hidden_states"].shape == (1, 8, 8, 24)


def test_an_image_does_not_depend_on_its_neighbours() -> None:
    encoder = _encoder(8, 3)
    arrange_for_cpu(encoder.layers)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        together = encoder(images).last_hidden_state
        alone = torch.cat([encoder(image[None]).last_hidden_state for image in images])
    assert torch.allclose(together, alone, atol=1e-5, rtol=0)


def test_what_prompts_share_is_computed_once_and_changes_no_bit(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    segmenter = Sam(SamOptions(weights=str(checkpoints / "sam")))
    segmenter.load("cpu")
    layers = segmenter._network.mask_decoder.transformer.layers
    asked = []
    for layer in layers[:2]:
        projection = layer.cross_attn_token_to_image.k_proj
        forward = projection.forward
        monkeypatch.setattr(
            projection,
            "forward",
            lambda x, forward=forward, layer=layer: asked.append(layer) or forward(x),
        )
    rng = np.random.default_rng(0)
    boxes = np.array([[0, 0, 30, 20], [10, 5, 60, 40], [2, 3, 9, 44]], dtype=np.float32)
    for _ in range(2):  # another image has projections of its own
        pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
        (embedding,) = segmenter.embed([Frame(ImageRecord("a", ""), pixels)])
        asked.clear()
        found = segmenter.masks(embedding, Prompts(boxes=boxes), multimask=True)
        assert [asked.count(layer) for layer in layers[:2]] == [1, 3]
        with monkeypatch.context() as patch:
            patch.setattr(sam, "shared_projections", lambda _network: nullcontext())
            stock = segmenter.masks(embedding, Prompts(boxes=boxes), multimask=True)
        assert np.array_equal(found.logits, stock.logits)
        assert np.array_equal(found.ious, stock.ious)
