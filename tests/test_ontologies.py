"""The ontologies that ship: ids and names that others join on, colours, prompts, and a run."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.helpers.labels import labels as cityscapes_labels
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from prelabel.cli import main
from prelabel.coco import read_panoptic
from prelabel.config import load_config
from prelabel.data import Category, Ontology
from prelabel.models.paint import PaintOptions
from prelabel.models.prompt_lists import chunk_prompts
from prelabel.models.weights import embedded_folder

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "configs" / "ontologies"
NAMES = ("coco-133", "ade20k-150", "cityscapes")
DOCS = (ROOT / "docs" / "ontologies.md").read_text(encoding="utf-8")
MAX_TOKENS = 256

COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_STUFF = (
    *(92, 93, 95, 100, 107, 109, 112, 118, 119, 122, 125, 128, 130, 133, 138, 141, 144, 145, 147),
    *(148, 149, 151, 154, 155, 156, 159, 161, 166, 168, 171, 175, 176, 177, 178, 180, 181),
    *range(184, 201),
)


@cache
def _ontology(name: str) -> Ontology:
    base = ROOT / "configs" / "base.yaml"
    return load_config(base, [f"ontology={FOLDER / f'{name}.yaml'}"]).ontology


def _by_id(name: str) -> list[Category]:
    return sorted(_ontology(name), key=lambda category: category.category_id)


def _colors(categories: list[Category]) -> NDArray[np.float64]:
    """float64 (N, 3) RGB."""
    return np.array([category.color for category in categories], dtype=np.float64)


def _lab(colors: NDArray[np.float64]) -> NDArray[np.float64]:
    """CIELAB (D65) of sRGB colours: float64 (..., 3), 0 to 255 in."""
    linear = colors / 255
    linear = np.where(linear > 0.04045, ((linear + 0.055) / 1.055) ** 2.4, linear / 12.92)
    matrix = np.array(
        [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    )
    ratio = linear @ matrix.T / matrix.sum(axis=1)
    root = np.where(ratio > 216 / 24389, np.cbrt(ratio), (24389 / 27 * ratio + 16) / 116)
    x, y, z = np.moveaxis(root, -1, 0)
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=-1)


# --- ids, names and the split ------------------------------------------------------------------


def test_coco_has_the_published_ids() -> None:
    ontology = _ontology("coco-133")
    assert [c.category_id for c in ontology.things] == [
        number for number in range(1, 91) if number not in COCO_GAPS
    ]
    assert tuple(c.category_id for c in ontology.stuff) == COCO_STUFF
    assert (len(ontology.things), len(ontology.stuff)) == (80, 53)


@pytest.mark.parametrize(
    ("category_id", "name", "color"),
    [
        (1, "person", (220, 20, 60)),
        (13, "stop sign", (220, 220, 0)),
        (46, "wine glass", (171, 134, 1)),
        (72, "tv", (183, 130, 88)),
        (84, "book", (142, 108, 45)),
        (90, "toothbrush", (191, 162, 208)),
        (92, "banner", (255, 255, 128)),
        (112, "door-stuff", (92, 136, 89)),
        (145, "playingfield", (106, 154, 176)),
        (171, "wall-brick", (137, 54, 74)),
        (181, "window-other", (255, 73, 97)),
        (187, "sky-other-merged", (70, 130, 180)),
        (200, "rug-merged", (250, 141, 255)),
    ],
)
def test_coco_anchors(category_id: int, name: str, color: tuple[int, int, int]) -> None:
    category = _ontology("coco-133").by_id[category_id]
    assert (category.name, category.color) == (name, color)
    assert category.isthing == (category_id <= 90)


@pytest.mark.parametrize(
    ("category_id", "name", "isthing"),
    [
        (8, "bed", True),
        (13, "person", True),
        (18, "plant", False),
        (54, "stairs", True),
        (60, "stairway", False),
        (64, "blind", False),
        (78, "bar", False),
        (90, "television", True),
        (115, "tent", False),
        (122, "step", True),
        (142, "crt screen", False),
        (150, "flag", True),
    ],
)
def test_ade_anchors(category_id: int, name: str, isthing: bool) -> None:
    category = _ontology("ade20k-150").by_id[category_id]
    assert (category.name, category.isthing) == (name, isthing)


def test_ade_counts_on() -> None:
    ontology = _ontology("ade20k-150")
    assert [category.category_id for category in _by_id("ade20k-150")] == list(range(1, 151))
    assert (len(ontology.things), len(ontology.stuff)) == (100, 50)


def test_the_published_lists_are_whole() -> None:
    """Digests of the lists as two public packages hold them, not of the files under test."""
    coco = "".join(
        f"{c.category_id} {c.name} {c.isthing:d} {' '.join(map(str, c.color or ()))}\n"
        for c in _by_id("coco-133")
    )
    ade = "".join(f"{c.category_id} {c.name} {c.isthing:d}\n" for c in _by_id("ade20k-150"))
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in (coco, ade)]
    assert digests == [
        "108ed00105ef106893a244de0ec060655e2c6a0cb95a1c4d0a23c2e782dbb435",
        "2b22cdeb1d09c6008d6780ba0b270c5ee77c478b45027b06cce0dfc6a631a5ab",
    ]


def test_cityscapes_is_what_its_own_package_says() -> None:
    expected = [
        (label.id, label.name, label.hasInstances, label.color)
        for label in cityscapes_labels
        if not label.ignoreInEval
    ]
    assert len(expected) == 19
    assert [(c.category_id, c.name, c.isthing, c.color) for c in _by_id("cityscapes")] == expected


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_prompts_are_plain_words_of_one_category(name: str) -> None:
    """A prompt of two categories would tie; hyphens and suffixes are names, not language."""
    prompts = [prompt for category in _ontology(name) for prompt in category.prompts]
    for prompt in prompts:
        assert re.fullmatch(r"[a-z]+( [a-z]+){0,2}", prompt), prompt
        assert not {"merged", "other", "stuff"} & set(prompt.split()), prompt
    assert len(set(prompts)) == len(prompts)
    assert max(len(category.prompts) for category in _ontology(name)) <= 3


@pytest.mark.parametrize("name", NAMES)
def test_every_prompt_is_written_out(name: str) -> None:
    entries = re.findall(r"^  - \{(.*)\}$", (FOLDER / f"{name}.yaml").read_text(), re.MULTILINE)
    assert len(entries) == len(_ontology(name))
    for entry in entries:
        assert re.fullmatch(r"id: \d+, name: [^,]+, prompts: \[.+\], color: \[.+\]", entry), entry


@pytest.mark.parametrize(
    ("name", "at_best", "embedded"),
    [("coco-133", 1, 2), ("ade20k-150", 1, 3), ("cityscapes", 1, 1)],
)
def test_the_prompt_lists_of_things(name: str, at_best: int, embedded: int) -> None:
    """A word is at least one token; the small embedded vocabulary cuts most words up."""
    tokenizer = Tokenizer.from_file(str(embedded_folder("grounding-dino") / "tokenizer.json"))
    things = _ontology(name).things
    words = [[[0] * len(prompt.split()) for prompt in c.prompts] for c in things]
    assert len(chunk_prompts(words, MAX_TOKENS)) == at_best
    pieces = [
        [tokenizer.encode(prompt, add_special_tokens=False).ids for prompt in c.prompts]
        for c in things
    ]
    chunks = chunk_prompts(pieces, MAX_TOKENS)
    assert len(chunks) <= embedded
    assert all(len(chunk.input_ids) <= MAX_TOKENS for chunk in chunks)
    reached = {span.category_index for chunk in chunks for span in chunk.spans}
    assert reached == set(range(len(things)))


@pytest.mark.parametrize("name", ("everyday", *NAMES))
def test_the_table_of_costs_is_true(name: str) -> None:
    """The lists of the embedded vocabulary are left out: they change when it is trained anew."""
    ontology = _ontology(name)
    prompts = [prompt for category in ontology.things for prompt in category.prompts]
    tokens = 2 + sum(len(prompt.split()) + 1 for prompt in prompts)
    stuff = sum(len(category.prompts) for category in ontology.stuff)
    row = re.search(rf"^\| `{name}.yaml` \| (\d+) \| (\d+) \| \d+ \| (\d+) \|$", DOCS, re.MULTILINE)
    assert row and tuple(map(int, row.groups())) == (len(prompts), tokens, stuff)


def test_the_example_of_the_docs_is_an_ontology(tmp_path: Path) -> None:
    example = tmp_path / "own.yaml"
    example.write_text(DOCS.partition("```yaml\n")[2].partition("```")[0])
    ontology = load_config(ROOT / "configs" / "base.yaml", [f"ontology={example}"]).ontology
    assert [c.category_id for c in ontology] == [1, 2, 3]
    assert ontology.by_id[2].prompts == ("person",)
    assert (ontology.by_id[1].box_threshold, ontology.by_id[3].mask_threshold) == (0.4, 0.6)


# --- colours -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_colors_can_be_told_apart(name: str) -> None:
    """By people: 10 in CIELAB, 2.3 being just noticeable. By `kind: paint`: its tolerance."""
    colors = _colors(_by_id(name))
    lab = _lab(colors)
    for one, other in combinations(range(len(colors)), 2):
        assert np.linalg.norm(lab[one] - lab[other]) >= 10
        assert np.abs(colors[one] - colors[other]).max() > PaintOptions().tolerance
    assert colors.max(axis=1).min() > PaintOptions().tolerance  # black is void


def test_lab_has_known_values() -> None:
    lab = _lab(np.array([[255.0, 255, 255], [255, 0, 0], [0, 0, 0]]))
    expected = np.array([[100, 0, 0], [53.24, 80.09, 67.20], [0, 0, 0]])
    assert np.abs(lab - expected).max() < 0.05


def test_ade_colors_follow_their_rule() -> None:
    """COCO's colour where the first prompt is the same; else, by id, the farthest of the grid."""
    shared = {category.prompts[0]: category.color for category in _ontology("coco-133")}
    grid = _lab(np.array(list(product(range(0, 256, 15), repeat=3)), dtype=np.float64))
    grid = grid[(grid[:, 0] >= 20) & (grid[:, 0] <= 95)]
    categories = _by_id("ade20k-150")
    own = [category for category in categories if category.prompts[0] not in shared]
    rest = [category for category in categories if category.prompts[0] in shared]
    assert len(rest) == 56
    assert all(category.color == shared[category.prompts[0]] for category in rest)
    nearest = np.min([np.linalg.norm(grid - lab, axis=1) for lab in _lab(_colors(rest))], axis=0)
    taken = _lab(_colors(rest))
    for lab in _lab(_colors(own)):
        # No colour of the grid is farther from all that are taken than this one.
        assert np.linalg.norm(taken - lab, axis=1).min() >= nearest.max() - 0.1
        taken = np.vstack([taken, lab])
        nearest = np.minimum(nearest, np.linalg.norm(grid - lab, axis=1))


# --- a run -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_run_finds_every_category(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One tile per category in its colour, read by networks that see colours."""
    ontology = _ontology(name)
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    _paint_tiles(photos / "tiles.png", ontology)
    config = tmp_path / "c.yaml"
    config.write_text(
        f"source: {photos}\nout: {out}\nontology: {{things: [car]}}\n"
        "detect: {kind: paint}\nsegment: {kind: paint}\nstuff: {kind: paint}\n"
        "refine: {min_component: 0.0, reach: 0.0}\nmerge: {min_area: 0.0}\n"
    )
    for arguments in (
        ("run", str(config), "--set", f"ontology={FOLDER / f'{name}.yaml'}"),
        ("export", str(out), "--to", "coco-panoptic", "--out", str(out / "coco")),
    ):
        with pytest.raises(SystemExit) as caught:
            main(list(arguments))
        assert not caught.value.code, capsys.readouterr().err
    file = read_panoptic(out / "coco" / "panoptic.json")
    assert [(c.category_id, c.name, c.isthing, c.color) for c in file.categories] == [
        (c.category_id, c.name, c.isthing, c.color) for c in ontology
    ]
    found = sorted(segment.category_id for segment in file.annotations[0].segments)
    assert found == [category.category_id for category in _by_id(name)]


def _paint_tiles(path: Path, ontology: Ontology) -> None:
    """A square of 5 x 5 tiles with black between them."""
    side = int(np.ceil(np.sqrt(len(ontology))))
    pixels = np.zeros((side * 6, side * 6, 3), dtype=np.uint8)
    for index, color in enumerate(_colors(list(ontology))):
        y, x = divmod(index, side)
        pixels[y * 6 : y * 6 + 5, x * 6 : x * 6 + 5] = color
    Image.fromarray(pixels).save(path)
