"""Tensors into transformers' classes, with an account of what fits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["KeyReport", "load_reported", "quiet_transformers"]

_NAMED = 5
"""So many names of a kind are told."""


@dataclass(frozen=True, slots=True)
class KeyReport:
    """Which names of tensors a network and its checkpoint do not share."""

    missing: tuple[str, ...]
    """The network has it, the checkpoint does not."""
    unexpected: tuple[str, ...]
    """The other way round."""
    mismatched: tuple[str, ...]
    """Both have it, in different shapes."""

    @property
    def fits(self) -> bool:
        """Whether every name is in both, in the same shape."""
        return not (self.missing or self.unexpected or self.mismatched)

    def sentence(self) -> str:
        """How many of each kind there are, and the first few by name."""
        kinds = (
            ("missing", self.missing),
            ("unexpected", self.unexpected),
            ("of another shape", self.mismatched),
        )
        return "; ".join(
            f"{len(names)} {'key is' if len(names) == 1 else 'keys are'} {kind} "
            f"({', '.join(names[:_NAMED])}{', …' if len(names) > _NAMED else ''})"
            for kind, names in kinds
            if names
        )


def load_reported(
    network: type[Any],
    folder: Path | None,
    config: PretrainedConfig | None = None,
    tensors: Mapping[str, torch.Tensor] | None = None,
) -> tuple[PreTrainedModel, KeyReport]:
    """An instance of the transformers class `network` in float32 on the CPU, in eval mode.

    From a folder, or from a config and tensors under transformers' names. What is missing is left
    random: look at the report.
    """
    import torch

    with quiet_transformers():
        model, told = network.from_pretrained(
            folder,
            config=config,
            state_dict=None if tensors is None else dict(tensors),
            dtype=torch.float32,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # A mismatch is a name with two shapes.
    mismatched = (item if isinstance(item, str) else item[0] for item in told["mismatched_keys"])
    report = KeyReport(
        tuple(sorted(told["missing_keys"])),
        tuple(sorted(told["unexpected_keys"])),
        tuple(sorted(mismatched)),
    )
    return model.eval().requires_grad_(False), report


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence transformers' bars and hints for one block, and put them back after it."""
    from transformers.utils import logging as untyped

    chatter: Any = untyped
    bar, level = chatter.is_progress_bar_enabled(), chatter.get_verbosity()
    chatter.disable_progress_bar()
    chatter.set_verbosity_error()
    try:
        yield
    finally:
        chatter.set_verbosity(level)
        if bar:
            chatter.enable_progress_bar()
