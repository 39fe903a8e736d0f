"""Two optimisers as one: Muon for the matrices inside the transformers, AdamW for all else.

Muon (Jordan et al. 2024) makes each update of a matrix orthogonal. A vision transformer of this
size gets about as far in half the steps, and steps are what a training on one core lacks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from prelabel.demo.training.loop import LoopOptions

__all__ = ["MatrixOptimiser"]

_FASTER = 2.0
"""Rate of the matrices, as a multiple of the rate of all else."""


class MatrixOptimiser:
    """What `loop.train` asks of an optimiser; the learning rates stand in `param_groups`."""

    def __init__(
        self,
        network: nn.Module,
        options: LoopOptions,
        is_inner: Callable[[str, nn.Parameter], bool] | None = None,
    ) -> None:
        """`is_inner` tells Muon's matrices by name; by default those of the segmenter."""
        chosen = is_inner or _is_inner
        named = [(n, p) for n, p in network.named_parameters() if p.requires_grad]
        inner = [p for n, p in named if chosen(n, p)]
        rest = [p for n, p in named if not chosen(n, p)]
        self._muon = torch.optim.Muon(
            inner,
            lr=options.rate,
            weight_decay=options.decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
        )
        groups = [
            {"params": [p for p in rest if p.ndim > 1], "weight_decay": options.decay},
            {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(groups, lr=options.rate, betas=(0.9, 0.98))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The groups of both."""
        return [*self._muon.param_groups, *self._adam.param_groups]

    def step(self) -> None:
        """Update all parameters that have a gradient."""
        group = self._muon.param_groups[0]
        rate = group["lr"]
        group["lr"] = rate * _FASTER
        muon: Any = self._muon
        muon.step()
        group["lr"] = rate
        self._adam.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradients."""
        self._muon.zero_grad(set_to_none=set_to_none)
        self._adam.zero_grad(set_to_none=set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """The states of both."""
        return {"muon": self._muon.state_dict(), "adam": self._adam.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._muon.load_state_dict(state["muon"])
        self._adam.load_state_dict(state["adam"])


def _is_inner(name: str, parameter: nn.Parameter) -> bool:
    """Matrices of attention and perceptrons; not embeddings, positions, heads or convolutions."""
    if parameter.ndim != 2 or not name.startswith("sam."):
        return False
    kept = ("vision_encoder.layers.", "mask_decoder.transformer.", "hypernetworks_mlps.")
    return any(part in name for part in kept) and name.endswith(".weight")
