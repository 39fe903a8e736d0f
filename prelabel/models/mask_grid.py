"""Between an image and the square that a promptable segmenter sees.

The image lies in the upper left of that square and is padded (SAM), or is stretched to fill it
(SAM 2); `input_size` of the embedding tells which. Prompts go in, masks and attention come out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Mask
from prelabel.models.roles import Embedding, Prompts

if TYPE_CHECKING:
    import torch

__all__ = [
    "attention_rows",
    "cells_under",
    "inside_image",
    "maps_to_square",
    "prompt_arrays",
    "resized",
]


def prompt_arrays(embedding: Embedding, prompts: Prompts) -> dict[str, NDArray[np.generic]]:
    """Prompts under transformers' names, in the network's pixels.

    Returns:
        `input_boxes` float32 (1, n, 4), or `input_points` float32 (1, n, P, 2) with
        `input_labels` int64 (1, n, P), or all three. Where prompts have masks, `input_masks`
        float32 (n, 1, m, m), and the others are (n, 1, …): transformers takes one mask per
        element of the batch, not one per prompt.
    """
    scale = embedding.input_size[::-1] / embedding.size[::-1]
    arrays: dict[str, NDArray[np.generic]] = {}
    if prompts.boxes is not None:
        boxes = prompts.boxes.reshape(-1, 2, 2) * scale
        arrays["input_boxes"] = boxes.reshape(-1, 4).astype(np.float32)
    if prompts.points is not None and prompts.labels is not None:
        arrays["input_points"] = (prompts.points * scale).astype(np.float32)
        arrays["input_labels"] = prompts.labels.astype(np.int64)
    if prompts.masks is None:
        return {name: array[None] for name, array in arrays.items()}
    arrays["input_masks"] = prompts.masks
    return {name: array[:, None] for name, array in arrays.items()}


def resized(
    maps: NDArray[np.float32], size: tuple[int, int], *, antialias: bool = False
) -> NDArray[np.float32]:
    """Maps float32 (M, h, w) as (M, height, width), bilinear, edge on edge.

    Without antialiasing, as SAM's code resizes its logits, even where they become smaller.
    """
    import torch
    from torch.nn.functional import interpolate

    with torch.inference_mode():
        columns = torch.from_numpy(maps)[:, None]
        return interpolate(columns, size, mode="bilinear", antialias=antialias)[:, 0].numpy()


def maps_to_square(
    maps: NDArray[np.float32], inside: tuple[int, int], side: int, fill: float
) -> NDArray[np.float32]:
    """Maps float32 (M, h, w) over the image as (M, side, side), outside the image `fill`.

    Args:
        maps: over the whole image, of any size.
        inside: (height, width) of the image within the square, cells.
        side: of the square, cells.
        fill: what the padding holds.
    """
    height, width = inside
    square = np.full((len(maps), side, side), fill, dtype=np.float32)
    square[:, :height, :width] = resized(maps, inside, antialias=True)
    return square


def cells_under(embedding: Embedding, mask: Mask, grid: int, side: int) -> NDArray[np.intp]:
    """Flat indices of the cells that the mask's pixels fall into, in order.

    Args:
        embedding: says where in the square the image lies.
        mask: in pixels of the original image.
        grid: cells per side of the square.
        side: of the square in the network's pixels.
    """
    y, x = np.nonzero(mask.bitmap)
    scale = embedding.input_size / embedding.size * (grid / side)
    rows = np.minimum(((y + mask.y0 + 0.5) * scale[0]).astype(np.intp), grid - 1)
    columns = np.minimum(((x + mask.x0 + 0.5) * scale[1]).astype(np.intp), grid - 1)
    return np.unique(rows * grid + columns)


def inside_image(
    cells: NDArray[np.float32], embedding: Embedding, side: int
) -> NDArray[np.float32]:
    """The part of a map float32 (g, g) over the square that lies over the image."""
    grid = len(cells)
    height, width = (-(-int(edge) * grid // side) for edge in embedding.input_size)
    return cells[:height, :width]


def attention_rows(attention: Any, hidden: torch.Tensor, rows: NDArray[np.intp]) -> torch.Tensor:
    """softmax(q kᵀ / √d + relative position) for some queries: (heads, len(rows), g · g).

    Relative positions, where the layer has them, are decomposed by axis, as in Li et al.,
    "MViTv2", CVPR 2022, section 4.1.

    Args:
        attention: the attention layer of SAM or of Hiera, as transformers implements them.
        hidden: float32 (g, g, D), the layer's input.
        rows: flat indices of the cells that ask.
    """
    import torch

    grid, heads = hidden.shape[0], attention.num_attention_heads
    flat = hidden.reshape(grid * grid, -1)
    weight, bias = attention.qkv.weight, attention.qkv.bias
    width = len(weight) // 3
    biases = [None] * 3 if bias is None else bias.split(width)
    index = torch.from_numpy(rows).to(hidden.device)
    linear = torch.nn.functional.linear
    query = linear(flat[index], weight[:width], biases[0]).reshape(len(rows), heads, -1)
    key = linear(flat, weight[width : 2 * width], biases[1]).reshape(grid * grid, heads, -1)
    logits = torch.einsum("qhc,khc->hqk", query * attention.scale, key)
    if getattr(attention, "use_rel_pos", False):
        vertical = attention.get_rel_pos(grid, grid, attention.rel_pos_h)[index // grid]
        horizontal = attention.get_rel_pos(grid, grid, attention.rel_pos_w)[index % grid]
        by_row = torch.einsum("qhc,qkc->hqk", query, vertical)
        by_column = torch.einsum("qhc,qkc->hqk", query, horizontal)
        logits = logits + (by_row[..., :, None] + by_column[..., None, :]).flatten(2)
    return logits.softmax(dim=-1)
