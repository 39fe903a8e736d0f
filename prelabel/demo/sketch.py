"""A thing as a list of drawing strokes, replayed once for its colours and once for its id."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import numpy as np
from PIL import ImageDraw

from prelabel.data import Color

__all__ = ["Point", "Sketch", "jitter", "pick", "shade"]

Point = tuple[float, float]
_T = TypeVar("_T")


def pick(rng: np.random.Generator, options: Sequence[_T]) -> _T:
    """One of the options, all equally likely."""
    return options[int(rng.integers(len(options)))]


def shade(color: Color, factor: float) -> Color:
    """The colour made darker (below 1) or lighter (above 1)."""
    red, green, blue = (min(255, max(0, round(part * factor))) for part in color)
    return red, green, blue


def jitter(rng: np.random.Generator, color: Color, amount: int = 14) -> Color:
    """The colour with each channel moved by up to `amount`."""
    moved = rng.integers(-amount, amount + 1, 3)
    red, green, blue = (
        min(255, max(0, part + int(by))) for part, by in zip(color, moved, strict=True)
    )
    return red, green, blue


class Sketch:
    """Strokes of one thing, in units of its height: `u` to the right, `v` up from the ground.

    Attributes:
        light: -1 where light comes from the sketch's left, +1 from its right.
    """

    def __init__(self, x: float, y: float, height: float, *, mirrored: bool, light: int) -> None:
        """Stand at pixel (x, y), the middle of the ground line; `height` in pixels."""
        self._x, self._y, self._height = x, y, height
        self._sign = -1.0 if mirrored else 1.0
        self.light = -light if mirrored else light
        self._strokes: list[tuple[str, list[float], int, Color]] = []

    def _place(self, points: Sequence[Point]) -> list[float]:
        placed: list[float] = []
        for u, v in points:
            placed += (self._x + self._sign * u * self._height, self._y - v * self._height)
        return placed

    def polygon(self, points: Sequence[Point], color: Color) -> None:
        """A filled outline."""
        self._strokes.append(("polygon", self._place(points), 0, color))

    def box(self, u0: float, v0: float, u1: float, v1: float, color: Color) -> None:
        """A filled rectangle between two corners."""
        self.polygon(((u0, v0), (u1, v0), (u1, v1), (u0, v1)), color)

    def ellipse(self, centre: Point, radius_u: float, radius_v: float, color: Color) -> None:
        """A filled ellipse with upright axes."""
        x, y = self._place((centre,))
        a, b = radius_u * self._height, radius_v * self._height
        self._strokes.append(("ellipse", [x - a, y - b, x + a, y + b], 0, color))

    def disc(self, centre: Point, radius: float, color: Color) -> None:
        """A filled circle."""
        self.ellipse(centre, radius, radius, color)

    def blob(self, centre: Point, radii: Point, turn: float, color: Color) -> None:
        """An ellipse turned by `turn` radians."""
        cos, sin = math.cos(turn), math.sin(turn)
        points = []
        for step in range(18):
            angle = step * math.pi / 9
            a, b = radii[0] * math.cos(angle), radii[1] * math.sin(angle)
            points.append((centre[0] + a * cos - b * sin, centre[1] + a * sin + b * cos))
        self.polygon(points, color)

    def limb(self, points: Sequence[Point], thickness: float, color: Color) -> None:
        """A line with round ends and joints, never thinner than three pixels."""
        width = max(3, round(thickness * self._height))
        placed = self._place(points)
        self._strokes.append(("line", placed, width, color))
        for x, y in zip(placed[::2], placed[1::2], strict=True):
            half = width / 2 - 0.5
            self._strokes.append(("ellipse", [x - half, y - half, x + half, y + half], 0, color))

    def bounds(self) -> tuple[float, float, float, float]:
        """(x0, y0, x1, y1) in pixels around all strokes; lines count with their width."""
        x = [
            value
            for _, xy, width, _ in self._strokes
            for p in xy[::2]
            for value in (p - width, p + width)
        ]
        y = [
            value
            for _, xy, width, _ in self._strokes
            for p in xy[1::2]
            for value in (p - width, p + width)
        ]
        return min(x), min(y), max(x), max(y)

    def draw(
        self, canvas: ImageDraw.ImageDraw, fill: int | None = None, at: Point = (0, 0)
    ) -> None:
        """Replay the strokes, moved by -`at` pixels; all in `fill` where one is given."""
        dx, dy = at
        for kind, xy, width, color in self._strokes:
            ink: int | Color = color if fill is None else fill
            moved = [value - (dy if odd % 2 else dx) for odd, value in enumerate(xy)]
            if kind == "polygon":
                canvas.polygon(moved, fill=ink)
            elif kind == "ellipse":
                canvas.ellipse(moved, fill=ink)
            else:
                canvas.line(moved, fill=ink, width=width)
