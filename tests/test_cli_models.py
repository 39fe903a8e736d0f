"""`prelabel models`: what it lists, brings, checks and converts, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from prelabel.cli.models import models_app
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.errors import PrelabelError
from prelabel.models.catalogue import CATALOGUE
from prelabel.models.conversion import converted
from prelabel.models.loading import load_reported, quiet_transformers
from prelabel.models.weights import weights_sha256

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty place, caches of its own, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _run(*arguments: object) -> str:
    done = CliRunner().invoke(models_app, [str(argument) for argument in arguments])
    if done.exception is not None:
        raise done.exception
    return done.stdout


def _original_sam(checkpoints: Path, file: Path) -> Path:
    """The small SAM of the fixtures under Meta's names; only what differs is written down."""
    from transformers import SamModel

    network, _ = load_reported(SamModel, checkpoints / "sam")
    head = {"proj_in": "layers.0", "layers.0": "layers.1", "proj_out": "layers.2"}
    tensors: dict[str, torch.Tensor] = {}
    for name, tensor in network.state_dict().items():
        for new, old in (
            ("vision_encoder.layers.", "image_encoder.blocks."),
            ("vision_encoder.patch_embed.projection", "image_encoder.patch_embed.proj"),
            ("vision_encoder.", "image_encoder."),
            ("neck.conv1", "neck.0"),
            ("neck.layer_norm1", "neck.1"),
            ("neck.conv2", "neck.2"),
            ("neck.layer_norm2", "neck.3"),
            ("mask_embed.conv1", "mask_downscaling.0"),
            ("mask_embed.layer_norm1", "mask_downscaling.1"),
            ("mask_embed.conv2", "mask_downscaling.3"),
            ("mask_embed.layer_norm2", "mask_downscaling.4"),
            ("mask_embed.conv3", "mask_downscaling.6"),
            ("upscale_conv1", "output_upscaling.0"),
            ("upscale_layer_norm", "output_upscaling.1"),
            ("upscale_conv2", "output_upscaling.3"),
            ("prompt_encoder.point_embed.", "prompt_encoder.point_embeddings."),
            (".layer_norm", ".norm"),
            (
                "shared_embedding.positional_embedding",
                "pe_layer.positional_encoding_gaussian_matrix",
            ),
        ):
            name = name.replace(new, old)
        for new, old in head.items():
            pattern = rf"(iou_prediction_head|mlps\.\d)\.{re.escape(new)}\."
            name, changed = re.subn(pattern, rf"\1.{old}.", name)
            if changed:
                break
        if not name.startswith("shared_image"):
            tensors[name] = tensor.clone()
    torch.save(tensors, file)
    return file


# --- list --------------------------------------------------------------------------------------


def test_the_list_shows_every_name_in_full(work: Path) -> None:
    out = _run("list")
    for entry in CATALOGUE:
        assert re.search(rf"^  {re.escape(entry.name)} ", out, re.MULTILINE), entry.name
        if entry.original is not None:
            assert entry.original.file in out
    assert re.search(r"sam-vit-huge +2\.6 GB +not here +Apache-2\.0", out)
    assert re.search(r"clipseg-rd64-refined +603 MB +not here +see its page", out)
    assert "MIT and says that it does not cover the weights" in out
    assert re.search(r"embedded/sam +\d+ MB +embedded", out)


def test_the_list_is_there_for_programs(work: Path) -> None:
    document = json.loads(_run("list", "--json"))
    models = {model["name"]: model for model in document["models"]}
    assert models.keys() == {entry.name for entry in CATALOGUE}
    huge = models["facebook/sam-vit-huge"]
    assert huge["original"]["file"] == "sam_vit_h_4b8939.pth"
    assert (huge["role"], huge["kind"], huge["here"]) == ("segment", "sam", None)
    assert huge["revision"] is None
    assert models["embedded/clipseg"]["weights"] == "embedded"
    assert models["embedded/clipseg"]["bytes"] > 1_000_000


def test_the_list_knows_what_was_fetched_and_what_was_converted(
    work: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    snapshot = work / "hub" / "models--facebook--sam-vit-base" / "snapshots" / ("a" * 40)
    shutil.copytree(checkpoints / "sam", snapshot)
    (snapshot.parent.parent / "refs").mkdir()
    (snapshot.parent.parent / "refs" / "main").write_text("a" * 40)
    file = _original_sam(checkpoints, work / "x.pth")
    folder = converted(file, "sam", weights_sha256(file), "unused")
    huge = next(entry for entry in CATALOGUE if entry.name == "facebook/sam-vit-huge")
    record = json.loads((folder / "converted.json").read_text())
    assert huge.original is not None
    record["source_sha256"] = huge.original.sha256
    (folder / "converted.json").write_text(json.dumps(record))
    models = {
        model["name"]: model["here"] for model in json.loads(_run("list", "--json"))["models"]
    }
    assert models["facebook/sam-vit-base"] == "hub cache"
    assert models["facebook/sam-vit-huge"] == "converted"
    assert models["facebook/sam-vit-large"] is None


# --- pull --------------------------------------------------------------------------------------


def test_what_is_pulled_is_told_with_its_licence(
    work: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    def fetch(hub_id: str, revision: str | None, _files: object, _key: str) -> Path:
        asked.append((hub_id, revision))
        return checkpoints / "clipseg"

    monkeypatch.setattr("prelabel.models.hub._fetch", fetch)
    out = _run("pull", "CIDAS/clipseg-rd64-refined", "someone/other", "--revision", "v1")
    assert asked == [("CIDAS/clipseg-rd64-refined", "v1"), ("someone/other", "v1")]
    assert f"CIDAS/clipseg-rd64-refined: {checkpoints / 'clipseg'}" in out
    assert "licence: see its page; the authors' licence is MIT and says that it does not" in out
    assert "embedded/sam: " in _run("pull", "embedded/sam")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("pull facebook/sam-vit-base", r"Either connect .* or run `hf download facebook/sam-vit"),
        ("pull facebook/sam-vit-base --revision v1", "--revision v1 --local-dir DIR"),
        ("pull sam-vit-base", r"did you mean facebook/sam-vit-base\?"),
        ("pull embedded/none", "`prelabel models list` shows all"),
        ("pull sam_vit_b_01ec64.pth", "that its authors publish, not on the hub"),
        ("pull google-bert/bert-base-uncased", "tokenizer.json tokenizer_config.json vocab.txt"),
        ("check gone.pth", r"gone\.pth does not exist; give a file"),
        ("check facebook/sam-vit-base", "`prelabel models pull facebook/sam-vit-base` fetches it"),
        ("check .", r"lacks config\.json or a \.safetensors file"),
        ("check text.pth", "begins like no file that torch.save writes"),
        ("check odd", "holds a network of type bert; known are grounding-dino"),
        ("convert gone.pth out", r"gone\.pth does not exist; give a \.pth"),
        ("convert odd out", "odd is no file"),
        ("convert text.pth out", "no PyTorch checkpoint"),
        ("convert sam_vit_b_01ec64.pth out", "its sha256 begins"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(work: Path, arguments: str, told: str) -> None:
    (work / "text.pth").write_text("hello")
    (work / "sam_vit_b_01ec64.pth").write_bytes(b"\x80\x02")
    (work / "odd").mkdir()
    (work / "odd" / "config.json").write_text('{"model_type": "bert"}')
    (work / "odd" / "model.safetensors").write_bytes(b"")
    with pytest.raises(PrelabelError, match=told):
        _run(*shlex.split(arguments))
    assert not (work / "out").exists()


# --- check -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["grounding-dino", "sam", "clipseg"])
def test_a_folder_is_loaded_compared_and_run(checkpoints: Path, kind: str) -> None:
    out = _run("check", checkpoints / kind)
    assert "missing: 0; not used: 0" in out
    assert f"In a config: `kind: {kind}`." in out
    found = json.loads(_run("check", checkpoints / kind, "--json"))
    file = checkpoints / kind / "model.safetensors"
    assert (found["kind"], found["layout"]) == (kind, "transformers")
    assert found["sha256"] == weights_sha256(file)
    assert found["bytes"] == file.stat().st_size
    assert found["parameters"] > 100_000 and found["seconds"] >= 0


@pytest.mark.parametrize("kind", ["mm-grounding-dino", "sam2"])
def test_the_other_kinds_are_run_too(work: Path, kind: str) -> None:
    network = _tiny_sam2() if kind == "sam2" else _tiny_mm_grounding_dino()
    with quiet_transformers():
        network.save_pretrained(work / kind)
    assert json.loads(_run("check", kind, "--json"))["kind"] == kind


def _tiny_sam2() -> Any:
    from transformers import Sam2Config, Sam2Model, Sam2VisionConfig
    from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

    widths = [8, 16, 32, 64]
    backbone = Sam2HieraDetConfig(
        image_size=[256, 256],
        hidden_size=8,
        embed_dim_per_stage=widths,
        blocks_per_stage=[1, 1, 2, 1],
        num_attention_heads_per_stage=[1, 1, 2, 4],
        global_attention_blocks=[3],
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=widths[::-1],
        backbone_feature_sizes=[[64, 64], [32, 32], [16, 16]],
    )
    prompt: dict[str, Any] = {"image_size": 256, "patch_size": 16}
    return Sam2Model(Sam2Config(vision_config=vision, prompt_encoder_config=prompt))


def _tiny_mm_grounding_dino() -> Any:
    from transformers import (
        BertConfig,
        MMGroundingDinoConfig,
        MMGroundingDinoForObjectDetection,
        SwinConfig,
    )

    swin: dict[str, Any] = {"embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 1, 2, 2]}
    text = BertConfig(
        vocab_size=1030,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
    )
    config = MMGroundingDinoConfig(
        backbone_config=SwinConfig(**swin, window_size=4, out_indices=[2, 3, 4]),
        text_config=text,
        d_model=32,
        num_queries=600,
        encoder_layers=1,
        decoder_layers=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        decoder_bbox_embed_share=False,
        decoder_cls_embed_share=False,
    )
    return MMGroundingDinoForObjectDetection(config)


def test_a_network_that_gives_no_numbers_is_told(work: Path, checkpoints: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoints / "sam", work / "sam")
    tensors = load_file(work / "sam" / "model.safetensors")
    tensors["mask_decoder.iou_token.weight"].fill_(float("nan"))
    save_file(tensors, work / "sam" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrelabelError, match="loads, but its iou_scores are not numbers"):
        _run("check", "sam")


def test_what_is_not_used_is_named(work: Path, checkpoints: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoints / "sam", work / "sam")
    tensors = load_file(work / "sam" / "model.safetensors") | {"extra.weight": torch.zeros(1)}
    save_file(tensors, work / "sam" / "model.safetensors", metadata={"format": "pt"})
    assert "missing: 0; not used: 1: extra.weight" in _run("check", "sam")


# --- convert -----------------------------------------------------------------------------------


def test_an_original_is_checked_and_converted(work: Path, checkpoints: Path) -> None:
    file = _original_sam(checkpoints, work / "my_sam.pth")
    out = _run("check", "my_sam.pth")
    assert "Meta's SAM" in out and weights_sha256(file) in out
    out = _run("convert", "my_sam.pth", "out")
    assert "use it with `kind: sam` and `weights: out`" in out
    assert {path.name for path in (work / "out").iterdir()} == {
        "config.json",
        "converted.json",
        "model.safetensors",
        "preprocessor_config.json",
    }
    assert json.loads(_run("check", "out", "--json"))["kind"] == "sam"
    with pytest.raises(PrelabelError, match="is not empty; give a new folder"):
        _run("convert", "my_sam.pth", "out")
    with pytest.raises(PrelabelError, match="cannot be made"):
        _run("convert", "my_sam.pth", "my_sam.pth/out")


def test_a_tokenizer_can_be_named(work: Path, checkpoints: Path) -> None:
    build_bert_tokenizer(["car"]).save_pretrained(work / "words")
    file = _original_sam(checkpoints, work / "my_sam.pth")
    _run("convert", file, work / "out", "--tokenizer", "words")
    record = json.loads((work / "out" / "converted.json").read_text())
    assert record["tokenizer"] is None  # a SAM has none


# --- docs --------------------------------------------------------------------------------------


def test_commands_in_the_page_on_models_exist() -> None:
    text = (ROOT / "docs" / "models.md").read_text().replace("\\\n", " ")
    commands = re.findall(r"^prelabel models (\S+)(.*)$", text, re.MULTILINE)
    assert {name for name, _ in commands} == {"list", "pull", "check", "convert"}
    known = {command.name: command for command in models_app.registered_commands}
    for name, rest in commands:
        options = [word for word in shlex.split(rest, comments=True) if word.startswith("--")]
        shown = CliRunner().invoke(models_app, [name, "--help"], env={"COLUMNS": "200"}).stdout
        assert name in known and all(option in shown for option in options)


def test_every_name_in_the_page_on_models_is_in_the_catalogue() -> None:
    text = (ROOT / "docs" / "models.md").read_text()
    names = {entry.name for entry in CATALOGUE}
    files = {entry.original.file for entry in CATALOGUE if entry.original is not None}
    for name in re.findall(r"(?:facebook|IDEA-Research|CIDAS)/[\w.-]*\w", text):
        assert name in names
    assert files == set(re.findall(r"\b(?:sam_vit|groundingdino)_\w+\.pth\b", text))


def test_the_commands_are_part_of_prelabel() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prelabel", "models", "pull", "sam-vit-base"],
        cwd=ROOT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "did you mean facebook/sam-vit-base?" in " ".join(done.stderr.split())
