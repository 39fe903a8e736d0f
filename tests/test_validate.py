"""Each rule of a COCO panoptic file, broken in each way: named, and repaired or told why not."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from prelabel.cli import main
from prelabel.coco import (
    RULES,
    PanopticWriter,
    Problem,
    check_panoptic,
    measure_segments,
    read_panoptic,
    repair_panoptic,
)
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError, LabelError
from prelabel.review.evaluate import evaluate

CAR, DOG, SKY, SEA = 1, 2, 3, 4
ONTOLOGY = Ontology(
    (
        Category(CAR, "car", True),
        Category(DOG, "dog", True),
        Category(SKY, "sky", False),
        Category(SEA, "sea", False),
    )
)
NAMES = ("a.jpg", "sub/b.jpg")
CATEGORIES = {1: CAR, 2: DOG, 3: SKY, 4: SEA, 300: CAR}
PLACES = np.array([0, *CATEGORIES])


def write_valid(folder: Path, maps: list[np.ndarray]) -> Path:
    path = folder / "panoptic.json"
    with PanopticWriter(path, ONTOLOGY) as writer:
        for number, (name, id_map) in enumerate(zip(NAMES, maps, strict=True), start=1):
            segments = measure_segments(id_map, CATEGORIES, scores={1: 0.5}, crowd={2})
            writer.add_map(name, id_map, segments, number)
    return path


@st.composite
def valid_maps(draw: st.DrawFn) -> list[np.ndarray]:
    """Two maps (4, 6) in which every segment has a pixel and none the whole image."""
    maps = []
    for _ in NAMES:
        picks = draw(hnp.arrays(np.int32, (4, 6), elements=st.integers(0, len(CATEGORIES))))
        picks[0, : len(CATEGORIES)] = range(1, len(CATEGORIES) + 1)
        maps.append(PLACES[picks].astype(np.int32))
    return maps


class Case:
    """A valid file as a document that is about to be broken, somewhere that hypothesis chooses."""

    def __init__(self, path: Path, data: st.DataObject) -> None:
        self.path = path
        self.document: dict[str, Any] = json.loads(path.read_text())
        self.data = data
        self.index = data.draw(st.integers(0, len(NAMES) - 1), label="image")

    @property
    def image(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["images"][self.index]
        return found

    @property
    def annotation(self) -> dict[str, Any]:
        found: dict[str, Any] = self.document["annotations"][self.index]
        return found

    @property
    def segments(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.annotation["segments_info"]
        return found

    @property
    def png(self) -> Path:
        return self.path.with_suffix("") / str(self.annotation["file_name"])

    def pick(self, *values: Any) -> Any:
        return self.data.draw(st.sampled_from(values), label="value")

    @property
    def segment(self) -> dict[str, Any]:
        return self.pick(*self.segments)  # type: ignore[no-any-return]

    @property
    def category(self) -> dict[str, Any]:
        return self.pick(*self.document["categories"])  # type: ignore[no-any-return]

    def write(self) -> None:
        self.path.write_text(json.dumps(self.document))


def put(record: dict[str, Any], key: str, value: object) -> None:
    """Set a value; ... takes the key away."""
    if value is ...:
        del record[key]
    else:
        record[key] = value


# --- the ways to break ------------------------------------------------------------------------

Break = Callable[[Case], None]
BREAKS: dict[str, tuple[str, Break]] = {}


def breaks(rule: str) -> Callable[[Break], Break]:
    def register(function: Break) -> Break:
        BREAKS[function.__name__] = (rule, function)
        return function

    return register


@breaks("structure")
def no_list_of_segments(case: Case) -> None:
    put(case.annotation, "segments_info", case.pick(..., None, {}, 3))


@breaks("structure")
def an_entry_that_is_no_object(case: Case) -> None:
    where = case.pick(case.document["categories"], case.document["images"], case.segments)
    where.append(case.pick(None, 5, "x", []))


@breaks("empty")
def nothing_in_it(case: Case) -> None:
    case.document["images"] = []
    case.document["annotations"] = []


@breaks("field")
def a_segment_value_of_the_wrong_type(case: Case) -> None:
    segment = case.segment
    key = case.pick("id", "category_id", "area", "bbox", "iscrowd", "score")
    values: dict[str, tuple[object, ...]] = {
        "id": (float(segment["id"]), str(segment["id"]), None, "x", True, ...),
        "category_id": (float(segment["category_id"]), str(segment["category_id"]), None, ...),
        "area": (None, ..., float(segment["area"]), "3", 1.5),
        "bbox": (None, ..., [1, 2, 3], [float(side) for side in segment["bbox"]], "box"),
        "iscrowd": (None, ..., 2, True, "0"),
        "score": ("high", None, True, []),
    }
    put(segment, key, case.pick(*values[key]))


@breaks("field")
def an_image_value_of_the_wrong_type(case: Case) -> None:
    key, value = case.pick(
        ("height", None), ("height", 0), ("width", -3), ("width", ...), ("height", "4"),
        ("width", 6.0), ("id", float(case.image["id"])), ("id", str(case.image["id"])),
    )  # fmt: skip
    put(case.image, key, value)


@breaks("field")
def an_image_id_that_is_a_name(case: Case) -> None:
    case.image["id"] = case.annotation["image_id"] = case.pick("aachen_01", "x")


@breaks("field")
def an_annotation_value_of_the_wrong_type(case: Case) -> None:
    key, value = case.pick(
        ("image_id", float(case.image["id"])), ("image_id", str(case.image["id"])),
        ("file_name", 5), ("file_name", None), ("file_name", ...), ("file_name", " "),
    )  # fmt: skip
    put(case.annotation, key, value)


@breaks("field")
def a_category_value_of_the_wrong_type(case: Case) -> None:
    key, value = case.pick(
        ("name", 5), ("name", ...), ("name", " "), ("color", [0, 0, 256]), ("color", "red"),
        ("color", [1.0, 2, 3]), ("supercategory", 7),
    )  # fmt: skip
    put(case.category, key, value)


@breaks("isthing")
def isthing_of_another_kind(case: Case) -> None:
    category = case.category
    same = category["isthing"]
    put(category, "isthing", case.pick(2, None, str(same), bool(same), float(same), ...))


@breaks("category-id")
def a_category_id_below_one(case: Case) -> None:
    category, number = case.category, case.pick(0, -4)
    for annotation in case.document["annotations"]:
        for segment in annotation["segments_info"]:
            if segment["category_id"] == category["id"]:
                segment["category_id"] = number
    category["id"] = number


@breaks("duplicate-category")
def a_category_twice(case: Case) -> None:
    change = case.pick({}, {"name": "cat"}, {"id": 50}, {"id": 50, "isthing": 0})
    case.document["categories"].append(case.document["categories"][0] | change)


@breaks("duplicate-image-id")
def an_image_id_twice(case: Case) -> None:
    case.document["images"].append(case.image | {"file_name": "c.jpg"})


@breaks("duplicate-file-name")
def a_file_name_twice(case: Case) -> None:
    case.document["images"].append(case.image | {"id": 99})
    annotation = copy.deepcopy(case.annotation) | {"image_id": 99, "file_name": "copy.png"}
    case.document["annotations"].append(annotation)
    shutil.copyfile(case.png, case.png.with_name("copy.png"))


@breaks("unsafe-path")
def a_path_that_leaves_its_folder(case: Case) -> None:
    record = case.pick(case.image, case.annotation)
    before = case.pick("../", "/", "C:\\", "..\\", "x/../../", "\\\\host\\")
    record["file_name"] = before + record["file_name"]


@breaks("unsafe-path")
def a_path_of_nothing(case: Case) -> None:
    case.pick(case.image, case.annotation)["file_name"] = case.pick("..", "/", "./.", "\\")


@breaks("no-annotation")
def an_image_without_annotation(case: Case) -> None:
    del case.document["annotations"][case.index]


@breaks("unknown-image")
def an_annotation_without_image(case: Case) -> None:
    del case.document["images"][case.index]


@breaks("duplicate-annotation")
def an_annotation_twice(case: Case) -> None:
    case.document["annotations"].append(copy.deepcopy(case.annotation) | case.pick({}, {"x": 1}))


@breaks("duplicate-png")
def a_png_twice(case: Case) -> None:
    first, second = case.document["annotations"]
    case.document["annotations"][1] = copy.deepcopy(first) | {"image_id": second["image_id"]}


@breaks("png-name")
def a_png_of_another_name(case: Case) -> None:
    name = case.pick("a.dat", "label", "a.png.bak", "deep/er")
    target = case.path.with_suffix("") / name
    target.parent.mkdir(exist_ok=True)
    case.png.rename(target)
    case.annotation["file_name"] = name


@breaks("png-missing")
def a_png_that_is_gone(case: Case) -> None:
    case.png.unlink()


@breaks("png-unreadable")
def a_png_that_is_damaged(case: Case) -> None:
    content = case.png.read_bytes()
    case.png.write_bytes(case.pick(b"", b"<html>", content[:60], b"BM" + content))


@breaks("png-mode")
def a_png_with_alpha(case: Case) -> None:
    with Image.open(case.png) as image:
        alpha = image.convert("RGBA")
    alpha.putalpha(case.pick(255, 128, 0))
    alpha.save(case.png)


@breaks("png-mode")
def a_png_of_plain_numbers(case: Case) -> None:
    id_map = read_panoptic(case.path).id_map(read_panoptic(case.path).annotations[case.index])
    plain = case.pick(np.uint8, np.uint16)
    if plain == np.uint8:
        # 300 does not fit into 8 bits: some other id then, in both places.
        id_map = np.where(id_map == 300, 44, id_map)
        for segment in case.segments:
            segment["id"] = 44 if segment["id"] == 300 else segment["id"]
    Image.fromarray(id_map.astype(plain)).save(case.png)


@breaks("png-mode")
def a_png_of_wrong_numbers(case: Case) -> None:
    Image.fromarray(np.full((4, 6), 77, np.uint8)).save(case.png)


@breaks("png-size")
def a_size_that_is_not_the_pngs(case: Case) -> None:
    case.image[case.pick("height", "width")] += case.pick(1, -1, 1000)


@breaks("segment-id")
def an_id_that_no_pixel_can_have(case: Case) -> None:
    case.segments.append(case.segments[0] | {"id": case.pick(0, -1, 2**24, 2**70)})


@breaks("duplicate-segment")
def a_segment_twice(case: Case) -> None:
    change = case.pick({}, {"category_id": DOG}, {"category_id": DOG, "area": 99})
    case.segments.append(case.segments[0] | change)


@breaks("unknown-category")
def a_category_that_is_not_listed(case: Case) -> None:
    case.segment["category_id"] = case.pick(77, -1, 10**9)


@breaks("stuff-twice")
def two_segments_of_one_stuff(case: Case) -> None:
    next(row for row in case.segments if row["id"] == 4)["category_id"] = SKY


@breaks("empty-segment")
def a_segment_without_pixels(case: Case) -> None:
    case.segments.append(case.segments[0] | {"id": case.pick(9, 2**24 - 1)})


@breaks("unlisted-id")
def pixels_without_a_segment(case: Case) -> None:
    case.segments.remove(case.segment)


@breaks("area")
def a_wrong_area(case: Case) -> None:
    case.segment["area"] += case.pick(1, -1, -100)


@breaks("bbox")
def a_wrong_box(case: Case) -> None:
    segment = case.segment
    x, y, width, height = segment["bbox"]
    segment["bbox"] = case.pick(
        [x + 1, y, width, height], [x, y, width - 1, height], [x, y, x + width + 1, y + height]
    )


# --- properties -------------------------------------------------------------------------------


def test_every_rule_is_broken_here() -> None:
    assert {rule for rule, _ in BREAKS.values()} == set(RULES)


@given(valid_maps())
@settings(max_examples=15)
def test_a_valid_file_is_clean_and_its_repair_changes_nothing(maps: list[np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = write_valid(Path(folder), maps)
        assert list(check_panoptic(path)) == []
        report = repair_panoptic(path, Path(folder) / "new")
        assert (report.repairs, report.whole, report.images) == ((), True, 2)
        assert json.loads(report.json_path.read_text()) == json.loads(path.read_text())
        for png in path.with_suffix("").glob("*.png"):
            assert (report.json_path.with_suffix("") / png.name).read_bytes() == png.read_bytes()


@pytest.mark.parametrize("name", BREAKS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.too_slow])
@given(maps=valid_maps(), data=st.data())
def test_what_is_broken_is_named_and_repaired_or_told(
    name: str, maps: list[np.ndarray], data: st.DataObject
) -> None:
    rule, breaker = BREAKS[name]
    with tempfile.TemporaryDirectory() as folder:
        case = Case(write_valid(Path(folder) / "old", maps), data)
        breaker(case)
        case.write()
        before = contents(case.path.parent)
        problems = list(check_panoptic(case.path))
        assert {problem.rule for problem in problems} == {rule}, problems
        report = repair_panoptic(case.path, Path(folder) / "new")
        assert contents(case.path.parent) == before
        assert rule in {repair.rule for repair in report.repairs}
        left = list(check_panoptic(report.json_path))
        assert left == list(report.remaining)
        told = {(row.rule, row.message) for row in report.repairs if row.outcome == "kept"}
        assert told == {(problem.rule, problem.message) for problem in left}
        if not left:
            assert evaluate(report.json_path, report.json_path).all.rq == 1.0
        assert report.whole == all(row.outcome == "repaired" for row in report.repairs)


def contents(folder: Path) -> Mapping[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- by hand ----------------------------------------------------------------------------------

MAP = np.array([[1, 1, 2], [3, 3, 4], [3, 300, 0]], dtype=np.int32)


@pytest.fixture
def valid(tmp_path: Path) -> Path:
    return write_valid(tmp_path / "old", [MAP, MAP])


def change(path: Path, edit: Callable[[dict[str, Any]], None]) -> Path:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))
    return path


def test_a_problem_names_image_and_segment(valid: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["annotations"][1]["segments_info"][2]["area"] = 5
        document["annotations"][0]["segments_info"][4]["bbox"] = [1, 2, 3, 4]

    assert list(check_panoptic(change(valid, edit))) == [
        Problem(
            "bbox", "segment 300 says bbox [1, 2, 3, 4], its pixels [1, 2, 1, 1]", "a.jpg", 300
        ),
        Problem("area", "segment 3 says area 5, its pixels are 3", "sub/b.jpg", 3),
    ]


def test_every_problem_is_listed_not_just_the_first(valid: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["categories"][0]["isthing"] = 7
        document["images"][0]["height"] = 99
        for segment in document["annotations"][0]["segments_info"]:
            segment["area"] = 1000
        document["annotations"][1]["segments_info"][0]["category_id"] = 55

    rules = [problem.rule for problem in check_panoptic(change(valid, edit))]
    assert rules == ["isthing", "png-size", *["area"] * 5, "unknown-category"]


def test_sixteen_bits_per_channel_are_no_eight(valid: Path) -> None:
    png = valid.with_suffix("") / "a.png"
    content = bytearray(png.read_bytes())
    content[24] = 16  # the bit depth in IHDR; Pillow checks no checksum before it reads this
    png.write_bytes(content)
    problems = [p for p in check_panoptic(valid) if p.image == "a.jpg"]
    assert [problem.rule for problem in problems] == ["png-mode"]
    assert "16-bit RGB, not 8-bit RGB" in problems[0].message


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ConfigError, "cannot be read: No such file"),
        (b"", LabelError, "it is empty"),
        (b"{", LabelError, "not valid JSON"),
        (b"\xff\xfe", LabelError, "not UTF-8"),
        (b"[]", LabelError, "holds an object"),
        (b'{"images": [], "images": []}', LabelError, "stands twice"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_sentence(
    tmp_path: Path, content: bytes | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        list(check_panoptic(path))
    with pytest.raises(error, match=message):
        repair_panoptic(path, tmp_path / "new")
    assert not (tmp_path / "new").exists()


# --- the command ------------------------------------------------------------------------------


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_exit_codes_and_words(
    valid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("validate", valid) == 0
    assert capsys.readouterr().out == f"{valid} is clean\n"
    (valid.with_suffix("") / "b.png").unlink()
    assert call("validate", valid) == 3
    out = capsys.readouterr().out
    assert "png-missing: sub/b.jpg: " in out and ": 1 problem;" in out
    assert call("validate", tmp_path / "none.json") == 2
    assert "none.json cannot be read" in capsys.readouterr().err


def test_json_for_programs(valid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("validate", valid, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document == {"file": str(valid), "clean": True, "by_rule": {}, "problems": []}
    (valid.with_suffix("") / "b.png").unlink()
    assert call("validate", valid, "--json") == 3
    document = json.loads(capsys.readouterr().out)
    assert document["by_rule"] == {"png-missing": 1}
    assert document["problems"][0]["image"] == "sub/b.jpg"


def test_the_docs_name_every_rule() -> None:
    text = (Path(__file__).resolve().parent.parent / "docs" / "validate.md").read_text()
    assert all(f"| `{rule}` | {meaning} |" in text for rule, meaning in RULES.items())
