"""What Grounding DINO looked at and which words it heard, read off one forward pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.models.roles import DetectorEvidence

__all__ = ["QueryEvidence", "gather_evidence", "read_evidence", "watch_sampling"]

QueryEvidence: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
"""Of one image and chunk: (Q, T) text attention, (Q, P, 2) normalised samples, (Q, P) weights."""


@contextmanager
def watch_sampling(network: Any, *, enabled: bool) -> Iterator[dict[str, Any]]:
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


def read_evidence(output: Any, seen: dict[str, Any], row: int, tokens: int) -> QueryEvidence:
    """The evidence of image `row` of the batch, for a prompt list of so many tokens."""
    # decoder_attentions holds self, text and image attention; each a tuple with one per layer.
    text = output.decoder_attentions[1][-1][row].float().mean(dim=0)[:, :tokens]
    locations = seen["locations"][row].float()
    weights = seen["weights"][row].float()
    queries = locations.shape[0]
    weights = weights.reshape(queries, -1)
    return (
        text.cpu().numpy(),
        locations.reshape(queries, -1, 2).cpu().numpy(),
        (weights / weights.sum(dim=1, keepdim=True)).cpu().numpy(),
    )


def gather_evidence(
    parts: Sequence[QueryEvidence],
    words: Sequence[Sequence[str]],
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
