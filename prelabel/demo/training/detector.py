"""What the demo detector learns: boxes of what the prompt asks for, and silence about the rest."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    BertTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
)

from prelabel.demo.networks import (
    DETECTOR_EDGES,
    IMAGE_MEAN,
    IMAGE_STD,
    build_detector,
    whiten_patches,
)
from prelabel.demo.scenes import Scene
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.demo.training.data import (
    BoxedScene,
    ScenePool,
    aspect_size,
    box_scene,
    flip_boxed,
    to_batch,
    world_words,
)
from prelabel.demo.training.detector_forward import forward, jitter_boxes, make_lean
from prelabel.demo.training.detector_losses import Truth, detection_losses
from prelabel.demo.training.detector_scores import evaluate_detector
from prelabel.demo.training.loop import LoopOptions, export_network
from prelabel.demo.training.prompts import draw_phrases, lay_out
from prelabel.demo.training.segmenter_optimiser import MatrixOptimiser

__all__ = [
    "OPTIONS",
    "DetectorTask",
    "evaluate_folder",
    "make_optimiser",
    "make_task",
    "training_size",
]

OPTIONS = LoopOptions(
    steps=3200, rate=9e-4, warmup=0.03, clip=0.5, average=0.998, evaluate_every=350
)

_ASPECTS = (1.0, 1.25, 1.45, 1.7)


class DetectorTask:
    """Batches of one size each; every image has a prompt of its own."""

    def __init__(self, seed: int = 0, scenes: int = 3000, batch: int = 8) -> None:
        self.tokenizer = build_bert_tokenizer(world_words())
        detector = build_detector(self.tokenizer, seed)
        make_lean(detector)
        self.network: nn.Module = detector
        self.batch = batch
        self._pool: ScenePool[BoxedScene] = ScenePool("train", seed, scenes, _prepare)
        swin: Any = detector.model.backbone.conv_encoder.model
        first = [self._pool[index].pixels[:192, :192] for index in range(32)]
        whiten_patches(swin.swin.embeddings.patch_embeddings.projection, to_batch(first))

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """The parts of `detection_losses` for one batch."""
        scenes = self._draw(rng, progress)
        tokens = lay_out(self.tokenizer, [draw_phrases(rng) for _ in scenes])
        truth = Truth.of(
            [torch.from_numpy(scene.boxes) for scene in scenes],
            [torch.from_numpy(scene.category_ids) for scene in scenes],
            tokens,
        )
        jittered = jitter_boxes(rng, truth.boxes)
        pixels = to_batch([scene.pixels for scene in scenes])
        said = forward(self.network, pixels, tokens.inputs, jittered)
        return detection_losses(said, truth, jittered, tokens.inputs["attention_mask"].bool())

    def _draw(self, rng: np.random.Generator, progress: float) -> list[BoxedScene]:
        """Scenes of one network input size, half of them mirrored: the first one's size decides.

        The pool opens over the first quarter of the training, so that its drawing is spread.
        """
        known = min(len(self._pool), 300 + int(4 * progress * len(self._pool)))
        scenes = [self._pool[int(rng.integers(known))]]
        while len(scenes) < self.batch:
            scene = self._pool[int(rng.integers(known))]
            if scene.pixels.shape == scenes[0].pixels.shape:
                scenes.append(scene)
        return [flip_boxed(scene) if rng.random() < 0.5 else scene for scene in scenes]

    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        figures = evaluate_detector(network, self.tokenizer, "val", count=50)
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def export(self, network: nn.Module, folder: Path) -> None:
        """Weights, tokenizer and image processor as one `from_pretrained` folder."""
        export_network(network, folder)
        self.tokenizer.save_pretrained(folder)
        processor = GroundingDinoImageProcessorPil(
            size={"shortest_edge": DETECTOR_EDGES[0], "longest_edge": DETECTOR_EDGES[1]},
            image_mean=list(IMAGE_MEAN),
            image_std=list(IMAGE_STD),
        )
        processor.save_pretrained(folder)


def make_optimiser(network: nn.Module, options: LoopOptions) -> MatrixOptimiser:
    """Muon for the matrices inside the transformers, AdamW for all else."""
    return MatrixOptimiser(network, options, _is_inner)


def _is_inner(name: str, parameter: nn.Parameter) -> bool:
    """Attention and perceptrons; not what samples the image, nor embeddings, heads and tables."""
    if parameter.ndim != 2 or not name.endswith(".weight") or ".layers." not in name + ".":
        return False
    apart = ("sampling_offsets", "attention_weights", "bbox_embed", "embeddings")
    return not any(part in name for part in apart)


def make_task(seed: int) -> DetectorTask:
    """The task of the recipe."""
    return DetectorTask(seed)


def training_size(size: tuple[int, int]) -> tuple[int, int]:
    """The nearest of seven sizes to what the processor gives an image of `size` (height, width).

    A batch needs one size; up to a twelfth of distortion is a small price, and teaches variety.
    """
    ratio = max(size) / min(size)
    aspect = min(_ASPECTS, key=lambda known: abs(np.log(known / ratio)))
    shape = (1000, round(1000 * aspect)) if size[1] >= size[0] else (round(1000 * aspect), 1000)
    height, width = aspect_size(shape, DETECTOR_EDGES)
    return round(height / 8) * 8, round(width / 8) * 8


def _prepare(scene: Scene) -> BoxedScene:
    height, width = scene.id_map.shape
    return box_scene(scene, training_size((height, width)))


def evaluate_folder(folder: Path, split: str, count: int) -> dict[str, Any]:
    """The figures of an exported network."""
    network: Any = GroundingDinoForObjectDetection.from_pretrained(folder, local_files_only=True)
    tokenizer = BertTokenizer.from_pretrained(folder, local_files_only=True)
    return evaluate_detector(network, tokenizer, split, count)
