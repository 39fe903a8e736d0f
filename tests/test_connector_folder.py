"""A folder as a source: stable ids, any depth, loops and twins."""

from __future__ import annotations

import os
import pickle
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
    source = pickle.loads(pickle.dumps(source))
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


def test_a_stamp_changes_with_the_file(tmp_path: Path) -> None:
    _touch(tmp_path, "a.png")
    source = FolderSource(str(tmp_path))
    (record,) = source.records()
    os.utime(tmp_path / "a.png", ns=(5, 7))
    assert source.stamp(record) == "0-7"
    (tmp_path / "a.png").write_bytes(b"xyz")
    os.utime(tmp_path / "a.png", ns=(5, 7))
    assert source.stamp(record) == "3-7"
    (tmp_path / "a.png").unlink()
    assert source.stamp(record) == ""


def test_the_output_of_a_run_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _touch(tmp_path, "a.png", "run/config.yaml", "run/labels/a-1.png", "run/traces/a-1.npz")
    _touch(tmp_path, "run/overlays/a-1.png", "run2/labels/b.png", "run2/config.yaml", "run2/job.db")
    assert _ids(tmp_path) == ["a.png"]
    assert [record.getMessage() for record in caplog.records] == [
        f"{tmp_path}/{name} is the output of a run and is left out of the source"
        for name in ("run2", "run")
    ]
    with pytest.raises(ConfigError, match="run is the output of a run; name the folder"):
        _ids(tmp_path / "run")


def test_images_inside_a_run_folder_may_be_named_themselves(tmp_path: Path) -> None:
    _touch(tmp_path, "config.yaml", "labels/a.png", "traces/a.npz", "scenes/images/b.png")
    assert _ids(tmp_path / "scenes") == ["images/b.png"]


def test_other_tools_have_labels_and_a_config_too(tmp_path: Path) -> None:
    _touch(tmp_path, "set/config.yaml", "set/labels/a.png", "set/images/a.png")
    assert _ids(tmp_path) == ["set/images/a.png", "set/labels/a.png"]


def test_links_that_lead_nowhere_are_images_that_fail(tmp_path: Path) -> None:
    os.symlink("circle.png", tmp_path / "circle.png")
    os.symlink("gone", tmp_path / "dead.png")
    source = FolderSource(str(tmp_path))
    for record, told in zip(source.records(), ("Too many levels", "No such file"), strict=True):
        with pytest.raises(ImageError, match=told) as caught:
            source.read(record)
        assert caught.value.kind == "unreadable"
        assert source.stamp(record) == ""
