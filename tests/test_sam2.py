"""SAM 2 against transformers' own forward pass and the paper's preparation, on random weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import interpolate

from prelabel.config import build_config
from prelabel.data import Frame, ImageRecord, Mask
from prelabel.errors import ModelError
from prelabel.models.registry import create_segmenter
from prelabel.models.roles import PADDING, Embedding, Prompts
from prelabel.models.sam2 import Sam2, Sam2Options
from prelabel.models.weights import quiet_transformers
from prelabel.pipeline import Pipeline

SIDE = 128
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SIZES = [(48, 64), (64, 48), (333, 512), (7, 300), (1, 1)]
VISION = {
    "backbone_config": {
        "model_type": "sam2_hiera_det_model",
        "image_size": [SIDE, SIDE],
        "hidden_size": 16,
        "blocks_per_stage": [1, 1, 3, 1],
        "embed_dim_per_stage": [16, 32, 48, 64],
        "num_attention_heads_per_stage": [1, 2, 3, 4],
        "window_size_per_stage": [8, 4, 4, 2],
        "global_attention_blocks": [3, 4],
    },
    "backbone_channel_list": [64, 48, 32, 16],
    "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
    "fpn_hidden_size": 32,
}
PROMPTS = {"hidden_size": 32, "image_size": SIDE}
DECODER = {
    "hidden_size": 32,
    "mlp_dim": 48,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 24,
}


def _randomise(network: torch.nn.Module) -> None:
    """Weights large enough for masks that differ, and none left at zero."""
    generator = torch.Generator().manual_seed(2)
    for name, weight in network.named_parameters():
        if "norm" not in name:
            weight.data = torch.randn(weight.shape, generator=generator) * 0.15


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shrunken SAM 2 in transformers' layout."""
    from transformers import Sam2Config, Sam2Model

    folder = tmp_path_factory.mktemp("sam2")
    torch.manual_seed(3)
    with quiet_transformers():
        network = Sam2Model(
            Sam2Config(
                vision_config={"model_type": "sam2_vision_model", **VISION},
                prompt_encoder_config=PROMPTS,
                mask_decoder_config=DECODER,
            )
        )
        _randomise(network)
        network.save_pretrained(folder)
    settings = {
        "image_processor_type": "Sam2ImageProcessorFast",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": MEAN,
        "image_std": STD,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    return folder


@pytest.fixture(scope="module")
def segmenter(checkpoint: Path) -> Sam2:
    network = Sam2(Sam2Options(weights=str(checkpoint), prompts_per_pass=2))
    network.load("cpu")
    return network


def _frame(height: int, width: int) -> Frame:
    rng = np.random.default_rng(height * 1000 + width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(ImageRecord("a", "a"), pixels)


def _pixel_values(frame: Frame) -> torch.Tensor:
    """ToTensor, Resize to the square, Normalize, as the paper's `SAM2Transforms`."""
    image = torch.tensor(frame.pixels).permute(2, 0, 1)[None].float() / 255
    image = interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True)
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (image - mean) / std


def _stock(
    segmenter: Sam2, frame: Frame, count: int = 1, **inputs: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Logits (n, K, m, m) and ious (n, K) of one whole forward pass, pixels to masks."""
    pixels = _pixel_values(frame).expand(count, -1, -1, -1)
    with torch.inference_mode():
        output = segmenter._network(pixel_values=pixels, **inputs)
    return output.pred_masks.flatten(0, 1).numpy(), output.iou_scores.flatten(0, 1).numpy()


def _ratio(size: tuple[int, int]) -> np.ndarray:
    """From xy in the image to xy in the square."""
    return np.array([SIDE / size[1], SIDE / size[0]], dtype=np.float32)


# --- masks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("multimask", [True, False])
@pytest.mark.parametrize("size", SIZES)
def test_masks_of_boxes_are_those_of_the_stock_forward(
    segmenter: Sam2, size: tuple[int, int], multimask: bool
) -> None:
    frame, (height, width) = _frame(*size), size
    boxes = np.array(
        [
            [0, 0, width, height],
            [0, 0, width / 2, height / 3],
            [width / 4, height / 2, width, height],
        ],
        dtype=np.float32,
    )
    (embedding,) = segmenter.embed([frame])
    found = segmenter.masks(embedding, Prompts(boxes=boxes), multimask=multimask)
    scaled = torch.from_numpy(boxes * np.tile(_ratio(size), 2))[None]
    logits, ious = _stock(segmenter, frame, input_boxes=scaled, multimask_output=multimask)
    assert found.logits.shape == (3, 3 if multimask else 1, 32, 32)
    assert np.allclose(found.logits, logits, atol=1e-5)
    assert np.allclose(found.ious, ious, atol=1e-5)
    full = segmenter.upscale(embedding, found.logits[1], size)
    expected = interpolate(torch.from_numpy(logits[1])[None], size, mode="bilinear")[0]
    assert np.allclose(full, expected.numpy(), atol=1e-5)


def test_boxes_differ(segmenter: Sam2) -> None:
    """The random weights tell prompts and candidates apart; else the tests above say nothing."""
    (embedding,) = segmenter.embed([_frame(48, 64)])
    boxes = np.array([[0, 0, 64, 48], [5, 5, 20, 20]], dtype=np.float32)
    logits = segmenter.masks(embedding, Prompts(boxes=boxes), multimask=True).logits
    assert 0.02 < (logits > 0).mean() < 0.98
    assert np.abs(logits[0] - logits[1]).max() > 0.1
    assert np.abs(logits[0, 0] - logits[0, 1]).max() > 0.1


@pytest.mark.parametrize("multimask", [True, False])
def test_points_with_padding_and_a_box(segmenter: Sam2, multimask: bool) -> None:
    frame = _frame(40, 80)
    (embedding,) = segmenter.embed([frame])
    real = np.array([[[8, 8], [40, 9]], [[70, 30], [20, 20]]], dtype=np.float32)
    points = np.concatenate([real, np.zeros((2, 1, 2), np.float32)], axis=1)
    labels = np.array([[1, 0, PADDING], [1, 1, PADDING]], dtype=np.int32)
    boxes = np.array([[2, 3, 50, 30], [60, 20, 80, 40]], dtype=np.float32)
    stock: dict[str, Any] = {
        "input_points": torch.from_numpy(real * _ratio((40, 80)))[None],
        "input_labels": torch.from_numpy(labels[:, :2].astype(np.int64))[None],
        "multimask_output": multimask,
    }
    found = segmenter.masks(embedding, Prompts(None, points, labels), multimask=multimask)
    assert np.allclose(found.logits, _stock(segmenter, frame, **stock)[0], atol=1e-5)
    found = segmenter.masks(embedding, Prompts(boxes, points, labels), multimask=multimask)
    stock["input_boxes"] = torch.from_numpy(boxes * np.tile(_ratio((40, 80)), 2))[None]
    assert np.allclose(found.logits, _stock(segmenter, frame, **stock)[0], atol=1e-5)


def test_each_prompt_sees_its_own_mask(segmenter: Sam2) -> None:
    frame = _frame(64, 48)
    (embedding,) = segmenter.embed([frame])
    points = np.array([[[8, 8]], [[30, 50]], [[20, 20]]], dtype=np.float32)
    labels = np.ones((3, 1), dtype=np.int32)
    maps = np.random.default_rng(0).normal(size=(3, 64, 48)).astype(np.float32) * 5
    grid = segmenter.to_logit_grid(embedding, maps, fill=-99.0)
    assert grid.shape == (3, 32, 32)
    assert grid.min() > -99  # the image fills the square
    together = segmenter.masks(embedding, Prompts(None, points, labels, grid), multimask=True)
    logits, ious = _stock(
        segmenter,
        frame,
        3,
        input_points=torch.from_numpy(points * _ratio((64, 48)))[:, None],
        input_labels=torch.ones(3, 1, 1, dtype=torch.int64),
        input_masks=torch.from_numpy(grid)[:, None],
    )
    assert np.allclose(together.logits, logits, atol=1e-5)
    assert np.allclose(together.ious, ious, atol=1e-5)
    for row in range(3):
        one = slice(row, row + 1)
        alone = segmenter.masks(
            embedding, Prompts(None, points[one], labels[one], grid[one]), multimask=True
        )
        assert np.allclose(together.logits[row], alone.logits[0], atol=1e-5)
    swapped = Prompts(None, points, labels, grid[::-1].copy())
    other = segmenter.masks(embedding, swapped, multimask=True)
    assert not np.allclose(together.logits[0], other.logits[0], atol=1e-2)


def test_an_unstable_single_mask_gives_way_to_the_best_of_three(
    segmenter: Sam2, monkeypatch: pytest.MonkeyPatch
) -> None:
    (embedding,) = segmenter.embed([_frame(48, 64)])
    boxes = Prompts(boxes=np.array([[0, 0, 64, 48], [5, 5, 20, 20]], dtype=np.float32))
    three = segmenter.masks(embedding, boxes, multimask=True)
    decoder = segmenter._network.mask_decoder
    monkeypatch.setattr(decoder, "dynamic_multimask_stability_thresh", 2.0)
    best = three.ious.argmax(axis=1)
    unstable = segmenter.masks(embedding, boxes, multimask=False)
    assert np.array_equal(unstable.logits[:, 0], three.logits[[0, 1], best])
    assert np.array_equal(unstable.ious[:, 0], three.ious[[0, 1], best])
    monkeypatch.setattr(decoder, "dynamic_multimask_stability_thresh", 0.0)
    stable = segmenter.masks(embedding, boxes, multimask=False)
    assert not any(np.allclose(stable.logits[0, 0], three.logits[0, k]) for k in range(3))


def test_no_prompts_give_no_masks(segmenter: Sam2) -> None:
    (embedding,) = segmenter.embed([_frame(8, 9)])
    none = Prompts(boxes=np.empty((0, 4), dtype=np.float32))
    found = segmenter.masks(embedding, none, multimask=True)
    assert (found.logits.shape, found.ious.shape) == ((0, 3, 32, 32), (0, 3))


# --- embeddings ---------------------------------------------------------------------------------


def test_alone_or_among_others_the_same(segmenter: Sam2) -> None:
    frames = [_frame(*size) for size in SIZES]
    boxes = Prompts(boxes=np.array([[0, 0, 30, 20], [1, 1, 2, 2]], dtype=np.float32))
    together = segmenter.embed(frames, capture=True)
    for frame, among in zip(frames, together, strict=True):
        (alone,), (again,) = segmenter.embed([frame]), segmenter.embed([frame], capture=True)
        for name in ("features", "finer", "finest"):
            assert np.array_equal(getattr(alone, name), getattr(again, name))
            assert np.allclose(getattr(alone, name), getattr(among, name), atol=1e-5)
        assert np.allclose(again.attention_input, among.attention_input, atol=1e-5)
        first = segmenter.masks(alone, boxes, multimask=True).logits
        second = segmenter.masks(among, boxes, multimask=True).logits
        assert ((first > 0) != (second > 0)).mean() < 1e-3


def test_embeddings_are_stored(segmenter: Sam2, tmp_path: Path) -> None:
    (embedding,) = segmenter.embed([_frame(30, 40)])
    assert embedding.finer.shape == (8, 16, 16)
    assert embedding.finest.shape == (4, 32, 32)
    assert embedding.attention_input.size == 0
    embedding.save(tmp_path / "embedding.npz")
    boxes = Prompts(boxes=np.array([[1, 2, 30, 20]], dtype=np.float32))
    again = segmenter.masks(Embedding.load(tmp_path / "embedding.npz"), boxes, multimask=True)
    assert np.array_equal(again.logits, segmenter.masks(embedding, boxes, multimask=True).logits)


@pytest.mark.parametrize("preprocess", ["exact", "fast"])
@pytest.mark.parametrize("size", SIZES)
def test_images_are_prepared_as_in_the_paper(
    checkpoint: Path, size: tuple[int, int], preprocess: str
) -> None:
    options = {"weights": str(checkpoint), "preprocess": preprocess}
    network = Sam2(Sam2Options.model_validate(options))
    network.load("cpu")
    prepared = network._prepare(_frame(*size).pixels)
    assert (prepared.size, prepared.input_size) == (size, (SIDE, SIDE))
    assert torch.allclose(prepared.pixels, _pixel_values(_frame(*size)), atol=1e-5)


# --- evidence -----------------------------------------------------------------------------------


def test_attention_rows_are_those_of_full_attention(segmenter: Sam2) -> None:
    from transformers.models.sam2.modeling_sam2 import eager_attention_forward

    (embedding,) = segmenter.embed([_frame(64, 32)], capture=True)
    # Block 4 is the last that attends globally; it works on the 8 × 8 cells of the embedding.
    attention = segmenter._network.vision_encoder.backbone.blocks[4].attn
    assert embedding.attention_input.shape == (8, 8, 48)
    hidden = torch.from_numpy(embedding.attention_input)[None]
    with torch.inference_mode():
        query, key, value = attention.qkv(hidden).reshape(1, 64, 3, 3, 16).unbind(2)
        query, key, value = (part.transpose(1, 2) for part in (query, key, value))
        mixed, weights = eager_attention_forward(
            attention, query, key, value, None, attention.scale
        )
        expected = attention(hidden)
    assert torch.allclose(attention.proj(mixed.reshape(1, 8, 8, 48)), expected, atol=1e-6)
    # Rows 16 to 31 and columns 4 to 11 of a 64 × 32 image, in cells of 8 × 4.
    rows = [y * 8 + x for y in (2, 3) for x in (1, 2)]
    full = weights[0].mean(0)[rows].mean(0).reshape(8, 8).numpy()
    attended = segmenter.attention(embedding, Mask(4, 16, np.ones((16, 8), dtype=bool)))
    assert attended.sum() == pytest.approx(1, abs=1e-6)
    assert np.allclose(attended, full / full.sum(), atol=5e-8)
    assert np.ptp(attended) > 1e-4
    assert not attention._forward_pre_hooks
    (plain,) = segmenter.embed([_frame(64, 32)])
    with pytest.raises(ModelError, match="without capture"):
        segmenter.attention(plain, Mask(0, 0, np.ones((1, 1), dtype=bool)))


def test_an_encoder_of_windows_only_explains_nothing(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Sam2(Sam2Options(weights=str(checkpoint)))
    network.load("cpu")
    for layer in network._layers:
        monkeypatch.setattr(layer, "window_size", 4)
    assert len(network.embed([_frame(9, 9)])) == 1
    with pytest.raises(ModelError, match="no global attention"):
        network.embed([_frame(9, 9)], capture=True)


# --- checkpoints and options ----------------------------------------------------------------------


def test_a_checkpoint_for_videos_serves_too(checkpoint: Path, tmp_path: Path) -> None:
    """The published checkpoints call themselves sam2_video and hold a memory besides."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {
        "model_type": "sam2_video",
        "num_maskmem": 7,
        "enable_occlusion_spatial_embedding": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["memory_temporal_positional_encoding"] = torch.zeros(7, 1, 1, 64)
    tensors["no_object_pointer"] = torch.zeros(1, 32)
    save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    network = Sam2(Sam2Options(weights=str(tmp_path)))
    network.load("cpu")
    (embedding,) = network.embed([_frame(9, 9)])
    assert embedding.features.shape == (32, 8, 8)


def _with_settings(checkpoint: Path, folder: Path, name: str, text: str) -> Sam2:
    shutil.copytree(checkpoint, folder, dirs_exist_ok=True)
    (folder / "preprocessor_config.json").unlink()
    (folder / name).write_text(text)
    network = Sam2(Sam2Options(weights=str(folder)))
    network.load("cpu")
    return network


def test_settings_of_the_preparation(checkpoint: Path, tmp_path: Path) -> None:
    text = json.dumps({"image_processor": {"image_mean": [0.1, 0.2, 0.3], "size": SIDE}})
    nested = _with_settings(checkpoint, tmp_path / "nested", "processor_config.json", text)
    assert nested._recipe.mean == (0.1, 0.2, 0.3)
    assert nested._recipe.std == (0.229, 0.224, 0.225)
    bare = _with_settings(checkpoint, tmp_path / "bare", "README.md", "nothing")
    assert bare._recipe.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"size": {"height": 64, "width": 128}}', "reads 128 x 128 pixels"),
        ('{"size": {"longest_edge": 1024}}', "one and the same checkpoint"),
        ("{", "is damaged"),
    ],
)
def test_settings_that_do_not_fit_are_told(
    checkpoint: Path, tmp_path: Path, text: str, told: str
) -> None:
    with pytest.raises(ModelError, match=told):
        _with_settings(checkpoint, tmp_path / "w", "preprocessor_config.json", text)


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
def test_all_layers_are_compiled_but_the_one_that_explains(checkpoint: Path) -> None:
    network = Sam2(Sam2Options(weights=str(checkpoint), compile=True))
    network.load("cpu")
    compiled = [layer._compiled_call_impl is not None for layer in network._layers]
    assert compiled == [True, True, True, True, False, True]


def test_it_must_be_loaded_first(checkpoint: Path) -> None:
    network = create_segmenter(Sam2Options(weights=str(checkpoint)))
    assert isinstance(network, Sam2)
    with pytest.raises(ModelError, match="before load"):
        network.embed([_frame(5, 5)])


# --- the whole way --------------------------------------------------------------------------------


def test_a_painted_scene_is_labelled_and_explained(checkpoint: Path) -> None:
    colors = {"car": [200, 0, 0], "sky": [0, 0, 200], "road": [80, 80, 80]}
    document: dict[str, Any] = {
        "ontology": {
            "things": [{"name": "car", "color": colors["car"]}],
            "stuff": [{"name": name, "color": colors[name]} for name in ("sky", "road")],
        },
        "detect": {"kind": "paint"},
        "segment": {"kind": "sam2", "weights": str(checkpoint)},
        "stuff": {"kind": "paint"},
        "merge": {"min_score": 0.0, "fill_threshold": 0.0},
    }
    pixels = np.full((40, 60, 3), colors["sky"], dtype=np.uint8)
    pixels[24:] = colors["road"]
    pixels[18:30, 20:44] = colors["car"]
    pipeline = Pipeline.from_config(build_config(document, "test"), device="cpu")
    (result,) = pipeline.run([Frame(ImageRecord("a", "a"), pixels)], explain=True)
    label = result.label
    assert label.id_map.min() >= 1
    assert sum(segment.area for segment in label.segments) == 40 * 60
    assert {pipeline.ontology.by_id[s.category_id].name for s in label.segments} >= {"sky", "road"}
    for explanation in result.explanations:
        values = explanation.heatmaps["attention"].values
        assert values.max() == 1 and values.min() >= 0
    assert len(result.explanations) == len(label.segments) >= 2
