"""Candidates on their way through merge, with the one score by which they are ordered."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import box_iou
from prelabel.data import Candidate, Instances, Mask, Ontology, StuffRegions
from prelabel.masks import fill_holes, remove_specks
from prelabel.options import MergeOptions

__all__ = ["Proposal", "box_fit", "gather_proposals", "stuff_score", "thing_score"]

_UNDRAWN = 0.5
"""Stands for the predicted IoU of a rough region that was kept: nobody drew its edge."""


def thing_score(score: float, iou: float, stability: float, fit: float) -> float:
    """The one score of a thing in [0, 1]: category × quality × agreement, under a square root.

    Args:
        score: the detector's.
        iou: the segmenter's idea of its mask's IoU.
        stability: SAM's, of the mask.
        fit: IoU of the mask's own box with the detector's.
    """
    return float((score * (iou * stability) ** 0.5 * fit) ** 0.5)


def stuff_score(prob: float, iou: float, agreement: float) -> float:
    """The one score of a region in [0, 1]: category × quality × agreement, under a square root.

    Args:
        prob: mean rough probability in the region.
        iou: the segmenter's idea of its mask's IoU; 0 for a rough component that was kept.
        agreement: IoU of the region with its rough component.
    """
    return float((prob * (iou or _UNDRAWN) * agreement) ** 0.5)


def box_fit(mask: Mask, box: NDArray[np.float32]) -> float:
    """IoU in [0, 1] of a mask's own box with float32 (4,) xyxy pixels."""
    return float(box_iou(box[None], np.array([mask.box]))[0, 0])


@dataclass(slots=True)
class Proposal:
    """A candidate on its way through the rules."""

    candidate: Candidate
    runner_up: int | None
    doubt: float
    """Share of its score that the runner-up would have had, in [0, 1]."""

    @property
    def mask(self) -> Mask:
        return self.candidate.mask

    @property
    def score(self) -> float:
        return self.candidate.score

    @property
    def isthing(self) -> bool:
        return self.candidate.isthing

    def settle(self, rule: str, beaten_by: str = "", segment_id: int = 0) -> None:
        """Note what became of it."""
        self.candidate = dataclasses.replace(
            self.candidate, rule=rule, beaten_by=beaten_by, segment_id=segment_id
        )


def gather_proposals(
    instances: Instances, regions: StuffRegions, ontology: Ontology, options: MergeOptions
) -> list[Proposal]:
    """All candidates of one image, masks tidied, the best score first."""
    things = tuple(_tidy(mask, options) for mask in instances.masks)
    stuff = tuple(_tidy(mask, options) for mask in regions.masks)
    proposals = _thing_proposals(instances, things, ontology) + _stuff_proposals(regions, stuff)
    # Rounded, so that floating-point noise does not decide between equals.
    proposals.sort(key=lambda proposal: -round(proposal.score, 5))
    return proposals


def _tidy(mask: Mask, options: MergeOptions) -> Mask:
    """The mask without specks and holes that are small beside it."""
    if not mask.bitmap.any():
        return mask
    if options.max_speck > 0:
        mask = remove_specks(mask, options.max_speck)
    if options.max_hole > 0:
        mask = fill_holes(mask, options.max_hole)
    return mask


def _thing_proposals(
    instances: Instances, masks: Sequence[Mask], ontology: Ontology
) -> list[Proposal]:
    ids = [category.category_id for category in ontology.things]
    proposals = []
    for index, mask in enumerate(masks):
        found = instances.detections
        own = float(found.scores[index])
        rivals = {
            category_id: float(value)
            for category_id, value in zip(ids, found.class_scores[index], strict=True)
            if category_id != found.category_ids[index]
        }
        runner_up = max(rivals, key=lambda key: rivals[key], default=None)
        score = thing_score(
            own,
            float(instances.ious[index]),
            float(instances.stabilities[index]),
            box_fit(mask, found.boxes[index]),
        )
        candidate = Candidate(
            f"thing:{index}", int(found.category_ids[index]), True, mask, score, "kept"
        )
        doubt = min(1.0, (rivals[runner_up] / own) ** 0.5) if runner_up and own > 0 else 0.0
        proposals.append(Proposal(candidate, runner_up, doubt))
    return proposals


def _stuff_proposals(regions: StuffRegions, masks: Sequence[Mask]) -> list[Proposal]:
    proposals = []
    for index, mask in enumerate(masks):
        own, rival = float(regions.probs[index]), float(regions.rival_probs[index])
        score = stuff_score(own, float(regions.ious[index]), float(regions.agreements[index]))
        candidate = Candidate(
            f"stuff:{index}", int(regions.category_ids[index]), False, mask, score, "kept"
        )
        doubt = min(1.0, (rival / own) ** 0.5) if own > 0 else 0.0
        proposals.append(Proposal(candidate, int(regions.rivals[index]) or None, doubt))
    return proposals
