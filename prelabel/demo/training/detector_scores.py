"""How good the demo detector is, by COCO's own evaluation."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn
from transformers import BertTokenizer

from prelabel.boxes import box_iou
from prelabel.demo.networks import DETECTOR_EDGES
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.scenes import Scene, draw_scene
from prelabel.demo.training.data import aspect_size, scene_boxes, to_batch
from prelabel.demo.training.prompts import all_phrases, lay_out

__all__ = ["detect", "evaluate_detector", "suppress"]

_AREAS = {"all": (0, 1e10), "small": (0, 24**2), "medium": (24**2, 72**2), "large": (72**2, 1e10)}
"""Box area ranges in pixels of the original image."""


@torch.no_grad()
def detect(
    network: Any, tokenizer: BertTokenizer, scene: Scene
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Boxes float32 (N, 4) xyxy pixels, category ids int64 (N,) and scores float32 (N,).

    As the pipeline does it: all prompts of all things at once, a category's score is the best mean
    over the tokens of one of its prompts, and what overlaps by more than 0.7 is suppressed.
    """
    network.eval()
    size = scene.id_map.shape
    height, width = aspect_size((size[0], size[1]), DETECTOR_EDGES)
    picture = Image.fromarray(scene.pixels).resize((width, height), Image.Resampling.BILINEAR)
    tokens = lay_out(tokenizer, [all_phrases()])
    output = network(pixel_values=to_batch([np.asarray(picture)]), **tokens.inputs)
    probs = output.logits[0].sigmoid()
    things = ONTOLOGY.things
    scores = torch.zeros(len(probs), len(things))
    for number in range(len(all_phrases())):
        at = tokens.phrases[0] == number
        owner = int(tokens.owners[0][at][0])
        column = [category.category_id for category in things].index(owner)
        phrase = probs[:, : len(at)][:, at].mean(1)
        scores[:, column] = torch.maximum(scores[:, column], phrase)
    best, winner = scores.max(1)
    scale = torch.tensor([size[1], size[0]]).repeat(2)
    centre, half = output.pred_boxes[0, :, :2], output.pred_boxes[0, :, 2:] / 2
    boxes = (torch.cat([centre - half, centre + half], dim=1).clamp(0, 1) * scale).numpy()
    ids = np.array([category.category_id for category in things], dtype=np.int64)[winner.numpy()]
    kept = suppress(boxes, ids, best.numpy())
    return boxes[kept], ids[kept], best.numpy()[kept]


def suppress(
    boxes: NDArray[np.float32], ids: NDArray[np.int64], scores: NDArray[np.float32]
) -> list[int]:
    """Rows that stay, best first: IoU over 0.7 within a category or 0.9 across is a duplicate."""
    order = np.argsort(-scores, kind="stable")
    overlap = box_iou(boxes, boxes)
    limit = np.where(ids[:, None] == ids[None, :], 0.7, 0.9)
    kept: list[int] = []
    for row in order:
        if not (overlap[row, kept] > limit[row, kept]).any():
            kept.append(int(row))
    return kept


def evaluate_detector(
    network: nn.Module,
    tokenizer: BertTokenizer,
    split: str,
    count: int,
    *,
    seed: int = 0,
    threshold: float = 0.3,
) -> dict[str, Any]:
    """AP@0.5 over things, and what a threshold makes of it.

    `ap50` and its parts by size, `classes` by name; at `threshold` `recall` and `precision` at IoU
    0.5, and `absent`, the boxes per image of categories that the image lacks.
    """
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    tally = np.zeros(4)
    for index in range(count):
        scene = draw_scene(split, seed, index)
        true_boxes, true_ids, _ = scene_boxes(scene)
        boxes, ids, scores = detect(network, tokenizer, scene)
        truth += [
            _entry(index, box, number) for box, number in zip(true_boxes, true_ids, strict=True)
        ]
        found += [
            {**_entry(index, box, number), "score": float(score)}
            for box, number, score in zip(boxes, ids, scores, strict=True)
            if score > 0.02
        ]
        over = scores >= threshold
        tally += _count(boxes[over], ids[over], true_boxes, true_ids)
    figures = _coco_figures(truth, found, count)
    hits, claimed, present, absent = tally
    return figures | {
        "recall": float(hits / max(present, 1)),
        "precision": float(hits / max(claimed, 1)),
        "absent": float(absent / count),
    }


def _entry(image: int, box: NDArray[np.float32], category_id: int) -> dict[str, Any]:
    x0, y0, x1, y1 = (float(value) for value in box)
    return {
        "image_id": image + 1,
        "category_id": int(category_id),
        "bbox": [x0, y0, x1 - x0, y1 - y0],
        "area": (x1 - x0) * (y1 - y0),
        "iscrowd": 0,
    }


def _count(
    boxes: NDArray[np.float32],
    ids: NDArray[np.int64],
    true_boxes: NDArray[np.float32],
    true_ids: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Hits, claims, true boxes, and claims of absent categories in one image."""
    overlap = box_iou(boxes, true_boxes)
    fits = (overlap >= 0.5) & (ids[:, None] == true_ids[None, :])
    hits = int(fits.any(axis=0).sum())
    absent = int((~np.isin(ids, true_ids)).sum())
    return np.array([hits, len(boxes), len(true_boxes), absent], dtype=np.float64)


def _coco_figures(
    truth: list[dict[str, Any]], found: list[dict[str, Any]], count: int
) -> dict[str, Any]:
    names = {category.category_id: category.name for category in ONTOLOGY.things}
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "info": {},
            "images": [{"id": number} for number in range(1, count + 1)],
            "annotations": [{**entry, "id": at} for at, entry in enumerate(truth, start=1)],
            "categories": [{"id": number, "name": name} for number, name in names.items()],
        }
        gold.createIndex()
        if not found:
            return {"ap50": 0.0}
        run = COCOeval(gold, gold.loadRes(found), "bbox")
        run.params.iouThrs = np.array([0.5])
        run.params.areaRng = [list(edges) for edges in _AREAS.values()]
        run.params.areaRngLbl = list(_AREAS)
        run.params.maxDets = [100]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][0, :, :, :, 0]
    figures: dict[str, Any] = {}
    for at, label in enumerate(_AREAS):
        values = precision[:, :, at]
        figures["ap50" if label == "all" else f"ap50_{label}"] = _mean(values)
    figures["classes"] = {
        names[number]: _mean(precision[:, at, 0]) for at, number in enumerate(run.params.catIds)
    }
    return figures


def _mean(values: NDArray[np.float64]) -> float:
    """The mean over what is defined: -1 marks a class without any true box."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else 0.0
