"""Labels on disk: whole or not at all, and back as they were."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from prelabel.data import (
    Candidate,
    Explanation,
    Heatmap,
    ImageRecord,
    Mask,
    PanopticLabel,
    Segment,
    Trace,
    image_key,
)
from prelabel.errors import ConfigError, LabelError
from prelabel.files import file_sha256, write_atomically
from prelabel.job.explanations import read_explanations
from prelabel.job.protocol import Task
from prelabel.job.repair import adopt
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance, iterate_labels, list_labels, read_label

RECORD = ImageRecord("sub/été 1.jpg", "/photos/sub/été 1.jpg", "ref-9")
MADE = Provenance("prelabel 0", "f00d", {"detect": 0.25})


def _label(image_id: str = RECORD.image_id) -> PanopticLabel:
    id_map = np.array([[1, 1, 0], [2, 2, 300]], dtype=np.int32)
    id_map[1, 2] = 0
    segments = (
        Segment(1, 7, True, 2, (0, 0, 2, 1), 0.75, 9, 0.25, "thing:0"),
        Segment(2, 3, False, 2, (0, 1, 2, 2), 0.5, None, 0.5, "stuff:0+stuff:1"),
    )
    return PanopticLabel(image_id, id_map, segments)


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_pair_comes_back_as_it_was(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    written = store.write(RECORD, _label(), MADE, source_sha256="ab")
    label, meta = read_label(tmp_path, written.key)
    assert meta == written
    assert (meta.record, meta.provenance, meta.source_sha256) == (RECORD, MADE, "ab")
    assert (label.segments, label.score) == (_label().segments, _label().score)
    assert np.array_equal(label.id_map, _label().id_map)
    assert _files(tmp_path) == {f"labels/{written.key}.png", f"labels/{written.key}.json"}


def test_the_png_holds_ids_as_coco_does(tmp_path: Path) -> None:
    id_map = np.repeat(np.arange(1, 301, dtype=np.int32), 2)[None]
    segments = tuple(
        Segment(i, 1, True, 2, (2 * i - 2, 0, 2 * i, 1), 0.5, None, 0.5, "") for i in range(1, 301)
    )
    meta = LabelStore(tmp_path).write(RECORD, PanopticLabel("a", id_map, segments), MADE)
    with Image.open(tmp_path / "labels" / f"{meta.key}.png") as image:
        assert (image.mode, image.getpixel((0, 0)), image.getpixel((599, 0))) == (
            "RGB",
            (1, 0, 0),
            (300 - 256, 1, 0),
        )


def test_a_label_without_segments(tmp_path: Path) -> None:
    empty = PanopticLabel("e", np.zeros((1, 1), dtype=np.int32), ())
    meta = LabelStore(tmp_path).write(ImageRecord("e", "e"), empty, MADE)
    label, _ = read_label(tmp_path, meta.key)
    assert (label.segments, label.id_map.tolist()) == ((), [[0]])


def test_labels_are_listed_by_image_id(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    for image_id in ("b.jpg", "a/z.jpg", "B.jpg"):
        store.write(ImageRecord(image_id, ""), _label(image_id), MADE)
    assert [meta.record.image_id for meta in list_labels(tmp_path)] == ["B.jpg", "a/z.jpg", "b.jpg"]
    assert [label.image_id for label, _ in iterate_labels(tmp_path)] == [
        "B.jpg",
        "a/z.jpg",
        "b.jpg",
    ]


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no run folder"):
        list_labels(tmp_path)


# --- done or not ------------------------------------------------------------------------------


def test_done_is_the_same_image_made_in_the_same_way(tmp_path: Path) -> None:
    store, task = LabelStore(tmp_path), Task(RECORD)
    assert adopt(tmp_path, [task], "f00d") == {}
    store.write(RECORD, _label(), MADE)
    (row,) = adopt(tmp_path, [task], "f00d").values()
    assert (row.status, row.explained, row.segments) == ("done", False, len(_label().segments))
    assert adopt(tmp_path, [task], "beef") == {}
    assert adopt(tmp_path, [Task(RECORD, "changed")], "f00d") == {}
    assert adopt(tmp_path, [Task(ImageRecord("other.jpg", ""))], "f00d") == {}


@pytest.mark.parametrize("suffix", ["png", "json"])
@pytest.mark.parametrize("damage", ["missing", "empty", "half", "other"])
def test_a_damaged_pair_is_neither_done_nor_read(tmp_path: Path, suffix: str, damage: str) -> None:
    store = LabelStore(tmp_path)
    key = store.write(RECORD, _label(), MADE).key
    path = tmp_path / "labels" / f"{key}.{suffix}"
    data = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "half": data[: len(data) // 2], "other": b"{}"}[damage])
    assert adopt(tmp_path, [Task(RECORD)], "f00d") == {}
    with pytest.raises(LabelError, match=key):
        read_label(tmp_path, key)


def test_an_old_json_beside_a_new_png_is_told(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    key = store.write(RECORD, _label(), MADE).key
    Image.new("RGB", (3, 2)).save(tmp_path / "labels" / f"{key}.png")
    with pytest.raises(LabelError, match=r"not the file that .*\.json describes"):
        read_label(tmp_path, key)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"version": 99}, "has version 99 of the schema, expected 1"),
        ({"schema": "x"}, "is no label of prelabel"),
        ({"segments": [{}]}, "lacks a part"),
        ({"size": [9]}, "lacks a part"),
        ({"size": [9, 9]}, "has size"),
    ],
)
def test_a_json_of_another_kind_is_told(
    tmp_path: Path, change: dict[str, object], told: str
) -> None:
    key = LabelStore(tmp_path).write(RECORD, _label(), MADE).key
    path = tmp_path / "labels" / f"{key}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LabelError, match=told):
        read_label(tmp_path, key)


def test_an_output_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"output folder .*file.* cannot be written"):
        LabelStore(tmp_path / "file" / "run")


# --- beside the labels ------------------------------------------------------------------------


def test_traces_and_explanations_come_back(tmp_path: Path) -> None:
    store = LabelStore(tmp_path)
    mask = Mask(0, 0, np.ones((1, 2), dtype=np.bool_))
    trace = Trace("i", (Candidate("thing:0", 7, True, mask, 0.5, "kept", "", 1),), {})
    store.write_trace("k", trace)
    assert Trace.load(tmp_path / "traces" / "k.npz") == trace
    values = np.array([[0.0, 1.0], [0.2, 0.6]], dtype=np.float32)
    reason = Explanation(
        1,
        "car",
        {"box": 0.5},
        {"car": 1.0},
        3,
        0.1,
        {"thing:0": 4},
        {"rough": Heatmap("?", values)},
    )
    plain = Explanation(2, "sky", {}, {}, None, 0.0, {}, {})
    store.write_explanations("k", (reason, plain))
    first, second = read_explanations(tmp_path, "k")
    assert second == plain
    assert (first.prompt, first.scores, first.runner_up) == ("car", {"box": 0.5}, 3)
    assert first.heatmaps["rough"].question == "?"
    assert np.abs(first.heatmaps["rough"].values - values).max() <= 0.5 / 255 + 1e-6
    assert read_explanations(tmp_path, "unasked") == ()
    assert store.root == tmp_path


def test_damaged_explanations_are_told(tmp_path: Path) -> None:
    LabelStore(tmp_path).write_explanations("k", ())
    assert read_explanations(tmp_path, "k") == ()
    (tmp_path / "explanations" / "k.json").write_text("{}")
    with pytest.raises(LabelError, match="holds no explanations"):
        read_explanations(tmp_path, "k")


# --- names and files --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("image_id", "stem"),
    [
        ("a/b/c d.jpg", "c-d-"),
        ("é.png", "e-"),
        ("日本.png", "image-"),
        ("x" * 300 + ".jpg", "x" * 60 + "-"),
        ("..", "image-"),
        ("", "image-"),
        ("con\\nul.jpg", "nul-"),
        ("\udcff.jpg", "image-"),
    ],
)
def test_keys_are_readable_and_safe(image_id: str, stem: str) -> None:
    key = image_key(image_id)
    assert key.startswith(stem)
    assert len(key) == len(stem) + 10
    assert key.isascii() and not set(key) & set("/\\. :")


@given(st.lists(st.text(max_size=20), unique=True, max_size=20))
def test_different_images_have_different_keys_in_any_case(ids: list[str]) -> None:
    assert len({image_key(image_id).lower() for image_id in ids}) == len(ids)


def test_names_that_are_not_unicode_come_back(tmp_path: Path) -> None:
    record = ImageRecord("\udcff.jpg", "/x/\udcff.jpg")
    key = LabelStore(tmp_path).write(record, _label(record.image_id), MADE).key
    assert read_label(tmp_path, key)[1].record == record


def test_a_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / ("n" * 250)
    write_atomically(path, b"old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, b"new")
    assert (path.read_bytes(), _files(tmp_path)) == (b"old", {path.name})


def test_sha256_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_sha256(tmp_path / "x").startswith("ba7816bf8f01cfea")
