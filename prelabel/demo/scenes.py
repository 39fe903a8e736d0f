"""Drawn scenes with exact truth: street, park, beach, harbour, lakeside, countryside.

A scene is keyed by (split, seed, index) and by nothing else. Training draws from "train" and "val",
everything a user sees from "heldout". The stuff is painted first, then the things from far to near
on a canvas of twice the size; each pixel belongs to the segment that owns most of its four parts.
Changing what is drawn here makes the embedded networks stale: they were trained on these pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from prelabel.demo.layouts import Layout, draw_layout
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.placing import SCALE, Thing, place_things
from prelabel.demo.sketch import Sketch
from prelabel.demo.textures import Ground, noise, photograph, texture
from prelabel.errors import ConfigError

__all__ = ["ONTOLOGY", "SPLITS", "Scene", "draw_scene"]

SPLITS = ("train", "val", "heldout")
_FIRST = 100
"""Value of the first thing in a raw map; below it stand category ids of stuff."""

_ID = {category.name: category.category_id for category in ONTOLOGY}
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
    """One scene, or None where too little of some stuff can be seen, or fewer than two things."""
    size = _draw_size(rng)
    layout = draw_layout(rng, size)
    light = 1 if rng.random() < 0.5 else -1
    things = place_things(rng, layout, light)
    raw, things = _prune(layout, things)
    counts = np.bincount(raw.ravel(), minlength=256)
    least = max(24, 0.004 * raw.size)
    if len(things) < 2 or any(0 < count < least for count in counts[:_FIRST]):
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


# --- from shapes to pixels --------------------------------------------------------------------


def _majority(raw: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The owner of most of each 2 by 2 block, uint8 (2H, 2W) → (H, W)."""
    a, b, c, d = raw[::2, ::2], raw[::2, 1::2], raw[1::2, ::2], raw[1::2, 1::2]
    of_rest = np.where((b == c) | (b == d), b, np.where(c == d, c, a))
    return np.where((a == b) | (a == c) | (a == d), a, of_rest)


def _prune(layout: Layout, things: list[Thing]) -> tuple[NDArray[np.uint8], list[Thing]]:
    """The raw map, uint8 (H, W), after leaving out things of which too little can be seen."""
    height, width = layout.size
    wide = layout.canvas.resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
    full = [_full_area(thing.sketch) for thing in things]
    while True:
        canvas = wide.copy()
        draw = ImageDraw.Draw(canvas)
        for number, thing in enumerate(things):
            thing.sketch.draw(draw, _FIRST + number)
        raw = _majority(np.asarray(canvas))
        seen = np.bincount(raw.ravel(), minlength=256)[_FIRST : _FIRST + len(things)]
        clear = {
            thing.sketch
            for thing, area, whole in zip(things, seen.tolist(), full, strict=True)
            if area >= max(32, 0.0015 * raw.size) and area >= 0.4 * whole
        }
        kept = [
            number
            for number, thing in enumerate(things)
            if thing.sketch in clear and (thing.holder is None or thing.holder in clear)
        ]
        if len(kept) == len(things):
            return raw, things
        things, full = [things[number] for number in kept], [full[number] for number in kept]


def _full_area(sketch: Sketch) -> float:
    """Pixels of the scene the thing would cover with nothing before it and no picture edge."""
    x0, y0, x1, y1 = sketch.bounds()
    alone = Image.new("L", (int(x1 - x0) + 3, int(y1 - y0) + 3), 0)
    sketch.draw(ImageDraw.Draw(alone), 1, at=(x0 - 1, y0 - 1))
    return alone.histogram()[1] / SCALE**2


def _paint(
    rng: np.random.Generator, layout: Layout, things: list[Thing], raw: NDArray[np.uint8]
) -> NDArray[np.float32]:
    """The colours of the scene before the camera, float32 (H, W, 3), about 0 to 255."""
    height, width = layout.size
    ground = _paint_stuff(rng, layout) * _shadows(rng, layout, things)[..., None]
    picture = Image.fromarray(np.clip(ground, 0, 255).astype(np.uint8))
    picture = picture.resize((width * SCALE, height * SCALE), Image.Resampling.NEAREST)
    draw = ImageDraw.Draw(picture)
    for thing in things:
        thing.sketch.draw(draw)
    colors = np.asarray(picture.reduce(SCALE), dtype=np.float32)
    depth = np.zeros(256, dtype=np.float32)
    for number, thing in enumerate(things):
        depth[_FIRST + number] = _ROUGHNESS.get(thing.name, 0.08)
    cell = 3.0 if rng.random() < 0.5 else 5.0
    rough = noise(rng, layout.size, (cell * 4, cell * 4), 3) - np.float32(0.5)
    light = (1 + 2 * rough * depth[raw]) * _contact(raw)
    return np.asarray(colors * light[..., None])


def _contact(raw: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Less light on a thing right behind a nearer one, float32 (H, W): like colours stay apart."""
    behind = np.zeros(raw.shape, dtype=np.bool_)
    for axis in (0, 1):
        first, second = (raw[:-1], raw[1:]) if axis == 0 else (raw[:, :-1], raw[:, 1:])
        one, two = (behind[:-1], behind[1:]) if axis == 0 else (behind[:, :-1], behind[:, 1:])
        one |= (first >= _FIRST) & (first < second)
        two |= (second >= _FIRST) & (second < first)
    return np.where(behind, np.float32(0.7), np.float32(1))


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
        # Flat rows: numpy is three times slower over an innermost axis of three.
        flat = painted.reshape(bottom - top, -1)
        where = np.repeat(mask[top:bottom], 3, axis=1)
        np.copyto(picture[top:bottom].reshape(bottom - top, -1), flat, where=where)
    if layout.marks:
        lines = Image.new("RGB", (width, height))
        draw = ImageDraw.Draw(lines)
        for outline, color in layout.marks:
            draw.polygon([part for point in outline for part in point], fill=color)
        marks = np.asarray(lines, dtype=np.float32)
        painted_on = (marks[..., 0] > 0) & (stuff == _ID["road"])
        picture[painted_on] = 0.85 * marks[painted_on] + 0.15 * picture[painted_on]
    return picture


def _shadows(rng: np.random.Generator, layout: Layout, things: list[Thing]) -> NDArray[np.float32]:
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
