"""How far our way through a network is from its stock forward pass: measured on random weights.

Encoding once is exact or it is not worth having: the bounds of what stands here are 0. Scores are
compared as the roles give them, against transformers' own classes, loaded apart and called plainly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import clip_boxes, from_cxcywh_norm
from prelabel.data import Category, Detections, Frame, Ontology
from prelabel.errors import ModelError
from prelabel.models.clipseg import ClipSeg, ClipSegOptions
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.prompt_lists import TextChunk, chunk_prompts, score_categories
from prelabel.models.weights import load_network, quiet_transformers

__all__ = ["Figure", "clipseg_difference", "grounding_dino_difference"]


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


def _largest(first: NDArray[np.float32], second: NDArray[np.float32]) -> float:
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
        _largest(found.probs, stock.probs(frame.pixels, prompts))
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
        """float32 (P, h, w), from one forward pass with the image repeated per prompt."""
        import torch

        texts = self._tokenizer(list(prompts), padding=True, return_tensors="pt")
        images = self._processor(
            images=[pixels] * len(prompts), input_data_format="channels_last", return_tensors="pt"
        )
        with torch.inference_mode():
            output = self._network(**images, **texts, interpolate_pos_encoding=True)
            logits = output.logits.reshape(len(prompts), *output.logits.shape[-2:])
        return np.asarray(logits.sigmoid().numpy(), dtype=np.float32)
