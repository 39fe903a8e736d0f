"""How far our way through a network is from its stock forward pass: measured on random weights.

Encoding once is exact or it is not worth having: the bounds of what stands here are 0. Scores are
compared as the roles give them, against transformers' own classes, loaded apart and called plainly.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import clip_boxes, from_cxcywh_norm
from prelabel.data import Category, Frame, Ontology
from prelabel.errors import ModelError
from prelabel.models.clipseg import ClipSeg, ClipSegOptions
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.prompt_lists import TextChunk, chunk_prompts, score_categories
from prelabel.models.weights import load_network, quiet_transformers

__all__ = [
    "Figure",
    "clipseg_difference",
    "figures_json",
    "figures_table",
    "grounding_dino_difference",
    "largest_difference",
]


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured difference and the most that it may be."""

    name: str
    value: float
    bound: float

    @property
    def met(self) -> bool:
        """Whether the bound holds; a difference that is not a number breaks it."""
        return self.value <= self.bound


def figures_table(figures: Sequence[Figure]) -> str:
    """One line per figure, with its bound and whether it holds."""
    width = max(len(figure.name) for figure in figures)
    return "\n".join(
        f"{figure.name:{width}s}  {figure.value:9.2e}  bound {figure.bound:7.0e}  "
        f"{'met' if figure.met else 'MISSED'}"
        for figure in figures
    )


def figures_json(figures: Sequence[Figure]) -> str:
    """The same as JSON, by name."""
    document = {
        figure.name: {"value": figure.value, "bound": figure.bound, "met": figure.met}
        for figure in figures
    }
    return json.dumps(document, indent=1) + "\n"


def largest_difference(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
    """The largest absolute difference between two arrays of one shape."""
    if first.shape != second.shape:
        raise ModelError(f"expected arrays of one shape, got {first.shape} and {second.shape}")
    return float(np.abs(first - second).max(initial=0.0))


# --- CLIPSeg ------------------------------------------------------------------------------------


def clipseg_difference(folder: Path, frames: Sequence[Frame], prompts: Sequence[str]) -> float:
    """Ours, image and texts encoded once, against the stock forward with the image repeated.

    Args:
        folder: a checkpoint in transformers' layout.
        frames: images, which go through our network as one batch.
        prompts: texts, one category each.

    Returns:
        The largest absolute difference of a pixel's probability, over all frames and prompts.
    """
    scorer = ClipSeg(ClipSegOptions(weights=str(folder)))
    scorer.load("cpu")
    ontology = Ontology(
        tuple(Category(index + 1, prompt, False) for index, prompt in enumerate(prompts))
    )
    ours = scorer.score(frames, ontology)
    stock = _StockClipSeg(folder)
    return max(
        largest_difference(found.probs, stock.probs(frame.pixels, prompts))
        for found, frame in zip(ours, frames, strict=True)
    )


class _StockClipSeg:
    """transformers' classes, as their documentation calls them."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation, ViTImageProcessorPil

        with quiet_transformers():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = ViTImageProcessorPil.from_pretrained(
                folder, local_files_only=True
            )
        self._network: Any = load_network(CLIPSegForImageSegmentation, folder, "cpu")

    def probs(self, pixels: NDArray[np.uint8], prompts: Sequence[str]) -> NDArray[np.float32]:
        """float32 (P, h, w), from one forward pass with the image repeated per prompt.

        Each text is embedded by itself: embedded as one padded batch, the stock text encoder
        differs from itself by some 1e-6, since products of other shapes round otherwise.
        """
        import torch

        images = self._processor(
            images=[pixels] * len(prompts), input_data_format="channels_last", return_tensors="pt"
        )
        with torch.inference_mode():
            texts = [
                self._network.clip.get_text_features(**self._tokenizer(text, return_tensors="pt"))
                for text in prompts
            ]
            embeddings = torch.cat([text.pooler_output for text in texts])
            logits = self._network(**images, conditional_embeddings=embeddings).logits
            # A single prompt's map comes without its first axis.
            maps = logits.sigmoid().reshape(len(prompts), *logits.shape[-2:])
        return np.asarray(maps.numpy(), dtype=np.float32)


# --- Grounding DINO -----------------------------------------------------------------------------


def grounding_dino_difference(
    folder: Path, frames: Sequence[Frame], prompts: Sequence[str]
) -> tuple[float, float, int]:
    """Ours, texts cached and the backbone shared, against a stock forward per prompt list.

    Args:
        folder: a checkpoint in transformers' layout.
        frames: images; each goes through both alone, and twice through ours.
        prompts: texts, one category each; so many that they take several lists.

    Returns:
        The largest absolute difference of a score, that of a box's edge in pixels of the image, and
        the number of prompt lists.
    """
    detector = GroundingDino(
        GroundingDinoOptions(
            weights=str(folder), box_threshold=0.0, nms_iou=1, cross_nms_iou=1, max_detections=900
        )
    )
    detector.load("cpu")
    ontology = Ontology(
        tuple(Category(index + 1, prompt, True) for index, prompt in enumerate(prompts))
    )
    stock = _StockGroundingDino(folder)
    chunks = stock.chunks(prompts)
    score_differences, edge_differences = [], []
    for frame in frames:
        scores, boxes = stock.ask(frame, chunks, len(prompts))
        # The second time every text comes from the cache.
        for _ in range(2):
            found = detector.detect([frame], ontology)[0].detections
            if not len(found):
                raise ModelError("the detector found nothing to compare")
            score_differences.append(
                largest_difference(found.class_scores, scores[found.query_ids])
            )
            edge_differences.append(largest_difference(found.boxes, boxes[found.query_ids]))
    return max(score_differences), max(edge_differences), len(chunks)


class _StockGroundingDino:
    """transformers' classes, asked anew for each prompt list."""

    def __init__(self, folder: Path) -> None:
        from transformers import (
            AutoTokenizer,
            GroundingDinoForObjectDetection,
            GroundingDinoImageProcessorPil,
        )

        with quiet_transformers():
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor: Any = GroundingDinoImageProcessorPil.from_pretrained(
                folder, local_files_only=True
            )
        self._network: Any = load_network(GroundingDinoForObjectDetection, folder, "cpu")

    def chunks(self, prompts: Sequence[str]) -> tuple[TextChunk, ...]:
        """The prompt lists that hold these prompts."""
        ids = [[self._tokenizer(text, add_special_tokens=False)["input_ids"]] for text in prompts]
        return chunk_prompts(ids, self._network.config.max_text_len)

    def ask(
        self, frame: Frame, chunks: Sequence[TextChunk], count: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The queries of all lists one after another.

        Returns:
            float32 (lists · Q, count) scores and float32 (lists · Q, 4) boxes, xyxy pixels.
        """
        import torch

        images = self._processor(
            images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
        )
        scores, boxes = [], []
        for chunk in chunks:
            with torch.inference_mode():
                output = self._network(**images, input_ids=torch.tensor([chunk.input_ids]))
            probs = output.logits[0].sigmoid().numpy()
            scores.append(score_categories(probs, chunk.spans, count)[0])
            boxes.append(from_cxcywh_norm(output.pred_boxes[0].numpy(), frame.size))
        return np.concatenate(scores), clip_boxes(np.concatenate(boxes), frame.size)
