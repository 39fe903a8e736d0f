"""Figures over whole files: histogram, misses as 0, accepted, worst images; and the command."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelabel.cli import main
from prelabel.coco import PanopticWriter, measure_segments
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError
from prelabel.review.compare import compare
from prelabel.review.evaluate import EvaluateOptions, evaluate
from prelabel.review.figures import SegmentTally, sum_tallies
from prelabel.review.pairs import PairOptions

CAR, DOG, SKY, SEA = 1, 2, 3, 4
ONTOLOGY = Ontology(
    (
        Category(CAR, "car", True),
        Category(DOG, "dog", True),
        Category(SKY, "sky", False),
        Category(SEA, "sea", False),
    )
)
Drawn = tuple[np.ndarray, Mapping[int, int]]


def draw(*rows: str) -> np.ndarray:
    """An id map from rows of digits; '.' is void."""
    return np.array(
        [[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.int32
    )


def write(path: Path, images: Mapping[str, Drawn], ontology: Ontology = ONTOLOGY) -> Path:
    with PanopticWriter(path, ontology) as writer:
        for number, (name, (id_map, categories)) in enumerate(images.items(), start=1):
            writer.add_map(name, id_map, measure_segments(id_map, categories), number)
    return path


# --- tallies ----------------------------------------------------------------------------------


def test_misses_count_as_zero_and_as_a_rate() -> None:
    tally = SegmentTally(unmatched=2)
    tally.add_match(1.0, 0.8)
    tally.add_match(0.9, 0.4)
    tally.add_mistake("bad-mask", 0.3)
    tally.add_mistake("missed", 0.0)
    tally.add_mistake("wrong-class", 0.7)
    tally.add_mistake("spurious", 0.0)
    figures = tally.figures()
    assert (figures.segments, figures.predicted) == (5, 4)
    assert figures.mean_iou == pytest.approx((1 + 0.9 + 0.3) / 5)
    assert figures.miss_rate == pytest.approx(2 / 5)
    assert figures.accepted == pytest.approx(2 / 5)
    assert figures.accepted_of_predicted == pytest.approx(2 / 4)
    assert figures.boundary_iou == pytest.approx(0.6)
    assert figures.boundary_iou_with_misses == pytest.approx(1.2 / 5)
    assert figures.histogram == (0, 0, 0, 1, 0, 0, 0, 0, 0, 2)


@pytest.mark.parametrize(
    ("iou", "index"),
    [(0.1, 1), (0.3, 3), (0.6, 6), (0.7, 7), (0.9, 9), (1.0, 9), (0.899, 8), (29 / 100, 2)],
)
def test_bins_begin_at_their_number(iou: float, index: int) -> None:
    tally = SegmentTally()
    tally.add_match(iou, 0.0)
    assert tally.figures().histogram[index] == 1


def test_nothing_to_share() -> None:
    figures = sum_tallies([]).figures()
    assert (figures.segments, figures.mean_iou, figures.accepted, figures.boundary_iou) == (0,) * 4


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=20))
def test_a_sum_is_the_same_in_parts(pairs: list[tuple[float, float]]) -> None:
    whole, parts = SegmentTally(), [SegmentTally() for _ in range(3)]
    for number, (iou, boundary) in enumerate(pairs):
        whole.add_match(iou, boundary)
        parts[number % 3].add_match(iou, boundary)
    ours, theirs = sum_tallies(parts).figures(), whole.figures()
    assert ours.histogram == theirs.histogram and ours.accepted == theirs.accepted
    assert ours.mean_iou == pytest.approx(theirs.mean_iou)
    assert sum(ours.histogram) == len(pairs)


def test_kept_is_every_pixel_and_no_other() -> None:
    truth = draw("11122", "11122", "...22")
    segments = measure_segments(truth, {1: CAR, 2: SKY})
    by_id = {one.segment_id: one for one in segments}
    wider = draw("11122", "11122", "1..22")  # one pixel more, where nobody knows
    image = compare(truth, by_id, wider, {1: CAR, 2: SKY})
    assert [(row.segment_id, row.iou) for row in image.matches] == [(1, 1.0), (2, 1.0)]
    assert not image.overlaps.same(1, 1)
    assert image.overlaps.same(2, 2)
    assert not image.overlaps.same(1, 2)


# --- whole files ------------------------------------------------------------------------------

GOOD: Drawn = (draw("1111111133"), {1: CAR, 3: SKY})
POOR: Drawn = (draw("1111133344"), {1: CAR, 3: SKY, 4: SEA})
BAD: Drawn = (draw("..........", ".........."), {})
TRUE_BAD: Drawn = (draw("1111122222", "3333333333"), {1: CAR, 2: DOG, 3: SKY})


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    truth = {"good.jpg": GOOD, "poor.jpg": GOOD, "bad.jpg": TRUE_BAD}
    prediction = {"good.jpg": GOOD, "poor.jpg": POOR, "bad.jpg": BAD}
    return write(tmp_path / "pred.json", prediction), write(tmp_path / "truth.json", truth)


def test_figures_by_hand(files: tuple[Path, Path]) -> None:
    result = evaluate(*files)
    # poor: the car 5/8, found; the sky's 2 pixels are sea; the predicted sky shares none of them.
    everything = result.figures["all"]
    assert everything.segments == 7
    assert everything.predicted == 5
    assert everything.mean_iou == pytest.approx((1 + 1 + 5 / 8) / 7)
    assert everything.accepted == pytest.approx(2 / 7)
    assert everything.miss_rate == pytest.approx(4 / 7)
    assert everything.histogram == (0, 0, 0, 0, 0, 0, 1, 0, 0, 2)
    assert everything.mistakes == {
        "missed": 3,
        "wrong-class": 1,
        "bad-mask": 0,
        "duplicate": 0,
        "spurious": 1,
    }
    assert (everything.kept, everything.adjusted) == (2, 1)
    assert everything.kept_of_predicted == pytest.approx(2 / 5)
    assert result.figures["things"].accepted == pytest.approx(1 / 4)
    car = result.category_figures[0]
    assert (car.segments, car.miss_rate) == (3, 1 / 3)
    assert car.mean_iou == pytest.approx(13 / 24)
    rows = {(row.truth, row.predicted): row.segments for row in result.confusion}
    assert rows["sky", "sea"] == 1
    assert rows["dog", None] == 1
    assert rows[None, "sky"] == 1
    assert result.blames is None


def test_the_worst_image_comes_first_and_good_ones_are_not_among_them(
    files: tuple[Path, Path],
) -> None:
    result = evaluate(*files)
    assert [row.file_name for row in result.worst] == ["bad.jpg", "poor.jpg"]
    assert result.worst[0].score == 0.0
    assert [mistake.kind for mistake in result.worst[0].mistakes] == ["missed"] * 3
    assert [row.file_name for row in evaluate(*files, EvaluateOptions(worst=1)).worst] == [
        "bad.jpg"
    ]
    assert evaluate(*files, EvaluateOptions(worst=0)).worst == ()


def test_of_equally_bad_images_the_first_are_kept(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {f"{i}.jpg": GOOD for i in range(5)})
    nothing: Drawn = (np.zeros_like(GOOD[0]), {})
    prediction = write(tmp_path / "pred.json", {f"{i}.jpg": nothing for i in range(5)})
    worst = evaluate(prediction, truth, EvaluateOptions(worst=2)).worst
    assert [row.file_name for row in worst] == ["0.jpg", "1.jpg"]


def test_progress_is_told(files: tuple[Path, Path]) -> None:
    told: list[tuple[int, int]] = []
    evaluate(*files, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_things_alone_are_judged_as_among_all(files: tuple[Path, Path]) -> None:
    both = evaluate(*files)
    for only in ("things", "stuff"):
        alone = evaluate(*files, EvaluateOptions(PairOptions(only=only)))
        assert alone.all == both.quality(only) == alone.quality(only)
        rows = [row for row in both.per_class if row.isthing == (only == "things")]
        assert list(alone.per_class) == rows
        assert alone.figures["all"].accepted == both.figures[only].accepted
    things = evaluate(*files, EvaluateOptions(PairOptions(only="things")))
    assert {row.truth for row in things.confusion} == {"car", "dog"}


def test_a_file_of_things_is_compared_with_the_things_of_another(tmp_path: Path) -> None:
    truth = write(tmp_path / "truth.json", {"a.jpg": GOOD})
    things = Ontology(ONTOLOGY.things)
    prediction = write(tmp_path / "pred.json", {"a.jpg": (draw("11111111.."), {1: CAR})}, things)
    with pytest.raises(ConfigError, match=r"only .*truth\.json lists 'sea', 'sky'"):
        evaluate(prediction, truth)
    assert evaluate(prediction, truth, EvaluateOptions(PairOptions(only="things"))).all.pq == 1.0
    with pytest.raises(ConfigError, match="lists no category that is stuff"):
        evaluate(truth, prediction, EvaluateOptions(PairOptions(only="stuff")))


def test_json_says_it_all(files: tuple[Path, Path]) -> None:
    document = json.loads(json.dumps(evaluate(*files).to_json(), allow_nan=False))
    assert document["images"] == 3
    assert document["segments"]["all"]["iou_histogram"] == [0, 0, 0, 0, 0, 0, 1, 0, 0, 2]
    car = document["per_class"]["car"]
    assert (car["tp"], car["kept"], car["adjusted"]) == (2, 1, 1)
    assert car["kept_of_predicted"] == pytest.approx(1 / 2)
    assert document["per_class"]["sky"]["mistakes"]["wrong-class"] == 1
    assert document["blame"] is None
    assert document["worst"][1]["mistakes"][0] == {
        "kind": "wrong-class",
        "category": "sky",
        "predicted_as": "sea",
        "true_id": 3,
        "segment_id": 4,
        "iou": 1.0,
        "area": 2,
    }


# --- the command ------------------------------------------------------------------------------


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_the_tables(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("evaluate", *files) == 0
    out = capsys.readouterr().out
    for part in (
        "Panoptic quality",
        "From the prediction to the truth",
        "Confusions",
        "Worst images",
        "bad.jpg",
    ):
        assert part in out
    assert "Which stage" not in out


def test_options_reach_the_evaluation(
    files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("evaluate", *files, "--json", "--limit", 1, "--extra", "ignore") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1
    assert call("evaluate", *files, "--json", "--stuff-only", "--worst", 1) == 0
    document = json.loads(capsys.readouterr().out)
    assert set(document["per_class"]) == {"sky", "sea"} and len(document["worst"]) == 1


def test_images_that_do_not_match_are_named_or_counted(
    files: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fewer = write(tmp_path / "fewer.json", {"good.jpg": GOOD})
    assert call("evaluate", fewer, files[1]) == 2
    assert "'bad.jpg', 'poor.jpg'" in " ".join(capsys.readouterr().err.split())
    assert call("evaluate", fewer, files[1], "--missing", "miss", "--json") == 0
    assert json.loads(capsys.readouterr().out)["segments"]["all"]["miss_rate"] == pytest.approx(
        5 / 7
    )
    assert call("evaluate", files[0], fewer) == 2
    assert "'bad.jpg', 'poor.jpg'" in " ".join(capsys.readouterr().err.split())
    assert call("evaluate", files[0], fewer, "--extra", "ignore", "--json") == 0
    assert json.loads(capsys.readouterr().out)["images"] == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--things-only", "--stuff-only"), "give one of them"),
        (("--run", "{tmp}"), "is no run folder"),
        (("--html", "{tmp}/none/page.html"), "does not exist; make it first"),
        (("--images", "{tmp}/none"), "the folder of images"),
        (("--limit", "0"), "--limit"),
    ],
)
def test_wrong_options_are_told(
    files: tuple[Path, Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    told: str,
) -> None:
    assert call("evaluate", *files, *(part.format(tmp=tmp_path) for part in arguments)) == 2
    out, err = capsys.readouterr()
    assert told in " ".join(err.split()) and out == ""


def test_an_image_that_the_truth_lists_but_does_not_label_is_told(
    files: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    document = json.loads(files[1].read_text())
    document["images"].append({"id": 9, "file_name": "z.jpg", "height": 1, "width": 1})
    files[1].write_text(json.dumps(document))
    evaluate(*files)
    assert "lists 1 images without annotation" in caplog.text
