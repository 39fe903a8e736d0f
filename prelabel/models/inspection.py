"""A checkpoint looked at as a whole: does it load, does it fit, does it run?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError, ModelError
from prelabel.files import file_sha256
from prelabel.models.catalogue import CATALOGUE, find_entry
from prelabel.models.hub import cached_on_hub
from prelabel.models.loading import KeyReport
from prelabel.models.weights import (
    CHECKPOINT_FILES,
    MODEL_TYPES,
    check_original,
    embedded_folder,
    is_complete,
    load_network,
    model_type,
    weights_sha256,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Inspection", "find_checkpoint", "inspect", "present"]

_NETWORKS = {
    "grounding-dino": "GroundingDinoForObjectDetection",
    "mm-grounding-dino": "MMGroundingDinoForObjectDetection",
    "sam": "SamModel",
    "sam2": "Sam2Model",
    "clipseg": "CLIPSegForImageSegmentation",
}
"""For each kind, the class in transformers."""

_DETECTORS = ("grounding-dino", "mm-grounding-dino")


@dataclass(frozen=True, slots=True)
class Inspection:
    """What is known of a checkpoint after it was loaded and run once."""

    path: Path
    layout: str
    """Whose layout it is in."""
    kind: str
    sha256: str
    """Of the one file that holds the weights; of several, one digest of them all."""
    bytes: int
    tensors: int
    parameters: int
    unused: tuple[str, ...]
    """Names in it that the network does not take."""
    seconds: float
    """One forward pass took so long on the CPU."""


def present(name: str) -> str | None:
    """Where a catalogue entry's weights are on this machine, in words, or None."""
    from prelabel.models.conversion import conversions

    entry = find_entry(name)
    if entry.embedded:
        return "embedded"
    here = cached_on_hub(name, entry.revision, CHECKPOINT_FILES)
    if here is not None and is_complete(here):
        return "hub cache"
    if entry.original is not None:
        known = {record.get("source_sha256") for record in conversions().values()}
        if entry.original.sha256 in known:
            return "converted"
    return None


def find_checkpoint(target: str) -> Path:
    """The file or folder that `target` names: a path, a catalogue entry, or a hub id.

    Raises:
        ConfigError: it is not on this machine; nothing is fetched.
    """
    path = Path(target).expanduser()
    if path.exists():
        return path
    if target in {entry.name for entry in CATALOGUE if entry.embedded}:
        return embedded_folder(target.partition("/")[2])
    here = cached_on_hub(target, None, CHECKPOINT_FILES)
    if here is not None:
        return here
    if target.count("/") == 1 and not path.suffix:
        raise ConfigError(
            f"{target} is neither a file or folder nor a hub id that was fetched before; "
            f"`prelabel models pull {target}` fetches it"
        )
    raise ConfigError(
        f"{target} does not exist; give a file, a folder, or a name that "
        "`prelabel models list` shows"
    )


def inspect(path: Path) -> Inspection:
    """Load a checkpoint on the CPU and run it once.

    Raises:
        ConfigError: the folder holds no checkpoint.
        ModelError: it does not load, does not fit, or gives numbers that are none.
    """
    if path.is_dir():
        kind = _folder_kind(path)
        network, unused = _load_folder(path, kind)
        weights = sorted(path.glob("*.safetensors"))
        layout, tensors = "transformers", _count_tensors(weights)
        sha256 = file_sha256(weights[0]) if len(weights) == 1 else weights_sha256(path)
    else:
        from prelabel.models.conversion import open_original

        check_original(path)
        opened = open_original(path)
        kind, network, layout = opened.layout.kind, opened.network, opened.layout.name
        weights, unused, tensors = [path], opened.report.unexpected, len(opened.tensors)
        sha256 = weights_sha256(path)
    return Inspection(
        path,
        layout,
        kind,
        sha256,
        sum(file.stat().st_size for file in weights),
        tensors,
        sum(parameter.numel() for parameter in network.parameters()),
        unused,
        _run_once(kind, network, path),
    )


def _folder_kind(folder: Path) -> str:
    if not is_complete(folder):
        raise ConfigError(
            f"{folder} lacks config.json or a .safetensors file, so it is no checkpoint in "
            "transformers' layout"
        )
    called = model_type(folder)
    if called not in MODEL_TYPES:
        raise ConfigError(
            f"{folder} holds a network of type {called or 'unknown'}; known are "
            f"{', '.join(_NETWORKS)}"
        )
    return MODEL_TYPES[called]


def _load_folder(folder: Path, kind: str) -> tuple[Any, tuple[str, ...]]:
    import transformers

    report: list[KeyReport] = []
    network = load_network(getattr(transformers, _NETWORKS[kind]), folder, "cpu", report.append)
    return network, report[0].unexpected


def _count_tensors(files: list[Path]) -> int:
    from safetensors import safe_open

    total = 0
    for file in files:
        with safe_open(file, framework="numpy") as opened:
            total += len(opened.keys())
    return total


# --- one forward pass -------------------------------------------------------------------------


def _run_once(kind: str, network: Any, path: Path) -> float:
    import torch

    start = time.perf_counter()
    try:
        with torch.inference_mode():
            output = network(**_inputs(kind, network.config))
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{path} loads, but cannot run: {error}") from error
    for name, value in output.items():
        if isinstance(value, torch.Tensor) and value.isnan().any():
            raise ModelError(f"{path} loads, but its {name} are not numbers; is it damaged?")
    return time.perf_counter() - start


def _inputs(kind: str, config: Any) -> Mapping[str, torch.Tensor]:
    """Grey noise of the smallest size that the network takes, and a prompt."""
    import torch

    def noise(side: int) -> torch.Tensor:
        return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))

    if kind in _DETECTORS:
        text = torch.tensor([[101, 1000, 1012, 102]])  # [CLS] a word . [SEP]
        return {"pixel_values": noise(_detector_side(config)), "input_ids": text}
    if kind == "clipseg":
        text_config = config.text_config
        # As CLIP's first configs have it, 2 stands for the vocabulary's last.
        end = text_config.eos_token_id
        end = text_config.vocab_size - 1 if end == 2 else end
        text = torch.tensor([[text_config.vocab_size - 2, 5, end]])
        return {"pixel_values": noise(config.vision_config.image_size), "input_ids": text}
    side = int(config.prompt_encoder_config.image_size)
    box = torch.tensor([[[0.25, 0.25, 0.75, 0.75]]]) * side
    return {"pixel_values": noise(side), "input_boxes": box}


def _detector_side(config: Any) -> int:
    """Side of a square, in pixels, that gives at least as many tokens as there are queries."""
    side = 128
    while sum((side // 2 ** (3 + level)) ** 2 for level in range(4)) < config.num_queries:
        side += 64
    return side
