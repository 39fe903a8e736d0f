"""Where weights are: embedded, in a folder, or on the hub; and how they load.

`find_weights` looks before anything heavy is imported, so that a missing checkpoint is told at
once and not after minutes of loading.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError, ModelError
from prelabel.models.precision import Precision
from prelabel.models.preprocess import Preprocess
from prelabel.options import Section

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = [
    "EMBEDDED",
    "NetworkOptions",
    "embedded_folder",
    "find_weights",
    "load_network",
    "quiet_transformers",
    "weights_sha256",
]

EMBEDDED = "embedded"
"""As `weights`: the small networks that ship with this package."""

_FILES = ("*.json", "*.safetensors", "*.txt")
_LOGGER = logging.getLogger(__name__)


class NetworkOptions(Section):
    """What every network has in common."""

    weights: str = EMBEDDED
    """Where from: "embedded", a folder in transformers' layout, or a hub id."""
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
    """The folder that holds the weights `options` names, fetched from the hub where need be.

    Raises:
        ConfigError: they are nowhere; the message says what is missing and the ways to get it.
    """
    if options.weights == EMBEDDED:
        return _checked(embedded_folder(kind), f"the embedded weights for {kind!r}")
    folder = Path(options.weights).expanduser()
    if folder.is_dir():
        return _checked(folder, f"the weights folder {folder}")
    if folder.is_absolute() or options.weights.startswith((".", "~")):
        raise ConfigError(
            f"the weights folder {options.weights} does not exist; give a folder with config.json "
            "and model.safetensors, a hub id, or 'embedded'"
        )
    return _from_hub(options)


def _checked(folder: Path, what: str) -> Path:
    if not (folder / "config.json").is_file():
        raise ConfigError(
            f"{what} lacks config.json, so it is no checkpoint in transformers' layout"
        )
    if not sorted(folder.glob("*.safetensors")):
        raise ConfigError(
            f"{what} holds no .safetensors file; save the model with save_pretrained first"
        )
    return folder


def _from_hub(options: NetworkOptions) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    def snapshot(*, local: bool) -> Path:
        found = snapshot_download(
            options.weights,
            revision=options.revision,
            allow_patterns=list(_FILES),
            local_files_only=local,
        )
        return _checked(Path(found), f"the checkpoint {options.weights}")

    try:
        try:
            return snapshot(local=True)
        except (LocalEntryNotFoundError, ConfigError):
            _LOGGER.info("fetching %s from the hub", options.weights)
            return snapshot(local=False)
    except HFValidationError as error:
        raise ConfigError(
            f"weights {options.weights!r} is neither an existing folder nor a hub id ({error})"
        ) from error
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"the weights {options.weights} are not on this machine and the hub cannot be reached. "
            f"Either connect and run again, which fetches them; or run `hf download "
            f"{options.weights} --local-dir DIR` on a machine with a network, bring DIR here and "
            "set `weights: DIR`"
        ) from error


@cache
def weights_sha256(folder: Path) -> str:
    """One digest over the names and bytes of a checkpoint's weights, config and tokenizer."""
    digest = hashlib.sha256()
    for path in sorted(path for pattern in _FILES for path in folder.glob(pattern)):
        digest.update(path.name.encode())
        with path.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


def load_network(network: type[Any], folder: Path, device: str) -> PreTrainedModel:
    """An instance of the transformers class `network` in float32, in eval mode, on `device`.

    Raises:
        ModelError: the checkpoint does not fit the class, or the device is not there.
    """
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ModelError("device cuda was asked for, but torch sees no CUDA device; use device cpu")
    try:
        with quiet_transformers():
            model, report = network.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
            )
    except (OSError, RuntimeError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded as {network.__name__}: {error}") from error
    missing = sorted(report["missing_keys"]) + sorted(report["mismatched_keys"])
    if missing:
        raise ModelError(
            f"{folder} does not fit {network.__name__}: {len(missing)} keys are missing or of "
            f"another shape, such as {missing[0]}"
        )
    return model.eval().requires_grad_(False).to(device)  # type: ignore[no-any-return]


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
