"""MM-Grounding-DINO through the same shell, against transformers' own forward."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    GroundingDinoImageProcessorPil,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    SwinConfig,
)

from prelabel.config import load_config
from prelabel.data import Category, Frame, ImageRecord, Ontology
from prelabel.demo.networks import build_detector
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.models.mm_grounding_dino import MmGroundingDino, MmGroundingDinoOptions
from prelabel.models.weights import quiet_transformers
from prelabel.pipeline import Pipeline

ONTOLOGY = Ontology((Category(1, "car", True, ("car", "automobile")), Category(2, "person", True)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mm-grounding-dino")
    words = build_bert_tokenizer(["car", "person"])
    plain = build_detector(words).config.to_dict()
    kept = ("d_model", "encoder_layers", "decoder_layers", "encoder_ffn_dim", "decoder_ffn_dim")
    kept += ("encoder_attention_heads", "decoder_attention_heads", "num_queries", "max_text_len")
    config = MMGroundingDinoConfig(
        backbone_config=SwinConfig(**plain["backbone_config"]),
        text_config=plain["text_config"],
        **{name: plain[name] for name in kept},
    )
    torch.manual_seed(0)
    network = MMGroundingDinoForObjectDetection(config).eval()
    sizes = {"shortest_edge": 96, "longest_edge": 128}
    with quiet_transformers():
        for part in (network, words, GroundingDinoImageProcessorPil(size=sizes)):
            part.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("size", [(60, 90), (90, 60), (1, 1)])
def test_boxes_are_those_of_the_stock_forward(weights: Path, size: tuple[int, int]) -> None:
    options = MmGroundingDinoOptions(
        weights=str(weights), box_threshold=0.0, nms_iou=1, cross_nms_iou=1
    )
    detector = MmGroundingDino(options)
    detector.load("cpu")
    pixels = np.random.default_rng(1).integers(0, 256, (*size, 3), dtype=np.uint8)
    ((found, evidence),) = detector.detect(
        [Frame(ImageRecord("a", ""), pixels)], ONTOLOGY, capture=True
    )
    ids = detector._tokenizer("car. automobile. person.", return_tensors="pt")["input_ids"]
    inputs = detector._processor(
        images=pixels, input_data_format="channels_last", return_tensors="pt"
    )
    with torch.inference_mode():
        output = detector._network(**inputs, input_ids=ids)
    tokens = output.logits[0].sigmoid().numpy()
    for row, query in enumerate(found.query_ids):
        car, automobile, person = tokens[query, [1, 3, 5]]
        assert found.class_scores[row].tolist() == pytest.approx([max(car, automobile), person])
    assert evidence is not None
    assert evidence.token_weights.shape == (len(found), 8)
    assert np.allclose(evidence.point_weights.sum(axis=1), 1, atol=1e-4)


def test_a_config_can_choose_it(weights: Path) -> None:
    config = load_config(
        "configs/demo.yaml",
        ["detect.kind=mm-grounding-dino", f"detect.weights={weights}", "detect.box_threshold=0"],
    )
    frame = Frame(ImageRecord("a", ""), np.full((64, 80, 3), 90, dtype=np.uint8))
    (labelled,) = Pipeline.from_config(config, device="cpu").run([frame])
    assert labelled.label.id_map.shape == (64, 80)
