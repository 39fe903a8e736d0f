"""What base.yaml and best.yaml name: true keys and shapes without memory, then shrunken and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.config import load_config
from prelabel.errors import ConfigError
from prelabel.models.architectures import ARCHITECTURES, build_untrained
from prelabel.pipeline import Pipeline

CONFIGS = Path(__file__).parent.parent / "configs"

# Millions of parameters as their papers and model cards state them, and shapes of some keys.
PUBLISHED: dict[str, tuple[float, dict[str, tuple[int, ...]]]] = {
    "IDEA-Research/grounding-dino-tiny": (
        172,
        {
            "model.text_backbone.embeddings.word_embeddings.weight": (30522, 768),
            "model.query_position_embeddings.weight": (900, 256),
            "bbox_embed.0.layers.2.weight": (4, 256),
        },
    ),
    "IDEA-Research/grounding-dino-base": (
        232,
        {"model.input_proj_vision.2.0.weight": (256, 1024, 1, 1)},
    ),
    # Swin of three sizes before it, no head shared between the decoder's six layers.
    **{
        f"openmmlab-community/mm_grounding_dino_{variant}": (
            millions,
            {
                "bbox_embed.5.layers.2.weight": (4, 256),
                "class_embed.5.bias": (),
                "model.input_proj_vision.0.0.weight": (256, channels, 1, 1),
                "model.level_embed": (levels, 256),
            },
        )
        for variant, millions, channels, levels in (
            ("tiny_o365v1_goldg", 173, 192, 4),
            ("tiny_o365v1_goldg_grit", 173, 192, 4),
            ("tiny_o365v1_goldg_v3det", 173, 192, 4),
            ("tiny_o365v1_goldg_grit_v3det", 173, 192, 4),
            ("base_o365v1_goldg_v3det", 233, 256, 4),
            ("base_all", 233, 256, 4),
            ("large_o365v2_oiv6_goldg", 343, 192, 5),
            ("large_all", 343, 192, 5),
        )
    },
    "facebook/sam-vit-base": (
        93.7,
        {
            "vision_encoder.pos_embed": (1, 64, 64, 768),
            "vision_encoder.neck.conv1.weight": (256, 768, 1, 1),
            "vision_encoder.layers.11.attn.rel_pos_h": (127, 64),
            "mask_decoder.mask_tokens.weight": (4, 256),
        },
    ),
    "facebook/sam-vit-large": (312, {"vision_encoder.pos_embed": (1, 64, 64, 1024)}),
    "facebook/sam-vit-huge": (
        641,
        {
            "vision_encoder.pos_embed": (1, 64, 64, 1280),
            "vision_encoder.layers.31.attn.rel_pos_h": (127, 80),
        },
    ),
    # What is published counts 7.5 million more, which follow objects through a video.
    "facebook/sam2.1-hiera-tiny": (
        31.4,
        {
            "vision_encoder.backbone.pos_embed": (1, 96, 7, 7),
            "vision_encoder.neck.convs.0.weight": (256, 768, 1, 1),
            "mask_decoder.mask_tokens.weight": (4, 256),
        },
    ),
    "facebook/sam2.1-hiera-small": (
        38.5,
        {"vision_encoder.backbone.blocks.15.attn.qkv.weight": (2304, 768)},
    ),
    "facebook/sam2.1-hiera-base-plus": (
        73.3,
        {
            "vision_encoder.backbone.pos_embed": (1, 112, 14, 14),
            "vision_encoder.backbone.blocks.23.attn.qkv.weight": (2688, 896),
        },
    ),
    "facebook/sam2.1-hiera-large": (
        216.9,
        {"vision_encoder.backbone.blocks.47.attn.qkv.weight": (3456, 1152)},
    ),
    "CIDAS/clipseg-rd64-refined": (
        150.7,
        {
            "clip.text_model.embeddings.token_embedding.weight": (49408, 512),
            "clip.vision_model.embeddings.patch_embedding.weight": (768, 3, 16, 16),
            "decoder.film_mul.weight": (64, 512),
            "decoder.transposed_convolution.2.weight": (64, 32, 4, 4),
        },
    ),
}


def test_every_architecture_is_checked() -> None:
    assert set(PUBLISHED) == set(ARCHITECTURES)


@pytest.mark.parametrize("hub_id", sorted(PUBLISHED))
def test_keys_and_shapes(hub_id: str) -> None:
    millions, shapes = PUBLISHED[hub_id]
    network = build_untrained(hub_id)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert {name: found.get(name) for name in shapes} == shapes
    count = sum(parameter.numel() for parameter in network.parameters()) / 1e6
    assert count == pytest.approx(millions, rel=0.005)


def test_an_unknown_architecture_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="known are: IDEA-Research/grounding-dino-tiny"):
        build_untrained("facebook/sam-vit-giant")


@pytest.mark.parametrize("name", ["base.yaml", "best.yaml"])
def test_configs_name_known_architectures(name: str) -> None:
    config = load_config(CONFIGS / name)
    for options in (config.detect, config.segment, config.stuff):
        assert getattr(options, "weights", None) in ARCHITECTURES


def _shrunken(root: Path, base: str) -> None:
    """base.yaml's or best.yaml's networks at their true input sizes, but narrow and shallow."""
    import transformers

    from prelabel.demo.tokenizers import build_bert_tokenizer, build_clip_tokenizer
    from prelabel.models.weights import quiet_transformers

    words, pairs = build_bert_tokenizer(["car"]), build_clip_tokenizer(["sky"])
    small: dict[str, dict[str, Any]] = {
        "detect": {"d_model": 32, "encoder_layers": 1, "decoder_layers": 2, "num_queries": 20},
        "segment": {},
        "stuff": {"projection_dim": 16, "reduce_dim": 16, "decoder_intermediate_size": 16},
    }
    config = load_config(CONFIGS / base)
    for role, processor, tokenizer in (
        ("detect", transformers.GroundingDinoImageProcessorPil(), words),
        ("segment", transformers.SamImageProcessorPil(), None),
        ("stuff", transformers.ViTImageProcessorPil(size={"height": 352, "width": 352}), pairs),
    ):
        class_name, make = ARCHITECTURES[getattr(config, role).weights]
        architecture = make()
        for key, value in small[role].items():
            setattr(architecture, key, value)
        _narrow(architecture, tokenizer)
        network = getattr(transformers, class_name)(architecture)
        with quiet_transformers():
            network.save_pretrained(root / role)
            processor.save_pretrained(root / role)
            if tokenizer is not None:
                tokenizer.save_pretrained(root / role)


def _narrow(architecture: Any, tokenizer: Any) -> None:
    narrow = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 32}
    if architecture.model_type == "grounding-dino":
        backbone, text = architecture.backbone_config, architecture.text_config
        backbone.update({"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]})
        text.update({**narrow, "num_hidden_layers": 1, "vocab_size": len(tokenizer)})
        architecture.update({"encoder_ffn_dim": 32, "decoder_ffn_dim": 32})
        architecture.update({"encoder_attention_heads": 2, "decoder_attention_heads": 2})
    elif architecture.model_type == "sam":
        layers = {"num_hidden_layers": 2, "global_attn_indexes": [1], "mlp_dim": 32}
        architecture.vision_config.update({**narrow, **layers})
    else:
        architecture.text_config.update(
            {
                **narrow,
                "num_hidden_layers": 1,
                "vocab_size": len(tokenizer),
                "eos_token_id": tokenizer.eos_token_id,
            }
        )
        architecture.vision_config.update({**narrow, "num_hidden_layers": 10})
        architecture.update({"decoder_num_attention_heads": 2})


@pytest.mark.parametrize("name", ["base.yaml", "best.yaml"])
def test_shrunken_networks_run_through_the_pipeline(name: str, tmp_path: Path) -> None:
    _shrunken(tmp_path, name)
    overrides = [f"{role}.weights={tmp_path / role}" for role in ("detect", "segment", "stuff")]
    overrides += ["detect.box_threshold=0.0", "refine.threshold=0.0", "merge.min_score=0.0"]
    config = load_config(CONFIGS / name, [*overrides, "detect.max_detections=3"])
    pipeline = Pipeline.from_config(config, device="cpu")
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    label = pipeline.label(pixels)
    assert label.size == (90, 120)
    assert {segment.category_id for segment in label.segments} <= set(config.ontology.by_id)
    assert np.array_equal(pipeline.label(pixels).id_map, label.id_map)
