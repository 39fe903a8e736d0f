"""The loop that all three demo networks are trained with.

Every step is a pure function of (options, step): its random generator is seeded from both, and the
learning rate is computed from the step. A resumed training therefore equals an uninterrupted one.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from prelabel.errors import ModelError

__all__ = ["LoopOptions", "Task", "export_network", "learning_rate", "load_ema", "train"]

_LOG = logging.getLogger(__name__)
_CHECKPOINT = "checkpoint.pt"


class Task(Protocol):
    """One network and what it has to learn.

    `losses` draws its own batch with `rng` and nothing else that is random (torch's generator is
    seeded too), and returns the parts of the loss, scalars that are summed. `progress` in [0, 1) is
    the part of the training that is done. `evaluate` returns figures on the validation split of a
    network with the averaged weights. `export` writes such a network as a `from_pretrained` folder.
    """

    network: nn.Module

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]: ...

    def evaluate(self, network: nn.Module) -> Mapping[str, float]: ...

    def export(self, network: nn.Module, folder: Path) -> None: ...


@dataclass(frozen=True, slots=True)
class LoopOptions:
    """How long and how fast.

    Attributes:
        steps: of the optimiser.
        rate: the highest learning rate, reached after `warmup` (a fraction of the steps), then
            falling along a half cosine to `final` times itself.
        decay: of AdamW, on matrices only: biases and norms are left alone.
        clip: largest norm of the gradient.
        average: decay of the moving average of the weights, per step.
        seed: of everything that is random.
        log_every, evaluate_every: steps.
        save_every: seconds between checkpoints; exports happen at the same time.
    """

    steps: int
    rate: float = 1e-3
    warmup: float = 0.05
    final: float = 0.01
    decay: float = 1e-4
    clip: float = 1.0
    average: float = 0.998
    seed: int = 0
    log_every: int = 20
    evaluate_every: int = 500
    save_every: float = 180.0


def learning_rate(step: int, options: LoopOptions) -> float:
    """Linear warm-up, then half a cosine."""
    done = step / max(options.steps, 1)
    if done < options.warmup:
        return options.rate * (done + 1 / options.steps) / (options.warmup + 1 / options.steps)
    along = min((done - options.warmup) / max(1 - options.warmup, 1e-9), 1.0)
    low = options.rate * options.final
    return low + (options.rate - low) * 0.5 * (1 + math.cos(math.pi * along))


def train(
    task: Task,
    options: LoopOptions,
    folder: Path,
    *,
    resume: bool = False,
    optimiser: Callable[[nn.Module, LoopOptions], Any] | None = None,
) -> nn.Module:
    """Train `task.network` in place and return a copy with the averaged weights.

    `folder` receives `checkpoint.pt`, `log.txt` and `export/` (a `from_pretrained` folder).
    `optimiser` makes another one than AdamW.

    Raises:
        ModelError: `resume` finds no checkpoint, or the loss is no longer a number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state = _State(task.network, options, optimiser)
    if resume:
        state.load(folder / _CHECKPOINT)
    saved = time.monotonic()
    with (folder / "log.txt").open("a" if resume else "w") as log:
        for parts in _steps(task, state, options):
            step = state.step
            last = step == options.steps
            if step % options.log_every == 0 or last:
                _write(log, step, parts)
            if last or step % options.evaluate_every == 0:
                _write(log, step, {"evaluation": 1.0, **task.evaluate(state.averaged)})
            if last or time.monotonic() - saved > options.save_every:
                state.save(folder / _CHECKPOINT)
                task.export(state.averaged, folder / "export")
                saved = time.monotonic()
    return state.averaged


def load_ema(network: nn.Module, folder: Path) -> int:
    """Load the averaged weights of the checkpoint in `folder`; return its step."""
    content = _read(folder / _CHECKPOINT)
    network.load_state_dict(content["averaged"])
    return int(content["step"])


def export_network(network: nn.Module, folder: Path) -> None:
    """Write a transformers network as float16 safetensors with its config, file by file atomically.

    The config names float32 all the same, so that `from_pretrained` widens on loading: half
    precision is a way to store here, not to compute.
    """
    part = folder.with_name(f".{folder.name}-{os.getpid()}.part")
    half: Any = copy.deepcopy(network).half()
    half.save_pretrained(part)
    config = copy.deepcopy(half.config)
    config.dtype = "float32"
    config.save_pretrained(part)
    folder.mkdir(parents=True, exist_ok=True)
    for path in sorted(part.iterdir()):
        path.chmod(0o644)
        path.replace(folder / path.name)
    part.rmdir()


def _adamw(network: nn.Module, options: LoopOptions) -> torch.optim.Optimizer:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": options.decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))


class _State:
    """Everything a checkpoint holds: weights, their average, the optimiser and the step."""

    def __init__(
        self,
        network: nn.Module,
        options: LoopOptions,
        optimiser: Callable[[nn.Module, LoopOptions], Any] | None = None,
    ) -> None:
        self.network = network
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)
        self.trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        self.optimiser: Any = (optimiser or _adamw)(network, options)
        self.step = 0
        self.norm = 0.0

    def update(self, options: LoopOptions) -> None:
        """One step of the optimiser and of the average, from the gradients at hand."""
        self.norm = float(nn.utils.clip_grad_norm_(self.trained, options.clip))
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, options)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        decay = min(options.average, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            # A state dict lists a tied weight twice; averaging it twice would be another decay.
            pairs = {
                id(mean): (mean, now)
                for mean, now in zip(
                    self.averaged.state_dict(keep_vars=True).values(),
                    self.network.state_dict(keep_vars=True).values(),
                    strict=True,
                )
            }
            for mean, now in pairs.values():
                if mean.is_floating_point():
                    mean.lerp_(now.detach(), 1 - decay)
                else:
                    mean.copy_(now)

    def save(self, path: Path) -> None:
        part = path.with_name(f".{path.name}.part")
        content = {
            "step": self.step,
            "network": self.network.state_dict(),
            "averaged": self.averaged.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(content, part)
        part.replace(path)

    def load(self, path: Path) -> None:
        content = _read(path)
        self.network.load_state_dict(content["network"])
        self.averaged.load_state_dict(content["averaged"])
        self.optimiser.load_state_dict(content["optimiser"])
        self.step = content["step"]


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ModelError(f"{path} does not exist; train without --resume first")
    content: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return content


def _steps(task: Task, state: _State, options: LoopOptions) -> Iterator[dict[str, float]]:
    started, first = time.monotonic(), state.step
    while state.step < options.steps:
        torch.manual_seed(options.seed * 1_000_003 + state.step)
        rng = np.random.default_rng((options.seed, state.step))
        task.network.train()
        parts = task.losses(rng, state.step / options.steps)
        loss = torch.stack(list(parts.values())).sum()
        if not torch.isfinite(loss):
            raise ModelError(
                f"the loss at step {state.step} is {float(loss.detach())}; resume with a lower rate"
            )
        loss.backward()  # type: ignore[no-untyped-call]
        state.update(options)
        seconds = (time.monotonic() - started) / (state.step - first)
        yield {
            "loss": float(loss.detach()),
            **{name: float(value.detach()) for name, value in parts.items()},
            "norm": state.norm,
            "rate": learning_rate(state.step, options),
            "seconds": seconds,
        }


def _write(log: Any, step: int, figures: Mapping[str, float]) -> None:
    line = f"{step:6d} " + " ".join(f"{name}={value:.4g}" for name, value in figures.items())
    log.write(line + "\n")
    log.flush()
    _LOG.info(line)
