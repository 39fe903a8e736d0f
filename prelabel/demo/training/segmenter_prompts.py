"""Prompts for the segmenter, sampled from a truth as the pipeline would give them: pure numpy.

Coordinates are pixels of the network's input, x before y, pixel (0, 0) covering [0, 1) x [0, 1);
`SamModel` itself moves points to the pixel's centre. Boxes are xyxy, half-open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = [
    "END",
    "INSIDE",
    "NOTHING",
    "OUTSIDE",
    "Prompt",
    "box_of",
    "draw_box_prompt",
    "draw_point_prompt",
    "draw_rough_logits",
    "jitter_box",
    "point_counts",
    "sample_inside",
    "sample_outside",
]

INSIDE, OUTSIDE = 1, 0
END = -1
"""Label of the point that `SamModel` appends to every prompt without a box."""
NOTHING = -10
"""Label of padding."""

BoolMap = NDArray[np.bool_]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """One prompt.

    Attributes:
        points: float32 (N, 2) x, y, pixels of the network's input.
        labels: int64 (N,), INSIDE or OUTSIDE.
        box: float32 (4,) xyxy, pixels of the network's input, or None.
    """

    points: Floats
    labels: NDArray[np.int64]
    box: Floats | None


def box_of(mask: BoolMap) -> Floats:
    """The half-open box float32 (4,) of a bool (H, W) map with at least one pixel."""
    columns = np.flatnonzero(mask.any(0))
    rows = np.flatnonzero(mask.any(1))
    corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
    return np.array(corners, dtype=np.float32)


def jitter_box(
    box: Floats, size: tuple[int, int], rng: np.random.Generator, amount: float = 0.1
) -> Floats:
    """Move each side by up to `amount` of the box's own width or height, inside the image.

    Args:
        box: float32 (4,) xyxy, pixels.
        size: (height, width) of the image, pixels.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    moves = rng.uniform(-amount, amount, 4) * (width, height, width, height)
    x0, y0, x1, y1 = (box + moves).tolist()
    rows, columns = float(size[0]), float(size[1])
    x0, y0 = min(max(x0, 0.0), columns - 1), min(max(y0, 0.0), rows - 1)
    x1, y1 = max(min(x1, columns), x0 + 1), max(min(y1, rows), y0 + 1)
    return np.array((x0, y0, x1, y1), dtype=np.float32)


def sample_inside(mask: BoolMap, count: int, rng: np.random.Generator) -> Floats:
    """`count` points float32 (count, 2) on pixels of bool (H, W) `mask`, with repetition."""
    pixels = np.flatnonzero(mask)
    chosen = rng.choice(pixels, count)
    return np.stack((chosen % mask.shape[1], chosen // mask.shape[1]), 1).astype(np.float32)


def sample_outside(
    mask: BoolMap, size: tuple[int, int], count: int, rng: np.random.Generator
) -> Floats:
    """`count` points off the object, half of them near it; fewer (even none) if it fills the image.

    Args:
        mask: bool (H, W) of the padded input.
        size: (height, width) of the image in it, pixels.

    Returns:
        float32 (N, 2), N at most `count`.
    """
    free = np.zeros_like(mask)
    free[: size[0], : size[1]] = ~mask[: size[0], : size[1]]
    x0, y0, x1, y1 = box_of(mask).astype(int).tolist()
    margin = 8 + max(x1 - x0, y1 - y0) // 4
    near = np.zeros_like(mask)
    near[max(y0 - margin, 0) : y1 + margin, max(x0 - margin, 0) : x1 + margin] = True
    near &= free
    half = count // 2 if near.any() else 0
    parts = []
    if half:
        parts.append(sample_inside(near, half, rng))
    if free.any() and count > half:
        parts.append(sample_inside(free, count - half, rng))
    return np.concatenate(parts) if parts else np.zeros((0, 2), np.float32)


def point_counts(rng: np.random.Generator) -> tuple[int, int]:
    """How many points inside and outside: often one, often the pipeline's eight and four."""
    draw = rng.random()
    if draw < 0.2:
        return 1, 0
    if draw < 0.5:
        return 8, 4
    return int(rng.integers(1, 11)), int(rng.integers(0, 6))


def draw_point_prompt(
    mask: BoolMap,
    size: tuple[int, int],
    counts: tuple[int, int],
    rng: np.random.Generator,
    *,
    box: Floats | None = None,
) -> Prompt:
    """Points inside and outside of bool (H, W) `mask`, beside a box if one is given."""
    inside = sample_inside(mask, counts[0], rng)
    outside = sample_outside(mask, size, counts[1], rng)
    labels = np.repeat(np.array([INSIDE, OUTSIDE], np.int64), (len(inside), len(outside)))
    return Prompt(np.concatenate((inside, outside)), labels, box)


def draw_box_prompt(mask: BoolMap, size: tuple[int, int], rng: np.random.Generator) -> Prompt:
    """A box: exact one time in four, else as loose as a detector's; sometimes with points."""
    box = box_of(mask)
    if rng.random() > 0.25:
        box = jitter_box(box, size, rng)
    if rng.random() > 0.2:
        return Prompt(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), box)
    counts = int(rng.integers(1, 4)), int(rng.integers(0, 3))
    return draw_point_prompt(mask, size, counts, rng, box=box)


def draw_rough_logits(mask: BoolMap, rng: np.random.Generator) -> Floats:
    """A rough map of the object, as a text-to-mask network would give it.

    The truth is shifted, grown or shrunk, blurred, and its contrast changed.

    Args:
        mask: bool (h, w) at the resolution of the mask prompt.

    Returns:
        float32 (h, w) logits.
    """
    moved = np.roll(mask, tuple(rng.integers(-3, 4, 2).tolist()), (0, 1)).astype(np.float32)
    soft = ndimage.gaussian_filter(moved, float(rng.uniform(0.5, 5.0)), mode="nearest")
    # A threshold other than one half grows or shrinks what was blurred.
    shift = float(rng.uniform(-0.25, 0.25))
    floor = float(rng.uniform(0.005, 0.1))
    probs = np.clip(soft + shift * 4 * soft * (1 - soft), floor, 1 - floor)
    logits: Floats = (np.log(probs / (1 - probs)) * rng.uniform(0.7, 2.0)).astype(np.float32)
    return logits
