"""What is looked at: images before and after they are opened."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray

from prelabel.errors import LabelError

__all__ = ["Frame", "ImageRecord", "image_key"]

_MAX_STEM = 60


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source, before it is opened.

    Attributes:
        image_id: stable and unique in its source; for a folder the relative path with extension.
        uri: where the pixels are, for people and logs.
        ref: the platform's own key, or "".
    """

    image_id: str
    uri: str
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image: `pixels` is uint8 (H, W, 3) RGB, with EXIF orientation applied."""

    record: ImageRecord
    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
            raise LabelError(f"expected pixels uint8 (H, W, 3), got {dtype} {shape}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def image_key(image_id: str) -> str:
    """The name of an image's artifacts: a readable ASCII stem and a short hash of the whole id.

    Equal stems in different folders, cases or Unicode forms get different keys on any file system.
    """
    stem = PurePosixPath(image_id.replace("\\", "/")).stem
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_stem).strip("-")[:_MAX_STEM] or "image"
    digest = hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()
    return f"{safe}-{digest[:10]}"
