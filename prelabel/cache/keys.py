"""What an answer depends on, as digests: the pixels, the network, the prompts.

Who computes counts too: the versions of the libraries and the source of the code around the
networks, so that an entry never outlives a change that could alter its last bit.
"""

from __future__ import annotations

import hashlib
import json
import threading
import weakref
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prelabel.config import options_digest
from prelabel.data import Category, Frame, Mask
from prelabel.models.roles import Prompts
from prelabel.options import Section

__all__ = [
    "PixelDigests",
    "category_digest",
    "digest",
    "mask_digest",
    "network_digest",
    "prompts_digest",
    "stages_digest",
]

_VERSION = 1
"""Of the meaning of keys and entries; another one begins an empty cache."""
_LIBRARIES = ("numpy", "pillow", "scipy", "tokenizers", "torch", "transformers")
_CODE = ("models/**/*.py", "boxes.py", "masks.py")
_STAGES = ("stages/*.py", "data/*.py")
"""Below this package: what lies between an image and a network's answer."""


def digest(*parts: object) -> str:
    """The sha256 of some JSON values, as hexadecimal."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def network_digest(role: str, options: Section, device: str) -> str:
    """Of a network, its weights and options, and of what computes it.

    Raises:
        ConfigError: the weights are nowhere to be found.
    """
    # Which of several GPUs an image goes to is chance.
    kind = device.partition(":")[0]
    return digest(_VERSION, _made_by(), role, options_digest(options), kind)


def category_digest(categories: Sequence[Category], options: Section) -> str:
    """Of what a network reads of the categories: never their names, nor thresholds of masks."""
    # Networks do not see a category's colour; the painted stand-ins see nothing else.
    colors = getattr(options, "kind", "") == "paint"
    return digest(
        *(
            [
                *(category.category_id, category.prompts, category.box_threshold),
                category.color if colors else None,
            ]
            for category in categories
        )
    )


def _array_digest(*arrays: NDArray[np.generic] | None) -> str:
    """Of types, shapes and values."""
    total = hashlib.sha256()
    for array in arrays:
        what = None if array is None else [array.dtype.str, array.shape]
        total.update(json.dumps(what).encode())
        if array is not None:
            total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()


def prompts_digest(prompts: Prompts) -> str:
    """Of all prompts together, in order."""
    return _array_digest(prompts.boxes, prompts.points, prompts.labels, prompts.masks)


def mask_digest(mask: Mask) -> str:
    """Of a mask and where it lies."""
    return digest(int(mask.x0), int(mask.y0), _array_digest(mask.bitmap))


class PixelDigests:
    """The digest of each frame's pixels, computed once for as long as the pixels live."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[NDArray[np.uint8]], str]] = {}
        self._lock = threading.Lock()

    def __call__(self, frame: Frame) -> str:
        pixels = frame.pixels
        with self._lock:
            known = self._known.get(id(pixels))
        if known is not None and known[0]() is pixels:
            return known[1]
        found = _array_digest(pixels)
        with self._lock:
            self._known = {key: row for key, row in self._known.items() if row[0]() is not None}
            self._known[id(pixels)] = weakref.ref(pixels), found
        return found


@cache
def _made_by() -> tuple[str, ...]:
    return (_code_digest(_CODE), *(f"{name} {_version(name)}" for name in _LIBRARIES))


@cache
def stages_digest() -> str:
    """Of the code between the networks' answers and the label."""
    return _code_digest(_STAGES)


def _code_digest(patterns: Sequence[str]) -> str:
    code = hashlib.sha256()
    package = Path(__file__).resolve().parent.parent
    for file in sorted(file for pattern in patterns for file in package.glob(pattern)):
        code.update(file.relative_to(package).as_posix().encode())
        code.update(hashlib.sha256(file.read_bytes()).digest())
    return code.hexdigest()


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return "none"
