"""SamModel's forward pass again, arranged for training on one core.

The arithmetic is that of transformers' modules, whose parameters are used; a test holds the two
equal. What differs is the order of memory: attention runs image by image, so that its maps stay in
the cache; relative positions are folded into the matrix product; what all prompts of an image share
in the decoder's first layer is computed once; and the upscaled embedding is left in *cell order*
instead of being permuted.

Cell order: the 128 x 128 cells of the low-resolution masks as (32, 32, 2, 2, 2, 2): row and column
of the patch, then of the half patch, then of the quarter patch.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn
from transformers import SamModel

from prelabel.demo.segmenter_network import GRID, MASK_SIZE, PATCH
from prelabel.demo.training.segmenter_prompts import NOTHING

__all__ = ["cells_to_map", "decode", "embed_prompts", "encode", "map_to_cells", "upscale"]


def map_to_cells(maps: Tensor) -> Tensor:
    """(..., 128, 128) in reading order -> (..., 16384) in cell order."""
    lead = maps.shape[:-2]
    split = maps.reshape(*lead, GRID, 2, 2, GRID, 2, 2)
    n = len(lead)
    order = (*range(n), n, n + 3, n + 1, n + 4, n + 2, n + 5)
    return split.permute(order).reshape(*lead, MASK_SIZE * MASK_SIZE)


def cells_to_map(cells: Tensor) -> Tensor:
    """(..., 16384) in cell order -> (..., 128, 128) in reading order."""
    lead = cells.shape[:-1]
    split = cells.reshape(*lead, GRID, GRID, 2, 2, 2, 2)
    n = len(lead)
    order = (*range(n), n, n + 2, n + 4, n + 1, n + 3, n + 5)
    return split.permute(order).reshape(*lead, MASK_SIZE, MASK_SIZE)


# --- the vision encoder -------------------------------------------------------------------------


def encode(network: SamModel, pixel_values: Tensor, dtype: torch.dtype) -> Tensor:
    """The image embedding.

    Args:
        pixel_values: float32 (B, 3, 256, 256), normalised and padded.
        dtype: of the activations.

    Returns:
        `dtype` (B, 1024, C): one row per patch, in reading order.
    """
    encoder: Any = network.vision_encoder
    rows = F.unfold(pixel_values, PATCH, stride=PATCH).transpose(1, 2).to(dtype)
    projection = encoder.patch_embed.projection
    hidden = F.linear(rows, projection.weight.flatten(1), projection.bias)
    hidden = hidden + encoder.pos_embed.flatten(1, 2).to(dtype)
    for layer in encoder.layers:
        normed = _norm(layer.layer_norm1, hidden)
        if layer.window_size > 0:
            hidden = hidden + _windowed(layer.attn, normed, layer.window_size)
        else:
            hidden = hidden + _global(layer.attn, normed)
        normed = _norm(layer.layer_norm2, hidden)
        hidden = hidden + layer.mlp.lin2(F.gelu(layer.mlp.lin1(normed)))
    return _neck(encoder.neck, hidden)


def _apply(layer: Any, x: Tensor) -> Tensor:
    """What a module gives: transformers' modules are untyped."""
    out: Tensor = layer(x)
    return out


def _norm(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    return F.layer_norm(x, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def _windowed(attention: Any, x: Tensor, size: int) -> Tensor:
    batch, _, width = x.shape
    count = GRID // size
    x = x.view(batch, count, size, count, size, width).transpose(2, 3)
    x = x.reshape(batch * count * count, size * size, width)
    out = _attend(attention, x, size)
    out = out.view(batch, count, count, size, size, width).transpose(2, 3)
    return _apply(attention.proj, out.reshape(batch, GRID * GRID, width))


def _global(attention: Any, x: Tensor) -> Tensor:
    # One image at a time: the attention map of a whole batch does not fit the cache.
    return _apply(
        attention.proj, torch.cat([_attend(attention, x[i : i + 1], GRID) for i in range(len(x))])
    )


def _attend(attention: Any, x: Tensor, side: int) -> Tensor:
    batch, count, width = x.shape
    heads = attention.num_attention_heads
    qkv = attention.qkv(x).view(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    query, key, value = qkv.reshape(3, batch * heads, count, width // heads).unbind(0)
    weights = _add_positions(attention, query, key, side).softmax(-1)
    out: Tensor = (weights @ value).view(batch, heads, count, width // heads)
    return out.transpose(1, 2).reshape(batch, count, width)


def _add_positions(attention: Any, query: Tensor, key: Tensor, side: int) -> Tensor:
    """Scaled query times key plus the decomposed relative positions, as one product.

    bias[q, k] = rows[q, row of k] + columns[q, column of k] is a product with one-hot rows and
    columns, so both are appended to the query and the key.
    """
    offsets = torch.arange(side)
    index = offsets[:, None] - offsets[None, :] + side - 1
    grid = query.view(len(query), side, side, query.shape[-1])
    by_row = attention.rel_pos_h[index].to(query.dtype)
    by_column = attention.rel_pos_w[index].to(query.dtype)
    rows = torch.einsum("bhwc,hkc->bhwk", grid, by_row).flatten(1, 2)
    columns = torch.einsum("bhwc,wkc->bhwk", grid, by_column).flatten(1, 2)
    if side * side <= 256:
        bias = rows.unsqueeze(-1) + columns.unsqueeze(-2)
        logits: Tensor = (query * attention.scale) @ key.transpose(1, 2) + bias.flatten(2)
        return logits
    eye = torch.eye(side, dtype=key.dtype)
    where = torch.cat([eye.repeat_interleave(side, 0), eye.repeat(side, 1)], 1)
    longer = torch.cat([query * attention.scale, rows, columns], -1)
    keys = torch.cat([key, where.expand(len(key), -1, -1)], -1)
    return longer @ keys.transpose(1, 2)


def _neck(neck: Any, hidden: Tensor) -> Tensor:
    hidden = F.linear(hidden, neck.conv1.weight.flatten(1))
    hidden = _norm(neck.layer_norm1, hidden)
    square = hidden.view(len(hidden), GRID, GRID, -1).permute(0, 3, 1, 2)
    square = neck.conv2(square)
    return _norm(neck.layer_norm2, square.permute(0, 2, 3, 1).flatten(1, 2))


# --- prompts ------------------------------------------------------------------------------------


def embed_prompts(
    network: SamModel,
    points: Tensor,
    labels: Tensor,
    boxes: Tensor,
    boxed: Tensor,
    *,
    padded: bool = False,
) -> tuple[Tensor, Tensor]:
    """Tokens of prompts that may differ in kind.

    Args:
        points: float32 (B, P, N, 2) x, y in pixels of the network's input.
        labels: int64 (B, P, N): 1 inside, 0 outside, -1 the "not a point" that ends a prompt
            without a box, -10 nothing.
        boxes: float32 (B, P, 4) xyxy, pixels of the network's input.
        boxed: bool (B, P): whether the box counts.
        padded: treat padding as transformers does, which attends to it as to a token of zeros;
            else it is as if it were not there.

    Returns:
        float32 (B, P, N + 2, C) and bool (B, P, N + 2): tokens, and which of them exist.
    """
    encoder = network.prompt_encoder
    dots = encoder._embed_points(points, labels, pad=False)
    corners = encoder._embed_boxes(boxes)
    dotted = (labels != NOTHING) | padded
    present = torch.cat([dotted, boxed.unsqueeze(-1).expand(*boxed.shape, 2)], -1)
    return torch.cat([dots, corners], 2), present


# --- the mask decoder ---------------------------------------------------------------------------


def decode(
    network: SamModel,
    embedding: Tensor,
    tokens: Tensor,
    present: Tensor,
    mask_prompts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """All four masks of every prompt.

    Args:
        embedding: (B, 1024, C) as `encode` gives it.
        tokens, present: as `embed_prompts` gives them.
        mask_prompts: float32 (B, P, 128, 128) logits, or None.

    Returns:
        (B, P, 4, 16384) logits in cell order, the single mask first and then the three candidates;
        float32 (B, P, 4) predicted IoU.
    """
    decoder, dtype = network.mask_decoder, embedding.dtype
    batch, prompts = tokens.shape[:2]
    fixed = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
    start = torch.cat([fixed.expand(batch, prompts, -1, -1), tokens], 2).to(dtype).flatten(0, 1)
    absent = F.pad(~present.flatten(0, 1), (len(fixed), 0))
    hidden = torch.zeros(absent.shape, dtype=dtype).masked_fill(absent, -1e4)[:, None, None, :]
    keys = embedding.unsqueeze(1) + _dense(network, mask_prompts, dtype)
    whole: Any = network
    where = whole.get_image_wide_positional_embeddings().flatten(2).transpose(1, 2).to(dtype)
    queries, image = _two_way(decoder.transformer, start, keys.flatten(0, 1), where, hidden)
    masks = _masks(decoder, queries, upscale(decoder, image))
    ious = decoder.iou_prediction_head(queries[:, 0])
    return masks.view(batch, prompts, *masks.shape[1:]), ious.float().view(batch, prompts, -1)


def upscale(decoder: Any, image: Tensor) -> Tensor:
    """(X, 1024, C) -> (X, 16384, C / 8), in cell order."""
    wide = _unfold_pixels(decoder.upscale_conv1, image)
    wide = F.gelu(_norm(decoder.upscale_layer_norm, wide))
    return F.gelu(_unfold_pixels(decoder.upscale_conv2, wide))


def _unfold_pixels(convolution: Any, x: Tensor) -> Tensor:
    """A transposed convolution whose stride is its kernel: one matrix product."""
    weight = convolution.weight.permute(2, 3, 1, 0)
    out = F.linear(x, weight.flatten(0, 2), convolution.bias.repeat(weight[..., 0, 0].numel()))
    return out.view(len(x), -1, weight.shape[2])


def _dense(network: SamModel, mask_prompts: Tensor | None, dtype: torch.dtype) -> Tensor:
    encoder: Any = network.prompt_encoder
    if mask_prompts is None:
        nothing: Tensor = encoder.no_mask_embed.weight.view(1, 1, 1, -1)
        return nothing.to(dtype)
    batch, prompts = mask_prompts.shape[:2]
    dense: Tensor = encoder.mask_embed(mask_prompts.flatten(0, 1).unsqueeze(1).to(dtype))
    return dense.flatten(2).transpose(1, 2).view(batch, prompts, GRID * GRID, -1)


def _two_way(
    transformer: Any, start: Tensor, keys: Tensor, where: Tensor, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """The two-way transformer; `keys` has one row per image, or one per prompt."""
    queries = start
    for number, layer in enumerate(transformer.layers):
        if number == 0:
            queries = _attention(layer.self_attn, queries, queries, queries, hidden)
        else:
            query = queries + start
            queries = queries + _attention(layer.self_attn, query, query, queries, hidden)
        queries = _norm(layer.layer_norm1, queries)
        seen = _to_image(layer.cross_attn_token_to_image, queries + start, keys, where)
        queries = _norm(layer.layer_norm2, queries + seen)
        queries = queries + layer.mlp(queries)
        queries = _norm(layer.layer_norm3, queries)
        told = _from_tokens(
            layer.cross_attn_image_to_token, keys + where, queries + start, queries, hidden
        )
        keys = _norm(layer.layer_norm4, _repeat(keys, len(told)) + told)
    seen = _to_image(transformer.final_attn_token_to_image, queries + start, keys, where)
    return _norm(transformer.layer_norm_final_attn, queries + seen), keys


def _repeat(keys: Tensor, count: int) -> Tensor:
    return keys if len(keys) == count else keys.repeat_interleave(count // len(keys), 0)


def _split(attention: Any, x: Tensor) -> Tensor:
    heads = attention.num_attention_heads
    return x.view(len(x), x.shape[1], heads, x.shape[2] // heads).transpose(1, 2)


def _attention(attention: Any, query: Tensor, key: Tensor, value: Tensor, hidden: Tensor) -> Tensor:
    query = _split(attention, attention.q_proj(query) * attention.scaling)
    key = _split(attention, attention.k_proj(key))
    value = _split(attention, attention.v_proj(value))
    out = (query @ key.transpose(2, 3) + hidden).softmax(-1) @ value
    return _apply(attention.out_proj, out.transpose(1, 2).flatten(2))


def _to_image(attention: Any, query: Tensor, keys: Tensor, where: Tensor) -> Tensor:
    """Tokens (X, T, C) look at images (Y, 1024, C), Y a divisor of X."""
    query = attention.q_proj(query) * attention.scaling
    shape = query.shape
    # Prompts of one image stand side by side: the image's keys are then used as they are.
    query = query.view(len(keys), -1, shape[-1])
    query = _split(attention, query)
    key = _split(attention, attention.k_proj(keys + where))
    value = _split(attention, attention.v_proj(keys))
    out = (query @ key.transpose(2, 3)).softmax(-1) @ value
    return _apply(attention.out_proj, out.transpose(1, 2).reshape(shape))


def _from_tokens(
    attention: Any, image: Tensor, key: Tensor, value: Tensor, hidden: Tensor
) -> Tensor:
    """Images (Y, 1024, C) look at tokens (X, T, C), Y a divisor of X; one output per prompt."""
    query = _split(attention, attention.q_proj(image) * attention.scaling)
    query = _repeat(query, len(key))
    key = _split(attention, attention.k_proj(key))
    value = _split(attention, attention.v_proj(value))
    out = (query @ key.transpose(2, 3) + hidden).softmax(-1) @ value
    return _apply(attention.out_proj, out.transpose(1, 2).flatten(2))


def _masks(decoder: Any, queries: Tensor, upscaled: Tensor) -> Tensor:
    heads = decoder.output_hypernetworks_mlps
    hyper = torch.stack([head(queries[:, 1 + i]) for i, head in enumerate(heads)], 1)
    return hyper @ upscaled.transpose(1, 2)
