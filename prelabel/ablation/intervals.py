"""Figures of many images and how far chance moves them: the paired bootstrap.

Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3: images are drawn with
replacement, the same ones for both sides of a difference, and the interval is that of percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.ablation.measure import SUMS

__all__ = ["FIGURES", "Difference", "Draws", "category_pq", "figures"]

FIGURES = ("pq", "sq", "rq", "accepted", "boundary", "boundary_of_found")
"""PQ, SQ and RQ are means over categories; `accepted` and `boundary` are means over the truth's
segments, of which a missed one counts as 0; `boundary_of_found` is over the matched ones."""

_COUNT = 2000
_LEVELS = (2.5, 97.5)


@dataclass(frozen=True, slots=True)
class Difference:
    """A difference between two ways of labelling, and its 95 % interval; fractions."""

    value: float
    low: float
    high: float


def category_pq(sums: NDArray[np.float64]) -> NDArray[np.float64]:
    """PQ by category: (…, C, len(SUMS)) to (…, C); nan where a category does not occur."""
    iou, tp, fp, fn = (sums[..., SUMS.index(name)] for name in ("iou", "tp", "fp", "fn"))
    halves = tp + 0.5 * fp + 0.5 * fn
    return np.where(halves > 0, iou / np.maximum(halves, 0.5), np.nan)


def figures(sums: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
    """FIGURES by name, each (…): from sums over images, (…, C, len(SUMS))."""
    part = {name: sums[..., column] for column, name in enumerate(SUMS)}
    halves = part["tp"] + 0.5 * part["fp"] + 0.5 * part["fn"]
    occurs = halves > 0
    count = np.maximum(occurs.sum(axis=-1), 1)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.where(occurs, values, 0.0).sum(axis=-1) / count)

    found = part["tp"].sum(axis=-1)
    segments = np.maximum(found + part["fn"].sum(axis=-1), 1)
    edge = part["edge"].sum(axis=-1)
    return {
        "pq": mean(part["iou"] / np.maximum(halves, 0.5)),
        "sq": mean(part["iou"] / np.maximum(part["tp"], 1)),
        "rq": mean(part["tp"] / np.maximum(halves, 0.5)),
        "accepted": part["accepted"].sum(axis=-1) / segments,
        "boundary": edge / segments,
        "boundary_of_found": edge / np.maximum(found, 1),
    }


class Draws:
    """Images drawn again and again, the same for everything that is compared."""

    def __init__(self, images: int, seed: int = 0, count: int = _COUNT) -> None:
        rng = np.random.default_rng(seed)
        self._weights = rng.multinomial(images, np.full(images, 1 / images), size=count)

    def _drawn(self, sums: NDArray[np.float64]) -> NDArray[np.float64]:
        """(images, C, S) to (draws, C, S)."""
        flat = sums.reshape(len(sums), -1)
        return (self._weights @ flat).reshape(len(self._weights), *sums.shape[1:])

    def compare(
        self, sums: NDArray[np.float64], others: NDArray[np.float64]
    ) -> Mapping[str, Difference]:
        """Each figure of `sums` less that of `others`, both (images, C, len(SUMS))."""
        first, second = figures(sums.sum(axis=0)), figures(others.sum(axis=0))
        drawn, drawn_others = figures(self._drawn(sums)), figures(self._drawn(others))
        return {
            name: _difference(float(first[name] - second[name]), drawn[name] - drawn_others[name])
            for name in FIGURES
        }

    def compare_categories(
        self, sums: NDArray[np.float64], others: NDArray[np.float64]
    ) -> list[Difference | None]:
        """The difference of PQ by category; None for one that neither truth nor labels hold."""
        values = category_pq(sums.sum(axis=0)) - category_pq(others.sum(axis=0))
        drawn = category_pq(self._drawn(sums)) - category_pq(self._drawn(others))
        return [
            None if np.isnan(value) else _difference(float(value), drawn[:, column])
            for column, value in enumerate(values)
        ]


def _difference(value: float, drawn: NDArray[np.float64]) -> Difference:
    # A category may be in none of the drawn images.
    low, high = np.nanpercentile(drawn, _LEVELS)
    return Difference(value, float(low), float(high))
