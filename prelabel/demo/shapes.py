"""People, dogs and what they bring along. Units as in Sketch: the thing's own height, `v` up."""

from __future__ import annotations

import math

import numpy as np

from prelabel.data import Color
from prelabel.demo.sketch import Sketch, jitter, pick, shade

__all__ = ["ball", "bench", "dog", "held_umbrella", "parasol", "person"]

SKIN: tuple[Color, ...] = (
    (240, 205, 175),
    (224, 172, 132),
    (176, 122, 84),
    (122, 80, 56),
    (84, 56, 42),
)
HAIR: tuple[Color, ...] = (
    (40, 30, 26),
    (96, 62, 36),
    (206, 166, 92),
    (150, 70, 36),
    (150, 150, 150),
)
CLOTHES: tuple[Color, ...] = (
    (200, 45, 50), (40, 80, 170), (240, 240, 235), (50, 50, 56), (240, 190, 60), (60, 140, 90),
    (225, 120, 160), (120, 70, 140), (235, 130, 50), (110, 170, 210),
)  # fmt: skip
LEGWEAR: tuple[Color, ...] = (
    (44, 54, 88),
    (40, 40, 44),
    (110, 92, 70),
    (96, 110, 130),
    (150, 60, 60),
)
COAT: tuple[Color, ...] = (
    (150, 100, 56),
    (64, 44, 34),
    (36, 34, 36),
    (214, 180, 130),
    (236, 232, 224),
    (180, 120, 60),
)
BRIGHT: tuple[Color, ...] = (
    (225, 40, 45), (250, 200, 40), (40, 100, 200), (245, 245, 240), (60, 160, 90), (240, 120, 40),
    (230, 90, 160), (110, 60, 150),
)  # fmt: skip


def _legs(rng: np.random.Generator, sketch: Sketch, cloth: Color, skin: Color) -> None:
    stride = pick(rng, (0.045, 0.06, 0.13, 0.17))
    shoe, bare = pick(rng, ((40, 36, 34), (230, 230, 230), (130, 50, 40))), rng.random() < 0.25
    for side, tone in ((-1, 0.8), (1, 1.0)):
        hip, foot = (side * 0.045, 0.47), (side * stride, 0.03)
        knee = ((hip[0] + foot[0]) / 2 + 0.02 * side, 0.26)
        sketch.limb((hip, knee), 0.085, shade(cloth, tone))
        sketch.limb((knee, foot), 0.068, shade(skin if bare else cloth, tone))
        sketch.limb((foot, (foot[0] + 0.045, 0.024)), 0.048, shade(shoe, tone))


def _arm(rng: np.random.Generator, sketch: Sketch, side: int, cloth: Color, skin: Color) -> None:
    elbow, hand = pick(
        rng,
        (
            ((0.15, 0.6), (0.16, 0.46)), ((0.17, 0.62), (0.27, 0.55)), ((0.2, 0.72), (0.26, 0.92)),
            ((0.16, 0.6), (0.08, 0.52)), ((0.14, 0.6), (0.2, 0.45)),
        ),
    )  # fmt: skip
    shoulder, joint = (side * 0.1, 0.78), (side * elbow[0], elbow[1])
    end = (side * hand[0], hand[1])
    sleeve = cloth if rng.random() < 0.6 else skin
    sketch.limb((joint, end), 0.046, sleeve)
    sketch.limb((shoulder, joint), 0.058, cloth)
    sketch.disc(end, 0.028, skin)


def _head(rng: np.random.Generator, sketch: Sketch, skin: Color) -> None:
    hair, style = jitter(rng, pick(rng, HAIR)), int(rng.integers(4))
    sketch.box(-0.03, 0.8, 0.03, 0.87, shade(skin, 0.85))
    if style == 1:
        sketch.ellipse((0.0, 0.89), 0.088, 0.12, hair)
    sketch.disc((0.0, 0.93), 0.084 if style == 3 else 0.08, hair)
    sketch.ellipse((0.014, 0.905), 0.062, 0.07, skin)
    if style == 2:
        hat = jitter(rng, pick(rng, CLOTHES))
        sketch.polygon(((-0.08, 0.93), (-0.06, 1.0), (0.06, 1.0), (0.08, 0.93)), hat)
        sketch.box(-0.1, 0.92, 0.13, 0.942, shade(hat, 0.75))
    for u in (-0.008, 0.04):
        sketch.disc((u, 0.91), 0.009, (40, 30, 30))


def person(rng: np.random.Generator, sketch: Sketch) -> None:
    """A person, standing or walking, in varied clothes."""
    skin, shirt = jitter(rng, pick(rng, SKIN), 8), jitter(rng, pick(rng, CLOTHES))
    trousers = jitter(rng, pick(rng, LEGWEAR))
    dress = rng.random() < 0.25
    _legs(rng, sketch, skin if dress else trousers, skin)
    _arm(rng, sketch, -1, shade(shirt, 0.8), skin)
    if dress:
        sketch.polygon(((-0.07, 0.56), (-0.15, 0.3), (0.15, 0.3), (0.07, 0.56)), shirt)
        sketch.polygon(((0.0, 0.56), (0.05, 0.3), (0.15, 0.3), (0.07, 0.56)), shade(shirt, 0.85))
    else:
        sketch.box(-0.085, 0.43, 0.085, 0.5, trousers)
    sketch.polygon(
        ((-0.12, 0.8), (-0.09, 0.47), (0.09, 0.47), (0.12, 0.8), (0.05, 0.83), (-0.05, 0.83)), shirt
    )
    dark = -sketch.light
    side = ((0.12 * dark, 0.8), (0.09 * dark, 0.47), (0.03 * dark, 0.47), (0.05 * dark, 0.8))
    sketch.polygon(side, shade(shirt, 0.8))
    if rng.random() < 0.3:
        sketch.box(-0.095, 0.61, 0.095, 0.66, jitter(rng, pick(rng, CLOTHES)))
    _head(rng, sketch, skin)
    _arm(rng, sketch, 1, shirt, skin)


def dog(rng: np.random.Generator, sketch: Sketch) -> None:
    """A dog from its side, standing or sitting."""
    coat = jitter(rng, pick(rng, COAT))
    patch = jitter(rng, pick(rng, COAT))
    if rng.random() < 0.7:
        tail = ((-0.5, 0.62), (-0.66, 0.78), (-0.68, 0.92))
        sketch.limb(tail, 0.07, coat)
        for u, tone in ((-0.36, 0.7), (0.2, 0.7), (-0.46, 1.0), (0.32, 1.0)):
            sketch.limb(((u, 0.45), (u + rng.uniform(-0.06, 0.06), 0.05)), 0.12, shade(coat, tone))
        sketch.ellipse((-0.08, 0.55), 0.5, 0.2, coat)
        sketch.ellipse((0.22, 0.55), 0.22, 0.22, coat)
        sketch.ellipse((-0.1, 0.44), 0.36, 0.08, shade(coat, 0.75))
        if rng.random() < 0.5:
            sketch.ellipse((-0.18, 0.6), 0.18, 0.11, patch)
        neck = 0.3
    else:
        sketch.limb(((-0.34, 0.08), (-0.6, 0.16)), 0.08, coat)
        sketch.polygon(((-0.4, 0.0), (-0.36, 0.3), (0.08, 0.74), (0.3, 0.7), (0.26, 0.0)), coat)
        sketch.ellipse((-0.16, 0.2), 0.26, 0.2, shade(coat, 0.85))
        sketch.limb(((0.2, 0.5), (0.22, 0.05)), 0.11, coat)
        sketch.limb(((0.22, 0.04), (0.32, 0.04)), 0.08, shade(coat, 0.85))
        neck = 0.16
    sketch.polygon(
        ((neck - 0.16, 0.6), (neck + 0.02, 0.88), (neck + 0.26, 0.82), (neck + 0.1, 0.52)), coat
    )
    sketch.disc((neck + 0.18, 0.85), 0.145, coat)
    sketch.blob((neck + 0.35, 0.79), (0.15, 0.075), -0.12, shade(coat, 1.1))
    sketch.disc((neck + 0.49, 0.8), 0.035, (25, 22, 22))
    sketch.blob(
        (neck + 0.07, 0.82), (0.07, 0.16), -0.35, shade(patch if coat != patch else coat, 0.6)
    )
    sketch.disc((neck + 0.24, 0.88), 0.022, (20, 18, 18))
    if rng.random() < 0.5:
        sketch.limb(((neck - 0.06, 0.66), (neck + 0.16, 0.62)), 0.05, pick(rng, BRIGHT))


def ball(rng: np.random.Generator, sketch: Sketch) -> None:
    """A ball: beach ball, football, striped or plain."""
    centre, first, second = (0.0, 0.5), pick(rng, BRIGHT), pick(rng, BRIGHT)
    if first == second:
        second = (245, 245, 240)
    style, turn = int(rng.integers(4)), rng.uniform(0, 6)
    sketch.disc(centre, 0.5, first)
    if style == 0:
        for wedge in range(3):
            angles = [turn + wedge * 2.094 + step * 0.175 for step in range(7)]
            rim = [(0.49 * math.cos(a), 0.5 + 0.49 * math.sin(a)) for a in angles]
            sketch.polygon(((0.08, 0.6), *rim), second)
        sketch.disc((0.08, 0.6), 0.09, (245, 245, 240))
    elif style == 1:
        sketch.disc(centre, 0.5, (242, 242, 238))
        sketch.disc(centre, 0.15, (35, 35, 38))
        for patch in range(5):
            angle = turn + patch * 1.2566
            sketch.disc((0.36 * math.cos(angle), 0.5 + 0.36 * math.sin(angle)), 0.11, (35, 35, 38))
    elif style == 2:
        sketch.polygon(((-0.47, 0.38), (0.47, 0.38), (0.47, 0.62), (-0.47, 0.62)), second)
    sketch.blob((0.2 * sketch.light, 0.72), (0.13, 0.08), -0.6 * sketch.light, (255, 255, 250))


def _canopy(rng: np.random.Generator, sketch: Sketch, base: float, half: float, top: float) -> None:
    """Coloured panels from the rim at height `base` to the tip at `top`."""
    first, second = pick(rng, BRIGHT), pick(rng, BRIGHT)
    panels = 6
    for panel in range(panels):
        tone = first if panel % 2 == 0 or rng.random() < 0.2 else second
        lit = 1.0 + 0.16 * sketch.light * (panel - 2.5) / 2.5
        u0, u1 = (-half * math.cos(math.pi * (panel + edge) / panels) for edge in (0, 1))
        up = [step * math.pi / 8 for step in range(5)]
        turns = [(u0, angle) for angle in up] + [(u1, angle) for angle in reversed(up)]
        arc = [(u * math.cos(turn), base + (top - base) * math.sin(turn)) for u, turn in turns]
        middle = ((u0 + u1) / 2, base + 0.05 * (top - base) * 2)
        sketch.polygon((*arc, middle), shade(tone, lit))
    sketch.limb(((0.0, top), (0.0, top + 0.03)), 0.02, (90, 80, 70))


def parasol(rng: np.random.Generator, sketch: Sketch) -> None:
    """A large umbrella standing in the ground."""
    pole = pick(rng, ((235, 232, 225), (130, 95, 60), (90, 90, 95)))
    sketch.limb(((0.0, 0.0), (0.0, 0.9)), 0.03, pole)
    _canopy(rng, sketch, rng.uniform(0.58, 0.64), rng.uniform(0.46, 0.58), 0.97)


def held_umbrella(rng: np.random.Generator, sketch: Sketch) -> None:
    """An umbrella from the hand that holds it upwards."""
    sketch.limb(((0.0, 0.0), (0.0, 0.9)), 0.035, (70, 62, 56))
    _canopy(rng, sketch, 0.56, rng.uniform(0.5, 0.6), 0.97)


def bench(rng: np.random.Generator, sketch: Sketch) -> None:
    """A bench with a back, seen from the front."""
    wood = jitter(
        rng, pick(rng, ((150, 98, 56), (176, 128, 78), (110, 72, 46), (70, 110, 80), (160, 60, 50)))
    )
    iron = pick(rng, ((50, 50, 54), (84, 84, 88), shade(wood, 0.55)))
    half = rng.uniform(0.85, 1.15)
    for u in (-half * 0.84, half * 0.84):
        sketch.box(u - 0.06, 0.0, u + 0.06, 0.95, iron)
    sketch.box(-half * 0.8, 0.5, half * 0.8, 0.62, shade(wood, 0.4))
    sketch.box(-half, 0.6, half, 0.78, wood)
    sketch.box(-half, 0.82, half, 1.0, shade(wood, 1.08))
    sketch.box(-half, 0.78, half, 0.82, shade(wood, 0.5))
    sketch.polygon(
        ((-half, 0.5), (-half * 1.08, 0.36), (half * 1.08, 0.36), (half, 0.5)), shade(wood, 1.2)
    )
    sketch.box(-half * 1.08, 0.28, half * 1.08, 0.36, shade(wood, 0.7))
    for u in (-half * 0.95, half * 0.95):
        sketch.box(u - 0.06, 0.0, u + 0.06, 0.3, iron)
        sketch.box(u - 0.05, 0.36, u + 0.05, 0.62, iron)
