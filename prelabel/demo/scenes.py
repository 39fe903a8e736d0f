"""Drawn scenes with exact truth: street, park, beach, harbour, lakeside, countryside.

A scene is keyed by (split, seed, index) and by nothing else. Training draws from "train" and "val",
everything a user sees from "heldout". The stuff is painted first, then the things from far to near
on a canvas of twice the size; each pixel belongs to the segment that owns most of its four parts.
Changing what is drawn here makes the embedded networks stale: they were trained on these pictures.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from prelabel.demo import landmarks, shapes, vehicles
from prelabel.demo.layouts import Layout, draw_layout
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.sketch import Sketch
from prelabel.demo.textures import Ground, noise, photograph, texture
from prelabel.errors import ConfigError

__all__ = ["ONTOLOGY", "SPLITS", "Scene", "draw_scene"]

SPLITS = ("train", "val", "heldout")
_SCALE = 2
_FIRST = 100
"""Value of the first thing in a raw map; below it stand category ids of stuff."""

_ID = {category.name: category.category_id for category in ONTOLOGY}
_HEIGHTS = {
    "person": 0.46, "car": 0.24, "bus": 0.38, "dog": 0.21, "tree": 0.74, "house": 0.6, "boat": 0.42,
    "ball": 0.12, "umbrella": 0.42, "bench": 0.19,
}  # fmt: skip
"""Height at the bottom of the picture, as a share of its short side."""

_GROUNDS: dict[str, tuple[str, ...]] = {
    "person": ("sidewalk", "grass", "sand"), "car": ("road",), "bus": ("road",),
    "dog": ("sidewalk", "grass", "sand"), "tree": ("grass", "sand"), "house": ("grass", "sand"),
    "boat": ("water",), "ball": ("grass", "sand", "sidewalk"), "umbrella": ("sand", "grass", "sidewalk"),
    "bench": ("sidewalk", "grass", "sand"),
}  # fmt: skip
_ROUGHNESS = {"tree": 0.3, "house": 0.12, "dog": 0.16}


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A drawn picture and its truth.

    Attributes:
        pixels: uint8 (H, W, 3) RGB.
        id_map: int32 (H, W), segment ids 1..N; there is no void.
        category_ids: the category of each of the segments 1..N.
    """

    pixels: NDArray[np.uint8]
    id_map: NDArray[np.int32]
    category_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Thing:
    name: str
    y: float
    sketch: Sketch
    shadow: tuple[float, float, float] | None  # x, y and half the width, pixels of the scene


def draw_scene(split: str, seed: int, index: int) -> Scene:
    """Draw the scene with this key: the same key gives the same scene.

    Raises:
        ConfigError: the split is none of SPLITS, or a number is negative.
    """
    if split not in SPLITS:
        raise ConfigError(
            f"there is no split {split!r} of demo scenes; choose one of {', '.join(SPLITS)}"
        )
    if seed < 0 or index < 0:
        raise ConfigError(f"seed and index of a demo scene start at 0, got {seed} and {index}")
    key = np.random.SeedSequence([SPLITS.index(split), seed, index])
    rng = np.random.Generator(np.random.PCG64(key))
    while True:
        scene = _attempt(rng)
        if scene is not None:
            return scene


def _attempt(rng: np.random.Generator) -> Scene | None:
    """One scene, or None where too little of some stuff is left to see, or no thing at all."""
    size = _draw_size(rng)
    layout = draw_layout(rng, size)
    light = 1 if rng.random() < 0.5 else -1
    things = _place(rng, layout, light)
    raw, things = _prune(layout, things)
    counts = np.bincount(raw.ravel(), minlength=256)
    least = max(24, 0.004 * raw.size)
    if not things or any(0 < count < least for count in counts[:_FIRST]):
        return None
    present = np.flatnonzero(counts)
    lookup = np.zeros(256, dtype=np.int32)
    lookup[present] = np.arange(1, len(present) + 1)
    ids = tuple(
        int(value) if value < _FIRST else _ID[things[value - _FIRST].name] for value in present
    )
    picture = _paint(rng, layout, things, raw)
    return Scene(photograph(rng, picture, light), lookup[raw], ids)


def _draw_size(rng: np.random.Generator) -> tuple[int, int]:
    """(height, width): half landscape, the rest portrait and square; sides of 200 to 640 pixels."""
    if rng.random() < 0.22:
        side = int(rng.integers(200, 481))
        return side, side
    short = int(rng.integers(200, 401))
    long = min(640, int(short * rng.uniform(1.15, 1.8)))
    return (short, long) if rng.random() < 0.65 else (long, short)


# --- where things stand -----------------------------------------------------------------------


def _place(rng: np.random.Generator, layout: Layout, light: int) -> list[_Thing]:
    """Two to eight things on fitting ground, from far to near."""
    stuff = layout.stuff
    names = [n for n in layout.wishes if any(layout.has(ground) for ground in _GROUNDS[n])]
    weights = np.array([layout.wishes[name] for name in names])
    odds = (weights / weights.sum()).tolist()
    wanted, things, spots = int(rng.integers(2, 9)), list[_Thing](), list[tuple[float, ...]]()
    for _ in range(wanted * 6):
        if len(things) >= wanted:
            break
        name = names[int(rng.choice(len(names), p=odds))]
        spot = _find_spot(rng, layout, stuff, name)
        if spot is None or any(_crowded(spot, other) for other in spots):
            continue
        spots.append(spot)
        things += _make(rng, layout, name, spot, light)
    return sorted(things, key=lambda thing: thing.y)


def _find_spot(
    rng: np.random.Generator, layout: Layout, stuff: NDArray[np.uint8], name: str
) -> tuple[float, ...] | None:
    """(x, y, height, half width) in pixels of a place on fitting ground, or None."""
    height, width = layout.size
    low, high = {"house": (0.02, 0.4), "tree": (0.02, 0.75), "boat": (0.05, 1.0)}.get(
        name, (0.08, 0.97)
    )
    fitting = [_ID[ground] for ground in _GROUNDS[name]]
    for _ in range(12):
        depth = low + (high - low) * rng.random()
        x, y = rng.uniform(0.02, 0.98) * width, layout.row(depth)
        column, row = int(x), min(height - 1, int(y))
        if stuff[row, column] in fitting:
            scale = (0.4 + 0.6 * depth) * rng.uniform(0.85, 1.2)
            tall = _HEIGHTS[name] * scale * min(height, width * 1.1)
            return (
                x,
                y,
                tall,
                tall
                * {"car": 1.0, "bus": 0.9, "house": 0.5, "bench": 0.9, "boat": 0.5}.get(name, 0.25),
            )
    return None


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
) -> list[_Thing]:
    """The thing of this name at its place, and what it holds."""
    x, y, tall, half = spot
    mirrored = bool(rng.random() < 0.5)
    draw = _choose(rng, layout, name)
    if draw is vehicles.rowing_boat:
        tall *= 0.36
    if draw in (vehicles.car_front, vehicles.bus_front):
        tall *= 1.15
    sketch = Sketch(x * _SCALE, y * _SCALE, tall * _SCALE, mirrored=mirrored, light=light)
    draw(rng, sketch)
    x0, _, x1, _ = sketch.bounds()
    shadow = (
        None if name == "boat" else (x + light * -0.06 * tall, y, (x1 - x0) / _SCALE / 2 * 0.92)
    )
    if name in ("umbrella", "tree") and shadow is not None:
        shadow = (shadow[0], y, min(half * 1.3, shadow[2]))
    made = [_Thing(name, y, sketch, shadow)]
    if name == "person" and rng.random() < 0.2 and tall > 50:
        hand = (-1 if mirrored else 1) * 0.13 * tall
        above = Sketch(
            (x + hand) * _SCALE,
            (y - 0.55 * tall) * _SCALE,
            tall * 0.72 * _SCALE,
            mirrored=mirrored,
            light=light,
        )
        shapes.held_umbrella(rng, above)
        made.append(_Thing("umbrella", y + 0.01, above, None))
    return made


def _choose(
    rng: np.random.Generator, layout: Layout, name: str
) -> Callable[[np.random.Generator, Sketch], None]:
    sideways = rng.random() < (0.15 if layout.frontal else 0.95)
    sandy = layout.has("sand")
    options: dict[str, Callable[[np.random.Generator, Sketch], None]] = {
        "person": shapes.person, "dog": shapes.dog, "ball": shapes.ball, "bench": shapes.bench,
        "umbrella": shapes.parasol, "house": landmarks.house,
        "car": vehicles.car if sideways else vehicles.car_front,
        "bus": vehicles.bus if sideways else vehicles.bus_front,
        "tree": landmarks.palm if sandy and rng.random() < 0.7 else landmarks.tree,
        "boat": vehicles.rowing_boat if rng.random() < 0.2 else vehicles.boat,
    }  # fmt: skip
    return options[name]


# --- from shapes to pixels --------------------------------------------------------------------


def _majority(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The owner of most of each 2×2 block, uint8 (2H, 2W) → (H, W)."""
    a, b, c, d = raw[::2, ::2], raw[::2, 1::2], raw[1::2, ::2], raw[1::2, 1::2]
    of_rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, of_rest)


def _prune(layout: Layout, things: list[_Thing]) -> tuple[NDArray[np.uint8], list[_Thing]]:
    """The raw map, uint8 (H, W), after leaving out things of which too little can be seen."""
    height, width = layout.size
    wide = layout.canvas.resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
    full = [_full_area(thing.sketch) for thing in things]
    while True:
        canvas = wide.copy()
        draw = ImageDraw.Draw(canvas)
        for number, thing in enumerate(things):
            thing.sketch.draw(draw, _FIRST + number)
        raw = _majority(np.asarray(canvas))
        seen = np.bincount(raw.ravel(), minlength=256)[_FIRST : _FIRST + len(things)]
        clear = [
            area >= max(32, 0.0015 * raw.size) and area >= 0.4 * whole
            for area, whole in zip(seen.tolist(), full, strict=True)
        ]
        if all(clear):
            return raw, things
        full = [whole for whole, keep in zip(full, clear, strict=True) if keep]
        things = [thing for thing, keep in zip(things, clear, strict=True) if keep]


def _full_area(sketch: Sketch) -> float:
    """Pixels of the scene the thing would cover with nothing before it and no picture edge."""
    x0, y0, x1, y1 = sketch.bounds()
    alone = Image.new("L", (int(x1 - x0) + 3, int(y1 - y0) + 3), 0)
    sketch.draw(ImageDraw.Draw(alone), 1, at=(x0 - 1, y0 - 1))
    return alone.histogram()[1] / _SCALE**2


def _paint(
    rng: np.random.Generator, layout: Layout, things: list[_Thing], raw: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The colours of the scene before the camera, float32 (H, W, 3), about 0 to 255."""
    height, width = layout.size
    ground = _paint_stuff(rng, layout) * _shadows(rng, layout, things)[..., None]
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    picture = picture.resize((width * _SCALE, height * _SCALE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for thing in things:
        thing.sketch.draw(draw)
    colors = np.asarray(picture.reduce(_SCALE), dtype=np.float32)
    depth = np.zeros(256, dtype=np.float32)
    for number, thing in enumerate(things):
        depth[_FIRST + number] = _ROUGHNESS.get(thing.name, 0.08)
    cell = 3.0 if rng.random() < 0.5 else 5.0
    rough = noise(rng, layout.size, (cell * 4, cell * 4), 3) - np.float32(0.5)
    return np.asarray(colors * (1 + 2 * rough * depth[raw])[..., None])


def _paint_stuff(rng: np.random.Generator, layout: Layout) -> NDArray[np.float32]:
    """Textured stuff with the lines on its roads, float32 (H, W, 3)."""
    height, width = layout.size
    stuff = layout.stuff
    picture = np.zeros((height, width, 3), dtype=np.float32)
    for category in ONTOLOGY.stuff:
        mask = stuff == category.category_id
        rows = np.flatnonzero(mask.any(axis=1))
        if not len(rows):
            continue
        top, bottom = int(rows[0]), int(rows[-1]) + 1
        ground = Ground(top, bottom - top, width, layout.horizon, height, layout.vanishing)
        painted = texture(rng, category.name, ground)
        np.copyto(picture[top:bottom], painted, where=mask[top:bottom, :, None])
    if layout.marks:
        lines = Image.new("RGB", (width, height))
        draw = ImageDraw.Draw(lines)
        for outline, color in layout.marks:
            draw.polygon([part for point in outline for part in point], fill=color)
        marks = np.asarray(lines, dtype=np.float32)
        where = (marks[..., 0] > 0) & (stuff == _ID["road"])
        picture[where] = 0.85 * marks[where] + 0.15 * picture[where]
    return picture


def _shadows(rng: np.random.Generator, layout: Layout, things: list[_Thing]) -> NDArray[np.float32]:
    """How much light reaches the ground, float32 (H, W) in [0, 1]."""
    height, width = layout.size
    # A quarter of the size, enlarged again: soft edges at no cost.
    canvas = Image.new("L", (-(-width // 4), -(-height // 4)), 255)
    draw = ImageDraw.Draw(canvas)
    dark = int(255 * rng.uniform(0.5, 0.75))
    for thing in things:
        if thing.shadow is not None:
            x, y, half = (value / 4 for value in thing.shadow)
            flat = max(0.6, half * 0.13)
            draw.ellipse((x - half, y - flat, x + half, y + flat), fill=dark)
    soft = canvas.resize((width, height), Image.Resampling.BILINEAR)
    light = np.asarray(soft, dtype=np.float32) / np.float32(255)
    light[layout.stuff == _ID["sky"]] = 1
    return light
