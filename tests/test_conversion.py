"""Original checkpoints: names written out here by hand, random weights, equal outputs.

The lists of original names below are generated from the authors' module trees and not from the
package's own map, so that one judges the other.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file

from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.errors import ConfigError, ModelError
from prelabel.models import conversion
from prelabel.models.architectures import ARCHITECTURES, build_untrained
from prelabel.models.conversion import convert_checkpoint, converted, open_original
from prelabel.models.conversion.layouts import LAYOUTS, detect_layout
from prelabel.models.conversion.reading import read_state_dict
from prelabel.models.conversion.renaming import Group, rename
from prelabel.models.loading import load_reported, quiet_transformers
from prelabel.models.weights import (
    DEFAULT_TOKENIZER,
    NetworkOptions,
    find_weights,
    load_network,
    weights_sha256,
)

SAM, DINO = LAYOUTS
Names = Iterator[tuple[str, tuple[str, ...]]]
"""An original name, and transformers' names of what it holds on top of each other."""


def _both(old: str, *new: str) -> Names:
    """A module with weight and bias."""
    for part in ("weight", "bias"):
        yield f"{old}.{part}", tuple(f"{name}.{part}" for name in new)


# --- the names in Meta's segment_anything, by its modules --------------------------------------


def _sam_names(layers: int, decoder_layers: int = 2) -> Names:
    yield "image_encoder.pos_embed", ("vision_encoder.pos_embed",)
    yield from _both("image_encoder.patch_embed.proj", "vision_encoder.patch_embed.projection")
    for layer in range(layers):
        old, new = f"image_encoder.blocks.{layer}", f"vision_encoder.layers.{layer}"
        for number in (1, 2):
            yield from _both(f"{old}.norm{number}", f"{new}.layer_norm{number}")
        for name in ("attn.qkv", "attn.proj", "mlp.lin1", "mlp.lin2"):
            yield from _both(f"{old}.{name}", f"{new}.{name}")
        for name in ("attn.rel_pos_h", "attn.rel_pos_w"):
            yield f"{old}.{name}", (f"{new}.{name}",)
    old, new = "image_encoder.neck", "vision_encoder.neck"
    yield f"{old}.0.weight", (f"{new}.conv1.weight",)
    yield from _both(f"{old}.1", f"{new}.layer_norm1")
    yield f"{old}.2.weight", (f"{new}.conv2.weight",)
    yield from _both(f"{old}.3", f"{new}.layer_norm2")
    yield from _sam_prompt_names()
    yield from _sam_decoder_names(decoder_layers)


def _sam_prompt_names() -> Names:
    yield (
        "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix",
        ("shared_image_embedding.positional_embedding",),
    )
    for corner in range(4):
        yield (
            f"prompt_encoder.point_embeddings.{corner}.weight",
            (f"prompt_encoder.point_embed.{corner}.weight",),
        )
    for name in ("not_a_point_embed", "no_mask_embed"):
        yield f"prompt_encoder.{name}.weight", (f"prompt_encoder.{name}.weight",)
    names = {0: "conv1", 1: "layer_norm1", 3: "conv2", 4: "layer_norm2", 6: "conv3"}
    for index, name in names.items():
        yield from _both(
            f"prompt_encoder.mask_downscaling.{index}", f"prompt_encoder.mask_embed.{name}"
        )


def _sam_decoder_names(layers: int) -> Names:
    old = "mask_decoder.transformer"
    attentions = ("self_attn", "cross_attn_token_to_image", "cross_attn_image_to_token")
    blocks = [f"layers.{layer}.{name}" for layer in range(layers) for name in attentions]
    for block in (*blocks, "final_attn_token_to_image"):
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _both(f"{old}.{block}.{name}", f"{old}.{block}.{name}")
    for layer in range(layers):
        for name in ("mlp.lin1", "mlp.lin2"):
            yield from _both(f"{old}.layers.{layer}.{name}", f"{old}.layers.{layer}.{name}")
        for number in (1, 2, 3, 4):
            yield from _both(
                f"{old}.layers.{layer}.norm{number}", f"{old}.layers.{layer}.layer_norm{number}"
            )
    yield from _both(f"{old}.norm_final_attn", f"{old}.layer_norm_final_attn")
    for name in ("iou_token", "mask_tokens"):
        yield f"mask_decoder.{name}.weight", (f"mask_decoder.{name}.weight",)
    for index, name in {0: "upscale_conv1", 1: "upscale_layer_norm", 3: "upscale_conv2"}.items():
        yield from _both(f"mask_decoder.output_upscaling.{index}", f"mask_decoder.{name}")
    heads = [f"output_hypernetworks_mlps.{index}" for index in range(4)]
    for head in ("iou_prediction_head", *heads):
        for index, name in enumerate(("proj_in", "layers.0", "proj_out")):
            yield from _both(f"mask_decoder.{head}.layers.{index}", f"mask_decoder.{head}.{name}")


# --- the names in IDEA Research's GroundingDINO, by its modules ---------------------------------

BACKBONE = "model.backbone.conv_encoder.model"


def _swin_names(depths: list[int]) -> Names:
    old = "backbone.0"
    yield from _both(
        f"{old}.patch_embed.proj", f"{BACKBONE}.embeddings.patch_embeddings.projection"
    )
    yield from _both(f"{old}.patch_embed.norm", f"{BACKBONE}.embeddings.norm")
    for stage, depth in enumerate(depths):
        for block in range(depth):
            before = f"{old}.layers.{stage}.blocks.{block}"
            after = f"{BACKBONE}.encoder.layers.{stage}.blocks.{block}"
            attention = f"{after}.attention.self"
            yield from _both(f"{before}.norm1", f"{after}.layernorm_before")
            yield from _both(f"{before}.norm2", f"{after}.layernorm_after")
            yield from _both(f"{before}.mlp.fc1", f"{after}.intermediate.dense")
            yield from _both(f"{before}.mlp.fc2", f"{after}.output.dense")
            yield from _both(
                f"{before}.attn.qkv", *(f"{attention}.{name}" for name in ("query", "key", "value"))
            )
            yield from _both(f"{before}.attn.proj", f"{after}.attention.output.dense")
            table = "relative_position_bias_table"
            yield f"{before}.attn.{table}", (f"{attention}.{table}",)
        if stage < len(depths) - 1:
            before, after = (
                f"{root}.layers.{stage}.downsample" for root in (old, f"{BACKBONE}.encoder")
            )
            yield f"{before}.reduction.weight", (f"{after}.reduction.weight",)
            yield from _both(f"{before}.norm", f"{after}.norm")
    for index in (1, 2, 3):
        yield from _both(f"{old}.norm{index}", f"{BACKBONE}.hidden_states_norms.stage{index + 1}")


def _attention_names(old: str, new: str) -> Names:
    """torch's MultiheadAttention, whose three projections are one tensor."""
    for part in ("weight", "bias"):
        parts = tuple(f"{new}.{name}.{part}" for name in ("query", "key", "value"))
        yield f"{old}.in_proj_{part}", parts
    yield from _both(f"{old}.out_proj", f"{new}.out_proj")


def _deformable_names(old: str, new: str) -> Names:
    for name in ("sampling_offsets", "attention_weights", "value_proj", "output_proj"):
        yield from _both(f"{old}.{name}", f"{new}.{name}")


def _encoder_names(layer: int) -> Names:
    root, new = "transformer.encoder", f"model.encoder.layers.{layer}"
    old, after = f"{root}.layers.{layer}", f"{new}.deformable_layer"
    yield from _deformable_names(f"{old}.self_attn", f"{after}.self_attn")
    for before, name in (
        ("norm1", "self_attn_layer_norm"),
        ("linear1", "fc1"),
        ("linear2", "fc2"),
        ("norm2", "final_layer_norm"),
    ):
        yield from _both(f"{old}.{before}", f"{after}.{name}")
    old, after = f"{root}.text_layers.{layer}", f"{new}.text_enhancer_layer"
    yield from _attention_names(f"{old}.self_attn", f"{after}.self_attn")
    for before, name in (
        ("linear1", "fc1"),
        ("linear2", "fc2"),
        ("norm1", "layer_norm_before"),
        ("norm2", "layer_norm_after"),
    ):
        yield from _both(f"{old}.{before}", f"{after}.{name}")
    old, after = f"{root}.fusion_layers.{layer}", f"{new}.fusion_layer"
    for letter, word in (("v", "vision"), ("l", "text")):
        yield f"{old}.gamma_{letter}", (f"{after}.{word}_param",)
        yield from _both(f"{old}.layer_norm_{letter}", f"{after}.layer_norm_{word}")
        for before, name in (
            (f"{letter}_proj", f"{word}_proj"),
            (f"values_{letter}_proj", f"values_{word}_proj"),
            (f"out_{letter}_proj", f"out_{word}_proj"),
        ):
            yield from _both(f"{old}.attn.{before}", f"{after}.attn.{name}")


def _decoder_names(layer: int) -> Names:
    old, new = f"transformer.decoder.layers.{layer}", f"model.decoder.layers.{layer}"
    yield from _deformable_names(f"{old}.cross_attn", f"{new}.encoder_attn")
    yield from _attention_names(f"{old}.ca_text", f"{new}.encoder_attn_text")
    yield from _attention_names(f"{old}.self_attn", f"{new}.self_attn")
    for before, name in (
        ("norm1", "encoder_attn_layer_norm"),
        ("catext_norm", "encoder_attn_text_layer_norm"),
        ("norm2", "self_attn_layer_norm"),
        ("linear1", "fc1"),
        ("linear2", "fc2"),
        ("norm3", "final_layer_norm"),
    ):
        yield from _both(f"{old}.{before}", f"{new}.{name}")


def _bert_names(layers: int) -> Names:
    for name in ("word", "position", "token_type"):
        tail = f"embeddings.{name}_embeddings.weight"
        yield f"bert.{tail}", (f"model.text_backbone.{tail}",)
    tails = ["embeddings.LayerNorm"]
    for layer in range(layers):
        root = f"encoder.layer.{layer}"
        tails += [f"{root}.attention.self.{name}" for name in ("query", "key", "value")]
        tails += [f"{root}.attention.output.dense", f"{root}.attention.output.LayerNorm"]
        tails += [f"{root}.intermediate.dense", f"{root}.output.dense", f"{root}.output.LayerNorm"]
    for tail in tails:
        yield from _both(f"bert.{tail}", f"model.text_backbone.{tail}")


def _dino_names(config: Any) -> Names:
    yield from _swin_names(list(config.backbone_config.depths))
    yield from _bert_names(config.text_config.num_hidden_layers)
    for layer in range(config.encoder_layers):
        yield from _encoder_names(layer)
    for layer in range(config.decoder_layers):
        yield from _decoder_names(layer)
        for index in range(3):
            # One head for all layers, which the original's file holds again and again.
            head = f"{layer}.layers.{index}"
            yield from _both(f"bbox_embed.{head}", f"bbox_embed.0.layers.{index}")
            yield from _both(
                f"transformer.decoder.bbox_embed.{head}", f"bbox_embed.0.layers.{index}"
            )
    yield from _both("transformer.decoder.norm", "model.decoder.layer_norm")
    for index in range(2):
        yield from _both(
            f"transformer.decoder.ref_point_head.layers.{index}",
            f"model.decoder.reference_points_head.layers.{index}",
        )
    for index in range(3):
        yield from _both(
            f"transformer.enc_out_bbox_embed.layers.{index}",
            f"model.encoder_output_bbox_embed.layers.{index}",
        )
    for name in ("enc_output", "enc_output_norm"):
        yield from _both(f"transformer.{name}", f"model.{name}")
    yield "transformer.level_embed", ("model.level_embed",)
    yield "transformer.tgt_embed.weight", ("model.query_position_embeddings.weight",)
    yield from _both("feat_map", "model.text_projection")
    for level in range(config.num_feature_levels):
        for index in (0, 1):
            yield from _both(
                f"input_proj.{level}.{index}", f"model.input_proj_vision.{level}.{index}"
            )


def _dino_ballast(config: Any) -> dict[str, torch.Tensor]:
    """What the original's file holds and no network needs."""
    width = config.text_config.hidden_size
    blocks = [
        f"backbone.0.layers.{stage}.blocks.{block}"
        for stage, depth in enumerate(config.backbone_config.depths)
        for block in range(depth)
    ]
    return {
        "label_enc.weight": torch.zeros(2001, 1),
        "bert.embeddings.position_ids": torch.arange(4)[None],
        "bert.pooler.dense.weight": torch.zeros(width, width),
        "bert.pooler.dense.bias": torch.zeros(width),
        **{f"{block}.attn.relative_position_index": torch.zeros(4, 4).long() for block in blocks},
    }


def _originals(names: Names, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    # One tensor under several names stays one, as torch.save keeps it in the published files.
    return {
        old: tensors[new[0]] if len(new) == 1 else torch.cat([tensors[name] for name in new])
        for old, new in names
    }


# --- shrunken networks, there and back ---------------------------------------------------------


def _shake(network: torch.nn.Module) -> None:
    """Random values everywhere, so that no two tensors are alike."""
    with torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)


def _tiny_sam() -> Any:
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 32,
        "output_channels": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "window_size": 3,
        "global_attn_indexes": [1],
        "num_pos_feats": 8,
        "mlp_dim": 48,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 16, "mask_input_channels": 8}
    decoder = {"hidden_size": 16, "mlp_dim": 24, "iou_head_hidden_dim": 12, "layer_norm_eps": 1e-5}
    config = SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    network = SamModel(config).eval()
    _shake(network)
    return network


def _tiny_dino(words: int) -> Any:
    from transformers import (
        BertConfig,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        SwinConfig,
    )

    swin: dict[str, Any] = {
        "image_size": 96,
        "window_size": 3,
        "embed_dim": 16,
        "depths": [1, 2, 1, 1],
        "num_heads": [1, 2, 2, 4],
        "mlp_ratio": 2.0,
        "out_indices": [2, 3, 4],
    }
    text = {"vocab_size": words, "hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 24}
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**swin),
        text_config=BertConfig(**text, num_attention_heads=1, max_position_embeddings=64),
        d_model=32,
        num_queries=7,
        encoder_layers=2,
        encoder_ffn_dim=40,
        encoder_n_points=3,
        decoder_layers=2,
        decoder_ffn_dim=24,
        decoder_n_points=2,
    )
    network = GroundingDinoForObjectDetection(config).eval()
    _shake(network)
    return network


def _saved(network: Any, folder: Path) -> dict[str, torch.Tensor]:
    with quiet_transformers():
        network.save_pretrained(folder)
    return load_file(folder / "model.safetensors")


def _loaded(like: Any, folder: Path) -> Any:
    """The converted network, its tensors at addresses as round as those of a fresh one.

    A file's tensors begin anywhere, and some products round otherwise then, by a few 1e-9.
    """
    network = copy.deepcopy(load_network(type(like), folder, "cpu"))
    expected, found = like.state_dict(), network.state_dict()
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        # transformers builds this norm and does not use it; the original has none.
        assert ".swin.layernorm." in name or torch.equal(found[name], value), name
    return network


@pytest.fixture(scope="module")
def sam(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A network, and its weights as Meta would have published them."""
    root = tmp_path_factory.mktemp("sam")
    network = _tiny_sam()
    tensors = _saved(network, root / "stock")
    originals = _originals(_sam_names(2), tensors)
    originals["pixel_mean"] = torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
    torch.save(originals, root / "my_sam.pth")
    return network, root / "my_sam.pth"


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    """A network, its weights as IDEA Research would have published them, and its tokenizer."""
    root = tmp_path_factory.mktemp("dino")
    tokenizer = build_bert_tokenizer(["car", "person"])
    tokenizer.save_pretrained(root / "tokenizer")
    network = _tiny_dino(len(tokenizer))
    tensors = _saved(network, root / "stock")
    originals = _originals(_dino_names(network.config), tensors)
    originals |= _dino_ballast(network.config)
    wrapped = {f"module.{name}": tensor for name, tensor in originals.items()}
    options = argparse.Namespace(lr=1e-4)
    torch.save({"model": wrapped, "epoch": 3, "args": options}, root / "my_dino.pth")
    return network, root / "my_dino.pth", root / "tokenizer"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "prelabel" / "converted"


def test_a_sam_comes_back_exactly(sam: tuple[Any, Path], tmp_path: Path) -> None:
    network, file = sam
    opened = convert_checkpoint(file, tmp_path / "out", DEFAULT_TOKENIZER)
    again = _loaded(network, tmp_path / "out")
    assert opened.layout is SAM and opened.report.fits
    for part in ("vision_config", "prompt_encoder_config", "mask_decoder_config"):
        kept, expected = (getattr(which.config, part).to_dict() for which in (again, network))
        assert kept.pop("dtype") == "float32" and expected.pop("dtype") is None
        assert kept == expected
    pixels = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    inputs = {
        "pixel_values": pixels,
        "input_boxes": torch.tensor([[[4.0, 8.0, 40.0, 50.0]]]),
        "input_points": torch.tensor([[[[20.0, 20.0], [50.0, 9.0]]]]),
        "input_labels": torch.tensor([[[1, 0]]]),
        "input_masks": torch.rand(1, 1, 16, 16, generator=torch.Generator().manual_seed(2)),
    }
    with torch.inference_mode():
        expected, found = network(**inputs), again(**inputs)
    assert torch.equal(found.pred_masks, expected.pred_masks)
    assert torch.equal(found.iou_scores, expected.iou_scores)
    assert expected.pred_masks.std() > 0
    processor = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert processor["size"] == {"longest_edge": 64}
    assert processor["pad_size"] == {"height": 64, "width": 64}


def test_a_grounding_dino_comes_back_exactly(dino: tuple[Any, Path, Path], tmp_path: Path) -> None:
    network, file, tokenizer = dino
    opened = convert_checkpoint(file, tmp_path / "out", str(tokenizer))
    again = _loaded(network, tmp_path / "out")
    assert opened.layout is DINO and opened.report.fits
    pixels = torch.rand(1, 3, 96, 128, generator=torch.Generator().manual_seed(1))
    inputs = {"pixel_values": pixels, "input_ids": torch.tensor([[101, 300, 1012, 301, 1012, 102]])}
    with torch.inference_mode():
        expected, found = network(**inputs), again(**inputs)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.pred_boxes, expected.pred_boxes)
    assert expected.pred_boxes.std() > 0
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files >= {"config.json", "preprocessor_config.json", "tokenizer.json"}


def test_the_pipelines_networks_take_the_file_itself(
    sam: tuple[Any, Path], dino: tuple[Any, Path, Path], cache: Path
) -> None:
    from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
    from prelabel.models.sam import Sam, SamOptions

    segmenter = Sam(SamOptions(weights=str(sam[1])))
    segmenter.load("cpu")
    folders = list(cache.iterdir())
    assert [folder.name for folder in folders] == [folders[0].name]
    stamp = (folders[0] / "model.safetensors").stat().st_mtime_ns
    segmenter.load("cpu")
    assert (folders[0] / "model.safetensors").stat().st_mtime_ns == stamp

    class Options(GroundingDinoOptions):
        tokenizer: str = str(dino[2])

    detector = GroundingDino(Options(weights=str(dino[1])))
    detector.load("cpu")
    # Another tokenizer makes another folder, and both belong to the same file.
    names = {folder.name for folder in cache.iterdir()} - {folders[0].name}
    assert {name[:17] for name in names} == {f"{weights_sha256(dino[1])[:16]}-"}


# --- full size, without memory -----------------------------------------------------------------


def _stable(name: str) -> str:
    """transformers' name within a program as transformers' name within a file."""
    if BACKBONE not in name:
        return name
    for inside, stored in (
        (".model.swin.encoder.", ".model.encoder."),
        (".model.swin.embeddings.", ".model.embeddings."),
        ("attention.q_proj", "attention.self.query"),
        ("attention.k_proj", "attention.self.key"),
        ("attention.v_proj", "attention.self.value"),
        ("attention.o_proj", "attention.output.dense"),
        ("attention.relative_position_bias.relative", "attention.self.relative"),
        ("mlp.fc1", "intermediate.dense"),
        ("mlp.fc2", "output.dense"),
    ):
        name = name.replace(inside, stored)
    return name


@pytest.mark.parametrize(
    ("hub_id", "layout", "count"),
    [
        ("facebook/sam-vit-base", SAM, 314),
        ("facebook/sam-vit-large", SAM, 482),
        ("facebook/sam-vit-huge", SAM, 594),
        ("IDEA-Research/grounding-dino-tiny", DINO, 940),
        # The published file holds 1108 tensors.
        ("IDEA-Research/grounding-dino-base", DINO, 1108),
    ],
)
def test_names_and_shapes_of_the_published_files(hub_id: str, layout: Any, count: int) -> None:
    network = build_untrained(hub_id)
    config = network.config
    stored = {_stable(name): value.to("meta") for name, value in network.state_dict().items()}
    unused = {name for name in stored if name.startswith(f"{BACKBONE}.swin.layernorm.")}
    if layout is SAM:
        originals = _originals(_sam_names(config.vision_config.num_hidden_layers), stored)
    else:
        originals = _originals(_dino_names(config), stored) | _dino_ballast(config)
    assert len(originals) == count
    assert detect_layout(originals.keys(), Path("x.pth")) is layout
    tensors, unknown = layout.convert(originals)
    assert unknown == []
    assert tensors.keys() == stored.keys() - unused
    assert {name: value.shape for name, value in tensors.items()} == {
        name: value.shape for name, value in stored.items() if name not in unused
    }


@pytest.mark.parametrize("hub_id", [name for name in ARCHITECTURES if "facebook/sam-vit" in name])
def test_sizes_are_read_from_the_shapes_of_sam(hub_id: str) -> None:
    network = build_untrained(hub_id)
    layers = network.config.vision_config.num_hidden_layers
    originals = _originals(_sam_names(layers), network.state_dict())
    found, expected = SAM.read_config(originals).to_dict(), network.config.to_dict()
    assert found["vision_config"] == expected["vision_config"]
    assert found["prompt_encoder_config"] == expected["prompt_encoder_config"]
    assert found["mask_decoder_config"].pop("layer_norm_eps") == 1e-5
    assert expected["mask_decoder_config"].pop("layer_norm_eps") == 1e-6
    assert found["mask_decoder_config"] == expected["mask_decoder_config"]


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_sizes_are_read_from_the_shapes_of_grounding_dino(size: str) -> None:
    network = build_untrained(f"IDEA-Research/grounding-dino-{size}")
    stored = {_stable(name): value.to("meta") for name, value in network.state_dict().items()}
    found = DINO.read_config(_originals(_dino_names(network.config), stored)).to_dict()
    assert found == network.config.to_dict() | {"architectures": found["architectures"]}


# --- refusals ----------------------------------------------------------------------------------


class _Creates:
    """A pickle that would create a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("archive", [True, False])
def test_code_in_a_checkpoint_is_never_run(tmp_path: Path, archive: bool) -> None:
    target, file = tmp_path / "proof", tmp_path / "evil.pth"
    content = {"model": {"a.weight": torch.zeros(2)}, "args": _Creates(target)}
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    with pytest.raises(ModelError, match=r"mkdir, which is Python code .* nothing of it was run"):
        read_state_dict(file)
    assert not target.exists()


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_code_in_a_bare_pickle_is_never_run(tmp_path: Path, protocol: int) -> None:
    target, file = tmp_path / "proof", tmp_path / "evil.pth"
    file.write_bytes(pickle.dumps(_Creates(target), protocol=protocol))
    with pytest.raises(ModelError, match="Python code" if protocol == 2 else "no PyTorch"):
        open_original(file)
    assert not target.exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"hello", "begins like no file"),
        (b"<!DOCTYPE html><title>Sign in</title>", "it is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of git LFS"),
        (b"PK\x03\x04 and nothing more", "truncated"),
        (b"\x80\x02 no pickle", "damaged"),
        (pickle.dumps({"a": "b"}, protocol=2), "no PyTorch checkpoint"),
    ],
)
def test_what_is_no_checkpoint_is_told(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "x.pth"
    file.write_bytes(content)
    with pytest.raises(ModelError, match=told) as caught:
        open_original(file)
    assert str(file) in str(caught.value)


def test_a_checkpoint_without_tensors_is_told(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "model": {"lr": 0.1}}, tmp_path / "x.pth")
    with pytest.raises(ModelError, match="holds no tensors by name"):
        open_original(tmp_path / "x.pth")


@given(share=st.floats(0.0, 0.999))
def test_a_truncated_file_is_told_wherever_it_ends(
    sam: tuple[Any, Path], tmp_path_factory: pytest.TempPathFactory, share: float
) -> None:
    whole = sam[1].read_bytes()
    file = tmp_path_factory.mktemp("cut") / "cut.pth"
    file.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"truncated|empty|begins like no file"):
        open_original(file)


@given(data=st.data(), archive=st.booleans())
def test_damaged_bytes_are_told_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, archive: bool
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "x.pth"
    content = {"model": {"a": torch.zeros(2, 3), "b": torch.zeros(1)}, "epoch": 1}
    torch.save(content, file, _use_new_zipfile_serialization=archive)
    whole = bytearray(file.read_bytes())
    places = st.integers(0, len(whole) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=4)):
        whole[place] = data.draw(st.integers(0, 255))
    file.write_bytes(whole)
    try:
        tensors = read_state_dict(file)
    except ModelError as error:
        assert str(file) in str(error)
    else:
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values())


def test_missing_and_unexpected_tensors_are_counted_and_named(
    sam: tuple[Any, Path], tmp_path: Path
) -> None:
    tensors = read_state_dict(sam[1])
    for layer in (0, 1):
        del tensors[f"image_encoder.blocks.{layer}.mlp.lin2.weight"]
    tensors |= {f"mask_decoder.hf_mlp.{index}": torch.zeros(1) for index in range(7)}
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 8)
    torch.save(tensors, tmp_path / "hq.pth")
    with pytest.raises(ModelError) as caught:
        convert_checkpoint(tmp_path / "hq.pth", tmp_path / "out", DEFAULT_TOKENIZER)
    told = str(caught.value)
    assert "2 keys are missing (vision_encoder.layers.0.mlp.lin2.weight, vision_" in told
    assert "7 keys are unexpected (mask_decoder.hf_mlp.0" in told
    assert "hf_mlp.4, …)" in told and "hf_mlp.5" not in told
    assert "1 key is of another shape (mask_decoder.iou_token.weight)" in told
    assert not (tmp_path / "out").exists()
    del tensors["image_encoder.neck.0.weight"]
    torch.save(tensors, tmp_path / "hq.pth")
    with pytest.raises(ModelError, match=r"lacks image_encoder\.neck\.0\.weight"):
        open_original(tmp_path / "hq.pth")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("sam_mask_decoder.x", "SAM 2; take facebook/sam2.1"),
        ("language_model.language_backbone.x", "take one of openmmlab-community's"),
        ("film_mul.weight", "take CIDAS/clipseg-rd64-refined"),
        ("vision_encoder.x", "in transformers' layout already"),
        ("fc.weight", "of another architecture .* holds 1 tensors, such as fc.weight"),
    ],
)
def test_checkpoints_of_others_are_told_apart(name: str, told: str) -> None:
    with pytest.raises(ModelError, match=told):
        detect_layout([name], Path("x.pth"))


def test_a_network_of_another_kind_is_refused(sam: tuple[Any, Path], cache: Path) -> None:
    with pytest.raises(ModelError, match=r"Meta's SAM, of kind sam, where kind clipseg"):
        find_weights("clipseg", NetworkOptions(weights=str(sam[1])))
    assert not list(cache.glob("*"))


# --- the tokenizer -----------------------------------------------------------------------------


def test_a_missing_tokenizer_is_told_before_anything_is_converted(
    dino: tuple[Any, Path, Path], monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(conversion.converting, "open_original", None)
    with pytest.raises(ConfigError, match="holds no tokenizer, so it needs one") as caught:
        find_weights("grounding-dino", NetworkOptions(weights=str(dino[1])))
    told = str(caught.value)
    assert "hf download google-bert/bert-base-uncased tokenizer.json" in told
    assert "set `tokenizer: DIR`" in told
    assert not cache.exists()


def test_a_wrong_tokenizer_is_refused(dino: tuple[Any, Path, Path], tmp_path: Path) -> None:
    _, file, good = dino
    with pytest.raises(ConfigError, match=r"does not exist"):
        convert_checkpoint(file, tmp_path / "out", "./gone")
    with pytest.raises(ConfigError, match=r"holds no tokenizer.json or vocab.txt"):
        convert_checkpoint(file, tmp_path / "out", str(tmp_path))
    many = build_bert_tokenizer([f"w{index}" for index in range(900)])
    many.save_pretrained(tmp_path / "many")
    with pytest.raises(ModelError, match=rf"has {len(many)} tokens, the checkpoint"):
        convert_checkpoint(file, tmp_path / "out", str(tmp_path / "many"))
    text = (good / "tokenizer.json").read_text()
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / "tokenizer.json").write_text(text.replace('"?": 1029', '"¿": 1029'))
    with pytest.raises(ModelError, match="numbers its separators"):
        convert_checkpoint(file, tmp_path / "out", str(tmp_path / "odd"))
    assert not (tmp_path / "out").exists()


# --- the cache ---------------------------------------------------------------------------------


def test_a_slower_process_takes_the_faster_ones_result(
    sam: tuple[Any, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = conversion.converting._write
    inodes = []

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr(conversion.converting, "_write", write)
        faster = converted(sam[1], "sam", "ab" * 32, DEFAULT_TOKENIZER)
        inodes.append((faster / "model.safetensors").stat().st_ino)
        write(*arguments)

    monkeypatch.setattr(conversion.converting, "_write", overtaken)
    folder = converted(sam[1], "sam", "ab" * 32, DEFAULT_TOKENIZER)
    assert list(cache.iterdir()) == [folder]
    assert [(folder / "model.safetensors").stat().st_ino] == inodes
    _, report = load_reported(type(sam[0]), folder)
    assert report.fits


def test_a_failed_conversion_leaves_nothing_behind(
    sam: tuple[Any, Path], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_arguments: object, **_named: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.torch.save_file", full)
    with pytest.raises(ModelError, match=r"No space left on device; set XDG_CACHE_HOME"):
        converted(sam[1], "sam", "ef" * 32, DEFAULT_TOKENIZER)
    assert list(cache.iterdir()) == []


def test_what_a_dead_process_left_is_removed_after_a_day(
    sam: tuple[Any, Path], cache: Path
) -> None:
    for name, age in ((".old.part", 2 * 86400), (".new.part", 60)):
        (cache / name).mkdir(parents=True)
        then = (cache / name).stat().st_mtime - age
        os.utime(cache / name, (then, then))
    converted(sam[1], "sam", "12" * 32, DEFAULT_TOKENIZER)
    assert {path.name for path in cache.iterdir()} == {".new.part", "12" * 8}


def test_the_cache_is_where_the_xdg_specification_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert conversion.converted_root() == tmp_path / "cache" / "prelabel" / "converted"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert conversion.converted_root() == tmp_path / ".cache" / "prelabel" / "converted"


def test_what_was_converted_is_known(sam: tuple[Any, Path], cache: Path) -> None:
    folder = converted(sam[1], "sam", "34" * 32, DEFAULT_TOKENIZER)
    (cache / "damaged").mkdir()
    (cache / "damaged" / "converted.json").write_text("{")
    (found,) = conversion.conversions().items()
    assert found[0] == str(folder)
    assert (found[1]["source"], found[1]["kind"]) == ("my_sam.pth", "sam")


def test_a_folder_with_something_in_it_is_not_written_to(
    sam: tuple[Any, Path], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious").write_text("x")
    with pytest.raises(ConfigError, match="is not empty"):
        convert_checkpoint(sam[1], tmp_path / "out", DEFAULT_TOKENIZER)
    assert (tmp_path / "out" / "precious").read_text() == "x"


# --- the engine --------------------------------------------------------------------------------


@given(st.text(alphabet="ab.", max_size=6))
def test_parts_of_names_end_at_dots(rest: str) -> None:
    import re

    group = Group(re.compile(r"in\."), "out.", {"a": "X"})
    expected = f"out.X{rest[1:]}" if rest == "a" or rest.startswith("a.") else None
    assert rename(f"in.{rest}", [group]) == expected
    assert rename(f"on.{rest}", [group]) is None
