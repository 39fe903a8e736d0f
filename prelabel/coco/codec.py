"""Segment ids as colours of a PNG: id = R + 256 G + 65536 B, 0 = void."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prelabel.errors import LabelError
from prelabel.files import replacing

__all__ = ["decode_ids", "encode_ids", "read_id_map", "write_id_map"]

_MAX_ID = 256**3 - 1


def encode_ids(id_map: NDArray[np.int32]) -> NDArray[np.uint8]:
    """Segment ids, integers (H, W) in [0, 2^24), as colours uint8 (H, W, 3) RGB.

    Raises:
        LabelError: the map is not two-dimensional, or an id does not fit into 24 bits.
    """
    if id_map.ndim != 2 or not np.issubdtype(id_map.dtype, np.integer):
        raise LabelError(f"expected an id map int32 (H, W), got {id_map.dtype} {id_map.shape}")
    if id_map.size and (id_map.min() < 0 or id_map.max() > _MAX_ID):
        raise LabelError(f"expected ids from 0 to {_MAX_ID}, got {id_map.min()} to {id_map.max()}")
    planes = (id_map, id_map >> 8, id_map >> 16)
    return np.stack([(plane & 255).astype(np.uint8) for plane in planes], axis=-1)


def decode_ids(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Colours uint8 (H, W, 3) RGB as segment ids int32 (H, W)."""
    if rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.dtype != np.uint8:
        raise LabelError(f"expected colours uint8 (H, W, 3), got {rgb.dtype} {rgb.shape}")
    wide = rgb.astype(np.int32)
    ids: NDArray[np.int32] = wide[..., 0] | (wide[..., 1] << 8) | (wide[..., 2] << 16)
    return ids


def write_id_map(path: Path, id_map: NDArray[np.int32]) -> None:
    """Write ids (H, W) as an RGB PNG, atomically; the same map gives the same bytes."""
    with replacing(path) as part:
        Image.fromarray(encode_ids(id_map)).save(part, format="PNG")


def read_id_map(path: Path) -> NDArray[np.int32]:
    """Read the ids int32 (H, W) of an RGB PNG; alpha, which some tools add, is left out.

    Raises:
        LabelError: the file is missing, is no PNG, is broken, or is not 8-bit RGB.
    """
    try:
        with Image.open(path, formats=("PNG",)) as image:
            mode = image.mode
            pixels = np.asarray(image) if mode in ("RGB", "RGBA") else None
    except FileNotFoundError:
        raise LabelError(f"{path} is missing, though its JSON lists it") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabelError(f"{path} cannot be read as a PNG: {error}") from error
    if pixels is None:
        raise LabelError(f"{path} has mode {mode}; a COCO panoptic PNG is 8-bit RGB")
    return decode_ids(np.ascontiguousarray(pixels[..., :3]))
