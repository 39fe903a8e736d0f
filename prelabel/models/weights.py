"""Where weights are: embedded, in a folder, in an original file, or on the hub; how they load.

`locate_weights` looks before anything heavy is imported, so that a missing checkpoint is told at
once and not after minutes of loading; `find_weights` also converts what needs it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from safetensors import SafetensorError

from prelabel.errors import ConfigError, ModelError
from prelabel.files import file_sha256
from prelabel.models.catalogue import published_file
from prelabel.models.hub import find_on_hub
from prelabel.models.loading import KeyReport, load_reported, quiet_transformers
from prelabel.models.precision import Precision
from prelabel.models.preprocess import Preprocess
from prelabel.options import Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "CHECKPOINT_FILES",
    "DEFAULT_TOKENIZER",
    "EMBEDDED",
    "MODEL_TYPES",
    "NetworkOptions",
    "check_original",
    "embedded_folder",
    "find_weights",
    "is_complete",
    "load_network",
    "locate_weights",
    "model_type",
    "quiet_transformers",
    "weights_sha256",
]

EMBEDDED = "embedded"
"""As `weights`: the small networks that ship with this package."""

DEFAULT_TOKENIZER = "google-bert/bert-base-uncased"
"""What GroundingDINO was trained with; its original checkpoints hold none."""

CHECKPOINT_FILES = ("*.json", "*.safetensors", "*.txt")
"""Patterns of what is fetched, and of what a folder's digest covers."""

_SUFFIXES = (".pth", ".pt", ".bin", ".safetensors")
MODEL_TYPES = {
    "grounding-dino": "grounding-dino",
    "mm-grounding-dino": "mm-grounding-dino",
    "sam": "sam",
    "sam2": "sam2",
    "sam2_video": "sam2",
    "clipseg": "clipseg",
}
"""What a config.json calls itself, and the kind of network that loads it."""


class NetworkOptions(Section):
    """What every network has in common."""

    reads_original: ClassVar[bool] = False
    """Whether the network loads its authors' file as it is, so that nothing is converted."""
    weights: str = EMBEDDED
    """Where from: "embedded", a folder in transformers' layout, an original .pth, or a hub id."""
    revision: str | None = None
    """Branch, tag or commit of a hub id; None: its main branch."""
    precision: Precision = "fp32"
    """Of matrix products on a GPU, if results stay nearly the same. A CPU keeps to fp32."""
    preprocess: Preprocess = "exact"
    """How images are resized: "exact" as the originals do, "fast" on the network's device."""
    compile: bool = False
    """Whether torch compiles the encoder: slow to start, faster for thousands of images."""


def embedded_folder(kind: str) -> Path:
    """The folder of the embedded weights for a kind of network."""
    return Path(str(files("prelabel.demo"))) / "weights" / kind


def find_weights(kind: str, options: NetworkOptions) -> Path:
    """The folder that holds the weights `options` names, ready to load.

    What is on the hub is fetched where need be, and an original `.pth` is converted, once.

    Raises:
        ConfigError: they are nowhere; the message says what is missing and the ways to get it.
        ModelError: the original cannot be converted, or is for another kind of network.
    """
    found = locate_weights(kind, options)
    if found.is_dir() or options.reads_original:
        return found
    from prelabel.models.conversion import converted

    folder = converted(found, kind, weights_sha256(found), _tokenizer(options))
    return _checked(folder, f"the converted {found}", kind)


def locate_weights(kind: str, options: NetworkOptions) -> Path:
    """Where the weights are: a folder in transformers' layout, or an original checkpoint's file.

    Nothing is converted and no torch imported. Raises as `find_weights` does.
    """
    if options.weights == EMBEDDED:
        return _checked(embedded_folder(kind), f"the embedded weights for {kind!r}", kind)
    path = Path(options.weights).expanduser()
    if path.is_dir():
        return _checked(path, f"the weights folder {path}", kind)
    if path.is_file():
        return _checked_original(path, kind, options)
    if path.is_absolute() or options.weights.startswith((".", "~")) or path.suffix in _SUFFIXES:
        raise ConfigError(
            f"the weights {'file' if path.suffix in _SUFFIXES else 'folder'} {options.weights} "
            "does not exist; give a folder with config.json and model.safetensors, an original "
            ".pth file, a hub id, or 'embedded'"
        )
    found = find_on_hub(options.weights, options.revision, CHECKPOINT_FILES, complete=is_complete)
    return _checked(found, f"the checkpoint {options.weights}", kind)


def is_complete(folder: Path) -> bool:
    """Whether a folder holds a config and weights in transformers' layout."""
    return (folder / "config.json").is_file() and any(folder.glob("*.safetensors"))


def _checked(folder: Path, what: str, kind: str) -> Path:
    originals = sorted(
        path.name for suffix in (".pth", ".pt") for path in folder.glob(f"*{suffix}")
    )
    if not (folder / "config.json").is_file():
        instead = f"; give the file itself: {folder / originals[0]}" if originals else ""
        raise ConfigError(
            f"{what} lacks config.json, so it is no checkpoint in transformers' layout{instead}"
        )
    if not is_complete(folder):
        pickled = any(folder.glob("*.bin"))
        why = ", only a .bin file, which may hold code" if pickled else ""
        raise ConfigError(
            f"{what} holds no .safetensors file{why}; save the model with save_pretrained first"
        )
    meant = MODEL_TYPES.get(model_type(folder))
    if meant not in (None, kind):
        raise ConfigError(f"{what} holds a network of kind {meant}, where kind {kind} is asked for")
    return folder


def model_type(folder: Path) -> str:
    """What the config.json of a folder calls its network. Raises ConfigError if it is damaged."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError:
        raise ConfigError(
            f"{folder / 'config.json'} is damaged; bring the checkpoint again"
        ) from None
    return str(document.get("model_type", "")) if isinstance(document, dict) else ""


def _tokenizer(options: NetworkOptions) -> str:
    """The tokenizer for an original checkpoint; only detectors have an option for it."""
    return str(getattr(options, "tokenizer", DEFAULT_TOKENIZER))


def _checked_original(file: Path, kind: str, options: NetworkOptions) -> Path:
    from prelabel.models.conversion import converted_folder, locate_tokenizer

    check_original(file)
    tokenizer = _tokenizer(options)
    if kind == "grounding-dino" and not converted_folder(weights_sha256(file), tokenizer).is_dir():
        locate_tokenizer(tokenizer)  # told now, not after minutes of converting
    return file


def check_original(file: Path) -> None:
    """Look at a file's beginning and, where its name is a published one, at its sha256.

    Raises:
        ConfigError: it is half of a checkpoint in transformers' layout.
        ModelError: it is truncated, no checkpoint, or not what its name says.
    """
    from prelabel.models.conversion import check_header

    if file.suffix == ".safetensors":
        raise ConfigError(f"{file} lacks its config.json; give the folder that holds both")
    check_header(file)
    published = published_file(file.name)
    if published is not None and weights_sha256(file) != published.sha256:
        raise ModelError(
            f"{file} is not the published {file.name}: its sha256 begins "
            f"{weights_sha256(file)[:8]}, not {published.sha256[:8]}. If it was damaged on the "
            "way, bring it again; if it is a network of your own, give it a name of its own"
        )


def weights_sha256(path: Path) -> str:
    """One digest of an original's file, or of a folder's weights, config and tokenizer."""
    if path.is_dir():
        return _folder_sha256(path)
    status = path.stat()
    return _file_sha256(path, status.st_size, status.st_mtime_ns)


@cache
def _file_sha256(file: Path, _size: int, _changed: int) -> str:
    return file_sha256(file)


@cache
def _folder_sha256(folder: Path) -> str:
    """A digest over the names and bytes."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in CHECKPOINT_FILES for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        digest.update(bytes.fromhex(file_sha256(path)))
    return digest.hexdigest()


def load_network(
    network: type[Any],
    folder: Path,
    device: str,
    tell: Callable[[KeyReport], None] | None = None,
) -> PreTrainedModel:
    """An instance of the transformers class `network` in float32, in eval mode, on `device`.

    Args:
        network: the class.
        folder: a checkpoint in transformers' layout.
        device: cpu or cuda.
        tell: is given the account of what fits.

    Raises:
        ModelError: the checkpoint does not fit the class, or the device is not there.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device; use device cpu")
    try:
        model, report = load_reported(network, folder)
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(f"{folder} cannot be loaded as {network.__name__}: {error}") from error
    if report.missing or report.mismatched:
        raise ModelError(f"{folder} does not fit {network.__name__}: {report.sentence()}")
    if tell is not None:
        tell(report)
    placed: Any = model
    return placed.to(device)  # type: ignore[no-any-return]
