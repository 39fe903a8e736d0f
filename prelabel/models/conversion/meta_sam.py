"""Meta's SAM checkpoints: sam_vit_b, sam_vit_l, sam_vit_h and what was fine-tuned from them.

Every size is read from the tensors' shapes, so that a variant of other widths converts too.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from prelabel.models.conversion.renaming import Group, count, rename_all

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = ["convert", "read_config", "recognise"]

_UNUSED = ("pixel_mean", "pixel_std")
_DECODER_HEADS = 8
"""Of the mask decoder; no tensor's shape tells it, and all of Meta's have so many."""

_TIED = "prompt_encoder.shared_embedding.positional_embedding"
_TIED_TWIN = "shared_image_embedding.positional_embedding"

_HEAD = {"layers.0": "proj_in", "layers.1": "layers.0", "layers.2": "proj_out"}
_ENCODER_LAYER = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    **{name: name for name in ("attn", "mlp")},
}
_ENCODER = {
    "pos_embed": "pos_embed",
    "patch_embed.proj": "patch_embed.projection",
    "neck.0": "neck.conv1",
    "neck.1": "neck.layer_norm1",
    "neck.2": "neck.conv2",
    "neck.3": "neck.layer_norm2",
}
_PROMPT_ENCODER = {
    "pe_layer.positional_encoding_gaussian_matrix": "shared_embedding.positional_embedding",
    "point_embeddings": "point_embed",
    "not_a_point_embed": "not_a_point_embed",
    "no_mask_embed": "no_mask_embed",
    "mask_downscaling.0": "mask_embed.conv1",
    "mask_downscaling.1": "mask_embed.layer_norm1",
    "mask_downscaling.3": "mask_embed.conv2",
    "mask_downscaling.4": "mask_embed.layer_norm2",
    "mask_downscaling.6": "mask_embed.conv3",
}
_ATTENTIONS = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
_DECODER_LAYER = {
    **{f"norm{number}": f"layer_norm{number}" for number in (1, 2, 3, 4)},
    **{name: name for name in (*_ATTENTIONS, "mlp")},
}
_DECODER = {
    "transformer.final_attn_token_to_image": "transformer.final_attn_token_to_image",
    "transformer.norm_final_attn": "transformer.layer_norm_final_attn",
    "output_upscaling.0": "upscale_conv1",
    "output_upscaling.1": "upscale_layer_norm",
    "output_upscaling.3": "upscale_conv2",
    "iou_token": "iou_token",
    "mask_tokens": "mask_tokens",
}
_GROUPS = tuple(
    Group(re.compile(pattern), template, parts)
    for pattern, template, parts in (
        (r"image_encoder\.blocks\.(\d+)\.", r"vision_encoder.layers.\1.", _ENCODER_LAYER),
        (r"image_encoder\.", "vision_encoder.", _ENCODER),
        (r"prompt_encoder\.", "prompt_encoder.", _PROMPT_ENCODER),
        (
            r"mask_decoder\.transformer\.layers\.(\d+)\.",
            r"mask_decoder.transformer.layers.\1.",
            _DECODER_LAYER,
        ),
        (
            r"mask_decoder\.(iou_prediction_head|output_hypernetworks_mlps\.\d+)\.",
            r"mask_decoder.\1.",
            _HEAD,
        ),
        (r"mask_decoder\.", "mask_decoder.", _DECODER),
    )
)


def recognise(names: Collection[str]) -> bool:
    """Whether names of tensors are those of Meta's SAM."""
    return "image_encoder.pos_embed" in names and "mask_decoder.iou_token.weight" in names


def convert(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors under transformers' names, and the names that are unknown."""
    used = {name: tensor for name, tensor in tensors.items() if name not in _UNUSED}
    renamed, unknown = rename_all(used, _GROUPS)
    if _TIED in renamed:
        renamed[_TIED_TWIN] = renamed[_TIED].clone()
    return renamed, unknown


def read_config(tensors: Mapping[str, torch.Tensor]) -> PretrainedConfig:
    """The sizes, from the shapes. Raises KeyError, naming a tensor that is not there."""
    from transformers import SamConfig

    hidden, channels = (
        int(edge) for edge in tensors["mask_decoder.mask_tokens.weight"].shape[::-1]
    )
    vision = _vision(tensors)
    squeezed = "mask_decoder.transformer.layers.0.cross_attn_token_to_image.q_proj.weight"
    return SamConfig(
        vision_config=vision,
        prompt_encoder_config={
            "hidden_size": hidden,
            "image_size": vision["image_size"],
            "patch_size": vision["patch_size"],
            "mask_input_channels": len(tensors["prompt_encoder.mask_downscaling.3.weight"]),
            "num_point_embeddings": count(tensors, r"prompt_encoder\.point_embeddings\.(\d+)\."),
        },
        mask_decoder_config={
            "hidden_size": hidden,
            "mlp_dim": len(tensors["mask_decoder.transformer.layers.0.mlp.lin1.weight"]),
            "num_hidden_layers": count(tensors, r"mask_decoder\.transformer\.layers\.(\d+)\."),
            "num_attention_heads": _DECODER_HEADS,
            "attention_downsample_rate": hidden // len(tensors[squeezed]),
            "num_multimask_outputs": channels - 1,
            "iou_head_hidden_dim": len(tensors["mask_decoder.iou_prediction_head.layers.0.weight"]),
            # Meta's decoder has torch's default, transformers' config another.
            "layer_norm_eps": 1e-5,
        },
    )


def _vision(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    grid, width = (int(edge) for edge in tensors["image_encoder.pos_embed"].shape[2:])
    patch = int(tensors["image_encoder.patch_embed.proj.weight"].shape[-1])
    layers = count(tensors, r"image_encoder\.blocks\.(\d+)\.")
    # 2 · side − 1 relative positions: where the side is the whole grid, the layer sees everything.
    sides = [
        (len(tensors[f"image_encoder.blocks.{layer}.attn.rel_pos_h"]) + 1) // 2
        for layer in range(layers)
    ]
    return {
        "hidden_size": width,
        "output_channels": len(tensors["image_encoder.neck.0.weight"]),
        "num_hidden_layers": layers,
        "num_attention_heads": width // tensors["image_encoder.blocks.0.attn.rel_pos_h"].shape[1],
        "image_size": grid * patch,
        "patch_size": patch,
        "window_size": next((side for side in sides if side != grid), grid),
        "global_attn_indexes": [layer for layer, side in enumerate(sides) if side == grid],
        "num_pos_feats": int(
            tensors["prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"].shape[1]
        ),
        "mlp_dim": len(tensors["image_encoder.blocks.0.mlp.lin1.weight"]),
    }
