"""Why a segment is there: what the detector looked at and heard, and what the encoder compared.

Each map answers one question and says so: a vision encoder never saw the text, and a detector's
samples know nothing of the mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from prelabel.data import (
    Explanation,
    Heatmap,
    Instances,
    Mask,
    Ontology,
    PanopticLabel,
    Segment,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.masks import resize_probs
from prelabel.models.roles import DetectorEvidence, Embedding, PromptableSegmenter
from prelabel.options import ExplainOptions
from prelabel.stages.proposals import box_fit

__all__ = ["Findings", "explain"]


@dataclass(frozen=True, slots=True, eq=False)
class Findings:
    """What the stages found in one image, with what was captured on the way."""

    instances: Instances
    scores: StuffScores
    regions: StuffRegions
    embedding: Embedding
    evidence: DetectorEvidence | None


def explain(
    label: PanopticLabel,
    trace: Trace,
    findings: Findings,
    segmenter: PromptableSegmenter,
    ontology: Ontology,
    options: ExplainOptions,
) -> tuple[Explanation, ...]:
    """One explanation per segment, in the label's order."""
    grid = _grid(label.size, options.heatmap_side)
    return tuple(
        _explain_one(segment, label, trace, findings, segmenter, ontology, grid)
        for segment in label.segments
    )


def _explain_one(
    segment: Segment,
    label: PanopticLabel,
    trace: Trace,
    findings: Findings,
    segmenter: PromptableSegmenter,
    ontology: Ontology,
    grid: tuple[int, int],
) -> Explanation:
    members = segment.source.split("+")
    index = int(members[0].partition(":")[2])
    mask = Mask.from_full(label.mask(segment.segment_id))
    heatmaps = {}
    if findings.embedding.attention_input.size:
        heatmaps["attention"] = Heatmap(
            "Which parts of the image did the segmenter's encoder compare this segment with?",
            _peak(resize_probs(segmenter.attention(findings.embedding, mask)[None], grid)[0]),
        )
    words: dict[str, float] = {}
    if segment.isthing:
        prompt, scores = _thing_scores(findings.instances, index, ontology)
        scores["fit"] = box_fit(
            next(row.mask for row in trace.candidates if row.candidate_id == members[0]),
            findings.instances.detections.boxes[index],
        )
        if findings.evidence is not None:
            words = _words(findings.evidence, index)
            heatmaps["sampling"] = Heatmap(
                "Where did the detector look when it decided on this box and its category?",
                _splat(findings.evidence, index, label.size, grid),
            )
    else:
        row = int(np.flatnonzero(findings.scores.category_ids == segment.category_id)[0])
        prompt, scores = _stuff_scores(findings, index, row, ontology)
        rough = resize_probs(findings.scores.probs[row][None], grid)[0]
        heatmaps["rough"] = Heatmap(
            "How likely is this category at each place, by text alone?", np.clip(rough, 0, 1)
        )
    lost = {
        winner: sum(trace.losses.get((member, winner), 0) for member in members)
        for winner in sorted({b for a, b in trace.losses if a in members} - set(members))
    }
    return Explanation(
        segment_id=segment.segment_id,
        prompt=prompt,
        scores={**scores, "score": segment.score},
        words=words,
        runner_up=segment.runner_up,
        margin=segment.margin,
        pixels_lost_to=lost,
        heatmaps=heatmaps,
    )


def _thing_scores(
    instances: Instances, index: int, ontology: Ontology
) -> tuple[str, dict[str, float]]:
    category = ontology.by_id[int(instances.detections.category_ids[index])]
    return category.prompts[int(instances.detections.prompt_ids[index])], {
        "detector": float(instances.detections.scores[index]),
        "iou": float(instances.ious[index]),
        "stability": float(instances.stabilities[index]),
    }


def _stuff_scores(
    findings: Findings, index: int, row: int, ontology: Ontology
) -> tuple[str, dict[str, float]]:
    category = ontology.by_id[int(findings.scores.category_ids[row])]
    return category.prompts[int(findings.scores.prompt_ids[row])], {
        "rough": float(findings.regions.probs[index]),
        "iou": float(findings.regions.ious[index]),
        "agreement": float(findings.regions.agreements[index]),
    }


def _words(evidence: DetectorEvidence, index: int) -> dict[str, float]:
    """Attention to each word, word pieces and repeats summed; separators left out."""
    words: dict[str, float] = {}
    word = ""
    for token, weight in zip(evidence.tokens, evidence.token_weights[index], strict=True):
        text = str(token)
        if text in {"[CLS]", "[SEP]", "."}:
            word = ""
            continue
        if text.startswith("##") and word:
            # The pieces seen so far are renamed to the longer word they turn out to be.
            weight_so_far = words.pop(word)
            word += text.removeprefix("##")
            words[word] = words.get(word, 0.0) + weight_so_far + float(weight)
        else:
            word = text
            words[word] = words.get(word, 0.0) + float(weight)
    return words


def _splat(
    evidence: DetectorEvidence, index: int, size: tuple[int, int], grid: tuple[int, int]
) -> NDArray[np.float32]:
    """The detector's samples as a map: float32 (h, w) in [0, 1], each weighing on its cell.

    Smoothed by a 64th of the longer side: a sample reads features, which are wider than a point.
    """
    cells = np.zeros(grid, dtype=np.float32)
    columns = np.floor(evidence.points[index, :, 0] / size[1] * grid[1]).astype(np.intp)
    rows = np.floor(evidence.points[index, :, 1] / size[0] * grid[0]).astype(np.intp)
    inside = (rows >= 0) & (rows < grid[0]) & (columns >= 0) & (columns < grid[1])
    np.add.at(cells, (rows[inside], columns[inside]), evidence.point_weights[index][inside])
    return _peak(ndimage.gaussian_filter(cells, max(grid) / 64))


def _grid(size: tuple[int, int], longest: int) -> tuple[int, int]:
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _peak(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scaled so that the highest value is 1; all zeros stay so."""
    top = float(values.max(initial=0.0))
    return np.clip(values / top, 0, 1).astype(np.float32) if top > 0 else np.zeros_like(values)
