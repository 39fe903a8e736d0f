"""Points for the segmenter: few, spread, seeded, well inside what they stand for."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["generator_for", "inner_points", "near_points"]

_POOL = 512
"""Points are chosen among at most so many random pixels; bounds the work on large regions."""


def generator_for(image_id: str) -> np.random.Generator:
    """A generator that depends on the image alone: not on order, batch or worker."""
    digest = hashlib.sha256(image_id.encode("utf-8", "surrogateescape")).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(digest[:16], "big")))


def inner_points(
    region: NDArray[np.bool_], count: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """At most `count` pixels of a region, the first the deepest inside, the others spread out.

    Args:
        region: bool (h, w). The image's own border counts as inside.
        count: at least 1.
        rng: decides ties and which pixels are considered.

    Returns:
        int64 (n, 2), xy pixels, all within the region; n = 0 for an empty region.
    """
    if not region.any():
        return np.empty((0, 2), dtype=np.int64)
    depth = ndimage.distance_transform_edt(np.pad(region, 1, mode="edge"))[1:-1, 1:-1]
    if np.isinf(depth).any() or region.all():
        depth = np.ones(region.shape)
    deep = region & (depth >= min(2.0, float(depth[region].max())))
    pool = _draw(deep, rng)
    depths = depth[pool[:, 1], pool[:, 0]]
    return _spread(pool, depths, count)


def near_points(
    candidates: NDArray[np.bool_],
    region: NDArray[np.bool_],
    count: int,
    rng: np.random.Generator,
) -> NDArray[np.int64]:
    """At most `count` pixels of `candidates`, spread out, the first the nearest to `region`.

    Args:
        candidates: bool (h, w), what the points may stand on.
        region: bool (h, w), what they should be near to; not empty.
        count: at least 0.
        rng: decides which pixels are considered.

    Returns:
        int64 (n, 2), xy pixels.
    """
    if not count or not candidates.any():
        return np.empty((0, 2), dtype=np.int64)
    pool = _draw(candidates, rng)
    distance = ndimage.distance_transform_edt(~region)[pool[:, 1], pool[:, 0]]
    return _spread(pool, -distance, count)


def _draw(region: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.int64]:
    flat = np.flatnonzero(region)
    if len(flat) > _POOL:
        flat = rng.choice(flat, _POOL, replace=False)
    y, x = np.divmod(flat, region.shape[1])
    return np.stack([x, y], axis=1).astype(np.int64)


def _spread(pool: NDArray[np.int64], worth: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Farthest-point choice from `pool`, starting at the one of most worth."""
    chosen = [int(worth.argmax())]
    distance = np.full(len(pool), np.inf)
    while len(chosen) < min(count, len(pool)):
        step = pool - pool[chosen[-1]]
        distance = np.minimum(distance, (step**2).sum(axis=1))
        if distance.max() == 0:
            break
        chosen.append(int(distance.argmax()))
    return pool[chosen]
