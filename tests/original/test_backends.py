"""The authors' packages as backends: both in a few layers, GroundingDINO on small images."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelabel.bench.parity import largest_difference
from prelabel.config import load_config
from prelabel.data import Category, Frame, ImageRecord, Mask, Ontology
from prelabel.demo.scenes import draw_scene
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.errors import ModelError
from prelabel.models.conversion import convert_checkpoint
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.original import groundingdino, segment_anything
from prelabel.models.original.groundingdino import (
    GroundingDinoOriginal,
    GroundingDinoOriginalOptions,
)
from prelabel.models.original.segment_anything import (
    SegmentAnythingOriginal,
    SegmentAnythingOriginalOptions,
)
from prelabel.models.original.shims import (
    build_groundingdino,
    import_groundingdino,
    import_segment_anything,
    quiet_authors,
)
from prelabel.models.roles import PADDING, Prompts
from prelabel.models.sam import Sam, SamOptions
from prelabel.pipeline import Pipeline

ROOT = Path(__file__).parent.parent.parent
PIXELS = draw_scene("heldout", 1, 0).pixels
PORTRAIT = Frame(ImageRecord("portrait", ""), PIXELS)
LANDSCAPE = Frame(ImageRecord("landscape", ""), PIXELS.swapaxes(0, 1).copy())
SIZE = {"shortest_edge": 96, "longest_edge": 160}
"""Of the images that GroundingDINO sees here: some 200 places for its 100 queries."""
THINGS = Ontology(
    (
        Category(7, "car", True, ("car", "sports car")),
        Category(2, "person", True),
        Category(4, "traffic light", True),
    )
)
MANY = Ontology(tuple(Category(i + 1, f"{'tall ' * 40}{i}", True) for i in range(8)))
"""Some 340 tokens, which take two prompt lists."""


def test_torchvision_stays_away() -> None:
    from transformers.utils import is_torchvision_available

    import_segment_anything()
    assert not is_torchvision_available()


# --- SAM ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sam_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a SAM in two layers, 96 wide, which the package then knows how to build."""
    import_segment_anything()
    # Not by attribute: the package has a function of that name too.
    building = importlib.import_module("segment_anything.build_sam")
    build = partial(
        building._build_sam,
        encoder_embed_dim=96,
        encoder_depth=2,
        encoder_num_heads=3,
        encoder_global_attn_indexes=[1],
    )
    building.sam_model_registry["narrow"] = build
    segment_anything._SIZES[96] = "narrow"
    torch.manual_seed(0)
    model = build()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.02)
    file = tmp_path_factory.mktemp("sam") / "narrow.pth"
    torch.save(model.state_dict(), file)
    return file


@pytest.fixture(scope="module")
def segmenter(sam_file: Path) -> SegmentAnythingOriginal:
    network = SegmentAnythingOriginal(SegmentAnythingOriginalOptions(weights=str(sam_file)))
    network.load("cpu")
    return network


@pytest.mark.parametrize("frame", [PORTRAIT, LANDSCAPE], ids=lambda frame: frame.record.image_id)
@pytest.mark.parametrize("multimask", [False, True])
def test_masks_are_those_of_the_predictor(
    segmenter: SegmentAnythingOriginal, sam_file: Path, frame: Frame, multimask: bool
) -> None:
    package = import_segment_anything()
    predictor = package.SamPredictor(package.sam_model_registry["narrow"](checkpoint=str(sam_file)))
    predictor.set_image(frame.pixels)
    (embedding,) = segmenter.embed([frame])
    boxes = np.array([[10, 20, 120, 140], [0, 0, 200, 200]], dtype=np.float32)
    points = np.array([[[30, 40], [90, 60]], [[50, 90], [0, 0]]], dtype=np.float32)
    labels = np.array([[1, 0], [1, PADDING]], dtype=np.int32)
    for prompts in (
        Prompts(boxes=boxes),
        Prompts(boxes, points, labels),
        Prompts(None, points, labels),
    ):
        found = segmenter.masks(embedding, prompts, multimask=multimask)
        for row, real in enumerate((slice(None), slice(1))):
            full, ious, logits = predictor.predict(
                box=None if prompts.boxes is None else boxes[row],
                point_coords=None if prompts.points is None else points[row, real],
                point_labels=None if prompts.labels is None else labels[row, real],
                multimask_output=multimask,
                return_logits=True,
            )
            assert largest_difference(found.logits[row], logits) <= 1e-4
            assert largest_difference(found.ious[row], np.clip(ious, 0, 1)) <= 1e-5
            masks = segmenter.upscale(embedding, found.logits[row], frame.size)
            assert largest_difference(masks, full) <= 1e-4


def test_sam_is_transformers_sam_on_the_converted_weights(
    segmenter: SegmentAnythingOriginal, sam_file: Path, tmp_path: Path
) -> None:
    convert_checkpoint(sam_file, tmp_path / "sam", "")
    ours = Sam(SamOptions(weights=str(tmp_path / "sam")))
    ours.load("cpu")
    (theirs,), (same,) = segmenter.embed([PORTRAIT]), ours.embed([PORTRAIT])
    assert largest_difference(theirs.features, same.features) <= 1e-4
    assert theirs.size.tolist() == same.size.tolist()
    assert theirs.input_size.tolist() == same.input_size.tolist()
    boxes = np.array([[10, 20, 120, 140]], dtype=np.float32)
    masks = np.linspace(-4, 4, 256 * 256, dtype=np.float32).reshape(1, 256, 256)
    for prompts in (Prompts(boxes=boxes), Prompts(boxes=boxes, masks=masks)):
        a = segmenter.masks(theirs, prompts, multimask=True)
        b = ours.masks(same, prompts, multimask=True)
        assert largest_difference(a.logits, b.logits) <= 1e-4
        assert largest_difference(a.ious, b.ious) <= 1e-5


def test_sam_without_prompts_or_attention(segmenter: SegmentAnythingOriginal) -> None:
    (embedding,) = segmenter.embed([PORTRAIT], capture=True)
    assert embedding.attention_input.size == 0
    with pytest.raises(ModelError, match="holds no attention"):
        segmenter.attention(embedding, Mask.from_full(np.ones(PORTRAIT.size, dtype=bool)))
    none = Prompts(boxes=np.zeros((0, 4), dtype=np.float32))
    assert segmenter.masks(embedding, none, multimask=True).logits.shape == (0, 3, 256, 256)


def test_a_checkpoint_of_another_size_is_told(sam_file: Path, tmp_path: Path) -> None:
    tensors = torch.load(sam_file, weights_only=True)
    other = tmp_path / "other.pth"
    for name, told in (
        ("image_encoder.blocks.1.norm1.weight", "1 tensors are missing and 0 are unknown"),
        ("image_encoder.pos_embed", "it lacks image_encoder.pos_embed"),
    ):
        torch.save({key: value for key, value in tensors.items() if key != name}, other)
        with pytest.raises(ModelError, match=told):
            SegmentAnythingOriginal(SegmentAnythingOriginalOptions(weights=str(other))).load("cpu")
    torch.save({**tensors, "image_encoder.pos_embed": torch.zeros(1, 64, 64, 5)}, other)
    with pytest.raises(ModelError, match=r"5 channels.*take kind: sam"):
        SegmentAnythingOriginal(SegmentAnythingOriginalOptions(weights=str(other))).load("cpu")


# --- GroundingDINO ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short_config() -> Iterator[None]:
    """The package's config with fewer layers and queries."""
    config = import_groundingdino("groundingdino.config.GroundingDINO_SwinT_OGC")
    few = {"enc_layers": 2, "dec_layers": 2, "num_queries": 100, "dim_feedforward": 128}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in few.items():
            patch.setattr(config, name, value)
        yield


@pytest.fixture(scope="module")
def dino_folder(short_config: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`swint.pth` with a small BERT, its `tokenizer`, and both `converted`."""
    from transformers import BertConfig, GroundingDinoImageProcessorPil

    folder = tmp_path_factory.mktemp("dino")
    tokenizer: Any = build_bert_tokenizer()
    text = {"hidden_size": 64, "num_attention_heads": 1, "intermediate_size": 64}
    torch.manual_seed(0)
    network = build_groundingdino(
        "GroundingDINO_SwinT_OGC",
        tokenizer,
        BertConfig(**text, num_hidden_layers=1, vocab_size=len(tokenizer)),
    )
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if "bbox_embed" in name and name.endswith("layers.2.weight"):
                parameter.normal_(std=0.02)
            elif name.endswith((".gamma_v", ".gamma_l")):
                parameter.fill_(0.3)
    torch.save({"model": network.state_dict()}, folder / "swint.pth")
    tokenizer.save_pretrained(folder / "tokenizer")
    convert_checkpoint(folder / "swint.pth", folder / "converted", str(folder / "tokenizer"))
    GroundingDinoImageProcessorPil(size=SIZE).save_pretrained(folder / "converted")
    return folder


@pytest.fixture(scope="module")
def options(dino_folder: Path) -> GroundingDinoOriginalOptions:
    return GroundingDinoOriginalOptions(
        weights=str(dino_folder / "swint.pth"),
        tokenizer=str(dino_folder / "tokenizer"),
        box_threshold=0.0,
        nms_iou=1,
        cross_nms_iou=1,
        max_detections=100,
    )


@pytest.fixture(scope="module")
def detector(options: GroundingDinoOriginalOptions) -> GroundingDinoOriginal:
    network = GroundingDinoOriginal(options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(groundingdino, "_SHORTEST", SIZE["shortest_edge"])
        patch.setattr(groundingdino, "_LONGEST", SIZE["longest_edge"])
        network.load("cpu")
    return network


def _authors(options: GroundingDinoOriginalOptions, detector: GroundingDinoOriginal) -> Any:
    """Their network with their use of a tokenizer, around the same weights."""
    network = build_groundingdino(
        "GroundingDINO_SwinT_OGC", detector._tokenizer, detector._network._network.bert.config
    )
    state = torch.load(options.weights, weights_only=True)["model"]
    network.load_state_dict(state)
    return network


def test_boxes_are_those_of_the_authors_forward_with_a_caption(
    options: GroundingDinoOriginalOptions, detector: GroundingDinoOriginal
) -> None:
    ((found, evidence),) = detector.detect([PORTRAIT], THINGS, capture=True)
    assert evidence is None
    pixels = detector._prepare(PORTRAIT.pixels).pixels
    with torch.inference_mode(), quiet_authors():
        output = _authors(options, detector)(
            pixels, captions=["car . sports car . person . traffic light ."]
        )
    ids = detector._tokenizer("car . sports car . person . traffic light .")["input_ids"]
    words = detector._tokenizer.convert_ids_to_tokens(ids)
    assert words.index("person") > words.index("car")
    probs = output["pred_logits"][0].sigmoid().numpy()
    person, lights = words.index("person"), words.index("traffic")
    assert len(found) > 50
    for row, query in enumerate(found.query_ids[:50]):
        assert found.class_scores[row, 1] == pytest.approx(probs[query, person], abs=1e-6)
        last = len(words) - 2
        mean = probs[query, lights:last].mean()
        assert found.class_scores[row, 2] == pytest.approx(mean, abs=1e-6)
        cx, cy, w, h = output["pred_boxes"][0, query].tolist()
        box = np.clip([cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], 0, 1)
        height, width = PORTRAIT.size
        assert found.boxes[row] == pytest.approx(box * [width, height, width, height], abs=1e-2)


def test_images_are_resized_by_the_authors_rule(detector: GroundingDinoOriginal) -> None:
    sizes = {}
    for height, width in ((300, 400), (400, 300), (100, 1000), (96, 96)):
        frame = np.zeros((height, width, 3), dtype=np.uint8)
        sizes[height, width] = tuple(detector._prepare(frame).pixels.shape)
    assert sizes == {
        (300, 400): (1, 3, 96, 128),
        (400, 300): (1, 3, 128, 96),
        (100, 1000): (1, 3, 16, 160),
        (96, 96): (1, 3, 96, 96),
    }
    grey = detector._prepare(np.full((96, 96, 3), 51, dtype=np.uint8)).pixels
    assert grey[0, :, 7, 9].tolist() == pytest.approx(
        [(0.2 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    )


def test_detections_are_transformers_on_the_converted_weights(
    detector: GroundingDinoOriginal, dino_folder: Path
) -> None:
    ours = GroundingDino(
        GroundingDinoOptions(
            weights=str(dino_folder / "converted"),
            **detector.options.model_dump(
                include={"box_threshold", "nms_iou", "cross_nms_iou", "max_detections"}
            ),
        )
    )
    ours.load("cpu")
    square = Frame(ImageRecord("square", ""), PIXELS[:192, :192].copy())
    (theirs,), (same,) = detector.detect([square], THINGS), ours.detect([square], THINGS)
    a, b = theirs.detections, same.detections
    rank = {int(query): row for row, query in enumerate(b.query_ids)}
    rows = [row for row, query in enumerate(a.query_ids) if int(query) in rank]
    pairs = [rank[int(a.query_ids[row])] for row in rows]
    scores = np.abs(a.class_scores[rows] - b.class_scores[pairs]).max(axis=1)
    edges = np.abs(a.boxes[rows] - b.boxes[pairs]).max(axis=1)
    # A tie between places, or a box at the border, may make a few queries others.
    assert np.mean((scores < 1e-3) & (edges < 0.1)) > 0.95
    assert len(rows) > 0.95 * max(len(a), len(b))


def test_texts_are_encoded_once_per_job_and_images_once(
    detector: GroundingDinoOriginal,
) -> None:
    calls: list[str] = []
    network = detector._network._network
    # Below what is asked anew each time and answers from memory.
    modules = {"image": network.backbone[0], "text": network.bert.encoder}
    handles = [
        module.register_forward_hook(lambda *_args, name=name: calls.append(name))
        for name, module in modules.items()
    ]
    detector.detect([PORTRAIT], MANY)
    detector.detect([LANDSCAPE], MANY)
    for handle in handles:
        handle.remove()
    assert calls == ["text", "image", "text", "image"]


def test_two_images_at_once_are_each_alone(detector: GroundingDinoOriginal) -> None:
    flipped = Frame(ImageRecord("flipped", ""), PIXELS[:, ::-1].copy())
    together = detector.detect([PORTRAIT, flipped], THINGS)
    for frame, found in zip((PORTRAIT, flipped), together, strict=True):
        (alone,) = detector.detect([frame], THINGS)
        best = alone.detections.scores[:20]
        assert found.detections.scores[:20] == pytest.approx(best, abs=1e-3)


def test_a_tokenizer_with_other_separators_is_refused(
    options: GroundingDinoOriginalOptions, tmp_path: Path
) -> None:
    from transformers import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", "car"]
    BertTokenizer(vocab={word: index for index, word in enumerate(words)}).save_pretrained(tmp_path)
    other = options.model_copy(update={"tokenizer": str(tmp_path)})
    with pytest.raises(ModelError, match="numbers its separators otherwise"):
        GroundingDinoOriginal(other).load("cpu")


# --- together -----------------------------------------------------------------------------------


def test_the_pipeline_runs_on_both(
    options: GroundingDinoOriginalOptions, sam_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groundingdino, "_SHORTEST", SIZE["shortest_edge"])
    monkeypatch.setattr(groundingdino, "_LONGEST", SIZE["longest_edge"])
    config = load_config(
        ROOT / "configs" / "original.yaml",
        [
            f"detect.weights={options.weights}",
            f"detect.tokenizer={options.tokenizer}",
            "detect.box_threshold=0.0",
            "detect.max_detections=2",
            f"segment.weights={sam_file}",
            "stuff={weights: embedded}",
            "merge.min_score=0.0",
        ],
    )
    result = Pipeline.from_config(config, device="cpu").run([PORTRAIT], explain=True)[0]
    assert result.label.size == PORTRAIT.size
    assert len(result.explanations) == len(result.label.segments)
    for reason in result.explanations:
        assert not {"attention", "sampling"} & set(reason.heatmaps)
