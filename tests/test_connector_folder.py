"""A folder as a source: stable ids, any depth, loops and twins."""

from __future__ import annotations

import os
import unicodedata
from pathlib import Path

import pytest
from PIL import Image

from connectors.folder import FolderSource
from prelabel.errors import ConfigError, ImageError
from prelabel.ports import ImageSource


def _touch(root: Path, *names: str) -> None:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def _ids(root: Path) -> list[str]:
    return [record.image_id for record in FolderSource(str(root)).records()]


def test_ids_are_sorted_relative_paths_with_extension(tmp_path: Path) -> None:
    _touch(tmp_path, "b.JPG", "a/x.png", "a/x.jpg", "a/deep/er.webp", "B.tiff", "a.bmp", "c.gif")
    assert _ids(tmp_path) == [
        *("B.tiff", "a.bmp", "a/deep/er.webp", "a/x.jpg", "a/x.png", "b.JPG", "c.gif"),
    ]


def test_what_is_no_image_or_hidden_is_left_out(tmp_path: Path) -> None:
    _touch(
        tmp_path, "x.png", "notes.txt", "x.png.json", ".hidden.png", ".git/y.png", "png", "z.svg"
    )
    assert _ids(tmp_path) == ["x.png"]


def test_records_open_nothing_and_read_decodes(tmp_path: Path) -> None:
    _touch(tmp_path, "bad.png")
    Image.new("RGB", (3, 2), "red").save(tmp_path / "good.png")
    source = FolderSource(str(tmp_path))
    bad, good = source.records()
    assert isinstance(source, ImageSource)
    assert (good.uri, good.ref) == (str(tmp_path / "good.png"), "")
    assert source.read(good).size == (2, 3)
    with pytest.raises(ImageError, match=r"bad\.png: the file is empty"):
        source.read(bad)


@pytest.mark.parametrize(
    ("name", "told"),
    [("gone", "does not exist"), ("empty", "holds no image"), ("file", "is a file")],
)
def test_a_source_that_gives_nothing_is_told(tmp_path: Path, name: str, told: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=told) as caught:
        _ids(tmp_path / name)
    assert str(tmp_path / name) in str(caught.value)


def test_no_name_at_all() -> None:
    with pytest.raises(ConfigError, match="source is empty"):
        FolderSource("")


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    _touch(tmp_path, "photos/a.png", "more/b.png")
    os.symlink(tmp_path / "photos", tmp_path / "photos" / "loop")
    os.symlink(tmp_path / "more", tmp_path / "photos" / "more")
    os.symlink(tmp_path / "gone", tmp_path / "photos" / "dead")
    assert _ids(tmp_path / "photos") == ["a.png", "more/b.png"]


def test_twins_that_look_the_same_are_refused(tmp_path: Path) -> None:
    name = "é.png"
    _touch(tmp_path, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name))
    with pytest.raises(ConfigError, match="differ only in their Unicode form"):
        _ids(tmp_path)


def test_long_and_odd_names(tmp_path: Path) -> None:
    names = ["x" * 251 + ".png", "[/foo].png", "a\nb.png", "日本.png"]
    _touch(tmp_path, *names)
    (tmp_path / os.fsdecode(b"\xff.png")).write_bytes(b"")
    assert sorted(_ids(tmp_path)) == sorted([*names, "\udcff.png"])
