"""The networks' shells against transformers' own forward passes, on random weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from prelabel.data import Category, Frame, ImageRecord, Mask, Ontology
from prelabel.errors import ConfigError, ModelError
from prelabel.models.clipseg import ClipSeg, ClipSegOptions
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.prompt_lists import chunk_prompts
from prelabel.models.registry import ROLES, create_detector, kinds, option_types
from prelabel.models.roles import PADDING, Embedding, MaskLogits, Prompts
from prelabel.models.sam import Sam, SamOptions
from prelabel.models.weights import NetworkOptions, find_weights, load_network

ONTOLOGY = Ontology(
    (
        Category(7, "car", True, ("car", "automobile")),
        Category(2, "person", True, box_threshold=0.9),
        Category(9, "sky", False),
        Category(4, "road", False, ("road", "street")),
    )
)
NO_STUFF = Ontology((Category(1, "car", True),))
NO_THINGS = Ontology((Category(1, "sky", False),))


def _frame(height: int, width: int) -> Frame:
    rng = np.random.default_rng(height * 1000 + width)
    pixels = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Frame(ImageRecord("a", "a"), pixels)


# --- detector ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def detector(checkpoints: Path) -> GroundingDino:
    folder = str(checkpoints / "grounding-dino")
    network = GroundingDino(
        GroundingDinoOptions(weights=folder, box_threshold=0.0, nms_iou=1, cross_nms_iou=1)
    )
    network.load("cpu")
    return network


def test_prompts_are_laid_out_by_token_span() -> None:
    (chunk,) = chunk_prompts([[[7], [8, 9]], [[5]]], 256)
    assert chunk.input_ids == (101, 7, 1012, 8, 9, 1012, 5, 1012, 102)
    spans = [(s.category_index, s.prompt_id, s.start, s.stop) for s in chunk.spans]
    assert spans == [(0, 0, 1, 2), (0, 1, 3, 5), (1, 0, 6, 7)]


def test_long_lists_are_cut_between_prompts() -> None:
    chunks = chunk_prompts([[[index] * 3] for index in range(300)], 256)
    assert max(len(chunk.input_ids) for chunk in chunks) <= 256
    assert [s.category_index for chunk in chunks for s in chunk.spans] == list(range(300))
    with pytest.raises(ModelError, match="exceeds"):
        chunk_prompts([[list(range(300))]], 256)


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (1, 1), (20, 500)])
def test_boxes_are_those_of_the_stock_forward(
    detector: GroundingDino, size: tuple[int, int]
) -> None:
    frame = _frame(*size)
    (found,), evidence = zip(*detector.detect([frame], ONTOLOGY), strict=True)
    ids = detector._tokenizer("car. automobile. person.", return_tensors="pt")["input_ids"]
    pixels = detector._processor(
        images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
    )
    with torch.inference_mode():
        output = detector._network(**pixels, input_ids=ids)
    tokens = output.logits[0].sigmoid().numpy()
    assert evidence == (None,)
    assert ids.shape == (1, 8)
    for row, query in enumerate(found.query_ids):
        car, automobile, person = tokens[query, [1, 3, 5]]
        assert found.class_scores[row].tolist() == pytest.approx([max(car, automobile), person])
        assert found.category_ids[row] == 7  # a person would need 0.9
        assert found.prompt_ids[row] == int(automobile > car)
        cx, cy, w, h = output.pred_boxes[0, query].tolist()
        box = np.array([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2])
        box = np.clip(box, 0, 1) * [size[1], size[0], size[1], size[0]]
        assert found.boxes[row].tolist() == pytest.approx(box.tolist(), abs=1e-2)
    assert np.all(np.diff(found.scores) <= 0)


def test_without_things_the_detector_stays_idle(checkpoints: Path) -> None:
    idle = GroundingDino(GroundingDinoOptions(weights=str(checkpoints)))
    assert len(idle.detect([_frame(5, 5)], NO_THINGS)[0].detections) == 0
    with pytest.raises(ModelError, match="before load"):
        idle.detect([_frame(5, 5)], ONTOLOGY)


def test_overlapping_boxes_are_suppressed(checkpoints: Path, detector: GroundingDino) -> None:
    weights = str(checkpoints / "grounding-dino")
    strict = GroundingDino(
        GroundingDinoOptions(weights=weights, box_threshold=0.0, nms_iou=0.0, max_detections=3)
    )
    strict.load("cpu")
    every = detector.detect([_frame(60, 90)], NO_STUFF)[0].detections
    some = strict.detect([_frame(60, 90)], NO_STUFF)[0].detections
    assert 1 <= len(some) <= 3 < len(every)
    assert some.query_ids[0] == every.query_ids[0]


def test_evidence_travels_beside_the_same_result(detector: GroundingDino) -> None:
    frame = _frame(60, 90)
    plain, none = detector.detect([frame], ONTOLOGY)[0]
    same, evidence = detector.detect([frame], ONTOLOGY, capture=True)[0]
    assert none is None
    assert evidence is not None
    assert np.allclose(plain.boxes, same.boxes, atol=1e-3)
    tokens = " ".join(evidence.tokens)
    assert tokens == "[CLS] car . automobile . person . [SEP]"
    assert evidence.token_weights.shape == (len(same), 8)
    assert np.allclose(evidence.token_weights.sum(axis=1), 1, atol=1e-4)
    assert np.allclose(evidence.point_weights.sum(axis=1), 1, atol=1e-4)
    hooks = detector._network.model.decoder.layers[-1].encoder_attn.attn._forward_pre_hooks
    assert not hooks


# --- segmenter --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def segmenter(checkpoints: Path) -> Sam:
    network = Sam(SamOptions(weights=str(checkpoints / "sam"), prompts_per_pass=2))
    network.load("cpu")
    return network


def _stock(
    segmenter: Sam, frame: Frame, **prompts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, list[np.ndarray]]:
    """Logits, ious and final masks of transformers' own model and post-processing."""
    inputs = segmenter._processor(
        images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
    )
    with torch.inference_mode():
        output = segmenter._network(pixel_values=inputs["pixel_values"], **prompts)
    masks = segmenter._processor.post_process_masks(
        output.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
    )
    return output.pred_masks[0], output.iou_scores[0], [m.numpy() for m in masks]


@pytest.mark.parametrize("size", [(48, 64), (64, 48), (333, 512), (7, 300), (1, 1)])
def test_masks_are_those_of_the_stock_forward(segmenter: Sam, size: tuple[int, int]) -> None:
    frame = _frame(*size)
    height, width = size
    boxes = np.array([[0, 0, width, height], [0, 0, width / 2, height / 3]] * 2, dtype=np.float32)
    boxes = boxes[:3]
    (embedding,) = segmenter.embed([frame])
    found = segmenter.masks(embedding, Prompts(boxes=boxes), multimask=True)
    scale = 256 / max(size)
    resized = [int(edge * scale + 0.5) for edge in size]
    ratio = torch.tensor([resized[1] / width, resized[0] / height] * 2)
    logits, ious, masks = _stock(
        segmenter, frame, input_boxes=torch.from_numpy(boxes)[None] * ratio
    )
    assert np.allclose(found.logits, logits.numpy(), atol=1e-4)
    assert np.allclose(found.ious, np.clip(ious.numpy(), 0, 1), atol=1e-5)
    full = segmenter.upscale(embedding, found.logits[1], size) > 0
    assert full.shape == (3, height, width)
    assert (full != masks[0][1]).mean() < 1e-3


def test_padding_is_nothing_to_the_network(segmenter: Sam) -> None:
    """A prompt's mask does not depend on how many points its neighbours have."""
    frame = _frame(64, 64)
    (embedding,) = segmenter.embed([frame])
    points = np.zeros((4, 3, 2), dtype=np.float32)
    labels = np.full((4, 3), PADDING, dtype=np.int32)
    for row, count in enumerate((2, 3, 1, 2)):
        points[row, :count] = [[8 + row, 8], [40, 9 + row], [20, 50]][:count]
        labels[row, :count] = [1, 0, 1][:count]
    found = segmenter.masks(embedding, Prompts(points=points, labels=labels), multimask=False)
    for row, count in enumerate((2, 3, 1, 2)):
        with torch.inference_mode():
            expected = segmenter._network(
                image_embeddings=torch.from_numpy(embedding.features)[None],
                input_points=torch.from_numpy(points[row, :count])[None, None] * 4,
                input_labels=torch.from_numpy(labels[row, :count].astype(np.int64))[None, None],
                multimask_output=False,
            )
        assert np.allclose(found.logits[row], expected.pred_masks[0, 0].numpy(), atol=1e-4)
        assert found.ious[row] == pytest.approx(float(expected.iou_scores), abs=1e-5)


def test_a_box_may_come_with_points_or_without(segmenter: Sam) -> None:
    (embedding,) = segmenter.embed([_frame(64, 64)])
    boxes = np.array([[4, 4, 30, 40], [10, 8, 60, 50]], dtype=np.float32)
    points = np.array([[[8, 8]], [[0, 0]]], dtype=np.float32)
    labels = np.array([[1], [PADDING]], dtype=np.int32)
    both = segmenter.masks(embedding, Prompts(boxes, points, labels), multimask=True)
    alone = segmenter.masks(embedding, Prompts(boxes), multimask=True)
    assert np.allclose(both.logits[1], alone.logits[1], atol=1e-4)
    assert not np.allclose(both.logits[0], alone.logits[0], atol=1e-4)


def test_each_prompt_sees_its_own_mask(segmenter: Sam) -> None:
    (embedding,) = segmenter.embed([_frame(64, 48)])
    points = np.array([[[8, 8]], [[30, 50]], [[20, 20]]], dtype=np.float32)
    labels = np.ones((3, 1), dtype=np.int32)
    maps = np.random.default_rng(0).normal(size=(3, 64, 48)).astype(np.float32) * 5
    grid = segmenter.to_logit_grid(embedding, maps, fill=-6.0)
    assert grid.shape == (3, 128, 128)
    assert (grid[:, :, 96:] == -6.0).all()
    together = segmenter.masks(embedding, Prompts(None, points, labels, grid), multimask=True)
    for row in range(3):
        one = slice(row, row + 1)
        alone = segmenter.masks(
            embedding, Prompts(None, points[one], labels[one], grid[one]), multimask=True
        )
        assert np.allclose(together.logits[row], alone.logits[0], atol=1e-4)
    other = segmenter.masks(
        embedding, Prompts(None, points, labels, grid[::-1].copy()), multimask=True
    )
    assert not np.allclose(together.logits[0], other.logits[0], atol=1e-4)


def test_no_prompts_give_no_masks(segmenter: Sam) -> None:
    (embedding,) = segmenter.embed([_frame(8, 9)])
    none = Prompts(boxes=np.empty((0, 4), dtype=np.float32))
    assert segmenter.masks(embedding, none, multimask=True).logits.shape == (0, 3, 128, 128)


def test_attention_rows_are_those_of_full_attention(segmenter: Sam) -> None:
    frame = _frame(64, 48)
    (plain,) = segmenter.embed([frame])
    (embedding,) = segmenter.embed([frame], capture=True)
    assert np.allclose(plain.features, embedding.features, atol=1e-5)
    mask = Mask(10, 20, np.ones((8, 12), dtype=bool))
    attended = segmenter.attention(embedding, mask)
    layer = segmenter._network.vision_encoder.layers[-1]
    assert layer.window_size == 0
    from transformers.models.sam.modeling_sam import SamVisionAttention

    hidden = torch.from_numpy(embedding.attention_input)[None]
    with torch.inference_mode():
        _, weights = SamVisionAttention.forward(layer.attn, hidden)
    grid = hidden.shape[1]
    # Pixels 10 to 22 and 20 to 28 of a 64 × 48 image, in cells of 2 × 2.
    rows = [y * grid + x for y in range(10, 14) for x in range(5, 11)]
    full = weights.mean(0)[rows].mean(0).reshape(grid, grid)[:, :24].numpy()
    assert np.allclose(attended, full / full.sum(), atol=5e-8)
    with pytest.raises(ModelError, match="without capture"):
        segmenter.attention(plain, mask)


def test_embeddings_and_logits_are_stored(segmenter: Sam, tmp_path: Path) -> None:
    (embedding,) = segmenter.embed([_frame(30, 40)])
    embedding.save(tmp_path / "embedding.npz")
    again = Embedding.load(tmp_path / "embedding.npz")
    boxes = Prompts(boxes=np.array([[1, 2, 30, 20]], dtype=np.float32))
    logits = segmenter.masks(again, boxes, multimask=True)
    logits.save(tmp_path / "logits.npz")
    stored = MaskLogits.load(tmp_path / "logits.npz")
    direct = segmenter.masks(embedding, boxes, multimask=True)
    assert np.array_equal(stored.logits, direct.logits)


# --- stuff scorer -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scorer(checkpoints: Path) -> ClipSeg:
    network = ClipSeg(ClipSegOptions(weights=str(checkpoints / "clipseg"), prompts_per_pass=2))
    network.load("cpu")
    return network


def test_maps_are_those_of_the_stock_forward(scorer: ClipSeg) -> None:
    frame = _frame(50, 80)
    (scores,) = scorer.score([frame], ONTOLOGY)
    pixels = scorer._processor(
        images=frame.pixels, input_data_format="channels_last", return_tensors="pt"
    )["pixel_values"]
    maps = []
    for prompt in ("sky", "road", "street"):
        tokens = scorer._tokenizer(prompt, return_tensors="pt")
        with torch.inference_mode():
            output = scorer._network(pixel_values=pixels, **tokens)
        maps.append(output.logits[0].sigmoid().numpy())
    sky, road, street = maps
    assert scores.category_ids.tolist() == [9, 4]
    assert np.allclose(scores.probs, [sky, np.maximum(road, street)], atol=1e-6)
    assert scores.prompt_ids.tolist() == [0, int(street.mean() > road.mean())]


def test_texts_are_embedded_once(scorer: ClipSeg, monkeypatch: pytest.MonkeyPatch) -> None:
    scorer.score([_frame(20, 20)], ONTOLOGY)

    def refuse(**_: object) -> None:
        raise AssertionError("a text was embedded twice")

    monkeypatch.setattr(scorer._network.clip, "get_text_features", refuse)
    assert len(scorer.score([_frame(20, 20), _frame(9, 30)], ONTOLOGY)) == 2


def test_without_stuff_the_scorer_stays_idle() -> None:
    idle = ClipSeg(ClipSegOptions())
    assert len(idle.score([_frame(5, 5)], NO_STUFF)[0]) == 0
    with pytest.raises(ModelError, match="before load"):
        idle.score([_frame(5, 5)], ONTOLOGY)


# --- weights and registry ---------------------------------------------------------------------


def test_every_kind_exists_and_lists_itself() -> None:
    for role in ROLES:
        assert [types.model_fields["kind"].default for types in option_types(role)] == list(
            kinds(role)
        )


def test_listing_models_imports_no_torch() -> None:
    code = (
        "import sys; from prelabel.models.registry import ROLES, option_types; "
        "[option_types(role) for role in ROLES]; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_an_unknown_kind_lists_the_known() -> None:
    class Unknown(NetworkOptions):
        kind: str = "yolo"

    with pytest.raises(ConfigError, match="known kinds are: grounding-dino"):
        create_detector(Unknown())


def test_missing_weights_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        find_weights("sam", NetworkOptions(weights=str(tmp_path / "none")))
    with pytest.raises(ConfigError, match=r"lacks config.json"):
        find_weights("sam", NetworkOptions(weights=str(tmp_path)))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"no .safetensors file"):
        find_weights("sam", NetworkOptions(weights=str(tmp_path)))


def test_a_hub_id_without_a_network_names_both_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match=r"Either connect .* or run `hf download") as caught:
        find_weights("sam", NetworkOptions(weights="facebook/sam-vit-base"))
    assert "facebook/sam-vit-base" in str(caught.value)
    with pytest.raises(ConfigError, match="neither an existing folder nor a hub id"):
        find_weights("sam", NetworkOptions(weights="a/b/c/d"))


def test_weights_of_another_network_are_refused(checkpoints: Path) -> None:
    from transformers import SamModel

    with pytest.raises(ModelError, match="SamModel"):
        load_network(SamModel, checkpoints / "clipseg", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_device_is_told(checkpoints: Path) -> None:
    from transformers import SamModel

    with pytest.raises(ModelError, match="use device cpu"):
        load_network(SamModel, checkpoints / "sam", "cuda")
