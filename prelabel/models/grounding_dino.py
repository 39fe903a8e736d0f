"""Grounding DINO as transformers implements it: things from text.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection", ECCV 2024. A box belongs to the category whose prompt's *tokens* it answers to; phrases
are never matched as strings. Texts are encoded once per job, images once for all prompt lists.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from prelabel.boxes import clip_boxes, from_cxcywh_norm
from prelabel.data import Category, Detections, Frame, Ontology
from prelabel.errors import ModelError
from prelabel.models.batches import Batches
from prelabel.models.candidates import DetectorOptions, choose_detections
from prelabel.models.deformable import sample_in_parts
from prelabel.models.grounding_evidence import (
    QueryEvidence,
    gather_evidence,
    read_evidence,
    watch_sampling,
)
from prelabel.models.memory import answer_once, remember
from prelabel.models.precision import Arithmetic, gate, probe_pixels
from prelabel.models.preprocess import Recipe, fast_pixels, short_and_long
from prelabel.models.prompt_lists import TextChunk, chunk_prompts, score_categories
from prelabel.models.roles import Detected
from prelabel.models.weights import find_weights, load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["GroundingDino", "GroundingDinoOptions"]

_GATE = 0.01
"""Most that a lower precision may change the probabilities of the best queries, on average."""
_LOGGER = logging.getLogger(__name__)


class GroundingDinoOptions(DetectorOptions):
    """Options of `kind: grounding-dino`."""

    kind: Literal["grounding-dino"] = "grounding-dino"


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """A frame's (height, width) and its float32 (1, 3, h, w) as the network reads it."""

    size: tuple[int, int]
    pixels: torch.Tensor


class GroundingDino:
    """A `Detector`. Networks exist only after `load`."""

    Options: ClassVar[type[DetectorOptions]] = GroundingDinoOptions
    network: ClassVar[str] = "GroundingDinoForObjectDetection"
    """The class of transformers."""

    def __init__(self, options: DetectorOptions) -> None:
        self.options = options
        self._network: Any = None
        self._chunks: dict[tuple[Category, ...], tuple[TextChunk, ...]] = {}
        self._batches = Batches()

    def load(self, device: str) -> None:
        """Load network, tokenizer and image processor onto `device`."""
        import transformers
        from transformers import AutoTokenizer, GroundingDinoImageProcessorPil

        kind = str(type(self.options).model_fields["kind"].default)
        folder = find_weights(kind, self.options)
        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor = GroundingDinoImageProcessorPil.from_pretrained(
                folder, local_files_only=True
            )
        self._recipe = Recipe.of(self._processor)
        self._network = load_network(getattr(transformers, self.network), folder, device)
        self._device = device
        if device == "cpu":
            sample_in_parts(self._network)
        texts = remember(self._network.model.text_backbone, _ids_key)
        asked = Arithmetic.of(device, self.options.precision)
        self._arithmetic = gate(asked, self._probe, _GATE, "the detector")
        texts.clear()
        if self.options.compile:
            self._network.model.backbone.conv_encoder.compile()

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Boxes of the ontology's things, above each category's threshold, best first."""
        things = ontology.things
        if not things:
            return [Detected(Detections.empty(), None) for _ in frames]
        if self._network is None:
            raise ModelError("the detector is used before load()")
        chunks = self._prompt_chunks(things)
        return self._batches.run(
            [self._prepare(frame.pixels) for frame in frames],
            lambda item: item.pixels.shape,
            lambda group: self._detect_group(group, things, chunks, capture),
        )

    # --- text -----------------------------------------------------------------------------------

    def _prompt_chunks(self, things: tuple[Category, ...]) -> tuple[TextChunk, ...]:
        if things not in self._chunks:
            most = self._network.config.max_text_len
            chunks = chunk_prompts(
                [[self._tokenize(prompt) for prompt in category.prompts] for category in things],
                most,
            )
            if len(chunks) > 1:
                _warn_of_split(chunks, things, most)
            self._chunks[things] = chunks
        return self._chunks[things]

    def _tokenize(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt.lower(), add_special_tokens=False)["input_ids"]
        if not ids:
            raise ModelError(
                f"the prompt {prompt!r} has no token in the detector's vocabulary; spell it in "
                "words that the network was trained on"
            )
        if all(token == self._tokenizer.unk_token_id for token in ids):
            _LOGGER.warning(
                "the detector's vocabulary knows no part of the prompt %r; it will find nothing or "
                "anything",
                prompt,
            )
        return ids

    def _words(self, chunk: TextChunk) -> list[str]:
        return [str(self._tokenizer.convert_ids_to_tokens(token)) for token in chunk.input_ids]

    # --- images ---------------------------------------------------------------------------------

    def _prepare(self, pixels: NDArray[np.uint8]) -> _Input:
        size = (pixels.shape[0], pixels.shape[1])
        if self.options.preprocess == "fast":
            edges = self._processor.size
            scaled = short_and_long(size, edges["shortest_edge"], edges["longest_edge"])
            return _Input(size, fast_pixels(pixels, scaled, self._recipe, self._device))
        inputs = self._processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        return _Input(size, inputs["pixel_values"])

    def _detect_group(
        self,
        group: Sequence[_Input],
        things: tuple[Category, ...],
        chunks: tuple[TextChunk, ...],
        capture: bool,
    ) -> list[Detected]:
        import torch

        pixels = torch.cat([item.pixels for item in group]).to(self._device)
        answers: list[list[_Answer]] = [[] for _ in group]
        with (
            self._arithmetic(),
            # The image is encoded at the first prompt list and shared by the others.
            answer_once(self._network.model.backbone, lambda found: tuple(map(list, found))),
        ):
            for chunk in chunks:
                for row, answer in enumerate(self._ask(pixels, chunk, len(things), capture)):
                    answers[row].append(answer)
        return [
            self._choose(item.size, parts, things, chunks)
            for item, parts in zip(group, answers, strict=True)
        ]

    def _ask(
        self, pixels: torch.Tensor, chunk: TextChunk, count: int, capture: bool
    ) -> list[_Answer]:
        """What the network says to one prompt list, image by image."""
        import torch

        ids = torch.tensor([chunk.input_ids], device=self._device).expand(len(pixels), -1)
        with watch_sampling(self._network, enabled=capture) as seen:
            output = self._network(pixel_values=pixels, input_ids=ids, output_attentions=capture)
        probs = output.logits.float().sigmoid().cpu().numpy()
        boxes = output.pred_boxes.float().cpu().numpy()
        return [
            _Answer(
                boxes[row],
                *score_categories(probs[row], chunk.spans, count),
                read_evidence(output, seen, row, len(chunk.input_ids)) if capture else None,
            )
            for row in range(len(pixels))
        ]

    def _choose(
        self,
        size: tuple[int, int],
        answers: Sequence[_Answer],
        things: tuple[Category, ...],
        chunks: tuple[TextChunk, ...],
    ) -> Detected:
        boxes = np.concatenate([answer.boxes for answer in answers])
        chosen = choose_detections(
            clip_boxes(from_cxcywh_norm(boxes, size), size),
            np.concatenate([answer.class_scores for answer in answers]),
            np.concatenate([answer.prompt_ids for answer in answers]),
            things,
            self.options,
        )
        evidence = [answer.evidence for answer in answers if answer.evidence is not None]
        if not evidence:
            return Detected(chosen, None)
        words = [self._words(chunk) for chunk in chunks]
        return Detected(chosen, gather_evidence(evidence, words, chosen.query_ids, size))

    def _probe(self, arithmetic: Arithmetic) -> NDArray[np.float32]:
        """Probabilities of the best queries for a fixed picture and prompt, in falling order."""
        (chunk,) = chunk_prompts([[self._tokenize("object")]], self._network.config.max_text_len)
        with arithmetic():
            pixels = self._prepare(probe_pixels()).pixels.to(self._device)
            (answer,) = self._ask(pixels, chunk, 1, False)
        return np.sort(answer.class_scores[:, 0])[::-1][:20]


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """To one prompt list, for one image with Q queries.

    Attributes:
        boxes: float32 (Q, 4), centre and size as fractions of the image.
        class_scores: float32 (Q, things) in [0, 1].
        prompt_ids: int32 (Q, things).
        evidence: see `QueryEvidence`, where it is captured.
    """

    boxes: NDArray[np.float32]
    class_scores: NDArray[np.float32]
    prompt_ids: NDArray[np.int32]
    evidence: QueryEvidence | None


def _ids_key(input_ids: torch.Tensor, *_args: Any, **_kwargs: Any) -> tuple[Any, ...]:
    return tuple(input_ids.shape), tuple(input_ids[0].tolist())


def _warn_of_split(chunks: tuple[TextChunk, ...], things: tuple[Category, ...], most: int) -> None:
    firsts = [things[chunk.spans[0].category_index].name for chunk in chunks]
    _LOGGER.warning(
        "the thing prompts take %d lists of at most %d tokens, which begin at %s; categories of "
        "different lists do not compete within the network",
        *(len(chunks), most, ", ".join(firsts)),
    )
