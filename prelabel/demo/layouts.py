"""Where the stuff of a scene lies, and what may stand on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from prelabel.data import Color
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.sketch import Point, pick

__all__ = ["Layout", "draw_layout"]


@dataclass(slots=True)
class Layout:
    """The stuff of one scene.

    Attributes:
        size: (height, width) in pixels.
        horizon: row at which the ground begins.
        vanishing: column at which lines into the depth meet.
        wishes: things that fit here, by name, with how often.
        frontal: whether traffic comes towards the viewer.
        canvas: mode L, category ids of stuff.
        marks: outlines in pixels and colours of lines painted on the road.
    """

    size: tuple[int, int]
    horizon: float
    vanishing: float
    wishes: dict[str, float]
    frontal: bool = False
    canvas: Image.Image = field(init=False)
    marks: list[tuple[tuple[Point, ...], Color]] = field(default_factory=list)

    def __post_init__(self) -> None:
        height, width = self.size
        self.canvas = Image.new("L", (width, height), ONTOLOGY.by_name["sky"].category_id)

    @property
    def stuff(self) -> NDArray[np.uint8]:
        """Category ids, uint8 (H, W)."""
        return np.asarray(self.canvas)

    def present(self) -> frozenset[str]:
        """The names of the stuff that is there."""
        counts = self.canvas.histogram()
        return frozenset(kind.name for kind in ONTOLOGY.stuff if counts[kind.category_id])

    def fill(self, name: str, outline: list[Point]) -> None:
        """Give the inside of an outline in pixels to a kind of stuff."""
        ImageDraw.Draw(self.canvas).polygon(outline, fill=ONTOLOGY.by_name[name].category_id)

    def below(
        self, rng: np.random.Generator, name: str, y: float, rough: float = 0.0, tilt: float = 0.0
    ) -> None:
        """Give all below a line near row `y` to a kind of stuff; `rough` and `tilt` in pixels."""
        height, width = self.size
        steps = 24
        bumps = np.cumsum(rng.uniform(-1, 1, steps + 1)) * rough * 0.5
        bumps -= np.linspace(bumps[0], bumps[-1], steps + 1)
        line = [
            (width * i / steps, y + float(bumps[i]) + tilt * (i / steps - 0.5))
            for i in range(steps + 1)
        ]
        self.fill(name, [*line, (width, height), (0, height)])

    def row(self, depth: float) -> float:
        """The row at a depth: 0 at the horizon, 1 at the bottom."""
        return self.horizon + depth * (self.size[0] - self.horizon)


def _mountains(rng: np.random.Generator, layout: Layout, chance: float) -> None:
    if rng.random() >= chance:
        return
    height, width = layout.size
    peaks = int(rng.integers(2, 5))
    rise = min(layout.horizon * 0.75, height * rng.uniform(0.12, 0.28))
    smooth = rng.random() < 0.5
    line: list[Point] = []
    starts = np.sort(rng.uniform(-0.1, 1.1, peaks))
    tops, spread = rng.uniform(0.5, 1.0, peaks), rng.uniform(0.2, 0.4, peaks)
    wobble = np.cumsum(rng.uniform(-1, 1, 41)) * 0.02
    for step in range(41):
        gaps = np.abs(step / 40 - starts) / spread
        hills = tops * (np.maximum(0, 1 - gaps * gaps) if smooth else np.maximum(0, 1 - gaps))
        up = max(0.22, float(hills.max()) + float(wobble[step]))
        line.append((width * step / 40, layout.horizon - rise * up))
    layout.fill("mountain", [*line, (width, layout.horizon + 2), (0, layout.horizon + 2)])


def _centre_line(rng: np.random.Generator, layout: Layout, top: float, bottom: float) -> None:
    """Dashes along a road that crosses the picture."""
    width = layout.size[1]
    middle, half = (top + bottom) / 2, max(1.0, (bottom - top) * 0.025)
    dash = (bottom - top) * rng.uniform(0.4, 0.7)
    x = -rng.uniform(0, dash)
    white = pick(rng, ((228, 228, 222), (236, 204, 96)))
    while x < width:
        layout.marks.append(
            (
                (
                    (x, middle - half),
                    (x + dash, middle - half),
                    (x + dash, middle + half),
                    (x, middle + half),
                ),
                white,
            )
        )
        x += dash * 2.1


def _street_side(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.25)
    layout.below(rng, pick(rng, ("grass", "grass", "sand")), layout.horizon, 1.5)
    top, kerb = layout.row(rng.uniform(0.2, 0.3)), layout.row(rng.uniform(0.42, 0.52))
    bottom = layout.row(rng.uniform(0.84, 0.95)) if rng.random() < 0.5 else layout.size[0] + 2.0
    tilt = layout.size[1] * rng.uniform(-0.05, 0.05)
    layout.below(rng, "sidewalk", top, tilt=tilt * 0.5)
    layout.below(rng, "road", kerb, tilt=tilt)
    if bottom < layout.size[0]:
        layout.below(rng, pick(rng, ("grass", "sidewalk")), bottom, tilt=tilt)
    if abs(tilt) < layout.size[1] * 0.02:
        _centre_line(rng, layout, kerb, min(bottom, layout.size[0]))


def _street_front(rng: np.random.Generator, layout: Layout) -> None:
    layout.frontal = True
    height, width = layout.size
    _mountains(rng, layout, 0.3)
    layout.below(rng, pick(rng, ("grass", "grass", "sand")), layout.horizon, 1.5)
    x, y = layout.vanishing, layout.horizon
    half, walk = width * rng.uniform(0.4, 0.55), width * rng.uniform(0.3, 0.45)
    far, middle = width * 0.025, width * rng.uniform(0.4, 0.6)
    wide = half + walk
    layout.fill(
        "sidewalk",
        [(x - far * 1.8, y), (x + far * 1.8, y), (middle + wide, height), (middle - wide, height)],
    )
    layout.fill(
        "road", [(x - far, y), (x + far, y), (middle + half, height), (middle - half, height)]
    )
    white = pick(rng, ((228, 228, 222), (236, 204, 96)))
    near = 1.0
    while near > 0.04:
        a, b = near, near * 0.78
        outline = []
        for depth, side in ((a, -1), (a, 1), (b, 1), (b, -1)):
            centre = x + (middle - x) * depth
            outline.append((centre + side * half * 0.03 * depth, layout.row(depth)))
        layout.marks.append((tuple(outline), white))
        near *= 0.6


def _path(rng: np.random.Generator, layout: Layout, name: str, width_share: float) -> None:
    """A way from the horizon to the viewer, with a bend."""
    width = layout.size[1]
    start, end = rng.uniform(0.15, 0.85), rng.uniform(0.1, 0.9)
    bend = rng.uniform(-0.3, 0.3)
    left: list[Point] = []
    right: list[Point] = []
    for step in range(15):
        depth = (step / 14) ** 1.5
        t = step / 14
        centre = width * (start + (end - start) * t + bend * 4 * t * (1 - t) * (1 - t))
        half = width * width_share * (0.05 + 0.95 * depth)
        y = layout.row(0.02 + 0.98 * depth)
        left.append((centre - half, y))
        right.append((centre + half, y))
    layout.fill(name, left + right[::-1])


def _park(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.15)
    layout.below(rng, "grass", layout.horizon, layout.size[0] * 0.012)
    if rng.random() < 0.75:
        _path(rng, layout, "sidewalk", rng.uniform(0.14, 0.3))
    if rng.random() < 0.35:
        width = layout.size[1]
        x, y = width * rng.uniform(0.15, 0.85), layout.row(rng.uniform(0.3, 0.5))
        a, b = (
            width * rng.uniform(0.22, 0.38),
            (layout.size[0] - layout.horizon) * rng.uniform(0.1, 0.18),
        )
        turns = np.linspace(0, 2 * np.pi, 25)[:-1]
        wobble = 1 + 0.1 * rng.uniform(-1, 1, 24)
        layout.fill(
            "water",
            [
                (x + a * w * np.cos(t), y + b * w * np.sin(t))
                for t, w in zip(turns.tolist(), wobble.tolist(), strict=True)
            ],
        )
        layout.wishes["boat"] = 1.0


def _beach(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.35)
    layout.below(rng, "water", layout.horizon)
    shore = layout.row(rng.uniform(0.28, 0.5))
    layout.below(
        rng, "sand", shore, layout.size[0] * 0.015, layout.size[0] * rng.uniform(-0.12, 0.12)
    )
    if rng.random() < 0.2:
        layout.below(rng, pick(rng, ("grass", "sidewalk")), layout.row(rng.uniform(0.82, 0.9)), 2.0)


def _harbour(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.55)
    layout.below(rng, "water", layout.horizon)
    quay = layout.row(rng.uniform(0.55, 0.72))
    tilt = layout.size[0] * rng.uniform(-0.12, 0.12)
    layout.below(rng, "sidewalk", quay, tilt=tilt)
    if rng.random() < 0.35:
        layout.below(rng, "road", layout.row(rng.uniform(0.8, 0.86)), tilt=tilt * 0.5)
        layout.wishes.update(car=1.5, bus=0.5)


def _countryside(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.65)
    layout.below(
        rng, pick(rng, ("grass", "grass", "grass", "sand")), layout.horizon, layout.size[0] * 0.02
    )
    if rng.random() < 0.8:
        _path(rng, layout, "road", rng.uniform(0.26, 0.4))
        layout.frontal = True


def _lakeside(rng: np.random.Generator, layout: Layout) -> None:
    _mountains(rng, layout, 0.75)
    layout.below(rng, "water", layout.horizon)
    tilt = layout.size[0] * rng.uniform(-0.16, 0.16)
    layout.below(rng, "grass", layout.row(rng.uniform(0.4, 0.62)), layout.size[0] * 0.02, tilt)
    if rng.random() < 0.4:
        layout.below(
            rng,
            pick(rng, ("sidewalk", "sand")),
            layout.row(rng.uniform(0.74, 0.84)),
            2.0,
            tilt * 0.4,
        )


_KINDS: tuple[tuple[Callable[[np.random.Generator, Layout], None], float, str], ...] = (
    (_street_side, 0.2, "car 4, bus 3, person 2.5, house 2.5, tree 1.5, dog 1, bench 1, ball 0.5"),
    (_street_front, 0.18, "car 4, bus 2.6, person 2.5, house 2.5, tree 1.5, dog 1, bench 0.6"),
    (_park, 0.14, "person 2, dog 1.6, tree 2.5, ball 2, bench 2, umbrella 1, house 1.2"),
    (_beach, 0.13, "person 2, umbrella 2.2, ball 2.2, dog 1.3, boat 2, tree 1.4, bench 0.5"),
    (_harbour, 0.1, "boat 3.5, person 2, dog 1, bench 1.4, ball 0.6, umbrella 0.8"),
    (_countryside, 0.15, "house 2.6, tree 2.2, car 3, bus 2, dog 1.2, person 1.2, ball 0.6"),
    (_lakeside, 0.1, "boat 2.5, tree 2, house 2, person 1.4, dog 1, bench 1, ball 1, umbrella 0.8"),
)
"""How a scene is built, how often, and which things it likes how much."""


def draw_layout(rng: np.random.Generator, size: tuple[int, int]) -> Layout:
    """The stuff of a street, a park, a beach, a harbour, a lakeside or the country."""
    build, _, text = _KINDS[int(rng.choice(len(_KINDS), p=[odds for _, odds, _ in _KINDS]))]
    wishes = {name: float(odds) for name, odds in (item.split() for item in text.split(", "))}
    height, width = size
    layout = Layout(size, height * rng.uniform(0.3, 0.48), width * rng.uniform(0.3, 0.7), wishes)
    build(rng, layout)
    return layout
