"""The tiny demo segmenter: transformers' own `SamModel`, narrow, and initialised so that it learns.

Facts about `SamModel` that shape what stands here: masks come at 4 times the grid of the image
embedding; a mask is a dot product of `hidden_size / 8` channels, so a narrow decoder cannot tell
instances apart; stock initialisation (standard deviation 0.02) starves narrow networks; two
attributes hold the positional matrix and must stay one parameter.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

__all__ = [
    "CHANNELS",
    "GRID",
    "IMAGE_SIZE",
    "MASK_SIZE",
    "PATCH",
    "build_segmenter",
    "whiten_patches",
]

IMAGE_SIZE = 256
"""Side of the padded square that the network sees, pixels."""
PATCH = 8
GRID = IMAGE_SIZE // PATCH
MASK_SIZE = 4 * GRID
"""Side of the low-resolution logits."""

_WIDTH, _LAYERS, _HEADS, _MLP = 192, 6, 4, 640
_WINDOW = 8
_GLOBAL_LAYERS = (2, 5)
CHANNELS = 128
"""Channels of the image embedding and of the mask decoder."""


def build_segmenter(seed: int = 0) -> SamModel:
    """A `SamModel` of 3.4 million parameters with weights drawn from `seed`."""
    network = SamModel(_config())
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            _initialise(module, generator)
        _initialise_positions(network, generator)
        layers: Any = network.vision_encoder.layers
        for layer in layers:
            _look_nearby(layer.attn, layer.window_size or GRID, local=layer.window_size > 0)
    return network


def _config() -> SamConfig:
    vision = SamVisionConfig(
        hidden_size=_WIDTH,
        output_channels=CHANNELS,
        num_hidden_layers=_LAYERS,
        num_attention_heads=_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH,
        window_size=_WINDOW,
        global_attn_indexes=list(_GLOBAL_LAYERS),
        mlp_dim=_MLP,
        num_pos_feats=CHANNELS // 2,
    )
    prompt = SamPromptEncoderConfig(
        hidden_size=CHANNELS, image_size=IMAGE_SIZE, patch_size=PATCH, mask_input_channels=16
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=CHANNELS,
        mlp_dim=2 * CHANNELS,
        num_hidden_layers=2,
        num_attention_heads=4,
        iou_head_hidden_dim=CHANNELS,
        layer_norm_eps=1e-5,
    )
    return SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )


def _initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Xavier for matrices and convolutions, N(0, 1/2) for learned tokens, plain norms."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight, generator=generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.ConvTranspose2d):
        # Stride equals kernel: every output pixel sees each input channel once.
        _uniform(module.weight, module.weight.shape[0], generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.Conv2d):
        _uniform(module.weight, math.prod(module.weight.shape[1:]), generator)
        if module.bias is not None:
            module.bias.zero_()
    elif isinstance(module, nn.Embedding):
        module.weight.normal_(0.0, 0.7, generator=generator)
    elif isinstance(module, nn.LayerNorm):
        module.weight.fill_(1.0)
        module.bias.zero_()


def _uniform(weight: Tensor, fan_in: int, generator: torch.Generator) -> None:
    bound = math.sqrt(3.0 / fan_in)
    weight.uniform_(-bound, bound, generator=generator)


def _initialise_positions(network: SamModel, generator: torch.Generator) -> None:
    """One frozen positional matrix with deviation 1, and sines of it as absolute positions."""
    matrix = network.shared_image_embedding.positional_embedding
    matrix.normal_(0.0, 1.0, generator=generator)
    matrix.requires_grad_(False)
    network.prompt_encoder.shared_embedding.positional_embedding = matrix
    network.prompt_encoder.no_mask_embed.weight.zero_()
    whole: Any = network
    sines = whole.get_image_wide_positional_embeddings().permute(0, 2, 3, 1)
    positions = whole.vision_encoder.pos_embed
    positions.zero_()
    positions[..., : sines.shape[-1]] = 0.5 * sines


def _look_nearby(attention: Any, side: int, *, local: bool) -> None:
    """Start the heads as soft convolutions: each looks at a blob beside its own position.

    A query that is constant in one dimension turns `rel_pos` into a plain bias, and a parabola in
    the distance is a Gaussian after the softmax. Windowed layers look 1.5 patches up, down, left
    and right; global layers look around in two widths.
    """
    heads = attention.num_attention_heads
    width = attention.qkv.in_features
    depth = width // heads
    distance = torch.arange(-(side - 1), side, dtype=torch.float32)  # query minus key
    near, sharp = (1.5, 0.25) if local else (0.0, 0.02)
    offsets = [(near, 0.0), (-near, 0.0), (0.0, near), (0.0, -near)]
    attention.rel_pos_h.zero_()
    attention.rel_pos_w.zero_()
    for head in range(heads):
        # rel_pos is shared by the heads, so each head keeps its own pair of dimensions for it.
        row, column = 2 * head, 2 * head + 1
        down, right = offsets[head % 4]
        scale = sharp if local else sharp * (1.0 if head % 2 else 0.1)
        attention.rel_pos_h[:, row] = -scale * (distance - down) ** 2
        attention.rel_pos_w[:, column] = -scale * (distance - right) ** 2
        for dimension in (row, column):
            attention.qkv.bias[head * depth + dimension] = 1.0
    for head in range(heads):
        kept = slice(head * depth, head * depth + 2 * heads)
        attention.qkv.weight[kept] *= 0.1


def whiten_patches(network: SamModel, pixel_values: Tensor) -> None:
    """Set the patch embedding to the whitened principal components of real patches.

    Raw patches are nearly one colour each: without this the first thousand steps go into learning
    that edges matter.

    Args:
        pixel_values: float32 (N, 3, 256, 256), normalised, some dozens of images.
    """
    projection: Any = network.vision_encoder.patch_embed.projection
    patches = nn.functional.unfold(pixel_values, PATCH, stride=PATCH).transpose(1, 2)
    flat = patches.reshape(-1, patches.shape[-1])
    flat = flat[flat.abs().sum(1) > 0]  # padding says nothing
    mean = flat.mean(0)
    covariance = (flat - mean).T @ (flat - mean) / len(flat)
    values, vectors = torch.linalg.eigh(covariance)
    matrix = (vectors / (values.clamp(min=0) + 0.02).sqrt()).T.flip(0)
    with torch.no_grad():
        projection.weight.copy_(matrix[: projection.out_channels].view_as(projection.weight))
        projection.bias.copy_(-(matrix @ mean)[: projection.out_channels])
