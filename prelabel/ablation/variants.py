"""The ways of labelling that are compared: ours, ours without one rule, and its ancestor."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from prelabel.ablation.outputs import Outputs, suppress
from prelabel.ablation.questions import BestByIou, Single
from prelabel.config import Config
from prelabel.data import Instances, Ontology, PanopticLabel, StuffRegions
from prelabel.models.candidates import DetectorOptions
from prelabel.models.roles import PromptableSegmenter
from prelabel.options import MergeOptions, RefineOptions
from prelabel.stages.merge import merge
from prelabel.stages.refine import refine_stuff
from prelabel.stages.sample import generator_for
from prelabel.stages.segment import segment_things
from prelabel.stages.snap import snap_masks

__all__ = ["ABLATIONS", "OURS", "Ablation", "Labeller"]

_Options = TypeVar("_Options", RefineOptions, MergeOptions)


def _same(found: Instances, regions: StuffRegions) -> tuple[Instances, StuffRegions]:
    return found, regions


def _by_detector_alone(found: Instances, regions: StuffRegions) -> tuple[Instances, StuffRegions]:
    """As if masks had no scores of their own: the order is the detector's and the rough maps'."""
    ones = np.ones(len(found), dtype=np.float32)
    surely = np.ones(len(regions), dtype=np.float32)
    return (
        replace(found, ious=ones, stabilities=ones),
        replace(regions, ious=surely, agreements=surely),
    )


def _by_query(found: Instances, regions: StuffRegions) -> tuple[Instances, StuffRegions]:
    """As if things had no scores at all: the order is that of the detector's queries."""
    ranks = np.argsort(np.argsort(-found.detections.query_ids, kind="stable"), kind="stable")
    scores = ((ranks + 1) / (len(found) + 1)).astype(np.float32)
    detections = replace(found.detections, scores=scores)
    ones = np.ones(len(found), dtype=np.float32)
    return replace(found, detections=detections, ious=ones, stabilities=ones), regions


@dataclass(frozen=True, slots=True)
class Ablation:
    """Ours with one rule switched off.

    Attributes:
        rule: what is switched off.
        things: how the segmenter is asked for things.
        stuff: how it is asked for stuff.
        refine: keys of `RefineOptions` set otherwise.
        merge: keys of `MergeOptions` set otherwise.
        scores: what the scores are before merge.
    """

    rule: str
    things: Callable[[PromptableSegmenter], PromptableSegmenter] | None = None
    stuff: Callable[[PromptableSegmenter], PromptableSegmenter] | None = None
    refine: Mapping[str, object] = field(default_factory=dict)
    merge: Mapping[str, object] = field(default_factory=dict)
    scores: Callable[[Instances, StuffRegions], tuple[Instances, StuffRegions]] = _same


OURS = Ablation("nothing")

ABLATIONS: Mapping[str, Ablation] = {
    "one-mask-per-box": Ablation("the choice among three masks per box", things=Single),
    "box-choice-by-iou": Ablation(
        "stability and box in that choice, leaving the predicted IoU", things=BestByIou
    ),
    "no-refinement": Ablation(
        "SAM for stuff: rough maps as they are", refine={"min_agreement": 2.0, "min_rough": 0.0}
    ),
    "one-point": Ablation("spread points: the deepest alone", refine={"positives": 1}),
    "no-negatives": Ablation("negative points", refine={"negatives": 0}),
    "mask-prompt": Ablation("leaving out the mask prompt", refine={"mask_prompt": True}),
    "region-choice-by-iou": Ablation(
        "agreement in the choice of a region, leaving the predicted IoU", stuff=BestByIou
    ),
    "no-bound": Ablation("the bound around the rough map", refine={"reach": 1.0}),
    "no-agreement": Ablation(
        "the least agreement with the rough map", refine={"min_agreement": 0.0}
    ),
    "no-fallback": Ablation("falling back to the rough map", refine={"min_rough": 2.0}),
    "fallback-always": Ablation("dropping small rough components", refine={"min_rough": 0.0}),
    "no-rescue": Ablation("keeping the largest component of a thin class", refine={"rescue": 2.0}),
    "no-snapping": Ablation("following the picture's edges", refine={"snap": 0.0}),
    "query-order": Ablation("the order of things by any score", scores=_by_query),
    "no-combined-score": Ablation("SAM's part in the score that orders", scores=_by_detector_alone),
    "no-containment": Ablation(
        "small things on top of large ones", merge={"containment_ratio": 0.0}
    ),
    "no-duplicates": Ablation("one object seen twice is one", merge={"duplicate_iou": 2.0}),
    "no-parts": Ablation("a part of a thing is no thing", merge={"part": 2.0}),
    "by-region": Ablation("rough maps between regions of stuff", merge={"by_pixel": False}),
    "no-tidying": Ablation(
        "removal of specks and holes", merge={"max_speck": 0.0, "max_hole": 0.0}
    ),
    "no-min-visible": Ablation("the least visible share", merge={"min_visible": 0.0}),
    "no-min-area": Ablation("the least visible area", merge={"min_area": 0.0}),
    "no-min-score": Ablation("the least score", merge={"min_score": 0.0}),
    "no-fill": Ablation("void goes to stuff", merge={"fill_void": False}),
    "fill-all": Ablation("the least probability for that", merge={"fill_threshold": 0.0}),
}
"""By a short name. A rule that makes nothing better on either set of candidates has to go."""


class Labeller:
    """Labels one image in many ways; what two of them have in common is done once.

    Args:
        outputs: of the image.
        config: ours.
    """

    def __init__(self, outputs: Outputs, config: Config) -> None:
        if not isinstance(config.detect, DetectorOptions):
            raise TypeError(f"expected a detector by text, got {type(config.detect).__name__}")
        self._outputs, self._config = outputs, config
        self._detections = suppress(outputs.detections, config.ontology, config.detect)
        self._things: dict[object, Instances] = {}
        self._regions: dict[object, StuffRegions] = {}
        self._snapped: dict[object, tuple[Instances, StuffRegions]] = {}

    @property
    def _ontology(self) -> Ontology:
        return self._config.ontology

    def label(self, ablation: Ablation) -> PanopticLabel:
        """The label of ours with one rule switched off."""
        found, regions = ablation.scores(*self._snap(ablation))
        options = _changed(self._config.merge, ablation.merge)
        outputs = self._outputs
        size = outputs.truth.size
        return merge(outputs.name, size, found, regions, outputs.scores, self._ontology, options)[0]

    def _snap(self, ablation: Ablation) -> tuple[Instances, StuffRegions]:
        reach = _changed(self._config.refine, ablation.refine).snap
        drawn = self._segment(ablation)
        regions = self._refine(ablation, drawn)
        key = (id(drawn), id(regions), reach)
        if key not in self._snapped:
            self._snapped[key] = snap_masks(drawn, regions, self._outputs.pixels, reach)
        return self._snapped[key]

    def _segment(self, ablation: Ablation) -> Instances:
        if ablation.things not in self._things:
            segmenter = _asked(self._outputs.segmenter, ablation.things)
            self._things[ablation.things] = segment_things(
                segmenter, self._outputs.embedding, self._detections
            )
        return self._things[ablation.things]

    def _refine(self, ablation: Ablation, found: Instances) -> StuffRegions:
        options = _changed(self._config.refine, {**ablation.refine, "snap": 0.0})
        key = (ablation.things, ablation.stuff, options)
        if key not in self._regions:
            self._regions[key] = refine_stuff(
                _asked(self._outputs.segmenter, ablation.stuff),
                self._outputs.embedding,
                self._outputs.scores,
                found,
                self._ontology,
                options,
                generator_for(self._outputs.name),
            )
        return self._regions[key]


def _asked(
    segmenter: PromptableSegmenter,
    how: Callable[[PromptableSegmenter], PromptableSegmenter] | None,
) -> PromptableSegmenter:
    return segmenter if how is None else how(segmenter)


def _changed(options: _Options, keys: Mapping[str, object]) -> _Options:
    # Unchecked on purpose: a limit beyond its range is how a rule is switched off.
    return options.model_copy(update=dict(keys))
