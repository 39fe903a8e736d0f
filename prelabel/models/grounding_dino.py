"""Grounding DINO as transformers implements it: things from text.

Liu et al., "Grounding DINO: Marrying DINO with Grounded Pre-Training for Open-Set Object
Detection", ECCV 2024. A box belongs to the category whose prompt's *tokens* it answers to; phrases
are never matched as strings.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prelabel.boxes import box_iou, clip_boxes, from_cxcywh_norm
from prelabel.data import Category, Detections, Frame, Ontology
from prelabel.errors import ModelError
from prelabel.models.prompt_lists import TextChunk, chunk_prompts, score_categories
from prelabel.models.roles import Detected, DetectorEvidence
from prelabel.models.weights import NetworkOptions, find_weights, load_network, quiet_transformers
from prelabel.options import Fraction

__all__ = ["GroundingDino", "GroundingDinoOptions"]

_LOGGER = logging.getLogger(__name__)


class GroundingDinoOptions(NetworkOptions):
    """Options of `kind: grounding-dino`."""

    kind: Literal["grounding-dino"] = "grounding-dino"
    box_threshold: Fraction = 0.3
    """Least score of a box, where its category names none of its own."""
    nms_iou: Fraction = 0.7
    """Of two boxes of one category that overlap by more than this IoU the better is kept."""
    cross_nms_iou: Fraction = 0.9
    """The same for boxes of two categories: one object seen under two names."""
    max_detections: Annotated[int, Field(ge=1, le=900)] = 100
    """At most so many boxes per image, the best."""


class GroundingDino:
    """A `Detector`. Networks exist only after `load`."""

    Options = GroundingDinoOptions

    def __init__(self, options: GroundingDinoOptions) -> None:
        self.options = options
        self._network: Any = None
        self._chunks: dict[tuple[Category, ...], tuple[TextChunk, ...]] = {}

    def load(self, device: str) -> None:
        """Load network, tokenizer and image processor onto `device`."""
        from transformers import (
            AutoTokenizer,
            GroundingDinoForObjectDetection,
            GroundingDinoImageProcessorPil,
        )

        folder = find_weights(self.options.kind, self.options)
        with quiet_transformers():
            self._tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self._processor = GroundingDinoImageProcessorPil.from_pretrained(
                folder, local_files_only=True
            )
        self._network = load_network(GroundingDinoForObjectDetection, folder, device)
        self._device = device

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
        return [self._detect_one(frame, things, chunks, capture) for frame in frames]

    def _prompt_chunks(self, things: tuple[Category, ...]) -> tuple[TextChunk, ...]:
        if things not in self._chunks:
            chunks = chunk_prompts(
                [[self._tokenize(prompt) for prompt in category.prompts] for category in things],
                self._network.config.max_text_len,
            )
            if len(chunks) > 1:
                _LOGGER.warning(
                    "the thing prompts take %d lists of at most %d tokens; categories of different "
                    "lists do not compete within the network",
                    len(chunks),
                    self._network.config.max_text_len,
                )
            self._chunks[things] = chunks
        return self._chunks[things]

    def _tokenize(self, prompt: str) -> list[int]:
        ids: list[int] = self._tokenizer(prompt.lower(), add_special_tokens=False)["input_ids"]
        if all(token == self._tokenizer.unk_token_id for token in ids):
            _LOGGER.warning("the detector's vocabulary knows no part of the prompt %r", prompt)
        return ids

    def _words(self, chunk: TextChunk) -> list[str]:
        return [str(self._tokenizer.convert_ids_to_tokens(token)) for token in chunk.input_ids]

    def _detect_one(
        self,
        frame: Frame,
        things: tuple[Category, ...],
        chunks: tuple[TextChunk, ...],
        capture: bool,
    ) -> Detected:
        import torch

        pixels = self._processor(
            images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
        )
        boxes, scores, prompts, evidence = [], [], [], []
        with torch.inference_mode():
            for chunk in chunks:
                ids = torch.tensor([chunk.input_ids], device=self._device)
                with _watch_sampling(self._network, enabled=capture) as seen:
                    output = self._network(
                        pixel_values=pixels["pixel_values"].to(self._device),
                        pixel_mask=pixels["pixel_mask"].to(self._device),
                        input_ids=ids,
                        output_attentions=capture,
                    )
                probs = output.logits[0].sigmoid().float().cpu().numpy()
                chunk_scores, chunk_prompts_ = score_categories(probs, chunk.spans, len(things))
                boxes.append(output.pred_boxes[0].float().cpu().numpy())
                scores.append(chunk_scores)
                prompts.append(chunk_prompts_)
                if capture:
                    evidence.append(_read_evidence(output, seen, len(chunk.input_ids)))
        class_scores = np.concatenate(scores)
        chosen = _choose(
            clip_boxes(from_cxcywh_norm(np.concatenate(boxes), frame.size), frame.size),
            class_scores,
            np.concatenate(prompts),
            things,
            self.options,
        )
        if not capture:
            return Detected(chosen, None)
        words = [self._words(chunk) for chunk in chunks]
        return Detected(chosen, _gather_evidence(evidence, words, chosen.query_ids, frame.size))


def _choose(
    boxes: NDArray[np.float32],
    class_scores: NDArray[np.float32],
    prompts: NDArray[np.int32],
    things: tuple[Category, ...],
    options: GroundingDinoOptions,
) -> Detections:
    """The queries that stand for an object: over their category's threshold, not suppressed."""
    thresholds = np.array(
        [
            options.box_threshold if category.box_threshold is None else category.box_threshold
            for category in things
        ]
    )
    winner = class_scores.argmax(axis=1)
    best = class_scores[np.arange(len(winner)), winner]
    solid = (boxes[:, 2] - boxes[:, 0] >= 1) & (boxes[:, 3] - boxes[:, 1] >= 1)
    candidates = np.flatnonzero((best >= thresholds[winner]) & solid)
    candidates = candidates[np.argsort(-best[candidates], kind="stable")]
    queries = _suppress(candidates, boxes, winner, options)[: options.max_detections]
    ids = np.array([category.category_id for category in things], dtype=np.int32)
    return Detections(
        boxes=boxes[queries],
        category_ids=ids[winner[queries]],
        scores=np.clip(best[queries], 0, 1),
        class_scores=np.clip(class_scores[queries], 0, 1),
        query_ids=queries.astype(np.int32),
        prompt_ids=prompts[queries, winner[queries]],
    )


def _suppress(
    queries: NDArray[np.intp],
    boxes: NDArray[np.float32],
    winner: NDArray[np.intp],
    options: GroundingDinoOptions,
) -> NDArray[np.intp]:
    """Greedy non-maximum suppression, best first, stricter within a category than across."""
    overlap = box_iou(boxes[queries], boxes[queries])
    same = winner[queries][:, None] == winner[queries][None, :]
    clash = overlap > np.where(same, options.nms_iou, options.cross_nms_iou)
    kept: list[int] = []
    for row in range(len(queries)):
        if not clash[row, kept].any():
            kept.append(row)
    return queries[kept]


# --- evidence ---------------------------------------------------------------------------------


@contextmanager
def _watch_sampling(network: Any, *, enabled: bool) -> Iterator[dict[str, Any]]:
    """Note what the last decoder layer samples from the image, for the length of one forward."""
    seen: dict[str, Any] = {}
    if not enabled:
        yield seen
        return

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Called as (value, shapes, shapes_list, starts, locations, weights, step), by position or
        # by name; the two that matter are the only floating tensors of rank 6 and 5 with queries.
        named = kwargs.get("sampling_locations"), kwargs.get("attention_weights")
        seen["locations"], seen["weights"] = named if named[0] is not None else (args[4], args[5])

    layer = network.model.decoder.layers[-1].encoder_attn.attn
    handle = layer.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _read_evidence(
    output: Any, seen: dict[str, Any], tokens: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
    """(Q, T) text attention, (Q, P, 2) normalised xy samples and (Q, P) their weights."""
    # decoder_attentions holds self, text and image attention; each a tuple with one per layer.
    text = output.decoder_attentions[1][-1][0].float().mean(dim=0)[:, :tokens]
    locations = seen["locations"][0].float()
    weights = seen["weights"][0].float()
    queries = locations.shape[0]
    weights = weights.reshape(queries, -1)
    return (
        text.cpu().numpy(),
        locations.reshape(queries, -1, 2).cpu().numpy(),
        (weights / weights.sum(dim=1, keepdim=True)).cpu().numpy(),
    )


def _gather_evidence(
    parts: list[tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]],
    words: list[list[str]],
    query_ids: NDArray[np.int32],
    size: tuple[int, int],
) -> DetectorEvidence:
    """Keep the evidence of the chosen queries, over the tokens of all chunks side by side."""
    lengths = [len(part) for part in words]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    queries = len(parts[0][0])
    weights = np.zeros((len(query_ids), int(offsets[-1])), dtype=np.float32)
    count = parts[0][2].shape[1]
    points = np.zeros((len(query_ids), count, 2), dtype=np.float32)
    point_weights = np.zeros((len(query_ids), count), dtype=np.float32)
    height, width = size
    for row, query in enumerate(query_ids):
        chunk, local = divmod(int(query), queries)
        text, locations, sampled = parts[chunk]
        weights[row, offsets[chunk] : offsets[chunk + 1]] = text[local]
        points[row] = locations[local] * np.array([width, height], dtype=np.float32)
        point_weights[row] = sampled[local]
    tokens = np.array([token for part in words for token in part], dtype=np.str_)
    return DetectorEvidence(tokens, weights, points, point_weights)
