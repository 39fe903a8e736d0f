"""Trees and houses. Units as in Sketch: the thing's own height, `v` up from the ground."""

from __future__ import annotations

import math

import numpy as np

from prelabel.data import Color
from prelabel.demo.sketch import Sketch, jitter, pick, shade

__all__ = ["house", "palm", "tree"]

LEAVES: tuple[Color, ...] = (
    (38, 92, 40),
    (52, 112, 48),
    (70, 118, 40),
    (30, 80, 58),
    (150, 110, 35),
    (160, 70, 35),
)
BARK: tuple[Color, ...] = ((92, 66, 44), (74, 58, 46), (112, 90, 70))
WALLS: tuple[Color, ...] = (
    (232, 222, 200), (205, 150, 110), (172, 84, 64), (240, 238, 230), (225, 200, 130),
    (150, 175, 190), (215, 170, 165),
)  # fmt: skip
ROOFS: tuple[Color, ...] = ((150, 58, 42), (95, 62, 52), (74, 78, 88), (176, 92, 54))


def _round(rng: np.random.Generator, sketch: Sketch) -> None:
    leaf, bark = jitter(rng, pick(rng, LEAVES)), jitter(rng, pick(rng, BARK))
    wide, stem = rng.uniform(0.26, 0.36), rng.uniform(0.26, 0.36)
    sketch.polygon(((-0.05, 0.0), (-0.03, 0.5), (0.03, 0.5), (0.05, 0.0)), bark)
    sketch.polygon(((0.0, 0.0), (0.0, 0.5), (0.03, 0.5), (0.05, 0.0)), shade(bark, 0.75))
    middle = (1.0 + stem) / 2
    tall = (1.0 - stem) / 2
    sketch.ellipse((0.0, middle), wide * 0.85, tall * 0.9, shade(leaf, 0.75))
    for number in range(26):
        angle, reach = number * 2.4, math.sqrt((number + 0.5) / 26)
        u = wide * 0.72 * reach * math.cos(angle)
        v = middle + tall * 0.74 * reach * math.sin(angle)
        lit = 0.82 + 0.32 * (v - stem) / (1 - stem) + 0.5 * sketch.light * u
        tone = shade(leaf, lit * rng.uniform(0.84, 1.12))
        sketch.disc((u, v), rng.uniform(0.07, 0.11), tone)
    for _ in range(40):
        angle, reach = rng.uniform(0, 6.28), math.sqrt(rng.random())
        u, v = wide * 0.85 * reach * math.cos(angle), middle + tall * 0.85 * reach * math.sin(angle)
        lit = 0.85 + 0.3 * (v - stem) / (1 - stem) + 0.5 * sketch.light * u
        sketch.disc((u, v), rng.uniform(0.014, 0.032), shade(leaf, lit * pick(rng, (0.72, 1.3))))


def _cone(rng: np.random.Generator, sketch: Sketch) -> None:
    leaf, bark = jitter(rng, pick(rng, LEAVES[:4])), jitter(rng, pick(rng, BARK))
    leaf = shade(leaf, 0.85)
    wide, tiers = rng.uniform(0.2, 0.28), int(rng.integers(3, 6))
    sketch.box(-0.03, 0.0, 0.03, 0.2, bark)
    for tier in range(tiers):
        bottom = 0.12 + 0.68 * tier / tiers
        top = min(1.0, bottom + 1.5 * 0.88 / tiers) if tier < tiers - 1 else 1.0
        half = wide * (1.0 - 0.72 * tier / tiers)
        sketch.polygon(((-half, bottom), (0.0, top), (half, bottom), (0.0, bottom - 0.03)), leaf)
        side = half * sketch.light
        sketch.polygon(
            ((side, bottom), (0.0, top), (side * 0.25, bottom - 0.02)), shade(leaf, 1.25)
        )
        sketch.polygon(
            ((-half, bottom), (half, bottom), (0.0, bottom - 0.03), (0.0, bottom + 0.03)),
            shade(leaf, 0.7),
        )


def palm(rng: np.random.Generator, sketch: Sketch) -> None:
    """A palm with a bent trunk."""
    leaf = jitter(rng, pick(rng, ((60, 125, 50), (80, 140, 60), (45, 105, 60))))
    bark, lean = jitter(rng, (140, 108, 74)), rng.uniform(-0.14, 0.14)
    trunk = [(lean * t * t, 0.78 * t) for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    sketch.limb(trunk, 0.055, bark)
    for u, v in trunk[1:-1]:
        sketch.box(u - 0.028, v, u + 0.028, v + 0.012, shade(bark, 0.65))
    fronds = int(rng.integers(7, 10))
    for number in range(fronds):
        angle = math.pi * (number / (fronds - 1) * 1.3 - 0.15)
        reach = rng.uniform(0.3, 0.38)
        du, dv = reach * math.cos(angle), 0.19 * math.sin(angle)
        tone = shade(leaf, rng.uniform(0.75, 1.2))
        start, bend = (lean, 0.78), (lean + du * 0.6, 0.79 + dv)
        sketch.polygon(
            (
                start,
                (bend[0], bend[1] + 0.035),
                (lean + du, 0.68 + dv * 0.7),
                (bend[0], bend[1] - 0.04),
            ),
            tone,
        )
    sketch.disc((lean, 0.77), 0.035, shade(bark, 0.7))


def tree(rng: np.random.Generator, sketch: Sketch) -> None:
    """A leaf tree or a conifer."""
    if rng.random() < 0.65:
        _round(rng, sketch)
    else:
        _cone(rng, sketch)


def _window(sketch: Sketch, u: float, v: float, size: tuple[float, float], glass: Color) -> None:
    a, b = size
    sketch.box(u - a - 0.012, v - b - 0.012, u + a + 0.012, v + b + 0.012, (240, 238, 230))
    sketch.box(u - a, v - b, u + a, v + b, glass)
    sketch.box(u - 0.006, v - b, u + 0.006, v + b, (240, 238, 230))


def _gabled(rng: np.random.Generator, sketch: Sketch) -> None:
    wall, roof = jitter(rng, pick(rng, WALLS)), jitter(rng, pick(rng, ROOFS))
    glass = pick(rng, ((70, 90, 110), (120, 150, 170), (235, 205, 110)))
    half, eave = rng.uniform(0.46, 0.72), rng.uniform(0.5, 0.62)
    if rng.random() < 0.6:
        u = pick(rng, (-1, 1)) * half * 0.55
        sketch.box(u - 0.05, eave, u + 0.05, 0.98, shade(roof, 0.65))
    sketch.box(-half, 0.0, half, eave, wall)
    sketch.box(half * 0.3 * sketch.light, 0.0, -half * sketch.light, eave, shade(wall, 0.93))
    inset = half * rng.uniform(0.0, 0.6) if rng.random() < 0.6 else half
    ridge, over = 0.96, half + 0.07
    sketch.polygon(
        ((-over, eave - 0.02), (-half + inset, ridge), (half - inset, ridge), (over, eave - 0.02)),
        roof,
    )
    for row in range(1, 5):
        t = row / 5
        u0, u1 = -over + t * (inset + 0.07), over - t * (inset + 0.07)
        v = eave - 0.02 + t * (ridge - eave + 0.02)
        sketch.box(u0, v, u1, v + 0.012, shade(roof, 0.84))
    sketch.box(-half, eave - 0.05, half, eave - 0.02, shade(wall, 0.7))
    door = jitter(rng, pick(rng, ((110, 60, 35), (60, 90, 70), (150, 40, 40), (50, 60, 100))))
    at = pick(rng, (-0.33, 0.0, 0.33)) * half
    for u in (-0.66, 0.0, 0.66):
        if abs(u * half - at) > 0.3 * half:
            _window(sketch, u * half, eave * 0.56, (0.075, 0.09), glass)
    sketch.box(at - 0.07, 0.0, at + 0.07, 0.29, door)
    sketch.disc((at + 0.045, 0.14), 0.012, (230, 200, 90))


def _block(rng: np.random.Generator, sketch: Sketch) -> None:
    wall = jitter(rng, pick(rng, WALLS))
    glass = pick(rng, ((70, 90, 110), (120, 150, 170), (90, 100, 110)))
    half, floors = rng.uniform(0.32, 0.46), int(rng.integers(3, 5))
    sketch.box(-half, 0.0, half, 0.96, wall)
    sketch.box(-half * sketch.light * 0.8, 0.0, -half * sketch.light, 0.96, shade(wall, 0.85))
    sketch.box(-half - 0.03, 0.94, half + 0.03, 1.0, shade(wall, 0.65))
    columns = int(rng.integers(3, 5))
    for floor in range(floors):
        v = 0.2 + (floor + 0.5) * 0.72 / floors
        for column in range(columns):
            u = half * (2 * (column + 0.5) / columns - 1) * 0.94
            lit = glass if rng.random() < 0.85 else (240, 210, 120)
            _window(sketch, u, v, (0.36 * half / columns * 1.3, 0.22 / floors), lit)
    sketch.box(-0.06, 0.0, 0.06, 0.2, shade(wall, 0.45))
    sketch.box(-0.1, 0.2, 0.1, 0.23, shade(wall, 0.6))


def house(rng: np.random.Generator, sketch: Sketch) -> None:
    """A cottage with a roof, or a block of flats."""
    if rng.random() < 0.72:
        _gabled(rng, sketch)
    else:
        _block(rng, sketch)
