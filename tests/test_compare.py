"""What is right and wrong in one image, against a judge that looks at every pixel by itself."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from cityscapesscripts.evaluation.evalPanopticSemanticLabeling import pq_compute_single_core
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from prelabel.coco import CocoSegment, encode_ids
from prelabel.review.compare import KINDS, Comparison, Match, Mistake, compare
from prelabel.review.figures import Confusion
from prelabel.review.quality import Counts

CAR, DOG, SKY, SEA = 1, 2, 3, 4
THINGS = {CAR, DOG}
Pixels = frozenset[tuple[int, int]]


def draw(*rows: str) -> np.ndarray:
    """An id map from rows of digits; '.' is void."""
    return np.array(
        [[0 if pixel == "." else int(pixel) for pixel in row] for row in rows], np.int32
    )


def look(
    true_map: np.ndarray,
    true_categories: Mapping[int, int],
    id_map: np.ndarray,
    predicted: Mapping[int, int],
    crowd: tuple[int, ...] = (),
) -> Comparison:
    segments = {
        segment_id: CocoSegment(segment_id, category_id, iscrowd=segment_id in crowd)
        for segment_id, category_id in true_categories.items()
    }
    return compare(true_map, segments, id_map, predicted, THINGS)


def kinds(image: Comparison) -> list[str]:
    return [mistake.kind for mistake in image.mistakes]


# --- kinds of mistakes, by hand ---------------------------------------------------------------


def test_nothing_is_wrong_with_a_perfect_label() -> None:
    id_map = draw("1122", "3333")
    image = look(id_map, {1: CAR, 2: DOG, 3: SKY}, id_map, {1: CAR, 2: DOG, 3: SKY})
    assert image.mistakes == ()
    assert image.matches[0] == Match(1, 1, CAR, 1.0)
    assert image.score == 1.0


def test_an_empty_image_has_a_perfect_score() -> None:
    void = draw("..", "..")
    assert look(void, {}, void, {}).score == 1.0
    assert look(void, {}, draw("11", ".."), {1: CAR}).score == 1.0


def test_a_missed_thing() -> None:
    image = look(draw("1133"), {1: CAR, 3: SKY}, draw("..33"), {3: SKY})
    assert image.mistakes == (Mistake("missed", CAR, 1, 0, None, 0.0, 2),)
    assert image.score == pytest.approx(2 / 3)


def test_a_wrong_class_is_one_mistake_and_not_two() -> None:
    image = look(draw("1113"), {1: CAR, 3: SKY}, draw("1133"), {1: DOG, 3: SKY})
    # The sky has an IoU of exactly one half: no match, but a bad mask.
    assert image.mistakes == (
        Mistake("wrong-class", CAR, 1, 1, DOG, 2 / 3, 3),
        Mistake("bad-mask", SKY, 3, 3, SKY, 0.5, 1),
    )


def test_a_wrong_class_needs_an_iou_above_one_half() -> None:
    image = look(draw("11"), {1: CAR}, draw("1."), {1: DOG})
    assert kinds(image) == ["missed", "spurious"]


@pytest.mark.parametrize(
    ("row", "expected"), [("1.........", "bad-mask"), ("1222222222", "bad-mask")]
)
def test_a_bad_mask_from_a_tenth_on(row: str, expected: str) -> None:
    image = look(draw("1111111111"), {1: CAR}, draw(row), {1: CAR, 2: SEA})
    assert kinds(image)[0] in (expected, "wrong-class")
    mistakes = {mistake.kind: mistake for mistake in image.mistakes}
    if "bad-mask" in mistakes:
        assert mistakes["bad-mask"].iou == pytest.approx(0.1)


def test_less_than_a_tenth_is_a_miss_and_a_spurious_segment() -> None:
    image = look(draw("1" * 11), {1: CAR}, draw("1" + "." * 10), {1: CAR})
    assert kinds(image) == ["missed", "spurious"]


def test_a_second_segment_on_the_same_car_is_a_duplicate_whatever_its_category() -> None:
    truth = draw("1111111333")
    label = draw("1111122333")
    for category in (CAR, DOG):
        image = look(truth, {1: CAR, 3: SKY}, label, {1: CAR, 2: category, 3: SKY})
        assert image.mistakes == (Mistake("duplicate", category, 1, 2, category, 2 / 7, 2),)


def test_a_thing_on_stuff_and_stuff_on_a_thing_are_spurious() -> None:
    truth, label = draw("1111111333"), draw("1111122333")
    image = look(truth, {1: CAR, 3: SKY}, label, {1: CAR, 2: SEA, 3: SKY})
    assert kinds(image) == ["spurious"]
    image = look(truth, {1: SKY, 3: CAR}, label, {1: SKY, 2: CAR, 3: CAR})
    assert kinds(image) == ["spurious"]


def test_half_of_it_elsewhere_is_no_duplicate() -> None:
    image = look(draw("1111133333"), {1: CAR, 3: SKY}, draw("1111223333"), {1: CAR, 2: CAR, 3: SKY})
    assert kinds(image) == ["spurious"]


def test_the_surest_pairs_are_made_first() -> None:
    # One segment over three cars stands for the largest of them, the others are missed.
    truth = draw("1112222333")
    image = look(truth, {1: CAR, 2: CAR, 3: CAR}, draw("1111111111"), {1: CAR})
    assert [(row.kind, row.true_id) for row in image.mistakes] == [
        ("missed", 1),
        ("missed", 3),
        ("bad-mask", 2),
    ]
    assert image.mistakes[2].iou == pytest.approx(4 / 10)


def test_crowd_and_void_make_no_mistakes() -> None:
    truth = draw("1111", "..22")
    image = look(
        truth, {1: CAR, 2: SKY}, draw("1111", "3322"), {1: CAR, 2: SKY, 3: DOG}, crowd=(1,)
    )
    assert image.mistakes == ()
    assert image.passed_over == {1, 3}
    assert image.true_categories == {2: SKY}


def test_what_was_taken_for_what() -> None:
    confusion = Confusion()
    truth = draw("1111", "2222", "3333")
    label = draw("1111", "4444", "...5")
    confusion.add(look(truth, {1: CAR, 2: DOG, 3: SKY}, label, {1: CAR, 4: CAR, 5: SEA}))
    assert confusion.segments == {
        (CAR, CAR): 1,
        (DOG, CAR): 1,
        (SKY, None): 1,
        (None, SEA): 1,
    }
    assert confusion.pixels == {(CAR, CAR): 4, (DOG, CAR): 4, (SKY, None): 3, (SKY, SEA): 1}


# --- a judge that looks at every pixel --------------------------------------------------------


class Judge:
    """panopticapi's published rules and ours, in sets of pixels."""

    def __init__(
        self,
        true_map: np.ndarray,
        true_categories: Mapping[int, int],
        id_map: np.ndarray,
        predicted: Mapping[int, int],
        crowd: tuple[int, ...],
    ) -> None:
        self.true = {i: self._pixels(true_map, i) for i in true_categories}
        self.guess = {i: self._pixels(id_map, i) for i in predicted}
        self.void = self._pixels(true_map, 0)
        self.true_categories, self.predicted, self.crowd = true_categories, predicted, crowd

    def _pixels(self, id_map: np.ndarray, segment_id: int) -> Pixels:
        return frozenset(zip(*np.nonzero(id_map == segment_id), strict=True))

    def iou(self, true_id: int, segment_id: int) -> float:
        truth, guess = self.true[true_id], self.guess[segment_id] - self.void
        return len(truth & guess) / len(truth | guess) if truth | guess else 0.0

    @property
    def real(self) -> list[int]:
        return [i for i in self.true_categories if i not in self.crowd]

    def matches(self) -> dict[tuple[int, int], float]:
        pairs = itertools.product(self.real, self.guess)
        return {
            (t, p): self.iou(t, p)
            for t, p in pairs
            if self.true_categories[t] == self.predicted[p] and self.iou(t, p) > 0.5
        }

    def passed_over(self) -> set[int]:
        matched = {p for _, p in self.matches()}
        found = set()
        for p, pixels in self.guess.items():
            # COCO has at most one crowd region per category and image; so do the maps below.
            crowds = [
                self.true[t] for t in self.crowd if self.true_categories[t] == self.predicted[p]
            ]
            nobody = self.void.union(*crowds)
            if p not in matched and len(pixels & nobody) > 0.5 * len(pixels):
                found.add(p)
        return found

    def counts(self) -> dict[int, Counts]:
        counts: dict[int, Counts] = {}
        matches = self.matches()
        for (t, _), iou in matches.items():
            counts.setdefault(self.true_categories[t], Counts()).add(Counts(iou, tp=1))
        for t in set(self.real) - {t for t, _ in matches}:
            counts.setdefault(self.true_categories[t], Counts()).fn += 1
        for p in set(self.guess) - {p for _, p in matches} - self.passed_over():
            counts.setdefault(self.predicted[p], Counts()).fp += 1
        return counts

    def mistakes(self) -> Counter[tuple[str, int, int]]:
        """(kind, true_id, segment_id) of each mistake; ids are 0 where there is none."""
        matches = self.matches()
        missed = set(self.real) - {t for t, _ in matches}
        extra = set(self.guess) - {p for _, p in matches} - self.passed_over()
        holders = {t for t, _ in matches}
        found: Counter[tuple[str, int, int]] = Counter()
        pairs = sorted(itertools.product(missed, extra), key=lambda pair: (-self.iou(*pair), *pair))
        for t, p in pairs:
            same, iou = self.true_categories[t] == self.predicted[p], self.iou(t, p)
            if t in missed and p in extra and iou > 0 and (iou >= 0.1 if same else iou > 0.5):
                missed.remove(t)
                extra.remove(p)
                holders.add(t)
                found["bad-mask" if same else "wrong-class", t, p] += 1
        for t in missed:
            found["missed", t, 0] += 1
        for p in extra:
            known = self.guess[p] - self.void
            twins = [t for t in holders if len(self.true[t] & known) > 0.5 * len(known)]
            twins = [
                t
                for t in twins
                if self.true_categories[t] == self.predicted[p]
                or {self.true_categories[t], self.predicted[p]} <= THINGS
            ]
            found["duplicate" if twins else "spurious", twins[0] if twins else 0, p] += 1
        return found


@st.composite
def pairs_of_labels(
    draw: st.DrawFn,
) -> tuple[np.ndarray, dict[int, int], np.ndarray, dict[int, int], tuple[int, ...]]:
    """A truth with void and at most one crowd per category, and a prediction that is like it."""
    shape = draw(hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=7))
    true_map = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 4)))
    if draw(st.booleans()):
        change = draw(hnp.arrays(np.bool_, shape))
        other = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 6)))
        id_map = np.where(change, other, true_map).astype(np.int32)
    else:
        id_map = draw(hnp.arrays(np.int32, shape, elements=st.integers(0, 3)))
    categories = st.integers(1, 4)
    true_categories = {int(i): draw(categories) for i in np.unique(true_map) if i}
    predicted = {
        int(i): true_categories.get(int(i), CAR) if draw(st.booleans()) else draw(categories)
        for i in np.unique(id_map)
        if i
    }
    chosen = [i for i in true_categories if draw(st.integers(0, 4)) == 0]
    crowd = tuple({true_categories[i]: i for i in chosen}.values())
    return true_map, true_categories, id_map, predicted, crowd


@settings(max_examples=300)
@given(pairs_of_labels())
def test_it_agrees_with_the_judge_on_every_pixel(
    pair: tuple[np.ndarray, dict[int, int], np.ndarray, dict[int, int], tuple[int, ...]],
) -> None:
    image, judge = look(*pair), Judge(*pair)
    assert {(m.true_id, m.segment_id): m.iou for m in image.matches} == pytest.approx(
        judge.matches(), abs=1e-12
    )
    assert image.passed_over == judge.passed_over()
    ours, theirs = image.counts, judge.counts()
    assert ours.keys() == theirs.keys()
    for category_id, counts in theirs.items():
        mine = ours[category_id]
        assert (mine.tp, mine.fp, mine.fn) == (counts.tp, counts.fp, counts.fn)
        assert mine.iou_sum == pytest.approx(counts.iou_sum, abs=1e-12)
    found = Counter((row.kind, row.true_id, row.segment_id) for row in image.mistakes)
    assert found == judge.mistakes()


@settings(max_examples=100)
@given(pairs_of_labels())
def test_every_miss_and_every_false_positive_is_in_one_mistake(
    pair: tuple[np.ndarray, dict[int, int], np.ndarray, dict[int, int], tuple[int, ...]],
) -> None:
    image = look(*pair)
    number = Counter(kinds(image))
    total = Counts()
    for counts in image.counts.values():
        total.add(counts)
    assert total.fn == number["missed"] + number["wrong-class"] + number["bad-mask"]
    paired = number["wrong-class"] + number["bad-mask"]
    assert total.fp == paired + number["duplicate"] + number["spurious"]
    assert set(number) <= set(KINDS)
    assert 0.0 <= image.score <= 1.0


# --- the same pairs, judged by cityscapesscripts ----------------------------------------------


def test_a_thousand_random_pairs_agree_with_cityscapesscripts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(5)
    categories: dict[int, object] = {category_id: {} for category_id in range(1, 5)}
    shown = 0
    for number in range(1000):
        true_map, id_map, true_categories, predicted, crowd = random_pair(rng)
        for name, drawn in (("truth.png", true_map), ("guess.png", id_map)):
            Image.fromarray(encode_ids(drawn)).save(tmp_path / name)
        truth = {
            "image_id": number,
            "file_name": "truth.png",
            "segments_info": [
                {
                    "id": i,
                    "category_id": category,
                    "iscrowd": int(i in crowd),
                    "area": int((true_map == i).sum()),
                }
                for i, category in true_categories.items()
            ],
        }
        guess = {
            "image_id": number,
            "file_name": "guess.png",
            "segments_info": [{"id": i, "category_id": c} for i, c in predicted.items()],
        }
        theirs = pq_compute_single_core(0, [(truth, guess)], tmp_path, tmp_path, categories)
        ours = look(true_map, true_categories, id_map, predicted, crowd).counts
        for category_id in categories:
            mine, other = ours.get(category_id, Counts()), theirs[category_id]
            assert (mine.tp, mine.fp, mine.fn) == (other.tp, other.fp, other.fn)
            assert mine.iou_sum == pytest.approx(other.iou, abs=1e-9)
            shown += other.tp > 0
    assert shown > 500
    capsys.readouterr()


def random_pair(
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, dict[int, int], dict[int, int], tuple[int, ...]]:
    height, width = rng.integers(1, 30, size=2)
    true_map = rng.integers(0, 6, (height // 4 + 1, width // 4 + 1)).repeat(4, 0).repeat(4, 1)
    true_map = true_map[:height, :width].astype(np.int32)
    id_map = np.roll(true_map, rng.integers(-1, 2, 2), (0, 1))
    id_map[rng.random(id_map.shape) < 0.1] = 70000
    true_categories = {int(i): int(rng.integers(1, 5)) for i in np.unique(true_map) if i}
    predicted = {
        int(i): true_categories.get(int(i), 1) if rng.random() < 0.8 else int(rng.integers(1, 5))
        for i in np.unique(id_map)
        if i
    }
    chosen = {c: i for i, c in true_categories.items() if rng.random() < 0.15}
    return true_map, id_map, true_categories, predicted, tuple(chosen.values())
