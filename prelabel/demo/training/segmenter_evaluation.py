"""How good the segmenter is: mean IoU at the scene's own size, by prompt and by size of the object.

The size of a thing is the square root of the area of its box, in pixels of the network's input.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor
from transformers import SamModel

from prelabel.demo.scenes import ONTOLOGY, Scene, draw_scene
from prelabel.demo.segmenter_network import IMAGE_SIZE
from prelabel.demo.training.segmenter_prompts import (
    INSIDE,
    OUTSIDE,
    box_of,
    draw_rough_logits,
    jitter_box,
    sample_inside,
    sample_outside,
)
from prelabel.demo.training.segmenter_scenes import Sample, Target, pixel_values, prepare

__all__ = ["evaluate", "grow"]


@dataclass(frozen=True, slots=True, eq=False)
class _Case:
    scene: Scene
    sample: Sample
    embedding: Tensor

    def named(self, target: Target) -> str:
        """The name of the target's category."""
        return ONTOLOGY.by_id[self.scene.category_ids[target.value - 1]].name


@torch.no_grad()
def evaluate(network: SamModel, split: str, count: int, seed: int = 0) -> Mapping[str, float]:
    """Mean IoU per kind of prompt and size, over `count` scenes of a split."""
    found: dict[str, list[float]] = defaultdict(list)
    for index in range(count):
        scene = draw_scene(split, seed, index)
        sample = prepare(scene)
        embedding = network.get_image_embeddings(pixel_values([sample]))
        case = _Case(scene, sample, embedding)
        rng = np.random.default_rng((7, seed, index))
        _boxes(network, case, found, rng)
        _points(network, case, found, rng)
    return {name: float(np.mean(values)) for name, values in sorted(found.items())}


def grow(logits: Tensor, sample: Sample, size: tuple[int, int]) -> NDArray[np.bool_]:
    """Logits (N, 128, 128) -> bool (N, H, W) at the scene's own size, as transformers does."""
    height, width = sample.size
    large = F.interpolate(logits[:, None], (IMAGE_SIZE, IMAGE_SIZE), mode="bilinear")
    own = F.interpolate(large[..., :height, :width], size, mode="bilinear")
    masks: NDArray[np.bool_] = (own[:, 0] > 0).numpy()
    return masks


def _iou(mask: NDArray[np.bool_], truth: NDArray[np.bool_]) -> float:
    return float((mask & truth).sum() / max((mask | truth).sum(), 1))


def _truth_box(case: _Case, target: Target) -> NDArray[np.float32]:
    """The exact box at the scene's own size, scaled to the network's input."""
    scale = IMAGE_SIZE / max(case.scene.id_map.shape)
    return box_of(case.scene.id_map == target.value) * np.float32(scale)


def _boxes(
    network: SamModel, case: _Case, found: dict[str, list[float]], rng: np.random.Generator
) -> None:
    targets = [t for t in case.sample.targets if not t.ispart]
    exact = np.stack([_truth_box(case, t) for t in targets])
    loose = np.stack([jitter_box(box, case.sample.size, rng) for box in exact])
    for name, boxes in (("box", exact), ("loose-box", loose)):
        out = network(
            image_embeddings=case.embedding,
            input_boxes=torch.from_numpy(boxes)[None],
            multimask_output=False,
        )
        masks = grow(out.pred_masks[0, :, 0], case.sample, case.scene.id_map.shape)
        for target, box, mask, said in zip(
            targets, exact, masks, out.iou_scores[0, :, 0].tolist(), strict=True
        ):
            iou = _iou(mask, case.scene.id_map == target.value)
            found[f"{name}/{_kind(target, box)}"].append(iou)
            found[f"{name}/{case.named(target)}"].append(iou)
            if target.isthing:
                found[f"{name}/iou-error"].append(abs(iou - said))
                for least in (32, 96):
                    if _side(box) > least:
                        found[f"{name}/over-{least}"].append(iou)


def _side(box: NDArray[np.float32]) -> float:
    return float(np.sqrt((box[2] - box[0]) * (box[3] - box[1])))


def _kind(target: Target, box: NDArray[np.float32]) -> str:
    if not target.isthing:
        return "stuff"
    side = _side(box)
    return "under-32" if side <= 32 else "32-64" if side <= 64 else "64-96" if side <= 96 else "96-"


def _points(
    network: SamModel, case: _Case, found: dict[str, list[float]], rng: np.random.Generator
) -> None:
    for target in case.sample.targets:
        if target.ispart:
            continue
        mask = case.sample.mask(target)
        truth = case.scene.id_map == target.value
        kind = "thing" if target.isthing else "stuff"
        for inside, outside in ((1, 0), (8, 4)):
            points, labels = _point_prompt(mask, case.sample, inside, outside, rng)
            name = f"points-{inside}-{outside}/{kind}"
            iou = _ask(network, case, found, (name, points, labels, None), truth)
            if inside > 1 and not target.isthing:
                found[f"points-{inside}-{outside}/{case.named(target)}"].append(iou)
            if inside > 1:
                rough = torch.from_numpy(draw_rough_logits(mask[1::2, 1::2], rng))
                prompt = (f"rough+{name}", points, labels, rough[None, None])
                _ask(network, case, found, prompt, truth)


def _ask(
    network: SamModel,
    case: _Case,
    found: dict[str, list[float]],
    prompt: tuple[str, Tensor, Tensor, Tensor | None],
    truth: NDArray[np.bool_],
) -> float:
    """Take the candidate with the highest predicted IoU, and note the best there was."""
    name, points, labels, rough = prompt
    out = network(
        image_embeddings=case.embedding,
        input_points=points,
        input_labels=labels,
        input_masks=rough,
        multimask_output=True,
    )
    masks = grow(out.pred_masks[0, 0], case.sample, case.scene.id_map.shape)
    ious = [_iou(mask, truth) for mask in masks]
    chosen = int(out.iou_scores[0, 0].argmax())
    found[name].append(ious[chosen])
    found[f"{name}/best"].append(max(ious))
    found[f"{name}/iou-error"].append(abs(ious[chosen] - float(out.iou_scores[0, 0, chosen])))
    return ious[chosen]


def _point_prompt(
    mask: NDArray[np.bool_], sample: Sample, inside: int, outside: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    good = sample_inside(mask, inside, rng)
    bad = sample_outside(mask, sample.size, outside, rng)
    points = np.concatenate((good, bad))
    labels = np.repeat(np.array([INSIDE, OUTSIDE], np.int64), (len(good), len(bad)))
    return torch.from_numpy(points)[None, None], torch.from_numpy(labels)[None, None]
