"""A COCO panoptic file against the truth: panoptic quality, and what there is to correct.

Panoptic quality is that of Kirillov et al. 2019, "Panoptic Segmentation", section 4, with void and
crowd treated as there, counted as panopticapi counts them. Two deliberate differences, neither of
which shows on a valid file with things and stuff: areas are counted in the PNGs rather than
believed, and a mean over no category is 0 rather than a division by 0. `compare` says what mistakes
are, `figures` what the other numbers mean, `blame` which stage made a mistake.

Images are matched by `file_name`, first exactly, then without extension, then by their last part
where one side has no folders, each where that is unambiguous; categories by name. Only one pair of
PNGs is open at a time, so that memory does not grow with the number of images.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from prelabel.data import VOID
from prelabel.errors import ConfigError
from prelabel.review.blame import NOT_LABELLED, Blame, blame_mistakes, read_trace
from prelabel.review.boundary import boundary_ious
from prelabel.review.compare import Comparison, Kind, compare, count_image
from prelabel.review.evaluation import BlameRow, ConfusionRow, Evaluation, WorstImage
from prelabel.review.figures import Confusion, Figures, SegmentTally, sum_tallies
from prelabel.review.pairs import Pair, PairedFiles, PairOptions
from prelabel.review.quality import CategoryQuality, Counts, Quality, mean_quality

__all__ = [
    "CategoryQuality",
    "Counts",
    "EvaluateOptions",
    "Evaluation",
    "Quality",
    "Tally",
    "count_image",
    "evaluate",
    "evaluate_files",
]


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """How two files are compared.

    Attributes:
        pairs: which images and categories.
        run: the run's folder that the prediction was exported from, or None; with it, each mistake
            has a stage to blame.
        worst: how many of the worst images are kept.
    """

    pairs: PairOptions = field(default_factory=PairOptions)
    run: Path | None = None
    worst: int = 12


def evaluate(
    prediction: Path,
    truth: Path,
    options: EvaluateOptions | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Compare two COCO panoptic files, image by image.

    Args:
        prediction: path of the predicted `panoptic.json`.
        truth: path of the true one, whose images, categories and `isthing` count.
        options: which part of them, and how.
        progress: called after each image with how many are done, and of how many.

    Raises:
        ConfigError: a file is missing, their images or categories do not match, or the prediction
            is not what the run exported.
        LabelError: a file is broken, or a prediction's PNG and JSON disagree.
    """
    options = options or EvaluateOptions()
    return evaluate_files(PairedFiles(prediction, truth, options.pairs), options, progress)


def evaluate_files(
    files: PairedFiles,
    options: EvaluateOptions,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """As `evaluate`, of two files that are open already; `options.pairs` was used to open them."""
    if options.run is not None and not (options.run / "traces").is_dir():
        raise ConfigError(f"{options.run} is no run folder: it has no traces/ folder inside")
    tally = Tally({row.category_id: (row.name, row.isthing) for row in files.categories}, options)
    for number, images in enumerate(files.images, start=1):
        pair = files.open(images)
        image = tally.compare(pair)
        tally.add(pair, image, _blame(pair, image, files, options.run))
        if progress is not None:
            progress(number, len(files.images))
    return tally.evaluation()


def _blame(
    pair: Pair, image: Comparison, files: PairedFiles, run: Path | None
) -> tuple[Blame, ...] | None:
    if run is None:
        return None
    if pair.annotation is None:
        return (NOT_LABELLED,) * len(image.mistakes)
    trace = read_trace(run, pair.predicted_name, pair.annotation, pair.id_map)
    return blame_mistakes(image, pair.true_map, trace, files.matched)


class Tally:
    """Adds up image by image what an `Evaluation` says.

    Args:
        categories: name and isthing by category_id of the truth, in its order.
        options: as `evaluate`'s.
    """

    def __init__(
        self, categories: Mapping[int, tuple[str, bool]], options: EvaluateOptions | None = None
    ) -> None:
        self._categories = categories
        self._things = {key for key, (_, isthing) in categories.items() if isthing}
        self._worst_count = (options or EvaluateOptions()).worst
        self._counts: defaultdict[int, Counts] = defaultdict(Counts)
        self._segments: defaultdict[int, SegmentTally] = defaultdict(SegmentTally)
        self._confusion = Confusion()
        self._blames: Counter[tuple[int, Kind, Blame]] = Counter()
        self._blamed = False
        self._worst: list[tuple[float, int, int, WorstImage]] = []
        self._images = 0

    def compare(self, pair: Pair) -> Comparison:
        """Match one image's segments."""
        return compare(pair.true_map, pair.true_segments, pair.id_map, pair.predicted, self._things)

    def add(self, pair: Pair, image: Comparison, blames: tuple[Blame, ...] | None = None) -> None:
        """Count one image; `blames` holds one entry for each of its mistakes, or is None."""
        self._images += 1
        for category_id, counts in image.counts.items():
            self._counts[category_id].add(counts)
        self._add_segments(pair, image)
        self._confusion.add(image)
        if blames is not None:
            self._blamed = True
            for mistake, blame in zip(image.mistakes, blames, strict=True):
                self._blames[mistake.category_id, mistake.kind, blame] += 1
        self._add_worst(pair.file_name, image, blames)

    def _add_segments(self, pair: Pair, image: Comparison) -> None:
        matched = [(row.true_id, row.segment_id) for row in image.matches]
        edges = boundary_ious(pair.true_map, pair.id_map, matched, void=VOID) if matched else {}
        for row in image.matches:
            boundary = edges[row.true_id, row.segment_id]
            self._segments[row.category_id].add_match(
                row.iou, boundary, kept=image.overlaps.same(row.true_id, row.segment_id)
            )
        for mistake in image.mistakes:
            self._segments[mistake.category_id].add_mistake(mistake.kind, mistake.iou)
        for segment_id in image.unmatched:
            self._segments[image.predicted[segment_id]].unmatched += 1

    def _add_worst(
        self, file_name: str, image: Comparison, blames: tuple[Blame, ...] | None
    ) -> None:
        if not image.mistakes:
            return
        row = WorstImage(file_name, image.score, image.mistakes, blames)
        # The heap's first is the best of the worst, the one to go; of equals the latest goes.
        entry = (-row.score, len(row.mistakes), -self._images, row)
        if len(self._worst) < self._worst_count:
            heapq.heappush(self._worst, entry)
        elif self._worst:
            heapq.heappushpop(self._worst, entry)

    def evaluation(self) -> Evaluation:
        """What was added up so far."""
        rows = [
            self._counts[category_id].quality(name, isthing)
            for category_id, (name, isthing) in self._categories.items()
        ]
        return Evaluation(
            all=mean_quality(rows),
            things=mean_quality(row for row in rows if row.isthing),
            stuff=mean_quality(row for row in rows if not row.isthing),
            per_class=tuple(rows),
            figures={
                "all": self._figures(self._categories),
                "things": self._figures(self._things),
                "stuff": self._figures(self._categories.keys() - self._things),
            },
            category_figures=tuple(self._figures([key]) for key in self._categories),
            confusion=self._confusion_rows(),
            blames=self._blame_rows() if self._blamed else None,
            worst=tuple(entry[-1] for entry in sorted(self._worst, reverse=True)),
            names={key: name for key, (name, _) in self._categories.items()},
            images=self._images,
        )

    def _figures(self, category_ids: Iterable[int]) -> Figures:
        return sum_tallies(self._segments[key] for key in category_ids).figures()

    def _name(self, category_id: int | None) -> str | None:
        return None if category_id is None else self._categories[category_id][0]

    def _confusion_rows(self) -> tuple[ConfusionRow, ...]:
        segments, pixels = self._confusion.segments, self._confusion.pixels
        rows = [
            ConfusionRow(self._name(pair[0]), self._name(pair[1]), segments[pair], pixels[pair])
            for pair in segments.keys() | pixels.keys()
        ]
        return tuple(
            sorted(
                rows, key=lambda row: (-row.segments, -row.pixels, str((row.truth, row.predicted)))
            )
        )

    def _blame_rows(self) -> tuple[BlameRow, ...]:
        rows = [
            BlameRow(self._categories[category_id][0], kind, blame, count)
            for (category_id, kind, blame), count in self._blames.items()
        ]
        return tuple(
            sorted(rows, key=lambda row: (-row.count, row.category, row.kind, str(row.blame)))
        )
