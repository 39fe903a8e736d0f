"""Training of the demo segmenter.

First the image encoder alone learns from every position of the picture (category, border, box of
the owner, mask grown from one patch); then the whole network learns from prompts, three groups per
step: boxes, points, and prompts with a rough mask, half of these the network's own first answer.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import SamModel

from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.segmenter_network import (
    CHANNELS,
    IMAGE_SIZE,
    MASK_SIZE,
    build_segmenter,
    whiten_patches,
)
from prelabel.demo.training import loop
from prelabel.demo.training.segmenter_batches import (
    Batch,
    choose_targets,
    draw_batch,
    draw_prompts,
    draw_seeds,
    mask_targets,
    prompt_tensors,
)
from prelabel.demo.training.segmenter_evaluation import evaluate
from prelabel.demo.training.segmenter_forward import (
    cells_to_map,
    decode,
    embed_prompts,
    encode,
    upscale,
)
from prelabel.demo.training.segmenter_losses import DenseHead, mask_errors, prompt_losses
from prelabel.demo.training.segmenter_optimiser import MatrixOptimiser
from prelabel.demo.training.segmenter_prompts import Prompt, draw_rough_logits
from prelabel.demo.training.segmenter_scenes import MEAN, STD, ScenePool, Target, pixel_values

__all__ = [
    "OPTIONS",
    "SegmenterNetwork",
    "SegmenterTask",
    "evaluate_folder",
    "export",
    "make_optimiser",
    "make_task",
    "train",
]

STEPS = 3600
DENSE = 0.24
"""Part of the training in which the encoder learns alone."""
_IMAGES = 4
_PROMPTS = {"box": 6, "point": 5, "mask": 2}
"""Prompts per image and step, by group."""
_SHARES = {"box": 1.0, "point": 1.0, "mask": 0.4}
"""Weights of the groups' losses."""
_PADDED = 0.4
"""How often shorter prompts are filled up as transformers does it, which is not without effect."""
_SEEDS = 16
_ZOOMED = 0.4
"""Part of the scenes that are shown enlarged."""
_KEPT = 400
"""Scenes to choose from. One per step is new, so each is seen about four times."""


class SegmenterNetwork(nn.Module):
    """The network, and the heads that are thrown away after training."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.sam = build_segmenter(seed)
        self.head = DenseHead(CHANNELS, 1 + max(c.category_id for c in ONTOLOGY))


@dataclass(frozen=True, slots=True, eq=False)
class _Group:
    """Prompts of one kind, `asked[image][prompt]`, and what was answered to them."""

    asked: list[list[Target]]
    prompts: list[list[Prompt]]
    logits: Tensor


class SegmenterTask:
    """What `loop.train` asks of a task."""

    def __init__(self, seed: int = 0, validation: int = 24) -> None:
        self.network: nn.Module = SegmenterNetwork(seed)
        self._pool = ScenePool("train", seed, zoomed=_ZOOMED)
        self._validation = validation
        self._dtype = torch.bfloat16 if _has_bfloat16() else torch.float32

    def whiten(self) -> None:
        """Set the patch embedding from the first scenes; before the first step only."""
        whiten_patches(self._sam, pixel_values([self._pool[index] for index in range(32)]))

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """All parts of the loss on one batch."""
        newest = 32 + int(progress * STEPS)
        older = rng.integers(max(0, newest - _KEPT), newest, _IMAGES - 1).tolist()
        batch = draw_batch(self._pool, [newest, *older], rng)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._dtype == torch.bfloat16):
            embedding = encode(self._sam, batch.pixel_values, self._dtype)
            dense = self._head.losses(embedding, batch.cells)
            dense["corner"] = 2 * self._head.corner_loss(embedding, batch.cells, self._sam)
            if progress < DENSE:
                return {**dense, "instance": self._instances(embedding, batch, rng)}
            share = 0.5 * max(0.0, 1 - 1.3 * (progress - DENSE) / (1 - DENSE))
            losses = {name: share * value for name, value in dense.items()}
            return {**losses, **self._prompted(embedding, batch, rng)}

    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        """Figures on the validation split."""
        return evaluate(cast(SegmenterNetwork, network).sam, "val", self._validation)

    def export(self, network: nn.Module, folder: Path) -> None:
        """Write a folder for `from_pretrained`, without the throw-away heads."""
        export(cast(SegmenterNetwork, network).sam, folder)

    @property
    def _sam(self) -> SamModel:
        return cast(SegmenterNetwork, self.network).sam

    @property
    def _head(self) -> DenseHead:
        return cast(SegmenterNetwork, self.network).head

    def _instances(self, embedding: Tensor, batch: Batch, rng: np.random.Generator) -> Tensor:
        """The loss of masks grown from one patch of a segment each."""
        seeds, asked = draw_seeds(batch, _SEEDS, rng)
        upscaled = upscale(self._sam.mask_decoder, embedding)
        logits = self._head.instance_logits(embedding, upscaled, seeds)
        return mask_errors(logits, mask_targets(batch, asked)).mean()

    def _prompted(
        self, embedding: Tensor, batch: Batch, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        boxes, points = _PROMPTS["box"], _PROMPTS["point"]
        chosen = [choose_targets(sample, boxes, points, rng) for sample in batch.samples]
        losses: dict[str, Tensor] = {}
        groups = []
        for kind, part in (("box", slice(0, boxes)), ("point", slice(boxes, None))):
            asked = [row[part] for row in chosen]
            prompts = draw_prompts(batch, asked, kind, rng)
            padded = kind == "point" and rng.random() < _PADDED
            logits, found = self._ask(embedding, batch, asked, prompts, padded=padded)
            losses.update({f"{kind}-{k}": _SHARES[kind] * value for k, value in found.items()})
            groups.append(_Group(asked, prompts, logits))
        again, masks = _second_prompts(groups, batch, rng)
        padded = rng.random() < _PADDED
        _, found = self._ask(embedding, batch, again.asked, again.prompts, masks, padded=padded)
        losses.update({f"mask-{k}": _SHARES["mask"] * value for k, value in found.items()})
        return losses

    def _ask(
        self,
        embedding: Tensor,
        batch: Batch,
        asked: list[list[Target]],
        prompts: list[list[Prompt]],
        masks: Tensor | None = None,
        *,
        padded: bool = False,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, present = embed_prompts(self._sam, *prompt_tensors(prompts), padded=padded)
        logits, ious = decode(self._sam, embedding, tokens, present, masks)
        return logits.detach(), prompt_losses(logits, ious, mask_targets(batch, asked))


def _second_prompts(
    groups: list[_Group], batch: Batch, rng: np.random.Generator
) -> tuple[_Group, Tensor]:
    """Some prompts once more, now with a mask: the first answer, or a rough truth.

    Returns:
        The prompts, and float32 (B, P, 128, 128) logits.
    """
    count = _PROMPTS["mask"]
    masks = np.zeros((len(batch.samples), count, MASK_SIZE, MASK_SIZE), np.float32)
    asked: list[list[Target]] = []
    prompts: list[list[Prompt]] = []
    for index, sample in enumerate(batch.samples):
        asked.append([])
        prompts.append([])
        for slot in range(count):
            group = groups[int(rng.random() < 0.7)]
            pick = int(rng.integers(0, len(group.asked[index])))
            target = group.asked[index][pick]
            asked[-1].append(target)
            prompts[-1].append(group.prompts[index][pick])
            if rng.random() < 0.4:
                answer = group.logits[index, pick, int(rng.integers(0, 4))]
                masks[index, slot] = cells_to_map(answer.float()).clamp(-30, 30).numpy()
            else:
                masks[index, slot] = draw_rough_logits(sample.mask(target)[1::2, 1::2], rng)
    tensor = torch.from_numpy(masks)
    return _Group(asked, prompts, tensor), tensor


def _has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 natively; emulated it is slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def export(network: SamModel, folder: Path) -> None:
    """Write the network and its preprocessing as a folder for `from_pretrained`."""
    loop.export_network(network, folder)
    weights = folder / "model.safetensors"
    tensors = load_file(weights)
    # Saving keeps one of the two names of the positional matrix; readers of the file want both.
    matrix = tensors["shared_image_embedding.positional_embedding"]
    tensors["prompt_encoder.shared_embedding.positional_embedding"] = matrix.clone()
    save_file(tensors, weights, metadata={"format": "pt"})
    processor = {
        "image_processor_type": "SamImageProcessor",
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(MEAN),
        "image_std": list(STD),
        "mask_pad_size": {"height": MASK_SIZE, "width": MASK_SIZE},
        "mask_size": {"longest_edge": MASK_SIZE},
        "pad_size": {"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": IMAGE_SIZE},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor, indent=2) + "\n")


def make_task(seed: int) -> SegmenterTask:
    """The task of a training from scratch."""
    task = SegmenterTask(seed)
    task.whiten()
    return task


def make_optimiser(network: nn.Module, options: loop.LoopOptions) -> MatrixOptimiser:
    """Muon inside the transformers, AdamW for all else."""
    return MatrixOptimiser(network, options)


OPTIONS = loop.LoopOptions(steps=STEPS, rate=1e-3, warmup=0.03, decay=0.02, evaluate_every=400)


def train(steps: int | None, resume: bool, folder: Path, seed: int = 0) -> nn.Module:
    """Train the segmenter; `folder` receives checkpoint, log and export.

    Returns:
        The averaged weights, a `SegmenterNetwork`.
    """
    options = replace(OPTIONS, steps=steps or STEPS, seed=seed)
    task = make_task(seed)
    return loop.train(task, options, folder, resume=resume, optimiser=make_optimiser)


def evaluate_folder(folder: Path, split: str, count: int) -> Mapping[str, float]:
    """The figures of an exported network."""
    network: SamModel = SamModel.from_pretrained(folder, local_files_only=True)
    return evaluate(network, split, count)
