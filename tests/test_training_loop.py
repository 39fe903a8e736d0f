"""The training loop: resumed equals uninterrupted, what is exported loads by from_pretrained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from prelabel.demo.training.loop import (
    LoopOptions,
    export_network,
    learning_rate,
    load_ema,
    train,
)
from prelabel.errors import ModelError

OPTIONS = LoopOptions(steps=4, rate=0.1, warmup=0.25, log_every=1, evaluate_every=2)


class LineTask:
    """Learn y = 2x − 1 from noisy points; dropout makes torch's own generator matter."""

    def __init__(self, broken_at: int | None = None) -> None:
        torch.manual_seed(5)
        self.network: nn.Module = nn.Sequential(nn.Linear(1, 4), nn.Dropout(0.5), nn.Linear(4, 1))
        self.broken_at, self.calls = broken_at, 0

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        if self.calls == self.broken_at:
            raise KeyboardInterrupt
        self.calls += 1
        x = torch.from_numpy(rng.normal(size=(8, 1)).astype(np.float32))
        return {"square": (self.network(x) - (2 * x - 1)).square().mean()}

    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        with torch.no_grad():
            return {"error": float((network(torch.ones(1, 1)) - 1).abs())}

    def export(self, network: nn.Module, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in network.parameters()]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = LineTask()
    expected = train(whole, OPTIONS, tmp_path / "whole")

    often = replace(OPTIONS, save_every=-1.0)
    with pytest.raises(KeyboardInterrupt):
        train(LineTask(broken_at=2), often, tmp_path / "parts")
    second = LineTask()
    resumed = train(second, often, tmp_path / "parts", resume=True)

    assert second.calls == 2
    for one, other in zip(weights(whole.network), weights(second.network), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(weights(expected), weights(resumed), strict=True):
        assert torch.equal(one, other)


def test_the_average_lags_behind_the_weights_and_is_what_load_ema_reads(tmp_path: Path) -> None:
    task = LineTask()
    averaged = train(task, OPTIONS, tmp_path)
    assert not torch.equal(weights(averaged)[0], weights(task.network)[0])
    fresh = LineTask().network
    assert load_ema(fresh, tmp_path) == OPTIONS.steps
    assert torch.equal(weights(fresh)[0], weights(averaged)[0])


def test_the_log_has_a_line_per_step_and_the_evaluations(tmp_path: Path) -> None:
    train(LineTask(), OPTIONS, tmp_path)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [int(line.split()[0]) for line in lines] == [1, 2, 2, 3, 4, 4]
    assert sum("error=" in line for line in lines) == 2


def test_the_learning_rate_rises_then_falls() -> None:
    options = LoopOptions(steps=100, rate=1.0, warmup=0.1, final=0.0)
    rates = [learning_rate(step, options) for step in range(101)]
    assert rates[0] == pytest.approx(1 / 11)
    assert max(rates) == rates[10] == pytest.approx(1.0)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100] == pytest.approx(0.0)


def test_a_loss_that_is_no_number_stops_the_training(tmp_path: Path) -> None:
    class Lost(LineTask):
        def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
            return {"square": super().losses(rng, progress)["square"] * float("nan")}

    with pytest.raises(ModelError, match="step 0 is nan"):
        train(Lost(), OPTIONS, tmp_path)


def test_resuming_without_a_checkpoint_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="train without --resume"):
        train(LineTask(), OPTIONS, tmp_path, resume=True)


def test_an_export_is_stored_in_half_and_loads_in_full_precision(tmp_path: Path) -> None:
    config = BertConfig(
        vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    network = BertModel(config)
    export_network(network, tmp_path / "bert")
    assert sorted(path.name for path in (tmp_path / "bert").iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]
    loaded = BertModel.from_pretrained(tmp_path / "bert")
    assert loaded.dtype == torch.float32
    for one, other in zip(network.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(one.half().float(), other)
