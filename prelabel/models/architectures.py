"""The published checkpoints' architectures, by hub id, for building them without their weights.

Used to check that what the configs name fits this code, and to time full-size networks on random
weights. Sizes from the papers' and checkpoints' own configs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["ARCHITECTURES", "build_untrained"]


def _grounding_dino(**backbone: Any) -> PretrainedConfig:
    from transformers import BertConfig, GroundingDinoConfig, SwinConfig

    stages: dict[str, Any] = {"out_indices": [2, 3, 4], **backbone}
    return GroundingDinoConfig(backbone_config=SwinConfig(**stages), text_config=BertConfig())


def _grounding_dino_tiny() -> PretrainedConfig:
    return _grounding_dino(
        image_size=224, window_size=7, embed_dim=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24]
    )


def _grounding_dino_base() -> PretrainedConfig:
    return _grounding_dino(
        image_size=384,
        window_size=12,
        embed_dim=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
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


def _clipseg_refined() -> PretrainedConfig:
    from transformers import CLIPSegConfig

    return CLIPSegConfig(
        text_config={"bos_token_id": 49406, "eos_token_id": 49407, "pad_token_id": 1},
        vision_config={"patch_size": 16},
        use_complex_transposed_convolution=True,
    )


ARCHITECTURES: Mapping[str, tuple[str, Callable[[], PretrainedConfig]]] = MappingProxyType(
    {
        "IDEA-Research/grounding-dino-tiny": (
            "GroundingDinoForObjectDetection",
            _grounding_dino_tiny,
        ),
        "IDEA-Research/grounding-dino-base": (
            "GroundingDinoForObjectDetection",
            _grounding_dino_base,
        ),
        "facebook/sam-vit-base": ("SamModel", lambda: _sam(768, 12, 12, 3)),
        "facebook/sam-vit-large": ("SamModel", lambda: _sam(1024, 24, 16, 6)),
        "facebook/sam-vit-huge": ("SamModel", lambda: _sam(1280, 32, 16, 8)),
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
