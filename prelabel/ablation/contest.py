"""Ours against its ancestor and against itself without each rule, image by image."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.ablation.ancestor import label_as_ancestor
from prelabel.ablation.intervals import Difference, Draws, category_pq, figures
from prelabel.ablation.measure import Edges, measure_label
from prelabel.ablation.outputs import Outputs
from prelabel.ablation.variants import ABLATIONS, OURS, Labeller
from prelabel.config import Config
from prelabel.data import Ontology

__all__ = ["Contest", "Rival"]


@dataclass(frozen=True, slots=True)
class Rival:
    """A way of labelling, and ours less it.

    Attributes:
        figures: its own, by name.
        ahead: by how much ours is better, by figure.
        ahead_by_category: the same of PQ, by category name, of categories that occur.
    """

    figures: Mapping[str, float]
    ahead: Mapping[str, Difference]
    ahead_by_category: Mapping[str, Difference]

    def worst_categories(self, least: float) -> list[str]:
        """Categories whose whole interval lies below `least`: there ours is surely worse."""
        return [name for name, row in self.ahead_by_category.items() if row.high < least]

    def to_json(self) -> dict[str, object]:
        return {
            **self.figures,
            "ahead": {name: asdict(row) for name, row in self.ahead.items()},
            "ahead_by_category": {
                name: asdict(row) for name, row in self.ahead_by_category.items()
            },
        }


class Contest:
    """Labels images in every way and adds up how good the labels are.

    Args:
        config: ours.
        names: of the ablations to run; None: all.
    """

    def __init__(self, config: Config, names: Iterable[str] | None = None) -> None:
        self._config = config
        self._ablations = {
            name: ABLATIONS[name] for name in (ABLATIONS if names is None else names)
        }
        self._sums: dict[str, list[NDArray[np.float64]]] = {}

    @property
    def _ontology(self) -> Ontology:
        return self._config.ontology

    def add(self, outputs: Outputs) -> None:
        """Label one image in every way."""
        edges, labeller = Edges(outputs.truth), Labeller(outputs, self._config)
        ids = [category.category_id for category in self._ontology]
        for name, ablation in {"ours": OURS, **self._ablations}.items():
            label = labeller.label(ablation)
            found = {row.segment_id: row.category_id for row in label.segments}
            sums = measure_label(outputs.truth, edges, (label.id_map, found), ids)
            self._sums.setdefault(name, []).append(sums)
        for name, scaled in (("ancestor", False), ("ancestor_scaled", True)):
            drawn = label_as_ancestor(outputs, scaled=scaled)
            sums = measure_label(outputs.truth, edges, drawn, ids)
            self._sums.setdefault(name, []).append(sums)

    def ours(self) -> dict[str, object]:
        """Our figures, and PQ by category."""
        sums = np.array(self._sums["ours"]).sum(axis=0)
        values = zip(self._ontology, category_pq(sums), strict=True)
        by_category = {category.name: float(pq) for category, pq in values if not np.isnan(pq)}
        return {**_floats(sums), "pq_by_category": by_category}

    def rivals(self) -> dict[str, Rival]:
        """All the others by name, each compared with ours on the same drawn images."""
        ours = np.array(self._sums["ours"])
        draws = Draws(len(ours))
        rivals = {}
        for name in self._sums.keys() - {"ours"}:
            others = np.array(self._sums[name])
            by_category = zip(self._ontology, draws.compare_categories(ours, others), strict=True)
            rivals[name] = Rival(
                _floats(others.sum(axis=0)),
                draws.compare(ours, others),
                {category.name: row for category, row in by_category if row is not None},
            )
        return rivals


def _floats(sums: NDArray[np.float64]) -> dict[str, float]:
    return {name: float(value) for name, value in figures(sums).items()}
