"""The detector's forward pass for training: every layer's output, and queries with known answers.

Queries that start from a jittered true box need no matching, so they teach the decoder from the
first step (Li et al., "DN-DETR", CVPR 2022, section 4; Zhang et al., "DINO", ICLR 2023, 3.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from prelabel.demo.training.deformable import deformable_attention, is_available

__all__ = ["Jittered", "Predictions", "forward", "jitter_boxes", "make_lean"]


@dataclass(frozen=True, slots=True, eq=False)
class Jittered:
    """Extra queries near true boxes.

    Attributes:
        boxes: float32 (B, J, 4) cxcywh fractions, where the queries start.
        truth: int64 (B, J), which true box each belongs to; -1 for queries that are too far off and
            must answer "nothing", -2 for padding.
        groups: int64 (J,); queries of one group see each other.
    """

    boxes: Tensor
    truth: Tensor
    groups: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Predictions:
    """What the network says, in float32.

    Attributes:
        logits: (layers, B, Q, T) per token, for the network's own queries.
        boxes: (layers, B, Q, 4) cxcywh fractions.
        jittered_logits, jittered_boxes: the same for the J jittered queries.
        dense_logits: (B, S, T), the proposals at every position of every level.
        dense_boxes: (B, S, 4) cxcywh fractions; not finite at positions that propose nothing.
        shapes: (height, width) of each level; S is the sum of their products.
    """

    logits: Tensor
    boxes: Tensor
    jittered_logits: Tensor
    jittered_boxes: Tensor
    dense_logits: Tensor
    dense_boxes: Tensor
    shapes: tuple[tuple[int, int], ...]


def jitter_boxes(
    rng: np.random.Generator, boxes: list[Tensor], queries: int = 40
) -> Jittered | None:
    """About `queries` jittered boxes per image, in groups of one near and one far per true box."""
    most = max((len(part) for part in boxes), default=0)
    if most == 0:
        return None
    groups = max(1, queries // (2 * most))
    starts = torch.full((len(boxes), groups, 2 * most, 4), 0.5)
    truth = torch.full((len(boxes), groups, 2 * most), -2, dtype=torch.int64)
    for at, part in enumerate(boxes):
        count = len(part)
        for far in (0, 1):
            low, high = (0.0, 0.4) if not far else (0.5, 1.0)
            size = rng.uniform(low, high, (groups, count, 4)) * rng.choice(
                [-1, 1], (groups, count, 4)
            )
            moves = torch.from_numpy(size.astype(np.float32))
            centre = part[:, :2] + moves[..., :2] * part[:, 2:] * (0.5 if not far else 1.0)
            extent = part[:, 2:] * (1 + moves[..., 2:]).clamp(min=0.3)
            chosen = slice(far * most, far * most + count)
            starts[at, :, chosen] = torch.cat([centre, extent], dim=-1).clamp(0.005, 0.995)
            truth[at, :, chosen] = -1 if far else torch.arange(count)
    numbers = torch.arange(groups).repeat_interleave(2 * most)
    return Jittered(starts.flatten(1, 2), truth.flatten(1), numbers)


def forward(
    network: Any, pixels: Tensor, inputs: dict[str, Tensor], jittered: Jittered | None
) -> Predictions:
    """Run the network on `pixels` (B, 3, h, w): products in bfloat16, the heads in float32."""
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=network.training),
        _more_queries(network, jittered) as seen,
    ):
        output = network.model(pixel_values=pixels, **inputs)
    text = output.encoder_last_hidden_state_text.float()
    mask = inputs["attention_mask"].bool()
    hidden = output.intermediate_hidden_states.float()
    references = torch.cat(
        [seen["references"][:, None], output.intermediate_reference_points[:, :-1]], dim=1
    )
    logits, boxes = [], []
    for layer, (embed, head) in enumerate(
        zip(network.class_embed, network.bbox_embed, strict=True)
    ):
        state = hidden[:, layer]
        logits.append(embed(state, text, mask)[..., : text.shape[1]])
        boxes.append((head(state) + torch.special.logit(references[:, layer], eps=1e-5)).sigmoid())
    own = network.config.num_queries
    all_logits, all_boxes = torch.stack(logits), torch.stack(boxes)
    return Predictions(
        logits=all_logits[:, :, :own],
        boxes=all_boxes[:, :, :own],
        jittered_logits=all_logits[:, :, own:],
        jittered_boxes=all_boxes[:, :, own:],
        dense_logits=output.enc_outputs_class[..., : text.shape[1]].float(),
        dense_boxes=output.enc_outputs_coord_logits.float().sigmoid(),
        shapes=seen["shapes"],
    )


@contextmanager
def _more_queries(network: Any, jittered: Jittered | None) -> Iterator[dict[str, Any]]:
    """Append the jittered queries on their way into the decoder; note references and shapes."""
    seen: dict[str, Any] = {}
    config, own = network.config, network.config.num_queries

    def enter(_module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        seen["shapes"] = tuple(kwargs["spatial_shapes_list"])
        if jittered is not None:
            width = kwargs["inputs_embeds"].shape[1]
            chosen = torch.arange(jittered.boxes.shape[1]) % width
            content = kwargs["inputs_embeds"][:, chosen]
            kwargs["inputs_embeds"] = torch.cat([kwargs["inputs_embeds"], content], dim=1)
            references = [kwargs["reference_points"].float(), jittered.boxes]
            kwargs["reference_points"] = torch.cat(references, dim=1)
            kwargs["self_attn_mask"] = _separate(own, jittered.groups)
        seen["references"] = kwargs["reference_points"]
        # The decoder repeats its text mask `num_queries` times; once broadcasts to any number.
        config.num_queries = 1
        return args, kwargs

    def leave(_module: nn.Module, _args: Any, _output: Any) -> None:
        config.num_queries = own

    hooks = [
        network.model.decoder.register_forward_pre_hook(enter, with_kwargs=True),
        network.model.decoder.register_forward_hook(leave, always_call=True),
    ]
    try:
        yield seen
    finally:
        config.num_queries = own
        for hook in hooks:
            hook.remove()


def _separate(own: int, groups: Tensor) -> Tensor:
    """Additive mask (1, 1, Q, Q): no query sees a jittered one of another group than its own."""
    numbers = torch.cat([groups.new_full((own,), -1), groups])
    allowed = numbers[:, None] == numbers[None, :]
    return torch.zeros(allowed.shape).masked_fill(~allowed, -1e4)[None, None]


def make_lean(network: Any) -> None:
    """Make training faster without changing what is computed.

    Deformable attention is compiled where a compiler is at hand, and the backbone's bfloat16 maps
    are widened before coordinates are made from their type.
    """
    config = network.config
    heads = {config.encoder_attention_heads, config.decoder_attention_heads}
    if all(is_available(config.d_model // count) for count in heads):
        for module in network.modules():
            if type(module).__name__ == "MultiScaleDeformableAttention":
                module.forward = deformable_attention
    network.model.backbone.conv_encoder.register_forward_hook(_widen)
    for projection in network.model.input_proj_vision:
        projection.register_forward_hook(lambda _module, _args, output: output.float())


def _widen(_module: nn.Module, _args: Any, output: Any) -> list[tuple[Tensor, Tensor]]:
    return [(features.float(), mask) for features, mask in output]
