"""What an evaluation says, as data and as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prelabel.review.blame import Blame
from prelabel.review.compare import Kind, Mistake
from prelabel.review.figures import Figures
from prelabel.review.quality import CategoryQuality, Quality

__all__ = ["GROUPS", "BlameRow", "ConfusionRow", "Evaluation", "WorstImage"]

GROUPS = ("all", "things", "stuff")


@dataclass(frozen=True, slots=True)
class ConfusionRow:
    """What was taken for what, by category name; None is nothing.

    Attributes:
        truth: what it is.
        predicted: what it was taken for.
        segments: how many overlap by an IoU above one half, or overlap nothing so.
        pixels: how many of them.
    """

    truth: str | None
    predicted: str | None
    segments: int
    pixels: int

    @property
    def right(self) -> bool:
        return self.truth == self.predicted


@dataclass(frozen=True, slots=True)
class BlameRow:
    """How many mistakes of one kind in one category one stage made for one reason."""

    category: str
    kind: Kind
    blame: Blame
    count: int


@dataclass(frozen=True, slots=True)
class WorstImage:
    """One of the images with most to correct.

    Attributes:
        file_name: as in the truth.
        score: PQ in [0, 1] of this image as if all segments were of one category.
        mistakes: all of them.
        blames: one for each mistake, or None.
    """

    file_name: str
    score: float
    mistakes: tuple[Mistake, ...]
    blames: tuple[Blame, ...] | None


@dataclass(frozen=True, slots=True)
class Evaluation:
    """How good a file is against its truth.

    Attributes:
        all: panoptic quality, means over the categories that occur.
        things: the same of things.
        stuff: the same of stuff.
        per_class: panoptic quality by category, in the order of the truth's categories.
        figures: of segments, by "all", "things" and "stuff".
        category_figures: of segments, one for each of `per_class`.
        confusion: what was taken for what, most segments first.
        blames: stages to blame, most mistakes first; None without a run.
        worst: the worst images first.
        names: the categories' names by category_id.
        images: how many were compared.
    """

    all: Quality
    things: Quality
    stuff: Quality
    per_class: tuple[CategoryQuality, ...]
    figures: Mapping[str, Figures]
    category_figures: tuple[Figures, ...]
    confusion: tuple[ConfusionRow, ...]
    blames: tuple[BlameRow, ...] | None
    worst: tuple[WorstImage, ...]
    names: Mapping[int, str]
    images: int

    def quality(self, group: str) -> Quality:
        """Panoptic quality of "all", "things" or "stuff"."""
        return {"all": self.all, "things": self.things, "stuff": self.stuff}[group]

    def to_json(self) -> dict[str, object]:
        """`docs/evaluate.md` says what stands where."""
        return {
            **{group: self.quality(group).to_json() for group in GROUPS},
            "images": self.images,
            "segments": {group: self.figures[group].to_json() for group in GROUPS},
            "per_class": {
                row.name: {**row.to_json(), **figures.to_json()}
                for row, figures in zip(self.per_class, self.category_figures, strict=True)
            },
            "confusion": [
                {
                    "truth": row.truth,
                    "predicted": row.predicted,
                    "segments": row.segments,
                    "pixels": row.pixels,
                }
                for row in self.confusion
            ],
            "blame": None if self.blames is None else [_blame_json(row) for row in self.blames],
            "worst": [self._worst_json(row) for row in self.worst],
        }

    def _worst_json(self, image: WorstImage) -> dict[str, object]:
        mistakes = []
        for index, mistake in enumerate(image.mistakes):
            row: dict[str, object] = {
                "kind": mistake.kind,
                "category": self.names[mistake.category_id],
                "predicted_as": self.predicted_name(mistake),
                "true_id": mistake.true_id or None,
                "segment_id": mistake.segment_id or None,
                "iou": mistake.iou,
                "area": mistake.area,
            }
            if image.blames is not None:
                blame = image.blames[index]
                row |= {"stage": blame.stage, "reason": blame.reason}
            mistakes.append(row)
        return {"file_name": image.file_name, "score": image.score, "mistakes": mistakes}

    def predicted_name(self, mistake: Mistake) -> str | None:
        """The category that a mistake's predicted segment was given, or None without one."""
        return None if mistake.predicted_as is None else self.names[mistake.predicted_as]


def _blame_json(row: BlameRow) -> dict[str, object]:
    return {
        "category": row.category,
        "kind": row.kind,
        "stage": row.blame.stage,
        "reason": row.blame.reason,
        "count": row.count,
    }
