"""SAM on a CPU: the same answers, with less memory and time.

The encoder's attention is arranged so that it stays in the cache. transformers adds the decomposed
relative positions (Li et al., "MViTv2", CVPR 2022, section 4.1) as one mask over all pairs of
cells, 800 MB per global layer of vit-base, and lets windows that hang over the edge compute
queries, keys and values of their padding. Here the positions are added to a few rows of logits at a
time, and padding, of which every key is the layer's bias, is filled in.

The decoder takes one prompt at a time; what its first layer makes of the image alone is kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from prelabel.models.memory import answer_once

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["arrange_for_cpu", "shared_projections"]

_CELLS = 2**21
"""Logits at a time, 8 MiB: about what a core's share of the last cache level holds."""


def arrange_for_cpu(layers: Iterable[Any]) -> None:
    """Let SAM's vision layers compute what they did, up to rounding, in less memory and time.

    Args:
        layers: transformers' `SamVisionLayer`s with relative positions. Hooks on the attention of
            a global layer are called as before; that of a windowed layer is no longer a module of
            its own.
    """
    for layer in layers:
        if layer.window_size:
            layer.forward = partial(_windowed_layer, layer)
        else:
            layer.attn.forward = partial(_global_attention, layer.attn)


def _global_attention(attention: Any, hidden_states: Tensor) -> tuple[Tensor, None]:
    """Attention over the whole grid; (B, g, g, D) -> the same, and no weights."""
    batch, side, _, width = hidden_states.shape
    attended = _attend(attention, attention.qkv(hidden_states).view(batch, side, side, 3, -1))
    return attention.proj(attended.view(batch, side, side, width)), None


def _windowed_layer(layer: Any, hidden_states: Tensor) -> Tensor:
    """One layer whose attention stays within windows; (B, g, g, D) -> the same."""
    attention, side = layer.attn, layer.window_size
    grid = hidden_states.shape[1]
    projected = attention.qkv(layer.layer_norm1(hidden_states))
    windows = _split(_fill(projected, attention.qkv.bias, -(-grid // side) * side), side)
    attended = _join(_attend(attention, windows), hidden_states.shape[0])[:, :grid, :grid]
    hidden_states = hidden_states + attention.proj(attended)
    mixed: Tensor = layer.mlp(layer.layer_norm2(hidden_states))
    return hidden_states + mixed


def _fill(grid: Tensor, value: Tensor | None, side: int) -> Tensor:
    """(B, g, g, D) enlarged to (B, side, side, D) with `value`, or with zeros, at the far edges."""
    batch, inner, _, width = grid.shape
    if inner == side:
        return grid
    filled = grid.new_zeros(batch, side, side, width)
    if value is not None:
        filled += value
    filled[:, :inner, :inner] = grid
    return filled


def _split(grid: Tensor, side: int) -> Tensor:
    """(B, n·side, n·side, 3·D) -> windows (B·n·n, side, side, 3, D)."""
    batch, edge, _, width = grid.shape
    count = edge // side
    windows = grid.view(batch, count, side, count, side, 3, width // 3).transpose(2, 3)
    return windows.reshape(batch * count * count, side, side, 3, width // 3)


def _join(windows: Tensor, batch: int) -> Tensor:
    """Windows (B·n·n, side, side, D) -> (B, n·side, n·side, D)."""
    number, side, _, width = windows.shape
    count = round((number // batch) ** 0.5)
    grid = windows.view(batch, count, count, side, side, width).transpose(2, 3)
    return grid.reshape(batch, count * side, count * side, width)


def _attend(attention: Any, projected: Tensor) -> Tensor:
    """softmax(q kᵀ / √d + relative positions) v, before the output projection.

    Args:
        attention: transformers' `SamVisionAttention`.
        projected: float32 (B, g, g, 3, D), queries, keys and values of B grids.

    Returns:
        float32 (B, g, g, D).
    """
    import torch

    batch, side, _, _, width = projected.shape
    heads = attention.num_attention_heads
    parts = projected.view(batch, side * side, 3, heads, -1).permute(2, 0, 3, 1, 4)
    query, key, value = parts.reshape(3, batch * heads, side * side, -1).unbind(0)
    key = (key * attention.scale).transpose(1, 2)
    by_row, by_column = _positions(attention, query, side)
    attended = torch.empty_like(query)
    for grids, rows in _pieces(batch * heads, side):
        piece = slice(rows.start * side, rows.stop * side)
        logits = query[grids, piece] @ key[grids]
        pairs = logits.view(*logits.shape[:2], side, side)
        pairs += by_row[grids, piece, :, None]
        pairs += by_column[grids, piece, None, :]
        attended[grids, piece] = logits.softmax(dim=-1) @ value[grids]
    merged = attended.view(batch, heads, side * side, -1).transpose(1, 2)
    return merged.reshape(batch, side, side, width)


def _pieces(grids: int, side: int) -> Iterable[tuple[slice, slice]]:
    """Slices of grids and of their rows with about `_CELLS` logits each, covering all."""
    whole = side**4
    if whole >= _CELLS:
        rows = max(1, _CELLS // side**3)
        for grid in range(grids):
            for row in range(0, side, rows):
                yield slice(grid, grid + 1), slice(row, min(row + rows, side))
        return
    together = _CELLS // whole
    for grid in range(0, grids, together):
        yield slice(grid, min(grid + together, grids)), slice(0, side)


def _positions(attention: Any, query: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """What is added to the logits of a query by the row, and by the column, of the key.

    Args:
        query: float32 (N, g², C).

    Returns:
        float32 (N, g², g) twice.
    """
    grid = query.view(len(query), side, side, -1)
    vertical = attention.get_rel_pos(side, side, attention.rel_pos_h).transpose(1, 2)
    horizontal = attention.get_rel_pos(side, side, attention.rel_pos_w).transpose(1, 2)
    by_row = grid @ vertical
    by_column = (grid.transpose(1, 2) @ horizontal).transpose(1, 2)
    return by_row.flatten(1, 2), by_column.flatten(1, 2)


@contextmanager
def shared_projections(network: Any) -> Iterator[None]:
    """For prompts without masks, one by one, on one image: its projections are computed once.

    Args:
        network: transformers' `SamModel` or `Sam2Model`; for the length of the block it sees one
            image embedding only. The answers are those it gave before, to the last bit.
    """
    first = network.mask_decoder.transformer.layers[0]
    with ExitStack() as stack:
        for projection in (
            first.cross_attn_token_to_image.k_proj,
            first.cross_attn_token_to_image.v_proj,
            first.cross_attn_image_to_token.q_proj,
        ):
            stack.enter_context(answer_once(projection, lambda found: found))
        yield
