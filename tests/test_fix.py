"""Repairs whose result is written out by hand, and the command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.cli import main
from prelabel.coco import (
    PanopticWriter,
    encode_ids,
    measure_segments,
    read_panoptic,
    repair_panoptic,
)
from prelabel.coco.repairs import RepairReport
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError, LabelError

CAR, DOG, SKY = 1, 2, 3
ONTOLOGY = Ontology(
    (Category(CAR, "car", True), Category(DOG, "dog", True), Category(SKY, "sky", False))
)
MAP = np.array([[1, 1, 2], [3, 3, 3], [5, 5, 0]], dtype=np.int32)
CATEGORIES = {1: CAR, 2: DOG, 3: SKY, 5: CAR}


@pytest.fixture
def old(tmp_path: Path) -> Path:
    path = tmp_path / "old" / "labels.json"
    path.parent.mkdir()
    with PanopticWriter(path, ONTOLOGY) as writer:
        for number, name in enumerate(("a.jpg", "b.jpg"), start=1):
            writer.add_map(name, MAP, measure_segments(MAP, CATEGORIES), number)
    return path


def repair(path: Path, edit: Callable[[dict[str, Any]], object] | None = None) -> RepairReport:
    if edit is not None:
        document = json.loads(path.read_text())
        edit(document)
        path.write_text(json.dumps(document))
    return repair_panoptic(path, path.parent.parent / "new")


def outcomes(report: RepairReport) -> list[tuple[str, str, str]]:
    return [(row.rule, row.outcome, row.image) for row in report.repairs]


def first_segments(report: RepairReport) -> list[dict[str, Any]]:
    document = json.loads(report.json_path.read_text())
    found: list[dict[str, Any]] = document["annotations"][0]["segments_info"]
    return found


def first_map(report: RepairReport) -> list[list[int]]:
    file = read_panoptic(report.json_path)
    rows: list[list[int]] = file.id_map(file.annotations[0]).tolist()
    return rows


def test_areas_and_boxes_are_counted_anew(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        segment = document["annotations"][0]["segments_info"][0]
        segment |= {"area": 77, "bbox": [0.0, 0.0, 9.5, 1.0], "iscrowd": None, "note": "mine"}

    report = repair(old, edit)
    assert first_segments(report)[0] == {
        "id": 1,
        "category_id": CAR,
        "area": 2,
        "bbox": [0, 0, 2, 1],
        "iscrowd": 0,
        "note": "mine",
    }
    assert {outcome for _, outcome, _ in outcomes(report)} == {"repaired"}
    assert report.whole


def test_pixels_that_nobody_owns_become_void(old: Path) -> None:
    report = repair(old, lambda doc: doc["annotations"][0]["segments_info"].pop(0))
    assert first_map(report) == [[0, 0, 2], [3, 3, 3], [5, 5, 0]]
    assert outcomes(report) == [("unlisted-id", "repaired", "a.jpg")]


def test_two_segments_of_stuff_become_one(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["annotations"][0]["segments_info"][3]["category_id"] = SKY

    report = repair(old, edit)
    assert first_map(report) == [[1, 1, 2], [3, 3, 3], [3, 3, 0]]
    assert first_segments(report)[2] == {
        "id": 3,
        "category_id": SKY,
        "area": 5,
        "bbox": [0, 1, 3, 2],
        "iscrowd": 0,
    }
    assert outcomes(report) == [("stuff-twice", "repaired", "a.jpg")]


def test_of_two_segments_with_one_id_the_pixels_choose(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        segments = document["annotations"][0]["segments_info"]
        segments.insert(0, segments[0] | {"category_id": DOG, "area": 99})
        twin = document["annotations"][1]["segments_info"]
        twin.insert(0, twin[0] | {"category_id": DOG})

    report = repair(old, edit)
    assert [row["category_id"] for row in first_segments(report)] == [CAR, DOG, SKY, CAR]
    # In the second image both fit, so that nobody can say which.
    assert outcomes(report) == [
        ("duplicate-segment", "repaired", "a.jpg"),
        ("duplicate-segment", "left-out", "b.jpg"),
    ]
    assert not report.whole and not report.remaining


def test_categories_of_the_same_name_become_one(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["categories"].append({"id": 9, "name": "car", "isthing": 1})
        document["annotations"][0]["segments_info"][0]["category_id"] = 9

    report = repair(old, edit)
    assert len(read_panoptic(report.json_path).categories) == 3
    assert first_segments(report)[0]["category_id"] == CAR
    assert report.whole


def test_what_only_a_person_can_say_is_kept_and_told(old: Path) -> None:
    report = repair(
        old, lambda doc: doc["categories"][0].update(isthing="maybe", supercategory="vehicle")
    )
    assert [problem.rule for problem in report.remaining] == ["isthing"]
    assert outcomes(report) == [("isthing", "kept", "")]
    assert len(read_png_names(report)) == 2


def test_a_supercategory_can_say_what_is_a_thing(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        for category in document["categories"]:
            del category["isthing"]

    report = repair(old, edit)
    assert [row.isthing for row in read_panoptic(report.json_path).categories] == [
        True,
        True,
        False,
    ]
    assert report.whole


def read_png_names(report: RepairReport) -> list[str]:
    return sorted(path.name for path in report.json_path.with_suffix("").iterdir())


def test_images_with_one_id_are_told_apart_by_their_names(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["images"][1]["id"] = 1
        document["annotations"].reverse()
        for annotation in document["annotations"]:
            annotation["image_id"] = 1

    report = repair(old, edit)
    file = read_panoptic(report.json_path)
    pairs = {file.images_by_id[row.image_id].file_name: row.file_name for row in file.annotations}
    assert pairs == {"a.jpg": "a.png", "b.jpg": "b.png"}
    assert [image.image_id for image in file.images] == [1, 2]


def test_image_ids_that_are_names_become_numbers(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        for key, name in enumerate(("aachen", "bochum")):
            document["images"][key]["id"] = document["annotations"][key]["image_id"] = name

    report = repair(old, edit)
    file = read_panoptic(report.json_path)
    assert [(i.image_id, i.file_name) for i in file.images] == [(1, "a.jpg"), (2, "b.jpg")]
    assert report.whole


def test_a_png_outside_the_folder_is_never_opened(old: Path) -> None:
    secret = old.parent / "secret.png"
    Image.fromarray(encode_ids(MAP)).save(secret)

    def edit(document: dict[str, Any]) -> None:
        document["annotations"][0]["file_name"] = "../secret.png"
        document["annotations"][1]["file_name"] = "../../old/labels/b.png"

    report = repair(old, edit)
    # The first has a PNG of its image's stem where it belongs, the second one of its own name.
    assert read_png_names(report) == ["a.png", "b.png"]
    (old.with_suffix("") / "a.png").unlink()
    second = repair_panoptic(old, old.parent.parent / "second")
    assert read_png_names(second) == ["b.png"]
    assert ("unsafe-path", "left-out") in {(r.rule, r.outcome) for r in second.repairs}


@pytest.mark.parametrize("mode", ["palette", "grey", "alpha"])
def test_pngs_of_other_modes_are_written_as_rgb(old: Path, mode: str) -> None:
    png = old.with_suffix("") / "a.png"
    if mode == "palette":
        Image.fromarray(encode_ids(MAP)).convert("P", palette=Image.Palette.ADAPTIVE).save(png)
    elif mode == "grey":
        Image.fromarray(MAP.astype(np.uint8)).save(png)
    else:
        clear = np.zeros((3, 3, 1), np.uint8)
        Image.fromarray(np.concatenate([encode_ids(MAP), clear], axis=2)).save(png)
    report = repair(old)
    assert first_map(report) == MAP.tolist()
    assert outcomes(report) == [("png-mode", "repaired", "a.jpg")]


def test_a_png_that_two_images_share_is_copied_only_if_it_fits(old: Path) -> None:
    (old.with_suffix("") / "b.png").unlink()
    report = repair(old, lambda doc: doc["annotations"][1].update(file_name="a.png"))
    assert read_png_names(report) == ["a-2.png", "a.png"]
    assert outcomes(report) == [("duplicate-png", "repaired", "b.jpg")]

    document = json.loads(old.read_text())
    document["annotations"][1]["segments_info"][0]["area"] = 1
    old.write_text(json.dumps(document))
    second = repair_panoptic(old, old.parent.parent / "second")
    assert outcomes(second) == [("duplicate-png", "left-out", "b.jpg")]
    assert second.images == 1


def test_keys_of_others_stay(old: Path) -> None:
    def edit(document: dict[str, Any]) -> None:
        document["info"]["year"] = 2017
        document["licenses"] = [{"id": 1}]
        document["images"][0] |= {"coco_url": "x", "height": 99}
        document["annotations"][0]["reviewed"] = True

    document = json.loads(repair(old, edit).json_path.read_text())
    assert (document["info"]["year"], document["licenses"]) == (2017, [{"id": 1}])
    assert document["images"][0]["coco_url"] == "x" and document["images"][0]["height"] == 3
    assert document["annotations"][0]["reviewed"] is True


def test_nothing_is_ever_written_over(old: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").write_text("mine")
    for out in (tmp_path / "full", old.parent, tmp_path / "full" / "x"):
        with pytest.raises(ConfigError, match="is not empty; name a new folder"):
            repair_panoptic(old, out)
    assert (tmp_path / "full" / "x").read_text() == "mine"
    with pytest.raises(ConfigError, match="cannot be made"):
        repair_panoptic(old, tmp_path / "full" / "x" / "y")


def test_a_file_without_its_lists_cannot_be_repaired(old: Path) -> None:
    with pytest.raises(LabelError, match="no list of categories, so there is nothing to repair"):
        repair(old, lambda doc: doc.pop("categories"))
    assert not (old.parent.parent / "new").exists()


# --- the command ------------------------------------------------------------------------------


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_the_command_says_what_it_did(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = json.loads(old.read_text())
    document["annotations"][0]["segments_info"][0]["area"] = 7
    old.write_text(json.dumps(document))
    assert call("fix", old, "--out", tmp_path / "one") == 0
    out = capsys.readouterr().out
    assert "repaired: area: a.jpg: segment 1 said area 7; counted anew: 2" in out
    assert "2 images, 1 repaired" in out and "the new file is clean" in out
    assert call("validate", tmp_path / "one" / "labels.json") == 0

    (old.with_suffix("") / "b.png").unlink()
    capsys.readouterr()
    assert call("fix", old, "--out", tmp_path / "two", "--json") == 3
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 1 and report["remaining"] == []
    assert [row["outcome"] for row in report["repairs"]] == ["repaired", "left-out"]
    assert call("fix", old, "--out", tmp_path / "two") == 2
    assert "is not empty" in capsys.readouterr().err
    assert call("fix", tmp_path / "none.json", "--out", tmp_path / "three") == 2
