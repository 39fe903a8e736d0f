"""GroundingDINO checkpoints of IDEA Research: SwinT_OGC, SwinB and what was fine-tuned from them.

Every size but the number of attention heads is read from the tensors' shapes. The names on the
right are those that transformers writes to files, in every version.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from prelabel.models.conversion.renaming import SPLIT, Group, count, rename_all

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = ["convert", "read_config", "recognise"]

_UNUSED = re.compile(
    r"label_enc\.weight$|bert\.embeddings\.position_ids$|bert\.pooler\.|.*relative_position_index$|"
    r".*\.attn_mask$"
)
_HEADS, _BERT_HEAD_WIDTH = 8, 64
"""No tensor's shape tells the number of heads; all published ones have these."""

_BACKBONE = "model.backbone.conv_encoder.model."
_ATTENTION = {
    "in_proj_weight": f"{SPLIT}.weight",
    "in_proj_bias": f"{SPLIT}.bias",
    "out_proj": "out_proj",
}
_BLOCK = {
    "norm1": "layernorm_before",
    "norm2": "layernorm_after",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
    "attn.qkv": f"attention.self.{SPLIT}",
    "attn.proj": "attention.output.dense",
    "attn.relative_position_bias_table": "attention.self.relative_position_bias_table",
}
_DEFORMABLE = {
    "self_attn": "self_attn",
    "norm1": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm2": "final_layer_norm",
}
_TEXT_ENHANCER = {
    **{f"self_attn.{old}": f"self_attn.{new}" for old, new in _ATTENTION.items()},
    "linear1": "fc1",
    "linear2": "fc2",
    "norm1": "layer_norm_before",
    "norm2": "layer_norm_after",
}
_FUSION = {
    "gamma_v": "vision_param",
    "gamma_l": "text_param",
    "layer_norm_v": "layer_norm_vision",
    "layer_norm_l": "layer_norm_text",
    "attn.v_proj": "attn.vision_proj",
    "attn.l_proj": "attn.text_proj",
    "attn.values_v_proj": "attn.values_vision_proj",
    "attn.values_l_proj": "attn.values_text_proj",
    "attn.out_v_proj": "attn.out_vision_proj",
    "attn.out_l_proj": "attn.out_text_proj",
}
_DECODER_LAYER = {
    "cross_attn": "encoder_attn",
    "norm1": "encoder_attn_layer_norm",
    **{f"ca_text.{old}": f"encoder_attn_text.{new}" for old, new in _ATTENTION.items()},
    "catext_norm": "encoder_attn_text_layer_norm",
    **{f"self_attn.{old}": f"self_attn.{new}" for old, new in _ATTENTION.items()},
    "norm2": "self_attn_layer_norm",
    "linear1": "fc1",
    "linear2": "fc2",
    "norm3": "final_layer_norm",
}
_TRANSFORMER = {
    "decoder.norm": "decoder.layer_norm",
    "decoder.ref_point_head": "decoder.reference_points_head",
    "decoder.bbox_embed": "decoder.bbox_embed",
    "enc_output": "enc_output",
    "enc_output_norm": "enc_output_norm",
    "enc_out_bbox_embed": "encoder_output_bbox_embed",
    "level_embed": "level_embed",
    "tgt_embed": "query_position_embeddings",
}
_GROUPS: tuple[Group, ...] = tuple(
    Group(re.compile(pattern), template, parts)
    for pattern, template, parts in (
        (
            r"backbone\.0\.layers\.(\d+)\.blocks\.(\d+)\.",
            rf"{_BACKBONE}encoder.layers.\1.blocks.\2.",
            _BLOCK,
        ),
        (
            r"backbone\.0\.layers\.(\d+)\.downsample\.",
            rf"{_BACKBONE}encoder.layers.\1.downsample.",
            {"norm": "norm", "reduction": "reduction"},
        ),
        (
            r"backbone\.0\.patch_embed\.",
            f"{_BACKBONE}embeddings.",
            {"proj": "patch_embeddings.projection", "norm": "norm"},
        ),
        (
            r"backbone\.0\.",
            f"{_BACKBONE}hidden_states_norms.",
            {f"norm{index}": f"stage{index + 1}" for index in range(4)},
        ),
        (
            r"transformer\.encoder\.layers\.(\d+)\.",
            r"model.encoder.layers.\1.deformable_layer.",
            _DEFORMABLE,
        ),
        (
            r"transformer\.encoder\.text_layers\.(\d+)\.",
            r"model.encoder.layers.\1.text_enhancer_layer.",
            _TEXT_ENHANCER,
        ),
        (
            r"transformer\.encoder\.fusion_layers\.(\d+)\.",
            r"model.encoder.layers.\1.fusion_layer.",
            _FUSION,
        ),
        (r"transformer\.decoder\.layers\.(\d+)\.", r"model.decoder.layers.\1.", _DECODER_LAYER),
        (r"transformer\.", "model.", _TRANSFORMER),
        (r"bert\.", "model.text_backbone.", {}),
        (r"feat_map\.", "model.text_projection.", {}),
        (r"input_proj\.", "model.input_proj_vision.", {}),
        (r"bbox_embed\.", "bbox_embed.", {}),
    )
)


def recognise(names: Collection[str]) -> bool:
    """Whether names of tensors are those of the original GroundingDINO."""
    return "transformer.level_embed" in names and "feat_map.weight" in names


def convert(
    tensors: Mapping[str, torch.Tensor],
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors under transformers' names, and the names that are unknown."""
    used = {name: tensor for name, tensor in tensors.items() if not _UNUSED.match(name)}
    return rename_all(used, _GROUPS)


def read_config(tensors: Mapping[str, torch.Tensor]) -> PretrainedConfig:
    """The sizes, from the shapes. Raises KeyError, naming a tensor that is not there."""
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    levels, width = (int(edge) for edge in tensors["transformer.level_embed"].shape)
    return GroundingDinoConfig(
        backbone_config=SwinConfig(**_backbone(tensors)),
        text_config=BertConfig(**_text(tensors)),
        d_model=width,
        num_queries=len(tensors["transformer.tgt_embed.weight"]),
        num_feature_levels=levels,
        encoder_layers=count(tensors, r"transformer\.encoder\.layers\.(\d+)\."),
        encoder_ffn_dim=len(tensors["transformer.encoder.layers.0.linear1.weight"]),
        encoder_attention_heads=_HEADS,
        encoder_n_points=_points(tensors, "transformer.encoder.layers.0.self_attn", levels),
        decoder_layers=count(tensors, r"transformer\.decoder\.layers\.(\d+)\."),
        decoder_ffn_dim=len(tensors["transformer.decoder.layers.0.linear1.weight"]),
        decoder_attention_heads=_HEADS,
        decoder_n_points=_points(tensors, "transformer.decoder.layers.0.cross_attn", levels),
    )


def _points(tensors: Mapping[str, torch.Tensor], attention: str, levels: int) -> int:
    return len(tensors[f"{attention}.attention_weights.weight"]) // (_HEADS * levels)


def _backbone(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    tables = [
        tensors[f"backbone.0.layers.{stage}.blocks.0.attn.relative_position_bias_table"]
        for stage in range(count(tensors, r"backbone\.0\.layers\.(\d+)\."))
    ]
    window = (math.isqrt(len(tables[0])) + 1) // 2
    embedding = tensors["backbone.0.patch_embed.proj.weight"]
    return {
        # Only told for the record: a backbone without absolute positions takes any size.
        "image_size": 32 * window,
        "patch_size": int(embedding.shape[-1]),
        "embed_dim": len(embedding),
        "depths": [
            count(tensors, rf"backbone\.0\.layers\.{stage}\.blocks\.(\d+)\.")
            for stage in range(len(tables))
        ],
        "num_heads": [int(table.shape[1]) for table in tables],
        "window_size": window,
        "mlp_ratio": len(tensors["backbone.0.layers.0.blocks.0.mlp.fc1.weight"]) / len(embedding),
        "out_indices": [
            stage + 1 for stage in range(len(tables)) if f"backbone.0.norm{stage}.weight" in tensors
        ],
    }


def _text(tensors: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    words, width = (int(edge) for edge in tensors["bert.embeddings.word_embeddings.weight"].shape)
    return {
        "vocab_size": words,
        "hidden_size": width,
        "num_hidden_layers": count(tensors, r"bert\.encoder\.layer\.(\d+)\."),
        "num_attention_heads": max(1, width // _BERT_HEAD_WIDTH),
        "intermediate_size": len(tensors["bert.encoder.layer.0.intermediate.dense.weight"]),
        "max_position_embeddings": len(tensors["bert.embeddings.position_embeddings.weight"]),
        "type_vocab_size": len(tensors["bert.embeddings.token_type_embeddings.weight"]),
    }
