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
from prelabel.models.batches import Batches
from prelabel.models.precision import Arithmetic, gate, probe_pixels
from prelabel.models.preprocess import Recipe, fast_pixels
from prelabel.models.weights import NetworkOptions, find_weights, load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["ClipSeg", "ClipSegOptions"]

_GATE = 0.01
"""Most that a lower precision may change the maps' probabilities, on average."""


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
        self._batches = Batches()
        self._texts: dict[str, torch.Tensor] = {}

    def load(self, device: str) -> None:
        """Load network, tokenizer and image processor onto `device`."""
        from transformers import AutoTokenizer, CLIPSegForImageSegmentation, ViTImageProcessorPil

        folder = find_weights(self.options.kind, self.options)
        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor = ViTImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._recipe = Recipe.of(self._processor)
        self._network = load_network(CLIPSegForImageSegmentation, folder, device)
        self._device = device
        asked = Arithmetic.of(device, self.options.precision)
        self._arithmetic = gate(asked, self._probe, _GATE, "the stuff scorer")
        self._texts.clear()
        if self.options.compile:
            for layer in self._network.clip.vision_model.encoder.layers:
                layer.compile()

    def score(self, frames: Sequence[Frame], ontology: Ontology) -> list[StuffScores]:
        """One rough map per stuff category: per pixel the best of its prompts."""
        if not ontology.stuff:
            return [StuffScores.empty() for _ in frames]
        if self._network is None:
            raise ModelError("the stuff scorer is used before load()")
        prompts = [prompt for category in ontology.stuff for prompt in category.prompts]
        with self._arithmetic():
            texts = self._embed_texts(prompts)
        return self._batches.run(
            [self._prepare(frame.pixels) for frame in frames],
            lambda pixels: pixels.shape,
            lambda group: [
                _best_prompts(probs, ontology.stuff) for probs in self._probs(group, texts)
            ],
        )

    def _embed_texts(self, prompts: Sequence[str]) -> torch.Tensor:
        """(P, projection) text embeddings, each prompt computed once and kept."""
        import torch

        # One at a time, unpadded: a prompt's embedding must not depend on its neighbours.
        for prompt in prompts:
            if prompt not in self._texts:
                tokens = self._tokenizer(prompt, return_tensors="pt").to(self._device)
                features = self._network.clip.get_text_features(**tokens)
                self._texts[prompt] = features.pooler_output[0]
        return torch.stack([self._texts[prompt] for prompt in prompts])

    def _prepare(self, pixels: NDArray[np.uint8]) -> torch.Tensor:
        """float32 (1, 3, h, w), resized to the network's size whatever the image's shape."""
        if self.options.preprocess == "fast":
            size = self._processor.size
            scaled = (int(size["height"]), int(size["width"]))
            return fast_pixels(pixels, scaled, self._recipe, self._device)
        inputs = self._processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        exact: torch.Tensor = inputs["pixel_values"]
        return exact

    def _probs(
        self, group: Sequence[torch.Tensor], texts: torch.Tensor
    ) -> list[NDArray[np.float32]]:
        """float32 (P, h, w) in [0, 1] for each image, one map per text embedding."""
        import torch

        with self._arithmetic():
            states = self._encode(torch.cat(list(group)).to(self._device))
            return [
                self._decode([state[row : row + 1] for state in states], texts)
                for row in range(len(group))
            ]

    def _decode(self, states: list[torch.Tensor], texts: torch.Tensor) -> NDArray[np.float32]:
        """One image's states have batch size 1 and broadcast against the texts, which is exact."""
        import torch

        parts = [
            self._network.decoder(states, part).logits.float().sigmoid()
            for part in torch.split(texts, self.options.prompts_per_pass)
        ]
        return np.asarray(torch.cat(parts).cpu().numpy(), dtype=np.float32)

    def _encode(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """The hidden states the decoder reads, from one pass that stops at the last of them."""
        vision = self._network.clip.vision_model
        wanted = self._network.extract_layers
        hidden = vision.pre_layrnorm(vision.embeddings(pixels, interpolate_pos_encoding=True))
        states = []
        for layer in vision.encoder.layers[: max(wanted) + 1]:
            hidden = layer(hidden, None)
            states.append(hidden)
        return [states[index] for index in wanted]

    def _probe(self, arithmetic: Arithmetic) -> NDArray[np.float32]:
        """The maps of two prompts for a fixed picture."""
        self._arithmetic = arithmetic
        self._texts.clear()
        with arithmetic():
            texts = self._embed_texts(["sky", "road"])
        (probs,) = self._probs([self._prepare(probe_pixels())], texts)
        return probs


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
