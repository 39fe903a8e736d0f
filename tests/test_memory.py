"""Texts are encoded once per job and images once per prompt list, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from prelabel.data import Category, Frame, ImageRecord, Ontology
from prelabel.errors import ModelError
from prelabel.models.grounding_dino import GroundingDino, GroundingDinoOptions
from prelabel.models.memory import answer_once, remember

MANY = Ontology(tuple(Category(index, f"thing {index}", True) for index in range(1, 100)))


class Counted(torch.nn.Module):
    """Adds one, and counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, value: torch.Tensor) -> list[torch.Tensor]:
        self.calls += 1
        return [value + 1]


def test_answers_are_kept_by_their_question() -> None:
    module = Counted()
    answers = remember(module, lambda value: float(value))
    one, two = torch.tensor(1.0), torch.tensor(2.0)
    assert [float(module(value)[0]) for value in (one, two, one, two)] == [2, 3, 2, 3]
    assert module.calls == 2
    answers.clear()
    assert float(module(one)[0]) == 2
    assert module.calls == 3


def test_within_the_block_the_first_answer_stands() -> None:
    module = Counted()
    with answer_once(module, list):
        first = module(torch.tensor(1.0))
        first.append(torch.tensor(9.0))
        assert module(torch.tensor(5.0)) == [torch.tensor(2.0)]
    assert module.calls == 1
    assert module(torch.tensor(5.0)) == [torch.tensor(6.0)]


def test_one_image_encoding_serves_all_prompt_lists(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    detector = GroundingDino(
        GroundingDinoOptions(weights=str(checkpoints / "grounding-dino"), box_threshold=0.0)
    )
    detector.load("cpu")
    model = detector._network.model
    calls = {"image": 0, "text": 0}
    encode = model.backbone.conv_encoder.forward
    read = model.text_backbone.encoder.forward

    def count(name: str, forward: object) -> object:
        def counted(*args: object, **kwargs: object) -> object:
            calls[name] += 1
            return forward(*args, **kwargs)  # type: ignore[operator]

        return counted

    monkeypatch.setattr(model.backbone.conv_encoder, "forward", count("image", encode))
    monkeypatch.setattr(model.text_backbone.encoder, "forward", count("text", read))
    frames = [
        Frame(ImageRecord(str(seed), ""), np.full((40, 60, 3), 50 * seed, dtype=np.uint8))
        for seed in range(3)
    ]
    for frame in frames:
        detector.detect([frame], MANY)
    chunks = detector._prompt_chunks(MANY.things)
    assert len(chunks) >= 2
    assert calls == {"image": 3, "text": len(chunks)}
    assert (
        f"{len(chunks)} lists of at most 256 tokens, which begin at thing 1, thing" in caplog.text
    )


def test_a_prompt_without_a_token_is_refused(
    checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    detector = GroundingDino(GroundingDinoOptions(weights=str(checkpoints / "grounding-dino")))
    detector.load("cpu")
    odd = Ontology((Category(1, "\u200b\u200d", True),))
    frame = Frame(ImageRecord("a", ""), np.zeros((20, 20, 3), dtype=np.uint8))
    with pytest.raises(ModelError, match="has no token in the detector's vocabulary"):
        detector.detect([frame], odd)
