"""Which things a scene holds, and where they stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.demo import landmarks, shapes, vehicles
from prelabel.demo.layouts import Layout
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.sketch import Sketch

__all__ = ["SCALE", "Thing", "place_things"]

SCALE = 2
"""Pixels of a sketch per pixel of the scene."""

_ID = {category.name: category.category_id for category in ONTOLOGY}
_HEIGHTS = {
    "person": 0.46, "car": 0.24, "bus": 0.38, "dog": 0.21, "tree": 0.74, "house": 0.6, "boat": 0.42,
    "ball": 0.12, "umbrella": 0.42, "bench": 0.19,
}  # fmt: skip
"""Height at the bottom of the picture, as a share of its short side."""

_GROUNDS: dict[str, tuple[str, ...]] = {
    "person": ("sidewalk", "grass", "sand"), "car": ("road",), "bus": ("road",),
    "dog": ("sidewalk", "grass", "sand"), "tree": ("grass", "sand"), "house": ("grass", "sand"),
    "boat": ("water",), "ball": ("grass", "sand", "sidewalk"),
    "bench": ("sidewalk", "grass", "sand"), "umbrella": ("sand", "grass", "sidewalk"),
}  # fmt: skip
_REACH = {"boat": 0.09, "house": 0.11, "car": 0.05, "bus": 0.06}
"""How far to both sides the ground must fit, as a share of the width."""

_DEPTHS = {"house": (0.02, 0.4), "tree": (0.02, 0.75), "boat": (0.05, 1.0)}
"""Where on the ground, from 0 at the horizon to 1 at the bottom."""

_HALF_WIDTHS = {"car": 1.0, "bus": 0.9, "house": 0.5, "bench": 0.9, "boat": 0.5}
"""About half the width, in heights of the thing; 0.25 for the others."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing of a scene.

    Attributes:
        name: of its category.
        y: row of its ground line, pixels of the scene; larger is nearer.
        sketch: its strokes, SCALE times the size of the scene.
        shadow: x, y and half the width of its shadow in pixels of the scene, or None.
        holder: the person that holds it up; without that person it is left out.
    """

    name: str
    y: float
    sketch: Sketch
    shadow: tuple[float, float, float] | None
    holder: Sketch | None = None


def place_things(rng: np.random.Generator, layout: Layout, light: int) -> list[Thing]:
    """Two to eight things on fitting ground, from far to near."""
    stuff = layout.stuff
    present = layout.present()
    names = [name for name in layout.wishes if not present.isdisjoint(_GROUNDS[name])]
    weights = np.array([layout.wishes[name] for name in names])
    odds = (weights / weights.sum()).tolist()
    wanted, things, spots = int(rng.integers(2, 9)), list[Thing](), list[tuple[float, ...]]()
    for _ in range(wanted * 6):
        if len(things) >= wanted:
            break
        name = names[int(rng.choice(len(names), p=odds))]
        spot = _find_spot(rng, layout, stuff, name)
        if spot is None or any(_crowded(spot, other) for other in spots):
            continue
        spots.append(spot)
        things += _make(rng, layout, name, spot, light)
    return sorted(things[:wanted], key=lambda thing: thing.y)


def _find_spot(
    rng: np.random.Generator, layout: Layout, stuff: NDArray[np.uint8], name: str
) -> tuple[float, ...] | None:
    """(x, y, height, half width) in pixels of a place on fitting ground, or None."""
    height, width = layout.size
    low, high = _DEPTHS.get(name, (0.08, 0.97))
    for _ in range(12):
        depth = low + (high - low) * rng.random()
        x, y = rng.uniform(0.02, 0.98) * width, layout.row(depth)
        if _fits(layout, stuff, name, (x, min(height - 1, int(y)))):
            scale = (0.4 + 0.6 * depth) * rng.uniform(0.85, 1.2)
            tall = _HEIGHTS[name] * scale * min(height, width * 1.1)
            return x, y, tall, tall * _HALF_WIDTHS.get(name, 0.25)
    return None


def _fits(layout: Layout, stuff: NDArray[np.uint8], name: str, spot: tuple[float, int]) -> bool:
    """Whether the ground at (x, row) fits, and for wide things beside it too."""
    width, (x, row) = layout.size[1], spot
    reach = _REACH.get(name, 0.0) * width
    fitting = [_ID[ground] for ground in _GROUNDS[name]]
    columns = (min(width - 1, max(0, int(column))) for column in (x - reach, x, x + reach))
    return all(stuff[row, column] in fitting for column in columns)


def _crowded(spot: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether one would hide most of the other."""
    across = min(spot[0] + spot[3], other[0] + other[3]) - max(
        spot[0] - spot[3], other[0] - other[3]
    )
    down = min(spot[1], other[1]) - max(spot[1] - spot[2], other[1] - other[2])
    least = min(2 * spot[2] * spot[3], 2 * other[2] * other[3])
    return across > 0 and down > 0 and across * down > 0.45 * least


def _make(
    rng: np.random.Generator, layout: Layout, name: str, spot: tuple[float, ...], light: int
) -> list[Thing]:
    """The thing of this name at its place, and what it holds."""
    x, y, tall, half = spot
    mirrored = bool(rng.random() < 0.5)
    draw = _choose(rng, layout, name)
    if draw is vehicles.rowing_boat:
        tall *= 0.36
    if draw in (vehicles.car_front, vehicles.bus_front):
        tall *= 1.15
    sketch = Sketch(x * SCALE, y * SCALE, tall * SCALE, mirrored=mirrored, light=light)
    draw(rng, sketch)
    x0, _, x1, _ = sketch.bounds()
    shadow = None if name == "boat" else (x + light * -0.06 * tall, y, (x1 - x0) / SCALE / 2 * 0.92)
    if name in ("umbrella", "tree") and shadow is not None:
        shadow = (shadow[0], y, min(half * 1.3, shadow[2]))
    made = [Thing(name, y, sketch, shadow)]
    if name == "person" and rng.random() < 0.2 and tall > 0.17 * min(layout.size):
        hand = (-1 if mirrored else 1) * 0.13 * tall
        above = Sketch(
            (x + hand) * SCALE,
            (y - 0.55 * tall) * SCALE,
            tall * 0.72 * SCALE,
            mirrored=mirrored,
            light=light,
        )
        shapes.held_umbrella(rng, above)
        made.append(Thing("umbrella", y + 0.01, above, None, sketch))
    return made


def _choose(
    rng: np.random.Generator, layout: Layout, name: str
) -> Callable[[np.random.Generator, Sketch], None]:
    aside = 0.95 if not layout.frontal else 0.06 if name == "bus" else 0.15
    sideways = rng.random() < aside
    sandy = name == "tree" and "sand" in layout.present()
    options: dict[str, Callable[[np.random.Generator, Sketch], None]] = {
        "person": shapes.person, "dog": shapes.dog, "ball": shapes.ball, "bench": shapes.bench,
        "umbrella": shapes.parasol, "house": landmarks.house,
        "car": vehicles.car if sideways else vehicles.car_front,
        "bus": vehicles.bus if sideways else vehicles.bus_front,
        "tree": landmarks.palm if sandy and rng.random() < 0.7 else landmarks.tree,
        "boat": vehicles.rowing_boat if rng.random() < 0.2 else vehicles.boat,
    }  # fmt: skip
    return options[name]
