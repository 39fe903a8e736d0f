"""CLIPSeg as transformers implements it: rough maps of stuff from text.

Lüddecke and Ecker, "Image Segmentation Using Text and Image Prompts", CVPR 2022. The image is
encoded once and each prompt's text once per job; only the small decoder runs per image and prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prelabel.data import Category, Frame, Ontology, StuffScores
from prelabel.errors import ModelError
from prelabel.models.weights import NetworkOptions, find_weights, load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["ClipSeg", "ClipSegOptions"]


class ClipSegOptions(NetworkOptions):
    """Options of `kind: clipseg`."""

    kind: Literal["clipseg"] = "clipseg"
    prompts_per_pass: Annotated[int, Field(ge=1)] = 32
    """How many prompts the decoder sees at once; bounds its memory, not its result."""


class ClipSeg:
    """A `StuffScorer`. Networks exist only after `load`."""

    Options = ClipSegOptions

    def __init__(self, options: ClipSegOptions) -> None:
        self.options = options
        self._network: Any = None
        self._texts: dict[str, torch.Tensor] = {}

    def load(self, device: str) -> None:
        """Load network, tokenizer and image processor onto `device`."""
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation, ViTImageProcessorPil

        folder = find_weights(self.options.kind, self.options)
        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._network = load_network(CLIPSegForImageSegmentation, folder, device)
        self._device = device
        self._texts.clear()

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """One rough map per stuff category: per pixel the best of its prompts."""
        if not ontology.stuff:
            return [StuffScores.empty() for _ in frames]
        if self._network is None:
            raise ModelError("the stuff scorer is used before load()")
        prompts = [prompt for category in ontology.stuff for prompt in category.prompts]
        texts = self._embed_texts(prompts)
        return [_best_prompts(self._probs(frame, texts), ontology.stuff) for frame in frames]

    def _embed_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(P, projection) text embeddings, each prompt computed once and kept."""
        import torch

        # One at a time, unpadded: a prompt's embedding must not depend on its neighbours.
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self._tokenizer(prompt, return_tensors="pt").to(self._device)
                with torch.inference_mode():
                    features = self._network.clip.get_text_features(**tokens)
                self._texts[prompt] = features.pooler_output[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _probs(self, frame: Frame, texts: torch.Tensor) -> NDArray[np.float32]:
        """float32 (P, h, w) in [0, 1], one map per text embedding."""
        import torch

        pixels = self._processor(
            images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
        )["pixel_values"]
        with torch.inference_mode():
            activations = self._encode(pixels.to(self._device))
            parts = [
                self._network.decoder(activations, part).logits.sigmoid()
                for part in torch.split(texts, self.options.prompts_per_pass)
            ]
        return torch.cat(parts).float().cpu().numpy()

    def _encode(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The hidden states the decoder reads, from one pass that stops at the last of them.

        They have batch size 1; in the decoder they broadcast against the texts, which is exact.
        """
        vision = self._network.clip.vision_model
        wanted = self._network.extract_layers
        hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
        states = []
        for layer in vision.encoder.layers[: max(wanted) + 1]:
            hidden = layer(hidden, None)
            states.append(hidden)
        return [states[index] for index in wanted]


def _best_prompts(probs: NDArray[np.float32], stuff: tuple[Category, ...]) -> StuffScores:
    """Fold the maps of a category's prompts into one, per pixel the best."""
    maps, best, start = [], [], 0
    for category in stuff:
        part = probs[start : start + len(category.prompts)]
        start += len(category.prompts)
        maps.append(part.max(axis=0))
        best.append(int(part.mean(axis=(1, 2)).argmax()))
    return StuffScores(
        category_ids=np.array([category.category_id for category in stuff], dtype=np.int32),
        prompt_ids=np.array(best, dtype=np.int32),
        probs=np.clip(np.stack(maps), 0, 1),
    )
