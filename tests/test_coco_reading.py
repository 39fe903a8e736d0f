from __future__ import annotations

import json
from pathlib import Path

import pytest

from prelabel.coco import (
    CocoSegment,
    check_relative,
    parse_json,
    read_panoptic,
)
from prelabel.errors import ConfigError, LabelError


def write_file(folder: Path, **changes: object) -> Path:
    """A minimal file of somebody else's, with top-level keys changed; None takes one away."""
    content = {
        "categories": [{"id": 3, "name": "car", "isthing": 1}],
        "images": [{"id": 1, "file_name": "a.jpg"}],
        "annotations": [
            {
                "image_id": 1,
                "file_name": "a.png",
                "segments_info": [{"id": 9, "category_id": 3}],
            }
        ],
    } | changes
    path = folder / "others.json"
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))
    return path


def test_files_of_others_are_read(tmp_path: Path) -> None:
    path = write_file(
        tmp_path,
        info={"year": 2017},
        categories=[
            {"id": 200, "name": "rug", "isthing": 0, "supercategory": "floor", "evil": [1]},
            {"id": 1, "name": "person", "isthing": True, "color": [1.0, 2, 3], "skeleton": None},
        ],
        images=[{"id": "aachen_01", "file_name": "aachen/01.png", "width": 6, "coco_url": "x"}],
        annotations=[
            {
                "image_id": "aachen_01",
                "file_name": "sub/01.png",
                "license": 4,
                "segments_info": [
                    {
                        "id": 3226956.0,
                        "category_id": 1,
                        "iscrowd": 1,
                        "area": 2,
                        "bbox": [0, 0, 1.5, 2],
                    },
                    {"id": 70, "category_id": 200, "area": None, "attributes": {"occluded": True}},
                ],
            }
        ],
    )
    file = read_panoptic(path)
    assert file.categories_by_id[200].extra == {"evil": [1]}
    assert file.categories_by_id[1].color == (1, 2, 3)
    assert file.images_by_id["aachen_01"].extra == {"coco_url": "x"}
    (annotation,) = file.annotations
    assert annotation.extra == {"license": 4}
    assert annotation.segments == (
        CocoSegment(3226956, 1, 2, (0, 0, 1.5, 2), iscrowd=True),
        CocoSegment(70, 200, extra={"attributes": {"occluded": True}}),
    )
    assert file.folder == tmp_path / "others"


def test_result_files_have_neither_images_nor_categories(tmp_path: Path) -> None:
    file = read_panoptic(write_file(tmp_path, images=None, categories=None))
    assert (file.images, file.categories) == ((), ())
    assert file.annotations[0].segments == (CocoSegment(9, 3),)


def one_segment(**changes: object) -> dict[str, object]:
    segment = {"id": 9, "category_id": 3} | changes
    return {"annotations": [{"image_id": 1, "file_name": "a.png", "segments_info": [segment]}]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"annotations": None}, "others.json: annotations is missing; expected a list"),
        ({"annotations": {}}, "others.json: annotations is {}; expected a list"),
        ({"images": [3]}, "others.json: images[0] is 3; expected an object"),
        ({"images": [{"file_name": "a.jpg"}]}, "images[0].id is missing; expected an integer"),
        (
            {"images": [{"id": 1, "file_name": "../a.jpg"}]},
            "images[0].file_name: '../a.jpg' is not",
        ),
        (
            {"annotations": [{"image_id": 1, "file_name": "/etc/x.png", "segments_info": []}]},
            "annotations[0].file_name: '/etc/x.png' is not a relative path",
        ),
        ({"annotations": [{"image_id": 1, "file_name": "a.png"}]}, "segments_info is missing"),
        (one_segment(id="9"), "annotations[0].segments_info[0].id is '9'; expected an integer"),
        (one_segment(id=True), "segments_info[0].id is True; expected an integer"),
        (one_segment(id=1.5), "segments_info[0].id is 1.5; expected an integer"),
        (one_segment(iscrowd=2), "segments_info[0].iscrowd is 2; expected 0 or 1"),
        (one_segment(iscrowd=[]), "segments_info[0].iscrowd is []; expected 0 or 1"),
        (one_segment(bbox=[1, 2, 3]), "segments_info[0].bbox is [1, 2, 3]; expected 4 numbers"),
        (one_segment(bbox=[1, 2, 3, None]), "segments_info[0].bbox"),
        (one_segment(score="high"), "segments_info[0].score is 'high'; expected a number"),
        (one_segment(area=[1] * 99), "segments_info[0].area is [1, 1, 1, 1"),
        ({"categories": [{"id": 3, "name": "car"}]}, "categories[0].isthing is missing"),
        ({"categories": [{"id": 3, "name": 5, "isthing": 1}]}, "categories[0].name is 5"),
        (
            {"categories": [{"id": 3, "name": "car", "isthing": 1, "color": [0, 0, 256]}]},
            "categories[0].color is [0, 0, 256]; expected three integers from 0 to 255",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_key(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(LabelError) as caught:
        read_panoptic(write_file(tmp_path, **changes))
    assert message in str(caught.value)
    assert "others.json" in str(caught.value)
    assert len(str(caught.value)) < len(str(tmp_path)) + 200


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' stands twice"),
        ('{"a": NaN}', "NaN is not allowed"),
        ("[-Infinity]", "-Infinity is not allowed"),
        ("[1e999]", "1e999 is too large"),
        ("{", "not valid JSON"),
        ("", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
    ],
)
def test_json_that_no_two_readers_agree_on_is_refused(text: str, message: str) -> None:
    with pytest.raises(LabelError, match=r"^x\.json is not valid JSON") as caught:
        parse_json(text, "x.json")
    assert message in str(caught.value)


def test_files_that_are_no_json_at_all(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.json cannot be read: No such file"):
        read_panoptic(tmp_path / "none.json")
    with pytest.raises(ConfigError, match="Is a directory"):
        read_panoptic(tmp_path)
    (tmp_path / "b.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(LabelError, match=r"b\.json is not UTF-8"):
        read_panoptic(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(LabelError, match=r"c\.json is \[\]; expected an object"):
        read_panoptic(tmp_path / "c.json")
    (tmp_path / "d.json").write_bytes(b'\xef\xbb\xbf{"annotations": []}')
    assert read_panoptic(tmp_path / "d.json").annotations == ()


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "/",
        "..",
        "a/../b",
        "..\\b",
        "/a",
        "\\a",
        "C:a",
        "c:\\a",
        "\\\\host\\a",
        "a\0b",
    ],
)
def test_unsafe_paths_are_refused_on_every_system(name: str) -> None:
    with pytest.raises(LabelError, match=r"^here: .* is not a relative path"):
        check_relative(name, "here")


@pytest.mark.parametrize("name", ["a.png", "a/b.png", "..a", "a..b/c", "é ö.png", ".hidden", "a b"])
def test_safe_paths_pass(name: str) -> None:
    assert check_relative(name, "here") == name
