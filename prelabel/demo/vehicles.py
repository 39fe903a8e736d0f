"""Cars, buses and boats. Units as in Sketch: the thing's own height, `v` up from the ground."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np

from prelabel.data import Color
from prelabel.demo.sketch import Point, Sketch, jitter, pick, shade

__all__ = ["boat", "bus", "bus_front", "car", "car_front", "rowing_boat"]

PAINT: tuple[Color, ...] = (
    (190, 30, 35), (30, 70, 170), (235, 235, 230), (45, 45, 50), (150, 155, 160),
    (235, 190, 40), (40, 120, 70), (230, 110, 30), (110, 180, 215), (120, 40, 90),
)  # fmt: skip
COACH: tuple[Color, ...] = (
    (205, 35, 40), (240, 180, 30), (40, 110, 180), (60, 150, 80), (235, 235, 225), (230, 120, 40),
)  # fmt: skip
GLASS: tuple[Color, ...] = ((70, 90, 105), (110, 140, 160), (45, 55, 65), (150, 180, 195))
TYRE: Color = (28, 28, 30)

# Side views as (body outline, window outlines, wheel centres, wheel radius).
_Outline: TypeAlias = tuple[Point, ...]
_BODIES: tuple[tuple[_Outline, tuple[_Outline, ...], tuple[float, float], float], ...] = (
    (  # saloon
        ((-1.5, 0.2), (-1.52, 0.5), (-1.4, 0.62), (-0.95, 0.66), (-0.62, 0.98), (0.32, 1.0),
         (0.78, 0.64), (1.35, 0.56), (1.5, 0.42), (1.5, 0.2)),
        (((-0.8, 0.66), (-0.56, 0.92), (-0.15, 0.93), (-0.15, 0.66)),
         ((-0.07, 0.66), (-0.07, 0.93), (0.28, 0.93), (0.62, 0.66))),
        (-0.92, 0.95), 0.26,
    ),
    (  # hatchback
        ((-1.2, 0.18), (-1.24, 0.55), (-1.1, 0.95), (-0.9, 1.0), (0.15, 1.0), (0.6, 0.64),
         (1.12, 0.54), (1.22, 0.4), (1.22, 0.18)),
        (((-1.0, 0.62), (-0.92, 0.91), (-0.38, 0.92), (-0.38, 0.62)),
         ((-0.3, 0.62), (-0.3, 0.92), (0.1, 0.92), (0.45, 0.62))),
        (-0.72, 0.75), 0.25,
    ),
    (  # off-roader
        ((-1.18, 0.22), (-1.2, 0.95), (-1.1, 1.0), (0.35, 1.0), (0.58, 0.66), (1.14, 0.62),
         (1.2, 0.5), (1.2, 0.22)),
        (((-1.05, 0.66), (-1.05, 0.92), (-0.45, 0.92), (-0.45, 0.66)),
         ((-0.37, 0.66), (-0.37, 0.92), (0.28, 0.92), (0.44, 0.66))),
        (-0.72, 0.74), 0.27,
    ),
    (  # pick-up
        ((-1.5, 0.22), (-1.52, 0.62), (-0.38, 0.62), (-0.34, 1.0), (0.36, 1.0), (0.68, 0.64),
         (1.3, 0.58), (1.42, 0.46), (1.42, 0.22)),
        (((-0.26, 0.62), (-0.24, 0.92), (0.3, 0.92), (0.52, 0.62)),),
        (-0.95, 0.9), 0.26,
    ),
)  # fmt: skip


def car(rng: np.random.Generator, sketch: Sketch) -> None:
    """A car from its side, one of four bodies."""
    body, windows, wheels, radius = pick(rng, _BODIES)
    paint, glass = jitter(rng, pick(rng, PAINT)), pick(rng, GLASS)
    sketch.polygon(body, paint)
    left, right = body[0][0], body[-1][0]
    sketch.box(left, 0.2, right, 0.34, shade(paint, 0.72))
    sketch.box(left + 0.02, 0.5, right - 0.04, 0.53, shade(paint, 1.2))
    for window in windows:
        sketch.polygon(window, glass)
        sketch.polygon((window[0], window[1], window[2]), shade(glass, 1.25))
    sketch.box(-0.12, 0.28, -0.1, 0.62, shade(paint, 0.6))
    sketch.box(right - 0.12, 0.4, right - 0.01, 0.5, (250, 240, 190))
    sketch.box(left + 0.01, 0.42, left + 0.1, 0.54, (180, 20, 20))
    hub = pick(rng, ((175, 178, 182), (110, 112, 118), (210, 210, 210)))
    for centre in wheels:
        sketch.disc((centre, radius), radius * 1.14, shade(paint, 0.4))
        sketch.disc((centre, radius), radius, TYRE)
        sketch.disc((centre, radius), radius * 0.55, hub)


def car_front(rng: np.random.Generator, sketch: Sketch) -> None:
    """A car from the front or from behind."""
    paint, glass = jitter(rng, pick(rng, PAINT)), pick(rng, GLASS)
    rear, wide = rng.random() < 0.5, rng.uniform(0.58, 0.68)
    for side in (-1, 1):
        sketch.box(side * wide * 0.92, 0.0, side * wide * 0.6, 0.3, TYRE)
    sketch.polygon(((-wide, 0.14), (-wide, 0.55), (-wide * 0.92, 0.64), (-wide * 0.7, 1.0),
                    (wide * 0.7, 1.0), (wide * 0.92, 0.64), (wide, 0.55), (wide, 0.14)),
                   paint)  # fmt: skip
    sketch.polygon(((-wide * 0.82, 0.64), (-wide * 0.64, 0.94), (wide * 0.64, 0.94),
                    (wide * 0.82, 0.64)), glass)  # fmt: skip
    sketch.polygon(
        ((-wide * 0.82, 0.64), (-wide * 0.64, 0.94), (wide * 0.1, 0.94)), shade(glass, 1.25)
    )
    sketch.box(-wide, 0.14, wide, 0.27, shade(paint, 0.55))
    lamp: Color = (200, 25, 25) if rear else (250, 245, 210)
    for side in (-1, 1):
        sketch.box(side * wide * 0.95, 0.42, side * wide * 0.62, 0.54, lamp)
    sketch.box(-0.2, 0.3, 0.2, 0.4, (225, 225, 215) if rear else shade(paint, 0.35))


def bus(rng: np.random.Generator, sketch: Sketch) -> None:
    """A bus from its side, with one or two decks."""
    paint, glass = jitter(rng, pick(rng, COACH)), pick(rng, GLASS)
    decks = 2 if rng.random() < 0.25 else 1
    half = rng.uniform(0.85, 1.0) if decks == 2 else rng.uniform(1.05, 1.3)
    sketch.polygon(((-half, 0.1), (-half, 0.96), (-half + 0.05, 1.0), (half - 0.08, 1.0),
                    (half, 0.93), (half, 0.1)), paint)  # fmt: skip
    sketch.box(-half, 0.95, half - 0.05, 1.0, shade(paint, 1.2))
    band = pick(rng, ((245, 245, 240), shade(paint, 0.6), (40, 50, 90)))
    sketch.box(-half, 0.3, half, 0.38, band)
    sketch.box(-half, 0.1, half, 0.18, shade(paint, 0.6))
    rows = ((0.56, 0.86),) if decks == 1 else ((0.44, 0.6), (0.72, 0.9))
    count = int(rng.integers(5, 8))
    for bottom, top in rows:
        step = (2 * half - 0.16) / count
        for number in range(count):
            u = -half + 0.07 + number * step
            tone = shade(glass, 1.0 + 0.12 * float(rng.random()))
            sketch.box(u, bottom, u + step * 0.84, top, tone)
    sketch.box(half - 0.46, 0.14, half - 0.24, 0.8, shade(glass, 0.8))
    sketch.box(half - 0.36, 0.14, half - 0.34, 0.8, paint)
    sketch.box(half - 0.05, 0.24, half, 0.3, (250, 240, 190))
    for centre in (-half + 0.42, half - 0.62):
        sketch.disc((centre, 0.13), 0.155, shade(paint, 0.4))
        sketch.disc((centre, 0.13), 0.13, TYRE)
        sketch.disc((centre, 0.13), 0.065, (165, 165, 170))


def bus_front(rng: np.random.Generator, sketch: Sketch) -> None:
    """A bus from the front."""
    paint, glass = jitter(rng, pick(rng, COACH)), pick(rng, GLASS)
    wide = rng.uniform(0.4, 0.46)
    for side in (-1, 1):
        sketch.box(side * wide * 0.95, 0.0, side * wide * 0.62, 0.14, TYRE)
        sketch.box(side * (wide + 0.06), 0.6, side * wide * 0.98, 0.76, TYRE)
    sketch.polygon(((-wide, 0.07), (-wide, 0.95), (-wide * 0.9, 1.0), (wide * 0.9, 1.0),
                    (wide, 0.95), (wide, 0.07)), paint)  # fmt: skip
    sketch.box(-wide * 0.9, 0.42, wide * 0.9, 0.82, glass)
    sketch.polygon(
        ((-wide * 0.9, 0.42), (-wide * 0.9, 0.82), (wide * 0.2, 0.82)), shade(glass, 1.2)
    )
    sketch.box(-0.008, 0.42, 0.008, 0.82, shade(paint, 0.5))
    sketch.box(-wide * 0.7, 0.87, wide * 0.7, 0.95, (35, 35, 35))
    sketch.box(-wide * 0.45, 0.89, wide * 0.45, 0.93, (250, 190, 40))
    sketch.box(-wide, 0.07, wide, 0.16, shade(paint, 0.55))
    for side in (-1, 1):
        sketch.disc((side * wide * 0.72, 0.25), 0.055, (250, 245, 210))


def _sails(rng: np.random.Generator, sketch: Sketch) -> None:
    hull = jitter(rng, pick(rng, PAINT))
    cloth = jitter(
        rng, pick(rng, ((248, 246, 238), (245, 235, 205), (200, 50, 40), (250, 200, 70))), 6
    )
    sketch.limb(((0.0, 0.1), (0.0, 0.98)), 0.022, (110, 80, 50))
    sketch.polygon(((0.04, 0.24), (0.04, 0.95), (0.44, 0.26)), cloth)
    sketch.polygon(((0.04, 0.24), (0.04, 0.5), (0.3, 0.25)), shade(cloth, 0.9))
    sketch.polygon(((-0.04, 0.26), (-0.03, 0.85), (-0.34, 0.24)), shade(cloth, 0.84))
    sketch.polygon(((-0.46, 0.19), (-0.34, 0.0), (0.36, 0.0), (0.54, 0.21)), hull)
    sketch.polygon(((-0.47, 0.2), (-0.45, 0.15), (0.51, 0.16), (0.54, 0.21)), shade(hull, 1.35))


def _cabin(rng: np.random.Generator, sketch: Sketch) -> None:
    hull, house = jitter(rng, pick(rng, PAINT)), jitter(rng, (236, 234, 226), 10)
    glass = pick(rng, GLASS)
    sketch.box(-0.5, 0.3, 0.25, 0.66, house)
    sketch.box(-0.56, 0.64, 0.32, 0.71, shade(hull, 0.8))
    for number in range(3):
        sketch.box(-0.44 + number * 0.23, 0.44, -0.27 + number * 0.23, 0.6, glass)
    sketch.limb(((-0.1, 0.7), (-0.1, 0.97)), 0.03, (90, 80, 70))
    if rng.random() < 0.5:
        sketch.polygon(((-0.1, 0.97), (-0.1, 0.83), (-0.36, 0.9)), jitter(rng, pick(rng, PAINT)))
    sketch.polygon(((-0.86, 0.36), (-0.74, 0.0), (0.66, 0.0), (0.98, 0.42), (0.7, 0.34)), hull)
    sketch.polygon(
        ((-0.86, 0.36), (-0.84, 0.29), (0.9, 0.33), (0.98, 0.42), (0.7, 0.34)), (240, 240, 235)
    )


def rowing_boat(rng: np.random.Generator, sketch: Sketch) -> None:
    """A low open boat."""
    wood = jitter(rng, pick(rng, ((140, 90, 50), (170, 120, 70), (60, 100, 140), (180, 50, 45))))
    sketch.polygon(((-1.2, 0.92), (-1.0, 0.62), (1.0, 0.62), (1.2, 0.96)), shade(wood, 0.5))
    sketch.polygon(
        ((-1.24, 1.0), (-0.9, 0.0), (0.85, 0.0), (1.26, 1.0), (1.05, 0.72), (-1.02, 0.72)), wood
    )
    sketch.polygon(
        ((-1.24, 1.0), (-1.02, 0.72), (1.05, 0.72), (1.26, 1.0), (1.12, 0.62), (-1.1, 0.62)),
        shade(wood, 1.4),
    )
    sketch.polygon(((-1.0, 0.3), (-0.9, 0.0), (0.85, 0.0), (0.98, 0.3)), shade(wood, 0.75))


def boat(rng: np.random.Generator, sketch: Sketch) -> None:
    """A sailing boat or a motor boat with a cabin."""
    if rng.random() < 0.55:
        _sails(rng, sketch)
    else:
        _cabin(rng, sketch)
