"""One mask per detected box: the best of the segmenter's candidates."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Detections, Instances, Mask
from prelabel.masks import remove_specks
from prelabel.models.roles import Embedding, PromptableSegmenter, Prompts

__all__ = ["segment_things", "stabilities"]

_SPECK = 0.02
"""Parts of a candidate below this share of it say nothing about its box."""
_STABILITY_OFFSET = 1.0
"""Logits by which SAM's stability compares a mask with itself."""


def segment_things(
    segmenter: PromptableSegmenter, embedding: Embedding, detections: Detections
) -> Instances:
    """A mask for each box, chosen by predicted IoU × stability × agreement with the box.

    An empty mask is kept as such, so that boxes and masks stay aligned; merge drops it.
    """
    if not len(detections):
        return Instances(detections, (), np.empty(0, np.float32), np.empty(0, np.float32))
    found = segmenter.masks(embedding, Prompts(boxes=detections.boxes), multimask=True)
    stable = stabilities(found.logits)
    height, width = (int(edge) for edge in embedding.size)
    rows = np.arange(len(detections))
    fit = np.stack(
        [
            _box_fit(segmenter.upscale(embedding, logits, _preview((height, width))), box, width)
            for logits, box in zip(found.logits, detections.boxes, strict=True)
        ]
    )
    best = (found.ious * stable * fit).argmax(axis=1)
    masks = tuple(
        Mask.from_full(segmenter.upscale(embedding, logits[None], (height, width))[0] > 0)
        for logits in found.logits[rows, best]
    )
    return Instances(detections, masks, found.ious[rows, best], stable[rows, best])


def stabilities(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """SAM's stability: IoU of a mask cut at logits +1 with itself cut at −1; 0 for an empty one.

    Args:
        logits: float32 (…, h, w).

    Returns:
        float32 (…,) in [0, 1].
    """
    inner = (logits > _STABILITY_OFFSET).sum(axis=(-2, -1))
    outer = (logits > -_STABILITY_OFFSET).sum(axis=(-2, -1))
    return np.asarray(inner / np.maximum(outer, 1), dtype=np.float32)


def _body(inside: NDArray[np.bool_]) -> Mask:
    """The mask without its specks: one of them far away would spoil its box."""
    mask = Mask.from_full(inside)
    return remove_specks(mask, _SPECK) if mask.bitmap.size else mask


def _preview(size: tuple[int, int], longest: int = 256) -> tuple[int, int]:
    """A size of the same shape, small enough to compare candidates on."""
    scale = min(1.0, longest / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _box_fit(
    logits: NDArray[np.float32], box: NDArray[np.float32], width: int
) -> NDArray[np.float32]:
    """IoU of each candidate's own box, specks left out, with the prompt's box.

    Args:
        logits: float32 (K, h, w) over the image at preview size.
        box: float32 (4,), xyxy pixels of the original image.
        width: of the original image, pixels.

    Returns:
        float32 (K,) in [0, 1]; 0 for an empty candidate.
    """
    scale = logits.shape[-1] / width
    fits = np.zeros(len(logits), dtype=np.float32)
    x0, y0, x1, y1 = box * scale
    for index, inside in enumerate(logits > 0):
        mx0, my0, mx1, my1 = _body(inside).box
        shared = max(0.0, min(x1, mx1) - max(x0, mx0)) * max(0.0, min(y1, my1) - max(y0, my0))
        union = (x1 - x0) * (y1 - y0) + (mx1 - mx0) * (my1 - my0) - shared
        fits[index] = shared / union if union > 0 else 0.0
    return fits
