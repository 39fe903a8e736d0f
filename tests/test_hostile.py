"""Files that a folder of a million images holds: each has its result, and the run goes on.

One run over all of them, by the command line, with networks that need no weights. The table below
says for each file what becomes of it: the size of its label, or the kind of its failure. What the
kinds mean, and why, stands in docs/reliability-images.md.

All files are made here, byte by byte where Pillow would not write them.
"""

from __future__ import annotations

import functools
import io
import json
import os
import socket
import struct
import subprocess
import sys
import unicodedata
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from connectors.folder import FolderSource
from prelabel.coco import decode_ids
from prelabel.errors import ConfigError
from prelabel.label_files import list_labels

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs pipes, links and odd names")

CONFIG = """
source: {source}
out: {out}
ontology:
  things: [{{name: car, color: [200, 0, 0]}}]
  stuff: [{{name: road, color: [80, 80, 80]}}]
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
"""
LANDSCAPE, PORTRAIT = (4, 6), (6, 4)
"""(height, width) of the picture as drawn, and turned."""
MOST_MEMORY_MB = 600
"""What one of the bombs below would exceed by far, if it were unpacked."""


# --- pictures ---------------------------------------------------------------------------------


def _road(size: tuple[int, int] = LANDSCAPE, mode: str = "RGB") -> Image.Image:
    return Image.new("RGB", size[::-1], (80, 80, 80)).convert(mode)


def _saved(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


@functools.cache
def _noise(kind: str) -> bytes:
    """A picture whose file is long enough to be cut at several places."""
    values = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return _saved(Image.fromarray(values), kind)


def _cut(kind: str, share: float) -> bytes:
    data = _noise(kind)
    return data[: int(len(data) * share)]


def _oriented(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return _saved(_road(), "JPEG", exif=exif)


def _frames(kind: str) -> bytes:
    later = [Image.new("RGB", (9, 9), color) for color in ("red", "blue")]
    sizes = [image.resize((6, 4)) for image in later]
    return _saved(_road(), kind, save_all=True, append_images=sizes)


def _array(values: object, dtype: type[np.generic]) -> bytes:
    return _saved(Image.fromarray(np.array(values, dtype=dtype)), "TIFF")


def _ycck() -> bytes:
    """A CMYK JPEG whose Adobe marker says that it is YCCK."""
    data = bytearray(_saved(_road(mode="CMYK"), "JPEG"))
    data[data.index(b"Adobe") + 11] = 2
    return bytes(data)


def _pale(mode: str, **options: object) -> bytes:
    return _saved(_road(mode=mode), **options)  # type: ignore[arg-type]


# --- PNG, byte by byte ------------------------------------------------------------------------


def _chunk(name: bytes, data: bytes, crc: int | None = None) -> bytes:
    check = zlib.crc32(name + data) if crc is None else crc
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", check)


def _png(
    size: tuple[int, int] = LANDSCAPE,
    *,
    depth: int = 8,
    color: int = 2,
    rows: bytes | None = None,
    before: bytes = b"",
) -> bytes:
    height, width = size
    if rows is None:
        channels = {0: 1, 2: 3, 4: 2, 6: 4}[color]
        rows = (b"\0" + b"P" * (width * channels * depth // 8)) * height
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    body = _chunk(b"IDAT", zlib.compress(rows)) + _chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + before + body


def _with_crc(name: bytes) -> bytes:
    """A PNG with a wrong checksum in the chunk `name`."""
    data = bytearray(_png())
    place = data.index(name)
    (length,) = struct.unpack(">I", data[place - 4 : place])
    data[place + 4 + length] ^= 0xFF
    return bytes(data)


@functools.cache
def _packed_zeros() -> bytes:
    """1 GiB of zeros in 5 MB: one block, again and again, with a flush between."""
    pack = zlib.compressobj(1)
    first = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    block = pack.compress(bytes(2**20)) + pack.flush(zlib.Z_FULL_FLUSH)
    return first + block * 1023


def _text_bomb(kind: bytes) -> bytes:
    """A chunk of text, or a colour profile, that unpacks to 1 GiB."""
    packed = _packed_zeros()
    head = {b"iTXt": b"k\0\1\0\0\0", b"zTXt": b"k\0\0", b"iCCP": b"k\0\0"}[kind]
    return _png(before=_chunk(kind, head + packed))


# --- other headers ----------------------------------------------------------------------------


def _tiff(width: int, height: int, *, next_ifd: int = 0) -> bytes:
    """An uncompressed grey TIFF with room for 24 pixels, whatever its header says."""
    strip, tags = b"P" * 24, [(256, width), (257, height), (258, 8), (259, 1), (262, 1)]
    tags += [(273, 8), (277, 1), (278, height), (279, 24)]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    ifd = struct.pack("<H", len(tags)) + entries + struct.pack("<I", next_ifd)
    return struct.pack("<2sHI", b"II", 42, 8 + len(strip)) + strip + ifd


def _gif(width: int, height: int) -> bytes:
    """A header and one frame that ends at once."""
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0PPP"
    return b"GIF89a" + screen + struct.pack("<cHHHHB", b",", 0, 0, width, height, 0) + b"\2\0;"


def _bmp(width: int, height: int) -> bytes:
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    rows = b"P" * 20 * 4
    return b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54) + info + rows


def _webp(width: int, height: int) -> bytes:
    """A lossless WebP header with no picture behind it."""
    bits = (width - 1) | (height - 1) << 14
    body = b"VP8L" + struct.pack("<I", 5) + b"\x2f" + struct.pack("<I", bits) + b"\0"
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


# --- the table --------------------------------------------------------------------------------

Result = tuple[int, int] | str
"""(height, width) of the label, or the kind of the failure."""

ROAD = _saved(_road())

FILES: dict[str, tuple[bytes | Callable[[], bytes], Result]] = {
    # What is no image, whatever its name says.
    "zero.jpg": (b"", "decode"),
    "page.jpg": (b"<html><body>404 not found</body></html>", "decode"),
    "eps.jpg": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", "decode"),
    "pdf.png": (b"%PDF-1.7\n", "decode"),
    "svg.png": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', "decode"),
    "psd.jpg": (b"8BPS\0\1" + bytes(20), "decode"),
    "ico.png": (lambda: _saved(_road((16, 16)), "ICO"), "decode"),
    "jpeg2000.jpg": (b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(20), "decode"),
    "nulls.jpg": (bytes(4096), "decode"),
    "magic-only.jpg": (b"\xff\xd8\xff\xe0", "decode"),
    "magic-only.png": (b"\x89PNG\r\n\x1a\n", "decode"),
    # Another format than the name says is none the worse.
    "png.jpg": (ROAD, LANDSCAPE),
    "jpeg.gif": (lambda: _saved(_road(), "JPEG"), LANDSCAPE),
    # Cut short, or bent on the way.
    "cut-header.jpg": (lambda: _noise("JPEG")[:100], "truncated"),
    "cut-quarter.jpg": (lambda: _cut("JPEG", 0.25), "truncated"),
    "cut-half.jpg": (lambda: _cut("JPEG", 0.5), "truncated"),
    "cut-header.png": (lambda: _noise("PNG")[:20], "truncated"),
    "cut-half.png": (lambda: _cut("PNG", 0.5), "truncated"),
    "cut-nearly.png": (lambda: _cut("PNG", 0.99), "truncated"),
    "cut-half.tif": (lambda: _cut("TIFF", 0.5), "truncated"),
    "cut-half.bmp": (lambda: _cut("BMP", 0.5), "truncated"),
    "cut-half.gif": (lambda: _cut("GIF", 0.5), "truncated"),
    "cut-half.webp": (lambda: _cut("WEBP", 0.5), "decode"),
    "crc-header.png": (lambda: _with_crc(b"IHDR"), "decode"),
    "crc-data.png": (lambda: _with_crc(b"IDAT"), "decode"),
    "line-ends.png": (ROAD.replace(b"\r\n", b"\n"), "decode"),
    "bad-stream.png": (lambda: _png().replace(zlib.compress(b"")[:2], b"\xff\xff"), "decode"),
    "short-rows.png": (lambda: _png(rows=b"\0PPP"), "truncated"),
    "trailing-bytes.png": (ROAD + b"appended" * 9, LANDSCAPE),
    "circle-of-pages.tif": (lambda: _tiff(6, 4, next_ifd=32), LANDSCAPE),
    # Headers that promise too much, or nothing.
    "bomb.png": (lambda: _png((30_000, 30_000), rows=b"\0"), "too-large"),
    "bomb.gif": (lambda: _gif(65_535, 65_535), "too-large"),
    "bomb.bmp": (lambda: _bmp(2**20, 2**20), "too-large"),
    "bomb.tif": (lambda: _tiff(2**30, 2**30), "too-large"),
    "bomb.webp": (lambda: _webp(16_383, 16_383), "too-large"),
    "bomb-itxt.png": (lambda: _text_bomb(b"iTXt"), "decode"),
    "bomb-ztxt.png": (lambda: _text_bomb(b"zTXt"), "decode"),
    "bomb-iccp.png": (lambda: _text_bomb(b"iCCP"), "decode"),
    "nothing.png": (lambda: _png((0, 0), rows=b""), "decode"),
    "nothing.tif": (lambda: _tiff(0, 0), "decode"),
    "upside-down.bmp": (lambda: _bmp(6, -4), LANDSCAPE),
    "no-frame.gif": (lambda: _gif(6, 4), "truncated"),
    # Depths and colours.
    "grey16.png": (lambda: _png(depth=16, color=0), LANDSCAPE),
    "rgb16.png": (lambda: _png(depth=16, color=2), LANDSCAPE),
    "grey-alpha16.png": (lambda: _png(depth=16, color=4), LANDSCAPE),
    "grey16.tif": (lambda: _array([[0, 65535]], np.uint16), (1, 2)),
    "int32.tif": (lambda: _array([[0, 65535]], np.int32), (1, 2)),
    "int32-wide.tif": (lambda: _array([[0, 70000]], np.int32), "unsupported"),
    "float-unit.tif": (lambda: _array([[0, 0.5, 1]], np.float32), (1, 3)),
    "float-bytes.tif": (lambda: _array([[0, 128, 255]], np.float32), (1, 3)),
    "float-negative.tif": (lambda: _array([[-1, 1]], np.float32), "unsupported"),
    "float-nan.tif": (lambda: _array([[np.nan, 1]], np.float32), "unsupported"),
    "cmyk.jpg": (lambda: _pale("CMYK", kind="JPEG"), LANDSCAPE),
    "ycck.jpg": (_ycck, LANDSCAPE),
    "grey.jpg": (lambda: _pale("L", kind="JPEG"), LANDSCAPE),
    "bits.png": (lambda: _pale("1"), LANDSCAPE),
    "palette.png": (lambda: _pale("P"), LANDSCAPE),
    "palette-clear.png": (lambda: _pale("P", transparency=0), LANDSCAPE),
    "grey-alpha.png": (lambda: _pale("LA"), LANDSCAPE),
    "alpha.webp": (lambda: _pale("RGBA", kind="WEBP", lossless=True), LANDSCAPE),
    # More than one picture in a file: the first.
    "pages.tif": (lambda: _frames("TIFF"), LANDSCAPE),
    "moving.gif": (lambda: _frames("GIF"), LANDSCAPE),
    "moving.webp": (lambda: _frames("WEBP"), LANDSCAPE),
    "moving.png": (lambda: _frames("PNG"), LANDSCAPE),
    # Orientation: the label is as a viewer shows the picture.
    **{
        f"exif-{value}.jpg": (
            functools.partial(_oriented, value),
            PORTRAIT if 5 <= value <= 8 else LANDSCAPE,
        )
        for value in range(10)
    },
    "exif-broken.jpg": (
        lambda: _saved(_road(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05garbage"),
        LANDSCAPE,
    ),
    # Shapes.
    "dot.png": (lambda: _saved(_road((1, 1))), (1, 1)),
    "row-50.png": (lambda: _saved(_road((1, 50))), (1, 50)),
    "row-51.png": (lambda: _saved(_road((1, 51))), "too-thin"),
    "row.png": (lambda: _saved(_road((1, 20_000))), "too-thin"),
    "column.png": (lambda: _saved(_road((20_000, 1))), "too-thin"),
    # Names.
    "n" * 251 + ".png": (ROAD, LANDSCAPE),
    os.fsdecode(b"latin-\xe9\xff.png"): (ROAD, LANDSCAPE),
    os.fsdecode(b"surrogate-\xed\xa0\x80.png"): (ROAD, LANDSCAPE),
    unicodedata.normalize("NFD", "zerlegt-é.png"): (ROAD, LANDSCAPE),
    "日本 🚗.png": (ROAD, LANDSCAPE),
    "\u202egnp.right-to-left.png": (ROAD, LANDSCAPE),
    "-dash.png": (ROAD, LANDSCAPE),
    "--help.png": (ROAD, LANDSCAPE),
    "[/foo].jpg": (ROAD, LANDSCAPE),
    "[bold]x.png": (ROAD, LANDSCAPE),
    "new\nline.png": (ROAD, LANDSCAPE),
    "car\rriage.png": (ROAD, LANDSCAPE),
    "esc\x1b[31m.png": (ROAD, LANDSCAPE),
    "%s{0}$(touch x)`y`.png": (ROAD, LANDSCAPE),
    "=1+1.png": (ROAD, LANDSCAPE),
    "a\\..\\b.png": (ROAD, LANDSCAPE),
    " blank .png": (ROAD, LANDSCAPE),
    "UPPER.PNG": (ROAD, LANDSCAPE),
    "upper.PNG": (ROAD, LANDSCAPE),
    "same/stem.png": (ROAD, LANDSCAPE),
    "same/stem.jpg": (ROAD, LANDSCAPE),
    "other/stem.png": (ROAD, LANDSCAPE),
}

SPECIAL: dict[str, Result] = {
    "pipe.jpg": "unreadable",
    "socket.jpg": "unreadable",
    "endless.jpg": "unreadable",  # a link to /dev/zero
    "dead-link.jpg": "unreadable",
    "circle.jpg": "unreadable",
    "good-link.png": LANDSCAPE,
    "folder.jpg/inside.png": LANDSCAPE,
}
"""What is no plain file. A folder is no image, whatever it is called: what lies in it is."""


def _make_special(folder: Path) -> None:
    os.mkfifo(folder / "pipe.jpg")
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(folder)  # the address of a socket may not be long
        try:
            listener.bind("socket.jpg")
        finally:
            os.chdir(here)
    (folder / "endless.jpg").symlink_to("/dev/zero")
    (folder / "dead-link.jpg").symlink_to("gone.jpg")
    (folder / "circle.jpg").symlink_to("circle.jpg")
    (folder / "good-link.png").symlink_to("png.jpg")
    (folder / "folder.jpg").mkdir()
    (folder / "folder.jpg" / "inside.png").write_bytes(ROAD)
    (folder / "folder.jpg" / "circle").symlink_to("..")


@dataclass(frozen=True)
class Run:
    code: int
    output: str
    folder: Path
    results: dict[str, Result]
    summary: dict[str, int]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The one run over all of it; a hang is a failure of every test here."""
    folder = tmp_path_factory.mktemp("hostile")
    photos = folder / "photos"
    for name, (data, _) in FILES.items():
        path = photos / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data())
    _make_special(photos)
    config = folder / "c.yaml"
    config.write_text(CONFIG.format(source=photos, out=folder / "run"))
    done = subprocess.run(
        [sys.executable, "-m", "prelabel", "run", str(config)],
        capture_output=True,
        timeout=300,
        check=False,
        env=os.environ | {"COLUMNS": "200"},
    )
    output = (done.stdout + done.stderr).decode()
    summary = json.loads((folder / "run" / "summary.json").read_text())
    results: dict[str, Result] = {part["image_id"]: part["kind"] for part in summary["failures"]}
    results |= {meta.record.image_id: meta.size for meta in list_labels(folder / "run")}
    yield Run(done.returncode, output, folder / "run", results, summary)


@pytest.mark.parametrize("name", FILES | SPECIAL, ids=ascii)
def test_each_file_has_its_documented_result(run: Run, name: str) -> None:
    expected = FILES[name][1] if name in FILES else SPECIAL[name]
    assert run.results[name] == expected


def test_the_run_ends_with_item_failures_and_misses_nobody(run: Run) -> None:
    assert run.code == 3
    assert set(run.results) == set(FILES) | set(SPECIAL)
    failed = sum(isinstance(result, str) for result in run.results.values())
    assert run.summary["total"] == len(FILES) + len(SPECIAL) >= 40
    assert (run.summary["failed"], run.summary["quarantined"]) == (failed, 0)
    assert run.summary["done"] == run.summary["total"] - failed
    assert "Traceback" not in run.output


def test_memory_stays_bounded(run: Run) -> None:
    assert 0 < run.summary["peak_memory_mb"] < MOST_MEMORY_MB


def test_nothing_a_terminal_obeys_is_printed(run: Run) -> None:
    assert "\x1b" not in run.output and "\r" not in run.output and "\u202e" not in run.output


def test_every_label_fits_its_picture(run: Run) -> None:
    for meta in list_labels(run.folder):
        with Image.open(run.folder / "labels" / f"{meta.key}.png") as png:
            ids = decode_ids(np.asarray(png))
        assert ids.shape == meta.size
        assert sum(segment.area for segment in meta.segments) == np.count_nonzero(ids)


def test_twins_of_one_name_end_it_before_it_begins(tmp_path: Path) -> None:
    for form in ("NFC", "NFD"):
        (tmp_path / unicodedata.normalize(form, "é.png")).write_bytes(ROAD)
    with pytest.raises(ConfigError, match="differ only in their Unicode form"):
        list(FolderSource(str(tmp_path)).records())


@pytest.mark.skipif(getattr(os, "geteuid", lambda: 0)() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(ROAD)
    (tmp_path / "a.png").chmod(0)
    source = FolderSource(str(tmp_path))
    (record,) = source.records()
    with pytest.raises(Exception, match="Permission denied"):
        source.read(record)
