"""The published checkpoints' architectures, by hub id, for building them without their weights.

Used to check that what the configs name fits this code, and to time full-size networks on random
weights. Sizes from the papers' and checkpoints' own configs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["ARCHITECTURES", "build_untrained"]


_SWIN: Mapping[str, Mapping[str, Any]] = {
    "tiny": {"image_size": 224, "window_size": 7, "embed_dim": 96, "depths": [2, 2, 6, 2]},
    "base": {"image_size": 384, "window_size": 12, "embed_dim": 128, "depths": [2, 2, 18, 2]},
    "large": {"image_size": 384, "window_size": 12, "embed_dim": 192, "depths": [2, 2, 18, 2]},
}
"""Liu et al., "Swin Transformer", ICCV 2021, section 3.3; every head is 32 wide."""


def _swin(size: str, out_indices: tuple[int, ...] = (2, 3, 4)) -> PretrainedConfig:
    from transformers import SwinConfig

    stages = _SWIN[size]
    heads = [stages["embed_dim"] // 32 * 2**stage for stage in range(4)]
    sizes: dict[str, Any] = {**stages, "num_heads": heads, "out_indices": list(out_indices)}
    return SwinConfig(**sizes)


def _grounding_dino(size: str) -> PretrainedConfig:
    from transformers import BertConfig, GroundingDinoConfig

    return GroundingDinoConfig(backbone_config=_swin(size), text_config=BertConfig())


def _mm_grounding_dino(size: str) -> PretrainedConfig:
    from transformers import BertConfig, MMGroundingDinoConfig

    # Its largest also looks at the finest stage; its decoder layers share no head.
    stages = (1, 2, 3, 4) if size == "large" else (2, 3, 4)
    return MMGroundingDinoConfig(
        backbone_config=_swin(size, stages),
        text_config=BertConfig(),
        num_feature_levels=len(stages) + 1,
        decoder_bbox_embed_share=False,
        decoder_cls_embed_share=False,
    )


def _sam(width: int, layers: int, heads: int, every: int) -> PretrainedConfig:
    from transformers import SamConfig

    vision = {
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "mlp_dim": 4 * width,
        "global_attn_indexes": list(range(every - 1, layers, every)),
    }
    return SamConfig(vision_config=vision)


def _sam2(width: int, blocks: list[int], attends: list[int], **more: Any) -> PretrainedConfig:
    """Hiera of some width; `attends` are the blocks that see the whole image."""
    from transformers import Sam2Config, Sam2HieraDetConfig, Sam2VisionConfig

    widths = [width * 2**stage for stage in range(4)]
    backbone = Sam2HieraDetConfig(
        hidden_size=width,
        embed_dim_per_stage=widths,
        blocks_per_stage=blocks,
        global_attention_blocks=attends,
        **more,
    )
    vision = Sam2VisionConfig(backbone_config=backbone, backbone_channel_list=widths[::-1])
    return Sam2Config(vision_config=vision)


def _sam2_base_plus() -> PretrainedConfig:
    return _sam2(
        112,
        [2, 3, 16, 3],
        [12, 16, 20],
        num_attention_heads=2,
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_positional_embedding_background_size=[14, 14],
    )


def _sam2_large() -> PretrainedConfig:
    return _sam2(
        144,
        [2, 6, 36, 4],
        [23, 33, 43],
        num_attention_heads=2,
        num_attention_heads_per_stage=[2, 4, 8, 16],
        window_size_per_stage=[8, 4, 16, 8],
    )


def _clipseg_refined() -> PretrainedConfig:
    from transformers import CLIPSegConfig

    return CLIPSegConfig(
        text_config={"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
        vision_config={"patch_size": 16},
        use_complex_transposed_convolution=True,
    )


_DINO, _MM_DINO = "GroundingDinoForObjectDetection", "MMGroundingDinoForObjectDetection"

ARCHITECTURES: Mapping[str, tuple[str, Callable[[], PretrainedConfig]]] = MappingProxyType(
    {
        "IDEA-Research/grounding-dino-tiny": (_DINO, partial(_grounding_dino, "tiny")),
        "IDEA-Research/grounding-dino-base": (_DINO, partial(_grounding_dino, "base")),
        **{
            f"openmmlab-community/mm_grounding_dino_{size}_{data}": (
                _MM_DINO,
                partial(_mm_grounding_dino, size),
            )
            for size, data in (
                ("tiny", "o365v1_goldg"),
                ("tiny", "o365v1_goldg_grit"),
                ("tiny", "o365v1_goldg_v3det"),
                ("tiny", "o365v1_goldg_grit_v3det"),
                ("base", "o365v1_goldg_v3det"),
                ("base", "all"),
                ("large", "o365v2_oiv6_goldg"),
                ("large", "all"),
            )
        },
        "facebook/sam-vit-base": ("SamModel", partial(_sam, 768, 12, 12, 3)),
        "facebook/sam-vit-large": ("SamModel", partial(_sam, 1024, 24, 16, 6)),
        "facebook/sam-vit-huge": ("SamModel", partial(_sam, 1280, 32, 16, 8)),
        "facebook/sam2.1-hiera-tiny": (
            "Sam2Model",
            partial(_sam2, 96, [1, 2, 7, 2], [5, 7, 9]),
        ),
        "facebook/sam2.1-hiera-small": (
            "Sam2Model",
            partial(_sam2, 96, [1, 2, 11, 2], [7, 10, 13]),
        ),
        "facebook/sam2.1-hiera-base-plus": ("Sam2Model", _sam2_base_plus),
        "facebook/sam2.1-hiera-large": ("Sam2Model", _sam2_large),
        "CIDAS/clipseg-rd64-refined": ("CLIPSegForImageSegmentation", _clipseg_refined),
    }
)
"""For each hub id, the transformers class and its config."""


def build_untrained(hub_id: str, device: str = "meta") -> PreTrainedModel:
    """The network of that architecture; on "meta" without memory, elsewhere with random weights.

    Raises:
        ConfigError: no architecture is known by that id.
    """
    import torch
    import transformers

    if hub_id not in ARCHITECTURES:
        raise ConfigError(f"no architecture {hub_id!r}; known are: {', '.join(ARCHITECTURES)}")
    class_name, config = ARCHITECTURES[hub_id]
    with torch.device(device):
        return getattr(transformers, class_name)(config()).eval()  # type: ignore[no-any-return]
