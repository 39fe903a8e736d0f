"""The parts of the Segments.ai connector that need no SDK; tests/segments has the rest."""

from __future__ import annotations

import io
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from connectors import segments_labels
from connectors.retrying import Patience
from connectors.segments_ai import SegmentsAi
from connectors.segments_calls import Calls, read_credentials
from connectors.segments_dataset import Location, is_oriented
from connectors.segments_labels import (
    build_ontology,
    clean_map,
    doubtful_spot,
    list_annotations,
    map_categories,
    parse_bitmap,
    priority,
    write_bitmap,
)
from prelabel.data import Category, Explanation, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, LabelError


@dataclass
class Remote:
    """A category as the SDK gives it."""

    id: int
    name: str
    color: Any = None
    has_instances: bool | None = None


OURS = Ontology((Category(1, "car", True), Category(2, "sky", False)))
MAP = np.array(
    [
        [1, 1, 1, 2, 2],
        [1, 1, 1, 2, 2],
        [1, 1, 1, 0, 2],
    ],
    dtype=np.int32,
)


def _label() -> PanopticLabel:
    car = Segment(1, 1, True, 9, (0, 0, 3, 3), 0.25, 2, 0.1, "thing:0")
    sky = Segment(2, 2, False, 5, (3, 0, 5, 3), 0.875, None, 0.875, "stuff:0")
    return PanopticLabel("a.png", MAP, (car, sky))


# --- categories -------------------------------------------------------------------------------


def test_counted_categories_are_things_and_names_become_words() -> None:
    remote = [
        Remote(5, "traffic_light", (1, 2, 3, 255), True),
        Remote(9, "sky", None, False),
        Remote(2, "U.S. mail-box?"),
    ]
    light, sky, box = build_ontology(remote, "x")
    assert light == Category(5, "traffic_light", True, ("traffic light",), (1, 2, 3))
    assert sky == Category(9, "sky", False, ("sky",))
    assert (box.isthing, box.prompts) == (True, ("U S mail box",))


@pytest.mark.parametrize(
    ("remote", "message"),
    [
        ([], "x has no categories yet"),
        ([Remote(0, "void")], "category 'void' has id 0; ids start at 1"),
        ([Remote(1, "a"), Remote(1, "b")], "two categories have the id 1"),
    ],
)
def test_categories_that_do_not_fit(remote: list[Remote], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_ontology(remote, "x")


def test_categories_are_matched_by_name() -> None:
    theirs = build_ontology([Remote(7, "sky"), Remote(31, "car"), Remote(4, "bus")], "x")
    assert map_categories(OURS, theirs, "x") == ({1: 31, 2: 7}, ["bus"])
    with pytest.raises(ConfigError, match="x has no category called 'bus'; it has 'car', 'sky'"):
        map_categories(theirs, OURS, "x")


# --- labels -----------------------------------------------------------------------------------


def test_a_bitmap_by_hand() -> None:
    png = write_bitmap(np.array([[0, 1, 258], [65536, 16777215, 2]], dtype=np.int32))
    with Image.open(io.BytesIO(png)) as image:
        assert image.mode == "RGBA"
        assert np.asarray(image).tolist() == [
            [[0, 0, 0, 255], [1, 0, 0, 255], [2, 1, 0, 255]],
            [[0, 0, 1, 255], [255, 255, 255, 255], [2, 0, 0, 255]],
        ]


@given(st.integers(1, 9), st.integers(1, 9), st.data())
def test_bitmaps_come_back(height: int, width: int, data: st.DataObject) -> None:
    ids = data.draw(
        st.lists(st.integers(0, 2**24 - 1), min_size=height * width, max_size=height * width)
    )
    id_map = np.array(ids, dtype=np.int32).reshape(height, width)
    assert np.array_equal(parse_bitmap(write_bitmap(id_map), "x"), id_map)


def test_ids_that_would_be_cut_are_refused() -> None:
    with pytest.raises(LabelError, match="16777216"):
        write_bitmap(np.array([[2**24]], dtype=np.int32))


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_what_is_no_bitmap(mode: str) -> None:
    stream = io.BytesIO()
    Image.new(mode, (2, 2)).save(stream, format="PNG")
    with pytest.raises(LabelError, match=r"x: a bitmap has mode .*, expected RGBA"):
        parse_bitmap(stream.getvalue(), "x")
    with pytest.raises(LabelError, match="cannot be read as a PNG"):
        parse_bitmap(b"<html>", "x")


def test_a_bitmap_that_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments_labels, "MAX_PIXELS", 14)
    with pytest.raises(LabelError, match="5 × 3 pixels is too large"):
        parse_bitmap(write_bitmap(MAP), "x")


def test_what_is_said_of_each_segment() -> None:
    entries = list_annotations(_label(), {1: 31, 2: 7}, {1: "car", 2: "sky"})
    assert entries == [
        {
            "id": 1,
            "category_id": 31,
            "attributes": {"score": 0.25, "margin": 0.1, "runner_up": "sky"},
        },
        {"id": 2, "category_id": 7, "attributes": {"score": 0.875, "margin": 0.875}},
    ]
    for entry in entries:
        assert type(entry["attributes"]["score"]) is float


def test_doubtful_images_come_first() -> None:
    # 9 pixels of 0.25 and 5 of 0.875 in 15: 0.4417.
    assert priority(_label()) == pytest.approx(0.5583)
    assert priority(PanopticLabel("x", np.zeros((1, 1), dtype=np.int32), ())) == 1.0


def test_the_doubtful_spot_is_deep_inside_the_least_sure_segment() -> None:
    spot = doubtful_spot(_label(), {1: "car", 2: "sky"})
    assert spot == segments_labels.Spot(1, 1, "car, score 0.25; or sky?")
    why = Explanation(1, "automobile", {}, {}, 2, 0.1, {}, {})
    told = doubtful_spot(_label(), {1: "car", 2: "sky"}, (why,))
    assert told is not None and told.text.endswith("(found as 'automobile')")
    assert doubtful_spot(PanopticLabel("x", np.zeros((1, 1), dtype=np.int32), ()), {}) is None


def test_what_people_leave_is_made_to_fit() -> None:
    id_map = np.array([[5, 5, 9], [2, 8, 0]], dtype=np.int32)
    cleaned, categories = clean_map(id_map, {5: 1, 9: 7, 2: 7, 77: 1}, stuff=[7])
    # 9 joins 2, which is stuff too; 8 has no entry; 77 has no pixel.
    assert cleaned.tolist() == [[5, 5, 2], [2, 0, 0]]
    assert categories == {2: 7, 5: 1}
    same, _ = clean_map(MAP, {1: 1, 2: 7}, stuff=[7])
    assert same is MAP


# --- locations and credentials ----------------------------------------------------------------


def test_a_location_with_everything() -> None:
    found = Location.parse("me/street::labelset=two::status=labeled,REVIEWED::timeout=5")
    assert found == Location("me/street", "two", ("LABELED", "REVIEWED"), timeout=5.0)
    assert Location.parse("me/street::allow-private").allow_private
    assert Location.parse("me/street").statuses == ("UNLABELED", "PRELABELED")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no dataset; expected owner/dataset"),
        ("street", "segments-ai:street names no dataset"),
        ("../../x/y", "names no dataset"),
        ("me/street?x=1", "names no dataset"),
        ("key@me/street", "only into the environment as SEGMENTS_API_KEY"),
        ("me/street::api_key=x", r"knows no ::api_key; .* as SEGMENTS_API_KEY"),
        ("me/street::status=DONE", "no status is called 'DONE'; they are REVIEWED"),
        ("me/street::labelset=a/b", "'a/b' is no name of a labelset"),
        ("me/street::timeout=never", "a timeout is 'never'"),
    ],
)
def test_a_location_that_is_none(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        SegmentsAi(text)
    assert "=x" not in str(caught.value)


def test_the_key_comes_from_the_environment_only() -> None:
    assert read_credentials({"SEGMENTS_API_KEY": " k "}) == ("k", "https://api.segments.ai/")
    with pytest.raises(ConfigError, match="SEGMENTS_API_KEY is not set; make a key"):
        read_credentials({})
    for url in ("api.segments.ai", "https://host/api/v1", "file:///x"):
        with pytest.raises(ConfigError, match=r"SEGMENTS_API_URL is .*; expected https://host"):
            read_credentials({"SEGMENTS_API_KEY": "k", "SEGMENTS_API_URL": url})


def test_a_missing_sdk_is_named_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "segments", None)
    with pytest.raises(ConfigError, match=r'pip install "prelabel\[segments\]"'):
        Calls(Patience())(lambda client: client)


def test_exif_is_seen_without_decoding() -> None:
    for orientation, turned in ((None, False), (1, False), (3, True), (6, True)):
        stream, exif = io.BytesIO(), Image.Exif()
        if orientation:
            exif[0x0112] = orientation
        Image.new("RGB", (3, 2)).save(stream, format="JPEG", exif=exif)
        assert is_oriented(stream.getvalue()) is turned
    assert not is_oriented(b"<html>")
