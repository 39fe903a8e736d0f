"""The images of a COCO file: which are taken, from where, and what is refused."""

from __future__ import annotations

import io
import json
import pickle
from pathlib import Path

import fsspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from connectors.coco_images import CocoImagesSource, _members
from prelabel.cli.connect import open_source
from prelabel.data import ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.ports import ImageSource

IMAGES = [
    {"id": 7, "file_name": "b/x.png", "width": 3, "height": 2},
    {"id": 3, "file_name": "a.png"},
]


def _coco(folder: Path, document: object) -> Path:
    path = folder / "instances.json"
    path.write_text(document if isinstance(document, str) else json.dumps(document))
    return path


def _refused(folder: Path, document: object) -> str:
    with pytest.raises(ConfigError) as caught:
        list(CocoImagesSource(str(_coco(folder, document))).records())
    assert "instances.json" in str(caught.value)
    return str(caught.value)


def test_images_in_the_order_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    Image.new("RGB", (3, 2)).save(tmp_path / "b" / "x.png")
    path = _coco(tmp_path, {"info": {}, "images": IMAGES, "annotations": [], "categories": []})
    source = pickle.loads(pickle.dumps(open_source(f"coco:{path}")))
    assert isinstance(source, ImageSource)
    first, second = source.records()
    assert first == ImageRecord("b/x.png", f"{tmp_path}/b/x.png", "7")
    assert second == ImageRecord("a.png", f"{tmp_path}/a.png", "3")
    assert source.read(first).size == (2, 3)
    assert source.stamp(first) and source.stamp(second) == ""
    with pytest.raises(ImageError, match=r"a\.png: cannot be read") as caught:
        source.read(second)
    assert caught.value.kind == "unreadable"


def test_a_root_elsewhere(tmp_path: Path) -> None:
    path = _coco(tmp_path, {"images": [{"id": 1, "file_name": "a b.png"}]})
    for root, uri in (
        ("/photos", "/photos/a b.png"),
        ("https://host/val2017/", "https://host/val2017/a%20b.png"),
        ("memory://coco", "memory://coco/a b.png"),
    ):
        (record,) = CocoImagesSource(f"{path}::{root}").records()
        assert record == ImageRecord("a b.png", uri, "1")


def test_a_root_in_a_store(tmp_path: Path) -> None:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2)).save(stream, format="PNG")
    fsspec.filesystem("memory").pipe_file("/coco/sub/a.png", stream.getvalue())
    path = _coco(tmp_path, {"images": [{"id": 1, "file_name": "sub/a.png"}]})
    source = CocoImagesSource(f"{path}::memory://coco")
    (record,) = source.records()
    assert source.read(record).size == (2, 3)
    assert source.stamp(record).startswith(f"{len(stream.getvalue())}-")


@pytest.mark.parametrize(
    "name",
    [
        *("/etc/x.png", "../x.png", "a/../../x.png", "", ".", "a\0.png"),
        *(
            "..\\x.png",
            "C:\\x.png",
            "C:x.png",
            "\\x.png",
            "\\\\host\\share\\x.png",
            "a\\..\\..\\x.png",
        ),
    ],
)
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    told = _refused(tmp_path, {"images": [{"id": 1, "file_name": name}]})
    assert "images[0].file_name" in told and "not a relative path" in told


def test_a_name_cannot_chain_stores(tmp_path: Path) -> None:
    path = _coco(tmp_path, {"images": [{"id": 1, "file_name": "ab::https://10.0.0.1/x.png"}]})
    source = CocoImagesSource(f"{path}::memory://coco")
    (record,) = source.records()
    with pytest.raises(ImageError) as caught:
        source.read(record)
    assert caught.value.kind == "gone"


@pytest.mark.parametrize(
    ("images", "told"),
    [
        ([], "images[] is empty"),
        ({}, "images is no list"),
        ([3], "images[0] is no object"),
        ([{"id": 1}], "images[0].file_name is None"),
        ([{"file_name": "a.png"}], "images[0].id is None"),
        ([{"id": True, "file_name": "a.png"}], "images[0].id is True"),
        ([{"id": 1.5, "file_name": "a.png"}], "images[0].id is 1.5"),
        (
            [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "a.png"}],
            "the file_names 'a.png' stands twice",
        ),
        (
            [{"id": 1, "file_name": "a.png"}, {"id": 1, "file_name": "b.png"}],
            "'a.png' and 'b.png' have the same id 1",
        ),
    ],
)
def test_wrong_images_are_named(tmp_path: Path, images: object, told: str) -> None:
    assert told in _refused(tmp_path, {"images": images})


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "not valid JSON"),
        ("[]", "not valid JSON"),
        ("{}", "images is missing"),
        ('{"images": [], "images": []}', "images stands twice"),
        ('{"images": [{"id": 1, "id": 2}]}', "the key 'id' stands twice"),
        ('{"images": [{"id": NaN}]}', "NaN is not allowed"),
        ('{"images": [', "cut short"),
        ('{"images": [], "annotations": [{"a": [1, 2', "cut short"),
        ('{"images": []', "cut short"),
        ('{"images": []} x', "not valid JSON"),
        ('{"images" []}', "not valid JSON"),
        ('{"images":', "not valid JSON"),
    ],
)
def test_what_is_no_coco_file(tmp_path: Path, text: str, told: str) -> None:
    assert told in _refused(tmp_path, text)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="the COCO file is missing"):
        CocoImagesSource("")
    with pytest.raises(ConfigError, match=r"gone\.json cannot be read"):
        list(CocoImagesSource(str(tmp_path / "gone.json")).records())


def test_a_byte_order_mark_and_names_in_any_script(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    text = json.dumps({"images": [{"id": "é", "file_name": "日本.png"}]}, ensure_ascii=False)
    path.write_text(text, encoding="utf-8-sig")
    assert [(r.image_id, r.ref) for r in CocoImagesSource(str(path)).records()] == [
        ("日本.png", "é")
    ]


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=6,
)


@settings(max_examples=40)
@given(st.dictionaries(st.text(), _JSON, max_size=4), st.sampled_from([None, 1]), st.booleans())
def test_members_are_what_json_says(
    document: dict[str, object], indent: int | None, ascii_only: bool
) -> None:
    data = json.dumps(document, indent=indent, ensure_ascii=ascii_only)
    if not ascii_only:
        data = data.encode("utf-8", "replace").decode()
    found = {key: json.loads(value) for key, value in _members(data.encode(), Path("x.json"))}
    assert found == json.loads(data)
