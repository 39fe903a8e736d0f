"""What the stuff of a scene looks like, and the camera that takes the picture."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from prelabel.data import Color
from prelabel.demo.sketch import jitter, pick

__all__ = ["Ground", "noise", "photograph", "texture"]

FloatMap = NDArray[np.float32]
_SKIES: tuple[tuple[Color, Color], ...] = (
    ((70, 135, 215), (180, 212, 238)), ((100, 165, 230), (214, 228, 238)),
    ((150, 165, 182), (206, 212, 218)),
    ((78, 84, 140), (244, 178, 130)), ((96, 140, 200), (250, 216, 176)),
)  # fmt: skip
_BASES: dict[str, tuple[Color, ...]] = {
    "road": ((82, 82, 86), (66, 66, 72), (98, 94, 92)),
    "sidewalk": ((186, 180, 172), (176, 150, 136), (166, 168, 174), (200, 188, 164)),
    "grass": ((96, 146, 60), (80, 132, 62), (124, 154, 66), (108, 140, 50)),
    "sand": ((224, 200, 148), (234, 214, 172), (210, 178, 126)),
    "water": ((40, 104, 142), (38, 124, 138), (58, 94, 124), (70, 130, 160)),
    "mountain": ((112, 108, 118), (124, 104, 92), (92, 104, 128), (88, 96, 98)),
}


@dataclass(frozen=True, slots=True)
class Ground:
    """The rows of the picture that one kind of stuff needs.

    Attributes:
        top: first row, in pixels of the scene.
        height: rows.
        width: columns, those of the scene.
        horizon: row of the horizon in pixels of the scene; may lie outside the rows.
        bottom: the scene's height.
        vanishing: column at which lines into the depth meet.
    """

    top: int
    height: int
    width: int
    horizon: float
    bottom: int
    vanishing: float

    def depth(self) -> FloatMap:
        """float32 (height,), 0 at the horizon to 1 at the scene's last row."""
        rows = np.arange(self.top, self.top + self.height, dtype=np.float32)
        share = (rows - np.float32(self.horizon)) / np.float32(max(1.0, self.bottom - self.horizon))
        clipped: FloatMap = np.clip(share, np.float32(0), np.float32(1))
        return clipped


def noise(
    rng: np.random.Generator, size: tuple[int, int], cell: tuple[float, float], octaves: int = 1
) -> FloatMap:
    """Value noise in [0, 1], float32 (height, width); `cell` is (rows, columns) in pixels."""
    height, width = size
    total: FloatMap = np.zeros((1, 1), dtype=np.float32)
    weight = 1.0
    for octave in range(octaves):
        rows = max(2, min(height, math.ceil(height / max(1.0, cell[0] / 2**octave)) + 1))
        columns = max(2, min(width, math.ceil(width / max(1.0, cell[1] / 2**octave)) + 1))
        grid = rng.random((rows, columns), dtype=np.float32)
        # Each sum is enlarged only to the next grid, which costs far less than to the full size.
        share = np.float32(weight / (1 + weight)) if octave else np.float32(1)
        total = _enlarge(total, grid.shape) * (1 - share) + grid * share
        weight *= 0.6
    return _enlarge(total, size)


def _enlarge(values: FloatMap, size: tuple[int, ...]) -> FloatMap:
    """Bilinear, float32 (h, w) to `size`, (height, width)."""
    image = Image.fromarray(values).resize((size[1], size[0]), Image.Resampling.BILINEAR)
    return np.asarray(image, dtype=np.float32)


def _receding(rng: np.random.Generator, ground: Ground, cell: tuple[float, float]) -> FloatMap:
    """Noise squeezed towards the horizon, float32 (height, width) in [0, 1]."""
    flat = noise(rng, (ground.height * 2, ground.width), cell, 2)
    depth = ground.depth()
    rows = np.sqrt(np.maximum(depth, 0.002)) * np.float32(2 * ground.height - 1)
    return flat[np.clip(rows, 0, 2 * ground.height - 1).astype(np.int32)]


def _tinted(base: Color, light: FloatMap) -> FloatMap:
    """`base` times `light` (height, width), as float32 (height, width, 3)."""
    tinted = np.empty((*light.shape, 3), dtype=np.float32)
    for channel, part in enumerate(base):
        np.multiply(light, np.float32(part), out=tinted[..., channel])
    return tinted


def _sky(rng: np.random.Generator, ground: Ground) -> FloatMap:
    top, low = (np.asarray(jitter(rng, color, 10), dtype=np.float32) for color in pick(rng, _SKIES))
    size = ground.height, ground.width
    ramp = np.linspace(0, 1, ground.height, dtype=np.float32)[:, None, None]
    picture = np.broadcast_to(top + (low - top) * ramp, (*size, 3)).copy()
    if rng.random() < 0.3:
        x, y = rng.uniform(0.1, 0.9) * ground.width, rng.uniform(0.1, 0.6) * ground.height
        radius = rng.uniform(0.03, 0.06) * ground.width
        dx = np.arange(ground.width, dtype=np.float32) - np.float32(x)
        dy = np.arange(ground.height, dtype=np.float32) - np.float32(y)
        far = (dx * dx)[None] + (dy * dy)[:, None]
        glow = np.float32(radius**2) / (far + np.float32(radius**2))
        disc = np.clip((np.float32(radius**2) - far) / np.float32(radius * 3), 0, 1)
        warm = np.asarray((255, 246, 214), dtype=np.float32)
        picture += (warm - picture) * np.maximum(disc, 0.55 * glow)[..., None]
    if rng.random() < 0.75:
        cell = ground.width * rng.uniform(0.12, 0.3)
        cover = noise(rng, size, (cell * 0.4, cell), 4)
        cover = np.clip((cover - np.float32(rng.uniform(0.42, 0.58))) * 4, 0, 0.9)
        white = np.asarray(
            pick(rng, ((250, 250, 252), (228, 230, 236), (250, 236, 226))), dtype=np.float32
        )
        picture += (white - picture) * cover[..., None]
    return picture


def _road(rng: np.random.Generator, ground: Ground) -> FloatMap:
    size = ground.height, ground.width
    light = (
        0.9
        + 0.2 * noise(rng, size, (40, 70), 2)
        + 0.14 * (rng.random(size, dtype=np.float32) - 0.5)
    )
    return _tinted(jitter(rng, pick(rng, _BASES["road"]), 8), light)


def _sidewalk(rng: np.random.Generator, ground: Ground) -> FloatMap:
    size = ground.height, ground.width
    light = 0.92 + 0.14 * noise(rng, size, (30, 50), 2) + 0.07 * rng.random(size, dtype=np.float32)
    depth = np.maximum(ground.depth(), 0.05)[:, None]
    slabs = np.float32(rng.uniform(9, 15))
    across = (np.arange(ground.width, dtype=np.float32)[None] - np.float32(ground.vanishing)) / (
        depth * np.float32(ground.width)
    )
    along = np.float32(rng.uniform(2, 3.5)) / depth
    line_across = np.abs(across * slabs % 1 - 0.5) > 0.5 - 0.035 / depth * np.float32(slabs / 12)
    line_along = (along % 1) < 0.07 / np.maximum(depth, 0.2)
    joints = (line_across & (depth > 0.12)) | (line_along & (depth > 0.12))
    return _tinted(
        jitter(rng, pick(rng, _BASES["sidewalk"]), 8),
        light * np.where(joints, np.float32(0.8), np.float32(1)),
    )


def _grass(rng: np.random.Generator, ground: Ground) -> FloatMap:
    size = ground.height, ground.width
    patches = _receding(rng, ground, (40, 60))
    blades = noise(rng, size, (5, 1.5))
    light = 0.72 + 0.3 * patches + 0.26 * blades
    picture = _tinted(jitter(rng, pick(rng, _BASES["grass"]), 8), light)
    picture[..., 0] += 26 * (noise(rng, size, (60, 90)) - 0.5)
    if rng.random() < 0.35:
        dots = rng.random(size, dtype=np.float32) > 0.996
        picture[dots] = np.asarray(
            pick(rng, ((250, 240, 120), (245, 245, 245), (230, 120, 150))), dtype=np.float32
        )
    return picture


def _sand(rng: np.random.Generator, ground: Ground) -> FloatMap:
    size = ground.height, ground.width
    grain = rng.random(size, dtype=np.float32) - 0.5
    light = 0.86 + 0.2 * _receding(rng, ground, (14, 60)) + 0.1 * grain
    light -= 0.14 * (noise(rng, size, (7, 11)) > 0.83)
    return _tinted(jitter(rng, pick(rng, _BASES["sand"]), 8), light)


def _water(rng: np.random.Generator, ground: Ground) -> FloatMap:
    waves = _receding(rng, ground, (5, 34))
    light = 0.78 + 0.36 * waves + 0.12 * ground.depth()[:, None]
    picture = _tinted(jitter(rng, pick(rng, _BASES["water"]), 8), light)
    glint = np.clip((waves - np.float32(rng.uniform(0.7, 0.8))) * 6, 0, 0.8)
    picture += (np.float32(232) - picture) * glint[..., None]
    return picture


def _mountain(rng: np.random.Generator, ground: Ground) -> FloatMap:
    size = ground.height, ground.width
    ridges = np.abs(noise(rng, size, (30, 40), 3) - 0.5) * 2
    light = 0.78 + 0.5 * ridges + 0.16 * noise(rng, size, (60, 24))
    picture = _tinted(jitter(rng, pick(rng, _BASES["mountain"]), 8), light)
    if rng.random() < 0.4:
        down = np.linspace(0, 1, ground.height, dtype=np.float32)[:, None]
        snow = np.clip(
            (np.float32(rng.uniform(0.2, 0.4)) + 0.3 * (ridges - 0.3) - down) * 12, 0, 0.95
        )
        picture += (np.float32(240) - picture) * snow[..., None]
    return picture


_TEXTURES = {
    "sky": _sky, "road": _road, "sidewalk": _sidewalk, "grass": _grass, "sand": _sand,
    "water": _water, "mountain": _mountain,
}  # fmt: skip


def texture(rng: np.random.Generator, name: str, ground: Ground) -> FloatMap:
    """Colours of one kind of stuff over its rows, float32 (height, width, 3), about 0 to 255."""
    return _TEXTURES[name](rng, ground)


def _develop(rng: np.random.Generator, picture: Image.Image) -> Image.Image:
    """Gain, gamma and tint, each channel by its own table."""
    dusk = rng.random() < 0.15
    gain = rng.uniform(0.6, 0.75) if dusk else rng.uniform(0.85, 1.12)
    gamma, warm = rng.uniform(0.85, 1.2), rng.uniform(-0.07, 0.07) - (0.05 if dusk else 0.0)
    table: list[int] = []
    for tint in (1 + warm, 1.0, 1 - warm):
        table += [min(255, round(255 * tint * gain * (i / 255) ** gamma)) for i in range(256)]
    return picture.point(table)


def photograph(rng: np.random.Generator, scene: FloatMap, light: int) -> NDArray[np.uint8]:
    """The scene as a camera sees it: light from one side, exposure, blur, sensor noise, JPEG.

    Args:
        rng: decides all of it.
        scene: float32 (H, W, 3), about 0 to 255.
        light: -1 where it comes from the left, +1 from the right.

    Returns:
        uint8 (H, W, 3) RGB.
    """
    height, width = scene.shape[:2]
    across = np.linspace(-light, light, width, dtype=np.float32) * np.float32(
        rng.uniform(0.02, 0.12)
    )
    down = np.linspace(-1, 1, height, dtype=np.float32) * np.float32(rng.uniform(-0.08, 0.04))
    lit = scene * (1 + across[None, :] + down[:, None])[..., None]
    picture = _develop(rng, Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)))
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.BoxBlur(rng.uniform(0.2, 0.7)))
    if rng.random() < 0.8:
        grain = rng.standard_normal((height, width), dtype=np.float32) * np.float32(
            rng.uniform(1, 6)
        )
        noisy = np.asarray(picture, dtype=np.float32) + grain[..., None]
        picture = Image.fromarray(np.clip(noisy, 0, 255).astype(np.uint8))
    if rng.random() < 0.7:
        memory = io.BytesIO()
        picture.save(memory, "JPEG", quality=int(rng.integers(55, 96)))
        picture = Image.open(memory).convert("RGB")
    return np.asarray(picture)
