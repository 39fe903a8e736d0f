"""Why a pixel is what it is, on labels drawn by hand, and the command."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from prelabel.cli import main
from prelabel.config import default_config, dump_config
from prelabel.data import (
    Candidate,
    Category,
    ImageRecord,
    Mask,
    Ontology,
    PanopticLabel,
    Segment,
    Trace,
    image_key,
)
from prelabel.errors import ConfigError
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.review.why import read_story, tell_pixel

CAR, SKY, ROAD = 1, 2, 3
ONTOLOGY = Ontology(
    (Category(CAR, "car", True), Category(SKY, "sky", False), Category(ROAD, "road", False))
)


def _mask(row: str) -> Mask:
    return Mask.from_full(np.array([[letter == "#" for letter in row]]))


def _segment(segment_id: int, category_id: int, area: int, x0: int, source: str) -> Segment:
    box = (x0, 0, x0 + area, 1)
    isthing = category_id == CAR
    return Segment(segment_id, category_id, isthing, area, box, 0.8, None, 0.8, source)


# One row of nine pixels: a car, sky, road that won a pixel from sky, a filled one, void.
LABEL = PanopticLabel(
    "a.png",
    np.array([[1, 1, 2, 2, 3, 3, 3, 0, 0]], dtype=np.int32),
    (
        _segment(1, CAR, 2, 0, "thing:0"),
        _segment(2, SKY, 2, 2, "stuff:0"),
        _segment(3, ROAD, 3, 4, "stuff:1"),
    ),
)
TRACE = Trace(
    "a.png",
    (
        Candidate("thing:0", CAR, True, _mask("##......."), 0.9, "kept", "", 1),
        Candidate("stuff:0", SKY, False, _mask(".####...."), 0.8, "kept", "", 2),
        Candidate("thing:1", CAR, True, _mask("#######.."), 0.7, "duplicate", "thing:0"),
        Candidate("stuff:1", ROAD, False, _mask("....##..."), 0.6, "kept", "", 3),
        Candidate("thing:2", CAR, True, _mask(".......#."), 0.1, "low-score"),
    ),
    {("stuff:0", "thing:0"): 1, ("stuff:0", "stuff:1"): 1},
    {("stuff:0", "thing:0"): "in-front", ("stuff:0", "stuff:1"): "likelier-here"},
)


def _claims(x: int) -> list[tuple[str, str, str]]:
    story = tell_pixel(LABEL, TRACE, x, 0)
    return [(row.candidate.candidate_id, row.rule, row.beaten_by) for row in story.claims]


def test_who_claimed_a_pixel_who_won_and_by_which_rule() -> None:
    story = tell_pixel(LABEL, TRACE, 1, 0)
    assert story.segment is not None and story.segment.segment_id == 1
    assert story.winner is not None and story.winner.candidate.candidate_id == "thing:0"
    assert story.rule == "in-front"
    assert _claims(1) == [
        ("thing:0", "in-front", ""),
        ("stuff:0", "in-front", "thing:0"),
        ("thing:1", "duplicate", "thing:0"),
    ]


def test_a_claim_without_rivals() -> None:
    assert _claims(0) == [("thing:0", "only-claim", ""), ("thing:1", "duplicate", "thing:0")]
    assert tell_pixel(LABEL, TRACE, 5, 0).rule == "only-claim"


def test_the_rough_maps_decided() -> None:
    story = tell_pixel(LABEL, TRACE, 4, 0)
    assert story.winner is not None and story.winner.candidate.candidate_id == "stuff:1"
    assert story.rule == "likelier-here"


@pytest.mark.parametrize(
    ("x", "rule", "claims"), [(6, "filled", 1), (7, "dropped", 1), (8, "unclaimed", 0)]
)
def test_pixels_that_nobody_won(x: int, rule: str, claims: int) -> None:
    story = tell_pixel(LABEL, TRACE, x, 0)
    assert (story.winner, story.rule, len(story.claims)) == (None, rule, claims)


def test_every_pixel_has_a_story_in_words() -> None:
    names = {row.category_id: row.name for row in ONTOLOGY}
    for x in range(9):
        document = tell_pixel(LABEL, TRACE, x, 0).to_json(names)
        assert document["reason"]
        assert (document["segment"] is None) == (LABEL.id_map[0, x] == 0)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    record = ImageRecord("a.png", "a.png")
    store = LabelStore(tmp_path)
    store.write(record, LABEL, Provenance("t", "f"))
    store.write_trace(image_key("a.png"), TRACE)
    (tmp_path / "config.yaml").write_text(dump_config(default_config(ONTOLOGY)))
    return tmp_path


def _exit_code(*arguments: object) -> int:
    with pytest.raises(SystemExit) as ending:
        main(["why", *map(str, arguments)])
    return int(ending.value.code or 0)


def test_the_command_for_people(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(run, "a.png", 1, 0) == 0
    shown = capsys.readouterr().out
    assert "car, segment 1" in shown
    assert "a thing stands in front of stuff" in shown
    assert "duplicate" in shown
    assert _exit_code(run, "a.png", 8, 0) == 0
    assert "void" in capsys.readouterr().out


def test_the_command_for_programs(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(run, "a.png", 4, 0, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["segment"]["category"] == "road"
    assert (document["winner"], document["rule"]) == ("stuff:1", "likelier-here")
    sky = document["claims"][0]
    assert (sky["candidate_id"], sky["won"], sky["beaten_by"]) == ("stuff:0", False, "stuff:1")


@pytest.mark.parametrize(
    ("image", "x", "y", "message"),
    [
        ("b.png", 0, 0, "did you mean 'a.png'"),
        ("photos/holiday.jpg", 0, 0, "holds 1 labels"),
        ("a.png", 9, 0, "is 9 x 1"),
        ("a.png", 0, 1, "y from 0 to 0"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    run: Path, capsys: pytest.CaptureFixture[str], image: str, x: int, y: int, message: str
) -> None:
    assert _exit_code(run, image, x, y) == 2
    assert message in capsys.readouterr().err.replace("\n", " ")


def test_a_run_without_traces(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "traces" / f"{image_key('a.png')}.npz").unlink()
    assert _exit_code(run, "a.png", 0, 0) == 2
    assert "keeps no trace" in capsys.readouterr().err
    assert _exit_code(run / "labels", "a.png", 0, 0) == 2
    assert "no run folder" in capsys.readouterr().err


def test_a_trace_of_another_label_is_refused(run: Path) -> None:
    other = Trace(
        "a.png", (Candidate("thing:0", CAR, True, _mask("########."), 0.9, "kept", "", 1),)
    )
    LabelStore(run).write_trace(image_key("a.png"), other)
    with pytest.raises(ConfigError, match="does not belong to its label"):
        read_story(run, "a.png", 7, 0)
