"""The decoding policy, format by format and accident by accident, on images drawn by hand."""

from __future__ import annotations

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from prelabel import images
from prelabel.data import ImageRecord
from prelabel.errors import ImageError
from prelabel.images import decode

RECORD = ImageRecord("a/b.png", "there")
RGB = np.array(
    [[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[9, 8, 7], [6, 5, 4], [3, 2, 1]]], dtype=np.uint8
)


def _bytes(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def _pixels(data: bytes) -> NDArray[np.uint8]:
    return decode(data, RECORD).pixels


def _grey(levels: list[int]) -> NDArray[np.uint8]:
    """One row of greys as RGB."""
    return np.repeat(np.array([levels], dtype=np.uint8)[:, :, None], 3, axis=2)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_are_exact(kind: str) -> None:
    assert np.array_equal(_pixels(_bytes(Image.fromarray(RGB), kind)), RGB)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_the_other_formats_open(kind: str) -> None:
    flat = np.full((8, 12, 3), 128, dtype=np.uint8)
    assert np.abs(_pixels(_bytes(Image.fromarray(flat), kind)).astype(int) - 128).max() <= 2


def test_a_path_is_read_and_the_record_kept(tmp_path: Path) -> None:
    path = tmp_path / "x.jpg"  # the name lies: content decides
    path.write_bytes(_bytes(Image.fromarray(RGB)))
    frame = decode(path, RECORD)
    assert np.array_equal(frame.pixels, RGB)
    assert frame.record is RECORD


@pytest.mark.parametrize("size", [(1, 1), (20000, 1), (1, 5000), (3, 2)])
def test_any_shape(size: tuple[int, int]) -> None:
    assert _pixels(_bytes(Image.new("RGB", size))).shape == (size[1], size[0], 3)


# --- orientation ------------------------------------------------------------------------------

TURNED = {
    1: ["ab", "cd", "ef"],
    2: ["ba", "dc", "fe"],
    3: ["fe", "dc", "ba"],
    4: ["ef", "cd", "ab"],
    5: ["ace", "bdf"],
    6: ["eca", "fdb"],
    7: ["fdb", "eca"],
    8: ["bdf", "ace"],
}
"""What a viewer shows of rows ab, cd, ef, by EXIF orientation."""


def _letters(rows: list[str]) -> NDArray[np.uint8]:
    return np.array([[[ord(letter)] * 3 for letter in row] for row in rows], dtype=np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", TURNED)
def test_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = _bytes(Image.fromarray(_letters(TURNED[1])), kind, exif=exif)
    assert np.array_equal(_pixels(data), _letters(TURNED[orientation]))


@pytest.mark.parametrize("orientation", [0, 9, 77])
def test_an_orientation_that_does_not_exist_is_none(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    assert np.array_equal(_pixels(_bytes(Image.fromarray(RGB), exif=exif)), RGB)


def test_broken_exif_leaves_the_picture_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    data = _bytes(Image.fromarray(RGB), exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage")
    with caplog.at_level(logging.WARNING, logger="prelabel"):
        assert np.array_equal(_pixels(data), RGB)
    assert "a/b.png: Corrupt EXIF data" in caplog.text


# --- modes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_not_clipped(kind: str) -> None:
    deep = np.array([[0, 257, 32768, 65535]], dtype=np.uint16)
    assert np.array_equal(_pixels(_bytes(Image.fromarray(deep), kind)), _grey([0, 1, 128, 255]))


def test_12_bit_grey_is_scaled_by_its_own_depth() -> None:
    # Two samples of 12 bits, 0xFFF and 0x800, in three bytes.
    tags = [
        (256, 3, 2), (257, 3, 1), (258, 3, 12), (259, 3, 1), (262, 3, 1),
        (273, 4, 8), (277, 3, 1), (278, 3, 1), (279, 4, 3),
    ]  # fmt: skip
    strip = b"\xff\xf8\x00\x00"
    entries = b"".join(
        struct.pack("<HHI", tag, kind, 1)
        + struct.pack("<HH" if kind == 3 else "<I", *((value, 0) if kind == 3 else (value,)))
        for tag, kind, value in tags
    )
    data = struct.pack("<2sHI", b"II", 42, 12) + strip + struct.pack("<H", len(tags)) + entries
    assert np.array_equal(_pixels(data + b"\0\0\0\0"), _grey([255, 128]))


def test_32_bit_grey_is_taken_as_16_bit_or_refused() -> None:
    fits = Image.fromarray(np.array([[0, 65535]], dtype=np.int32))
    assert np.array_equal(_pixels(_bytes(fits, "TIFF")), _grey([0, 255]))
    with pytest.raises(ImageError, match="32-bit grey from -1 to 70000") as caught:
        _pixels(_bytes(Image.fromarray(np.array([[-1, 70000]], dtype=np.int32)), "TIFF"))
    assert caught.value.kind == "unsupported"


@pytest.mark.parametrize(
    ("values", "levels"), [([0.0, 0.5, 1.0], [0, 128, 255]), ([0.0, 7.0, 255.0], [0, 7, 255])]
)
def test_float_grey(values: list[float], levels: list[int]) -> None:
    image = Image.fromarray(np.array([values], dtype=np.float32))
    assert np.array_equal(_pixels(_bytes(image, "TIFF")), _grey(levels))


@pytest.mark.parametrize("value", [-0.5, 256.0, float("nan"), float("inf")])
def test_float_grey_of_unknown_range_is_refused(value: float) -> None:
    image = Image.fromarray(np.array([[0.0, value]], dtype=np.float32))
    with pytest.raises(ImageError, match="float grey") as caught:
        _pixels(_bytes(image, "TIFF"))
    assert caught.value.kind == "unsupported"


def test_1_bit_is_black_and_white() -> None:
    image = Image.fromarray(np.array([[0, 255]], dtype=np.uint8)).convert("1")
    assert np.array_equal(_pixels(_bytes(image)), _grey([0, 255]))


def test_alpha_is_laid_on_white() -> None:
    rgba = np.array([[[200, 0, 0, 255], [200, 0, 0, 0], [0, 0, 0, 51]]], dtype=np.uint8)
    expected = [[[200, 0, 0], [255, 255, 255], [204, 204, 204]]]
    assert _pixels(_bytes(Image.fromarray(rgba))).tolist() == expected
    grey_alpha = Image.fromarray(rgba).convert("LA")
    assert _pixels(_bytes(grey_alpha))[0, 1].tolist() == [255, 255, 255]


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putdata([0, 1])
    opaque = [[[10, 20, 30], [40, 50, 60]]]
    assert _pixels(_bytes(image)).tolist() == opaque
    assert _pixels(_bytes(image, transparency=1)).tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_cmyk_becomes_rgb() -> None:
    image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    red = _pixels(_bytes(image, "JPEG", quality=100))[4, 4]
    assert red[0] > 240 and red[1] < 15 and red[2] < 15


def test_the_first_of_several_frames_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (2, 2), color) for color in ("red", "blue")]
    data = _bytes(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING, logger="prelabel"):
        assert _pixels(data)[0, 0].tolist() == [255, 0, 0]
    assert "a/b.png holds several frames or pages" in caplog.text


def test_a_phone_picture_with_a_preview_is_no_animation(caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "blue")]
    data = _bytes(frames[0], "MPO", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING, logger="prelabel"):
        assert _pixels(data)[4, 4][0] > 240
    assert caplog.text == ""


# --- accidents --------------------------------------------------------------------------------


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_header(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)


def _kind(data: bytes) -> str:
    with pytest.raises(ImageError, match=r"a/b\.png: ") as caught:
        decode(data, RECORD)
    return caught.value.kind


def _noise(kind: str) -> bytes:
    values = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return _bytes(Image.fromarray(values), kind)


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\0"]
)
def test_what_is_no_image(data: bytes) -> None:
    assert _kind(data) == "decode"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "BMP"])
def test_half_a_file_is_truncated(kind: str) -> None:
    data = _noise(kind)
    assert _kind(data[: len(data) // 2]) == "truncated"


def test_a_wrong_checksum_is_damage() -> None:
    data = bytearray(_png_header(4, 4) + _chunk(b"IDAT", zlib.compress(b"\0" * 52)))
    data[25] ^= 0xFF
    assert _kind(bytes(data)) == "decode"


def test_a_wrong_checksum_of_the_pixels_is_damage_too() -> None:
    # One bit of a stored, uncompressed pixel: everything but the checksum still fits.
    pixels = zlib.compress(b"\0" * 52, level=0)
    data = bytearray(_png_header(4, 4) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b""))
    assert _pixels(bytes(data)).shape == (4, 4, 3)
    data[data.index(b"IDAT") + 20] ^= 1
    assert _kind(bytes(data)) == "decode"


@pytest.mark.parametrize("size", [(10_001, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(size: tuple[int, int]) -> None:
    data = _png_header(*size) + _chunk(b"IDAT", zlib.compress(b"\0" * 100))
    assert _kind(data) == "too-large"


def test_a_picture_below_the_cap_gives_no_warning() -> None:
    # Pillow warns from 89 megapixels on; ours is the one limit, and here it is not reached.
    data = _png_header(10_000, 9_500) + _chunk(b"IDAT", zlib.compress(b"\0" * 100))
    assert _kind(data) == "truncated"


def test_too_many_bytes_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_BYTES", 10)
    path = tmp_path / "x.png"
    path.write_bytes(_bytes(Image.fromarray(RGB)))
    for source in (path, path.read_bytes()):
        with pytest.raises(ImageError, match="more than the limit of 10 bytes") as caught:
            decode(source, RECORD)
        assert caught.value.kind == "too-large"


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="No such file") as caught:
        decode(tmp_path / "gone.png", RECORD)
    assert caught.value.kind == "unreadable"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a system with pipes")
def test_what_is_no_plain_file_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "endless.png").symlink_to("/dev/zero")
    for name, told in (("pipe", "a pipe"), ("folder", "a folder"), ("endless", "a device")):
        with pytest.raises(ImageError, match=f"is no file but {told}") as caught:
            decode(tmp_path / f"{name}.png", RECORD)
        assert caught.value.kind == "unreadable"


def test_a_name_that_no_file_can_have() -> None:
    with pytest.raises(ImageError, match="null byte") as caught:
        decode("a\0b.png", RECORD)
    assert caught.value.kind == "unreadable"


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 0.999), st.integers(0, 255)), max_size=6),
    st.floats(0.05, 1.0),
)
def test_damage_of_any_kind_is_an_image_error(
    kind: str, flips: list[tuple[float, int]], keep: float
) -> None:
    data = bytearray(_bytes(Image.fromarray(np.tile(RGB, (4, 4, 1))), kind))
    for where, value in flips:
        data[int(where * len(data))] = value
    try:
        frame = decode(bytes(data[: int(keep * len(data))]), RECORD)
    except ImageError as error:
        assert error.kind in {"decode", "truncated", "too-large", "unsupported"}
    else:
        assert frame.pixels.shape[2] == 3
