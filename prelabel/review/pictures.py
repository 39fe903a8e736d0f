"""What is wrong with a label, as pictures: the image, its truth, the label, and the mistakes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prelabel.data import Color
from prelabel.review.compare import Comparison, Kind, Mistake
from prelabel.review.drawing import draw_tag, edges, fit_size, middle, resize_ids
from prelabel.review.pairs import Pair

__all__ = ["KIND_COLORS", "draw_image", "draw_mistakes", "draw_segments", "to_data_uri"]

LONGEST = 400
"""Longest side of a picture, pixels."""

KIND_COLORS: Mapping[Kind, Color] = {
    "missed": (213, 60, 60),
    "wrong-class": (150, 80, 200),
    "bad-mask": (230, 140, 20),
    "duplicate": (30, 130, 210),
    "spurious": (20, 150, 120),
}
"""Told apart by people who do not see red or green as others do; the tags' numbers help."""

_VOID = (128, 128, 128)
_PLAIN = (200, 200, 204)


def draw_image(pixels: NDArray[np.uint8]) -> Image.Image:
    """An image uint8 (H, W, 3) RGB, made small."""
    size = fit_size((pixels.shape[0], pixels.shape[1]), LONGEST)
    return Image.fromarray(pixels).resize(size[::-1], Image.Resampling.LANCZOS)


def draw_segments(
    id_map: NDArray[np.int32],
    categories: Mapping[int, int],
    names: Mapping[int, str],
    colors: Mapping[int, Color],
) -> Image.Image:
    """Segments in their categories' colours, outlined, with their names; void is grey.

    Args:
        id_map: int32 (H, W), segment ids.
        categories: the category_id of each segment that is drawn; the others are drawn as void.
        names: by category_id.
        colors: RGB by category_id.
    """
    ids = resize_ids(id_map, fit_size((id_map.shape[0], id_map.shape[1]), LONGEST))
    pixels = np.full((*ids.shape, 3), _VOID, dtype=np.uint8)
    present = [key for key in np.unique(ids).tolist() if key in categories]
    for segment_id in present:
        pixels[ids == segment_id] = colors[categories[segment_id]]
    pixels[edges(ids)] = 255
    panel = Image.fromarray(pixels)
    for segment_id in present:
        inside = ids == segment_id
        if np.count_nonzero(inside) > _least_for_tag(ids):
            draw_tag(panel, middle(inside), names[categories[segment_id]])
    return panel


def _least_for_tag(ids: NDArray[np.int32]) -> float:
    """Smaller segments get no name, which would hide them and their neighbours."""
    return 0.002 * ids.size


def draw_mistakes(
    pair: Pair, image: Comparison, pixels: NDArray[np.uint8] | None = None
) -> Image.Image:
    """Each mistake's wrong pixels in its kind's colour, with its number from 1 on.

    Args:
        pair: the two maps.
        image: what is wrong with them.
        pixels: the image uint8 (H, W, 3) RGB as a grey background, or None where it is not at hand.
    """
    size = fit_size((pair.true_map.shape[0], pair.true_map.shape[1]), LONGEST)
    true_ids, ids = resize_ids(pair.true_map, size), resize_ids(pair.id_map, size)
    canvas = np.full((*size, 3), _PLAIN, dtype=np.float64)
    if pixels is not None:
        grey = draw_image(pixels).resize(size[::-1]).convert("L")
        canvas[:] = 0.6 * np.asarray(grey, dtype=np.float64)[:, :, None] + 100
    canvas[edges(true_ids)] = canvas[edges(true_ids)] * 0.5
    regions = [_wrong_pixels(mistake, true_ids, ids) for mistake in image.mistakes]
    for mistake, region in zip(image.mistakes, regions, strict=True):
        color = np.array(KIND_COLORS[mistake.kind], dtype=np.float64)
        canvas[region] = 0.25 * canvas[region] + 0.75 * color
    panel = Image.fromarray(canvas.clip(0, 255).astype(np.uint8))
    for number, region in enumerate(regions, start=1):
        if region.any():
            draw_tag(panel, middle(region), str(number))
    return panel


def _wrong_pixels(
    mistake: Mistake, true_ids: NDArray[np.int32], ids: NDArray[np.int32]
) -> NDArray[np.bool_]:
    """bool (H, W): what a person would have to repaint."""
    true_mask: NDArray[np.bool_] = true_ids == mistake.true_id
    mask: NDArray[np.bool_] = ids == mistake.segment_id
    if mistake.kind == "missed":
        return true_mask
    return true_mask ^ mask if mistake.kind == "bad-mask" else mask


def to_data_uri(picture: Image.Image) -> str:
    """The picture as a PNG inside a URI, in 128 colours: enough for a look, a quarter the size."""
    stream = io.BytesIO()
    picture.quantize(128).save(stream, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")


def used_colors(kinds: Iterable[Kind]) -> Mapping[Kind, str]:
    """The kinds' colours as CSS."""
    return {kind: "rgb({}, {}, {})".format(*KIND_COLORS[kind]) for kind in kinds}
