"""A list of images: what a line may be, and what a list may not hold."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import fsspec
import pytest
from PIL import Image

from connectors.list_file import ListSource
from prelabel.cli.connect import open_source
from prelabel.data import ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.ports import ImageSource


def _list(folder: Path, text: str | bytes) -> ListSource:
    path = folder / "images.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return ListSource(str(path))


def _ids(source: ListSource) -> list[str]:
    return [record.image_id for record in source.records()]


def test_lines_are_ids_in_their_order(tmp_path: Path) -> None:
    lines = ["b.png", "sub/a.png", "../up.jpg", "/abs/x.tif", "https://host/x.png?id=5"]
    source = _list(tmp_path, "\n".join(lines))
    assert isinstance(source, ImageSource)
    assert [(record.image_id, record.uri) for record in source.records()] == [
        ("b.png", f"{tmp_path}/b.png"),
        ("sub/a.png", f"{tmp_path}/sub/a.png"),
        ("../up.jpg", f"{tmp_path}/../up.jpg"),
        ("/abs/x.tif", "/abs/x.tif"),
        ("https://host/x.png?id=5", "https://host/x.png?id=5"),
    ]


def test_comments_blanks_and_line_ends(tmp_path: Path) -> None:
    text = b"\xef\xbb\xbf# photos\r\n\r\n  a.png \t\r\n#b.png\r\n./#c.png\nd e.png"
    assert _ids(_list(tmp_path, text)) == ["a.png", "./#c.png", "d e.png"]


def test_odd_names(tmp_path: Path) -> None:
    names = ["-x.png", "[/foo].jpg", "日本.png", os.fsdecode(b"\xff.png"), "x\x0b.png"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (3, 2)).save(tmp_path / name, format="PNG")
    source = _list(tmp_path, b"\n".join(map(os.fsencode, names)))
    assert _ids(source) == names
    assert [source.read(record).size for record in source.records()] == [(2, 3)] * len(names)


def test_images_are_read_beside_the_list_wherever_the_command_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (3, 2)).save(tmp_path / "a.png")
    source = _list(tmp_path, "a.png\ngone.png\n")
    monkeypatch.chdir(os.sep)
    good, gone = pickle.loads(pickle.dumps(source)).records()
    assert source.read(good).size == (2, 3)
    with pytest.raises(ImageError, match=r"gone\.png: cannot be read") as caught:
        source.read(gone)
    assert caught.value.kind == "unreadable"
    status = (tmp_path / "a.png").stat()
    assert source.stamp(good) == f"{status.st_size}-{status.st_mtime_ns}"
    assert source.stamp(gone) == ""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "lists no image"),
        ("# nothing\n\n", "lists no image"),
        ("a.png\nb.png\na.png\n", "the lines 'a.png' stands twice"),
        ("\u00e9.png\ne\u0301.png\n", "differ only in their Unicode form"),
        ("a.png\n".encode("utf-16"), "is no UTF-8 text"),
        (b"a\0.png", "is no UTF-8 text"),
    ],
)
def test_what_is_no_list(tmp_path: Path, text: str | bytes, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        _ids(_list(tmp_path, text))
    assert "images.txt" in str(caught.value)


@pytest.mark.parametrize("location", ["", "::allow-private"])
def test_no_name_at_all(location: str) -> None:
    with pytest.raises(ConfigError, match="list of images is empty"):
        ListSource(location)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.txt cannot be read: No such file"):
        _ids(ListSource(str(tmp_path / "gone.txt")))
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        _ids(ListSource(str(tmp_path)))


def test_signatures_are_not_kept_but_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = "memory://signed/a.png?token=geheim"
    source = _list(tmp_path, line)
    (record,) = source.records()
    assert record.image_id == record.uri == "memory://signed/a.png?token=***"
    for reader in (source, pickle.loads(pickle.dumps(source))):
        assert reader._line(record.image_id) == line
        assert b"geheim" not in pickle.dumps(reader)
        with pytest.raises(ImageError) as caught:
            reader.read(record)
        assert "geheim" not in str(caught.value)


def test_an_object_of_a_store(tmp_path: Path) -> None:
    store = fsspec.filesystem("memory")
    with store.open("/listed/a.png", "wb") as stream:
        Image.new("RGB", (3, 2)).save(stream, format="PNG")
    source = _list(tmp_path, "memory://listed/a.png\nmemory://listed/gone.png\n")
    good, gone = source.records()
    assert source.read(good).size == (2, 3)
    assert source.stamp(good) == ""
    with pytest.raises(ImageError) as caught:
        source.read(gone)
    assert caught.value.kind == "gone"


@pytest.mark.parametrize(
    "line",
    [
        "file:///etc/passwd",
        "ftp://10.0.0.1/x.png",
        "sftp://host/x.png",
        "webhdfs://host/x.png",
        "simplecache::https://10.0.0.1/x.png",
        "memory://a::https://10.0.0.1/x.png",
        "https://10.0.0.1/x.png",
        "http://host/x.png",
        "https:///x.png",
        "nosuch://x.png",
    ],
)
def test_what_a_line_may_not_reach(tmp_path: Path, line: str) -> None:
    source = _list(tmp_path, line)
    (record,) = source.records()
    with pytest.raises(ImageError) as caught:
        source.read(record)
    # A chain in front is no address but a path, which is not there.
    assert caught.value.kind == ("unreadable" if line.startswith("simplecache") else "refused")


def test_private_addresses_where_they_are_meant(tmp_path: Path) -> None:
    path = tmp_path / "images.txt"
    path.write_text("http://127.0.0.1:1/x.png\n")
    assert ListSource(f"{path}::allow-private")._allow_private
    assert [record.image_id for record in ListSource(f"{path}::allow-private").records()] == [
        "http://127.0.0.1:1/x.png"
    ]


def test_it_is_found_by_name(tmp_path: Path) -> None:
    _list(tmp_path, "a.png")
    source = open_source(f"list:{tmp_path / 'images.txt'}")
    assert [*source.records()] == [ImageRecord("a.png", f"{tmp_path}/a.png")]
