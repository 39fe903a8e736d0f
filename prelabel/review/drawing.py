"""The strokes that pictures of labels share: small id maps, edges, names on segments."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

__all__ = ["draw_tag", "edges", "fit_size", "middle", "resize_ids"]

_INK = (24, 24, 28)


def fit_size(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """(height, width) scaled so that its longer side is `longest` pixels."""
    scale = longest / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def resize_ids(id_map: NDArray[np.int32], size: tuple[int, int]) -> NDArray[np.int32]:
    """The id map at another (height, width), each pixel the nearest one's id."""
    rows = (np.arange(size[0]) + 0.5) * id_map.shape[0] / size[0]
    columns = (np.arange(size[1]) + 0.5) * id_map.shape[1] / size[1]
    return id_map[np.ix_(rows.astype(np.intp), columns.astype(np.intp))]


def edges(ids: NDArray[np.integer]) -> NDArray[np.bool_]:
    """The pixels of (H, W) that differ from the one above or left of them."""
    found = np.zeros(ids.shape, dtype=np.bool_)
    found[1:] |= ids[1:] != ids[:-1]
    found[:, 1:] |= ids[:, 1:] != ids[:, :-1]
    return found


def middle(inside: NDArray[np.bool_]) -> tuple[int, int]:
    """The pixel (x, y) deepest inside a region, where a tag does least harm."""
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(x), int(y)


def draw_tag(panel: Image.Image, centre: tuple[int, int], text: str) -> None:
    """White text with a dark rim around (x, y), pushed inwards where it would leave the panel."""
    pen, font = ImageDraw.Draw(panel), ImageFont.load_default(13)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    width, height = right - left, bottom - top
    x = min(max(centre[0] - width / 2, 2), panel.width - width - 2)
    y = min(max(centre[1] - height / 2, 2), panel.height - height - 2)
    pen.text(
        (x - left, y - top), text, font=font, fill=(255, 255, 255), stroke_width=2, stroke_fill=_INK
    )
