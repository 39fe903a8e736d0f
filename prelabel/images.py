"""How a file becomes pixels: one policy for every format, mode and accident.

| input | policy |
|---|---|
| format | JPEG, PNG, WebP, TIFF, BMP, GIF, told by content and not by name; no other is tried |
| size | bytes, and the header's pixel count, are checked before anything is unpacked |
| orientation | EXIF is applied, so that the label has the size a viewer shows |
| 16-bit grey | scaled by its bit depth (a plain conversion would clip) |
| 32-bit integer grey | as 16-bit where its values fit; else refused, since its range is unknown |
| float grey | [0, 1] is scaled, [0, 255] taken as it is; else refused |
| 1-bit | black and white |
| palette, CMYK, YCbCr, HSV | converted to RGB without colour management |
| alpha, or a transparent colour | laid on white |
| several frames or pages | the first, with a warning in the log |
| truncated or damaged | ImageError "truncated" or "decode"; no half picture is ever labelled |
"""

from __future__ import annotations

import io
import logging
import os
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, UnidentifiedImageError

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ImageError

__all__ = ["FORMATS", "MAX_BYTES", "MAX_PIXELS", "SUFFIXES", "decode", "to_pixels"]

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF")
"""The formats that are tried, in Pillow's names."""
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"})
"""Lower-case suffixes of files that a folder offers as images."""
MAX_PIXELS = 100_000_000
"""Most pixels of one image, width times height."""
MAX_BYTES = 512 * 2**20
"""Most bytes of one file."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation to what undoes it."""

# What Pillow's decoders are known to raise on damaged files; anything else is a bug to be seen.
_DAMAGE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    NotImplementedError,
    struct.error,
    zlib.error,
)
_BITS_PER_SAMPLE = 258
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_BAND_PIXELS = 1 << 20
_LOGGER = logging.getLogger(__name__)


def decode(source: bytes | str | os.PathLike[str], record: ImageRecord) -> Frame:
    """Decode one image file, or its bytes.

    Raises:
        ImageError: kind "unreadable" (no such file, no permission, a pipe), "too-large",
            "truncated", "unsupported" (a range of values that cannot be known) or "decode".
    """
    data = source if isinstance(source, bytes) else _read(Path(source), record)
    if len(data) > MAX_BYTES:
        raise _too_large(record, f"{len(data)} bytes", f"{MAX_BYTES} bytes")
    if not data:
        raise ImageError(f"{record.image_id}: the file is empty", kind="decode")
    with _warnings_to_log(record.image_id):
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                _check_size(image, record)
                if image.format == "PNG":
                    _check_png(data, record)
                return Frame(record, to_pixels(image, record.image_id))
        except Image.DecompressionBombError as error:
            raise _too_large(record, "its header's size", f"{MAX_PIXELS} pixels") from error
        except UnidentifiedImageError as error:
            raise ImageError(
                f"{record.image_id}: not a {', '.join(FORMATS)} file, whatever its name says"
            ) from error
        except _DAMAGE as error:
            kind = "truncated" if _tells_truncation(error) else "decode"
            raise ImageError(f"{record.image_id}: damaged, {error}", kind=kind) from error


def to_pixels(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """The first frame of `image` as uint8 (H, W, 3) RGB, oriented, by the module's policy.

    Args:
        image: opened, not necessarily loaded.
        name: for the log and for errors.

    Raises:
        ImageError: kind "unsupported". Pillow's own errors pass through.
    """
    # A phone's MPO carries a preview behind the picture: that is no animation worth a warning.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        _LOGGER.warning("%s holds several frames or pages; only the first is labelled", name)
    image.load()
    turn = _TURNS.get(_orientation(image))
    flat = _to_rgb(image, name)
    if turn is not None:
        flat = flat.transpose(turn)
    return np.array(flat, dtype=np.uint8)


@contextmanager
def _warnings_to_log(name: str) -> Iterator[None]:
    """Pillow warns of odd metadata through Python's warnings, which would not name the file."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The cap here is our own and an error, so a warning would only say it twice.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield
    for text in sorted({str(warning.message).strip() for warning in caught}):
        _LOGGER.warning("%s: %s", name, text)


def _read(path: Path, record: ImageRecord) -> bytes:
    """The bytes of a file, no more of them than it had when it was looked at, and one."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            # To open a pipe waits for a writer, and a device may have no end.
            raise ImageError(
                f"{record.image_id}: is no file but {_special(status.st_mode)}", kind="unreadable"
            )
        if status.st_size > MAX_BYTES:
            raise _too_large(record, f"{status.st_size} bytes", f"{MAX_BYTES} bytes")
        with path.open("rb") as stream:
            return stream.read(status.st_size + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = getattr(error, "strerror", None) or error
        raise ImageError(
            f"{record.image_id}: cannot be read, {reason}", kind="unreadable"
        ) from error


def _special(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    if stat.S_ISFIFO(mode):
        return "a pipe"
    return "a socket" if stat.S_ISSOCK(mode) else "a device"


def _check_size(image: Image.Image, record: ImageRecord) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(record, f"{width}×{height} pixels", f"{MAX_PIXELS} pixels")
    if not width * height:
        raise ImageError(f"{record.image_id}: the header says {width}×{height} pixels")


def _check_png(data: bytes, record: ImageRecord) -> None:
    """Refuse pixels whose checksum is wrong: Pillow leaves that of the pixels unread."""
    view, place = memoryview(data), len(_PNG_SIGNATURE)
    while place + 8 <= len(data):
        length, name = struct.unpack_from(">I4s", data, place)
        end = place + 8 + length
        if name == b"IEND" or end + 4 > len(data):
            break  # at its end, or cut short, which the decoder will say
        if name == b"IDAT":
            (told,) = struct.unpack_from(">I", data, end)
            if zlib.crc32(view[place + 4 : end]) != told:
                raise ImageError(f"{record.image_id}: damaged, the checksum of its pixels is wrong")
        place = end + 4


def _too_large(record: ImageRecord, got: str, limit: str) -> ImageError:
    return ImageError(f"{record.image_id}: {got}, more than the limit of {limit}", kind="too-large")


def _tells_truncation(error: Exception) -> bool:
    text = str(error).lower()
    return isinstance(error, EOFError) or any(
        word in text for word in ("truncated", "unexpected end", "not enough image data")
    )


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 where there is none or it cannot be read."""
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _DAMAGE as error:
        _LOGGER.warning("EXIF cannot be read, orientation is left alone: %s", error)
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        return _grey(np.asarray(image), 2 ** _grey_bits(image) - 1)
    if image.mode == "I":
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"{name}: 32-bit grey from {values.min()} to {values.max()}, of unknown range; "
                "convert it to 8 or 16 bits",
                kind="unsupported",
            )
        return _grey(values, 65535)
    if image.mode == "F":
        floats = np.asarray(image)
        return _grey(floats, _float_white(floats, name))
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def _grey_bits(image: Image.Image) -> int:
    """Bits per sample of a 16-bit mode: a TIFF may hold 12 in it."""
    tags = getattr(image, "tag_v2", {})
    bits = tags.get(_BITS_PER_SAMPLE, 16)
    return int(bits[0] if isinstance(bits, tuple) else bits)


def _float_white(values: NDArray[np.float32], name: str) -> float:
    """What white is in float grey (H, W): 1.0 or 255.0."""
    low, high = float(values.min()), float(values.max())
    if not (np.isfinite(values).all() and low >= 0.0 and high <= 255.0):
        raise ImageError(
            f"{name}: float grey from {low:g} to {high:g}; only [0, 1] and [0, 255] are understood",
            kind="unsupported",
        )
    return 1.0 if high <= 1.0 else 255.0


def _grey(values: NDArray[np.generic], white: float) -> Image.Image:
    """Grey (H, W) in [0, white] as an RGB image."""
    levels = np.empty(values.shape, dtype=np.uint8)
    # By bands of rows: as float64, a large image would take ten times its own memory.
    rows = max(1, _BAND_PIXELS // max(1, values.shape[1]))
    for start in range(0, len(values), rows):
        unit = values[start : start + rows].astype(np.float64) / white
        levels[start : start + rows] = np.clip(np.rint(unit * 255.0), 0, 255)
    return Image.fromarray(levels).convert("RGB")
