"""What both authors' packages have in common: their options, and their `.pth` read safely."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError, ModelError
from prelabel.models.conversion.reading import read_state_dict

if TYPE_CHECKING:
    import torch

__all__ = ["load_original", "read_original"]


def read_original(weights: str, kind: str) -> dict[str, torch.Tensor]:
    """The tensors of the authors' checkpoint, by their own names.

    Raises:
        ConfigError: `weights` is not a file.
        ModelError: it is damaged, or no checkpoint.
    """
    file = Path(weights).expanduser()
    if not file.is_file():
        raise ConfigError(
            f"kind: {kind} reads the checkpoint that its authors publish, one .pth file, and "
            f"{weights} is none; name the file, or take the kind without -original"
        )
    return read_state_dict(file)


def load_original(
    network: Any,
    tensors: Mapping[str, torch.Tensor],
    unused: Collection[str],
    weights: str,
    device: str,
) -> Any:
    """`network` with these tensors, in eval mode on `device`.

    Args:
        network: the authors' own, untrained.
        tensors: by the authors' names.
        unused: names that published checkpoints hold and the network does not.
        weights: where they are from, for messages.
        device: such as "cpu" or "cuda".

    Raises:
        ModelError: they do not fit, or the device is not there.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device; use device cpu")
    try:
        missing, unexpected = network.load_state_dict(dict(tensors), strict=False)
    except RuntimeError as error:
        told = " ".join(str(error).split())
        raise ModelError(f"{weights} does not fit the authors' network: {told}") from error
    wrong = [*missing, *(name for name in unexpected if name not in unused)]
    if wrong:
        raise ModelError(
            f"{weights} does not fit the authors' network: {len(missing)} tensors are missing and "
            f"{len(wrong) - len(missing)} are unknown, such as {wrong[0]}"
        )
    return network.eval().requires_grad_(False).to(device)
