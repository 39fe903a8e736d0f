"""The page: whole by itself, true to the figures, safe against names."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from prelabel.cli import main
from prelabel.coco import PanopticWriter, measure_segments
from prelabel.data import Category, Ontology
from prelabel.review.compare import KINDS, compare
from prelabel.review.pairs import Pair
from prelabel.review.pictures import KIND_COLORS, draw_mistakes, draw_segments

CAR, SKY = 1, 2
EVIL = "<script>alert(1)</script>.png"
ONTOLOGY = Ontology((Category(CAR, "car <b>", True), Category(SKY, "sky", False)))
TRUTH = np.repeat(np.array([[1, 1, 3, 2]], np.int32), 8, axis=0).repeat(8, axis=1)
LABEL = np.where(TRUTH == 3, 2, TRUTH).astype(np.int32)
CATEGORIES = {1: CAR, 3: CAR, 2: SKY}


def write(path: Path, images: Mapping[str, np.ndarray], ontology: Ontology = ONTOLOGY) -> Path:
    with PanopticWriter(path, ontology) as writer:
        for number, (name, id_map) in enumerate(images.items(), start=1):
            writer.add_map(name, id_map, measure_segments(id_map, CATEGORIES), number)
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    truth = write(tmp_path / "truth.json", {EVIL: TRUTH, "good.png": TRUTH})
    return write(tmp_path / "pred.json", {EVIL: LABEL, "good.png": TRUTH}), truth


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


class Reader(HTMLParser):
    """Collects tags and what they point to; complains of tags left open."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for key, value in attrs if key in ("src", "href", "action")]
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def read_page(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    assert reader.open == []
    return reader


def test_the_page_needs_nothing_else_and_runs_nothing(
    files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert call("evaluate", *files, "--html", tmp_path / "page.html") == 0
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    reader = read_page(tmp_path / "page.html")
    assert {"script", "link", "iframe", "object"}.isdisjoint(reader.tags)
    assert all(link.startswith("data:image/png;base64,") for link in reader.links)
    assert "http" not in re.sub(r"base64,[A-Za-z0-9+/=]+", "", text)
    assert "url(" not in text and "@import" not in text
    assert "prefers-color-scheme: dark" in text
    assert EVIL in reader.text and "car <b>" in reader.text


def test_the_figures_on_the_page(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert call("evaluate", *files, "--html", tmp_path / "page.html") == 0
    text = " ".join(read_page(tmp_path / "page.html").text.split())
    # Four cars: three found exactly; two skies: one exactly, one of an IoU of one half.
    assert "6 true segments" in text
    assert "PQ of the image 40.0, 2 mistakes" in text
    assert "car <b> missed, 64 pixels" in text
    assert "sky badly cut out, IoU 0.50" in text


def test_pictures_of_the_worst_only(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert call("evaluate", *files, "--html", tmp_path / "page.html") == 0
    pictures = read_page(tmp_path / "page.html").links
    assert len(pictures) == 3  # truth, label, mistakes of the one image that has any
    for picture in pictures:
        with Image.open(io.BytesIO(base64.b64decode(picture.split(",")[1]))) as opened:
            assert opened.size == (400, 100)


def test_images_are_shown_where_they_are_at_hand(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    truth = write(tmp_path / "truth.json", {"x/a.png": TRUTH})
    prediction = write(tmp_path / "pred.json", {"x/a.png": LABEL})
    images = tmp_path / "images"
    (images / "x").mkdir(parents=True)
    arguments = ("evaluate", prediction, truth, "--html", tmp_path / "p.html", "--images", images)
    assert call(*arguments) == 2
    assert "has no image 'x/a.png'" in capsys.readouterr().err
    Image.new("RGB", (32, 8), (10, 200, 30)).save(images / "x" / "a.png")
    assert call(*arguments) == 0
    first = read_page(tmp_path / "p.html").links[0]
    with Image.open(io.BytesIO(base64.b64decode(first.split(",")[1]))) as opened:
        assert opened.convert("RGB").getpixel((5, 5)) == (10, 200, 30)
    Image.new("RGB", (31, 8)).save(images / "x" / "a.png")
    capsys.readouterr()
    assert call(*arguments) == 0
    assert "not of the label's size" in " ".join(capsys.readouterr().err.split())
    assert len(read_page(tmp_path / "p.html").links) == 3


def test_a_perfect_label_has_a_page_too(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert call("evaluate", files[1], files[1], "--html", tmp_path / "p.html") == 0
    assert "No image has a mistake." in read_page(tmp_path / "p.html").text
    assert call("evaluate", files[1], files[1], "--html", tmp_path) == 2


def test_many_categories_get_a_list_instead_of_a_matrix(tmp_path: Path) -> None:
    ontology = Ontology(tuple(Category(i, f"kind {i}", True) for i in range(1, 41)))
    ids = np.arange(1, 41, dtype=np.int32).reshape(5, 8).repeat(4, 0).repeat(4, 1)
    for name, shift in (("truth", 0), ("pred", 1)):
        with PanopticWriter(tmp_path / f"{name}.json", ontology) as writer:
            categories = {i: (i + shift - 1) % 40 + 1 for i in range(1, 41)}
            writer.add_map("a.png", ids, measure_segments(ids, categories), 1)
    arguments = (tmp_path / "pred.json", tmp_path / "truth.json", "--html", tmp_path / "p.html")
    assert call("evaluate", *arguments) == 0
    text = " ".join(read_page(tmp_path / "p.html").text.split())
    assert "taken for segments pixels" in text and "kind 1 kind 2 1 16" in text


# --- pictures ---------------------------------------------------------------------------------


def test_wrong_pixels_have_their_kinds_colour_and_right_ones_do_not() -> None:
    segments = {i: s for i, s in enumerate(measure_segments(TRUTH, CATEGORIES), start=1)}
    by_id = {s.segment_id: s for s in segments.values()}
    predicted = {1: CAR, 2: SKY}
    pair = Pair("a", TRUTH, by_id, LABEL, predicted, None, "")
    image = compare(TRUTH, by_id, LABEL, predicted, {CAR})
    assert [mistake.kind for mistake in image.mistakes] == ["missed", "bad-mask"]
    pixels = np.asarray(draw_mistakes(pair, image)).astype(int)
    assert pixels.shape == (100, 400, 3)
    assert len(np.unique(pixels[10:90, 10:90].reshape(-1, 3), axis=0)) == 1
    wrong = pixels[5, 205] - np.array(KIND_COLORS["bad-mask"])
    assert np.abs(wrong).max() < 60
    assert set(KIND_COLORS) == set(KINDS)


def test_segments_that_are_not_compared_are_drawn_as_void() -> None:
    picture = draw_segments(TRUTH, {1: CAR}, {CAR: "car"}, {CAR: (200, 0, 0)})
    pixels = np.asarray(picture)
    assert pixels[5, 5].tolist() == [200, 0, 0]
    assert pixels[5, 395].tolist() == [128, 128, 128]
