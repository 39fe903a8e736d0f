"""An original checkpoint, checked against transformers' class and written in its layout."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError, ModelError
from prelabel.files import file_sha256
from prelabel.models.conversion.layouts import Layout, detect_layout
from prelabel.models.conversion.reading import read_state_dict
from prelabel.models.conversion.tokenizer import save_tokenizer
from prelabel.models.loading import KeyReport, load_reported, quiet_transformers

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["RECORD", "Opened", "convert_checkpoint", "open_original", "write_converted"]

RECORD = "converted.json"
"""Says where a converted folder came from."""


@dataclass(frozen=True, slots=True)
class Opened:
    """An original checkpoint as a network."""

    layout: Layout
    config: PretrainedConfig
    tensors: Mapping[str, torch.Tensor]
    """Under transformers' names."""
    network: PreTrainedModel
    report: KeyReport


def open_original(file: Path, kind: str | None = None) -> Opened:
    """Read an original checkpoint and load it as transformers' class, which fits or is told.

    Raises:
        ModelError: it is damaged, holds code, or is of another architecture or `kind`.
    """
    originals = read_state_dict(file)
    layout = detect_layout(originals.keys(), file)
    if kind not in (None, layout.kind):
        raise ModelError(
            f"{file} is {layout.name}, of kind {layout.kind}, where kind {kind} is asked for"
        )
    try:
        config = layout.read_config(originals)
    except KeyError as error:
        raise ModelError(
            f"{file} looks like {layout.name}, but lacks {error.args[0]}; it is damaged or of "
            "another architecture"
        ) from error
    tensors, unknown = layout.convert(originals)
    network, report = _fit(layout, config, tensors, file)
    report = KeyReport(report.missing, (*sorted(unknown), *report.unexpected), report.mismatched)
    if not report.fits:
        raise ModelError(f"{file} is not {layout.name} as it is known: {report.sentence()}")
    config.architectures = [layout.network]
    config.dtype = next(iter(tensors.values())).dtype
    return Opened(layout, config, tensors, network, report)


def _fit(
    layout: Layout, config: PretrainedConfig, tensors: Mapping[str, torch.Tensor], file: Path
) -> tuple[PreTrainedModel, KeyReport]:
    import transformers

    try:
        return load_reported(getattr(transformers, layout.network), None, config, dict(tensors))
    except (RuntimeError, ValueError, TypeError, ZeroDivisionError) as error:
        raise ModelError(f"{file} cannot be loaded as {layout.network}: {error}") from error


def convert_checkpoint(file: Path, folder: Path, tokenizer: str) -> Opened:
    """Write the network in `file` to the new `folder`, in transformers' layout.

    It holds config.json, model.safetensors, preprocessor_config.json, for a detector the
    tokenizer, and a record of where it came from.

    Raises:
        ConfigError: the folder holds something, or the tokenizer cannot be had.
        ModelError: the file cannot be converted.
        OSError: the disk refuses.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; give a new folder")
    try:
        return write_converted(file, folder, tokenizer)
    except (FileExistsError, FileNotFoundError, NotADirectoryError) as error:
        raise ConfigError(
            f"the folder {folder} cannot be made: {error.strerror}; give another"
        ) from error


def write_converted(file: Path, folder: Path, tokenizer: str, kind: str | None = None) -> Opened:
    """The same for a folder of the cache, which another process may be writing too.

    The folder is there whole or not at all. Raises OSError where the other was faster.
    """
    opened = open_original(file, kind)
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:64]}-", suffix=".part"))
    try:
        _write(opened, file, part, tokenizer)
        for path in part.iterdir():
            with path.open("rb") as stream:
                os.fsync(stream)
            path.chmod(0o644)
        part.chmod(0o755)  # what mkdtemp and safetensors make is for their owner alone
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return opened


def _write(opened: Opened, file: Path, folder: Path, tokenizer: str) -> None:
    from safetensors.torch import save_file

    if opened.layout.has_text:
        # First, since it is what may be missing, and the weights take longest to write.
        words = int(opened.config.text_config.vocab_size)
        save_tokenizer(tokenizer, folder, words=words)
    with quiet_transformers():
        opened.config.save_pretrained(folder)
        _image_processor(opened).save_pretrained(folder)
    save_file(_unshared(opened.tensors), folder / "model.safetensors", metadata={"format": "pt"})
    record = {
        "format": 1,
        "kind": opened.layout.kind,
        "source": file.name,
        "source_sha256": file_sha256(file),
        "tokenizer": tokenizer if opened.layout.has_text else None,
    }
    (folder / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def _unshared(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same tensors, each in memory of its own, without which safetensors refuses them.

    GroundingDINO has one box head for all its decoder layers, and torch.save keeps it as one.
    """
    seen: set[int] = set()
    own = {}
    for name, tensor in tensors.items():
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return own


def _image_processor(opened: Opened) -> Any:
    import transformers

    if opened.layout.kind == "grounding-dino":
        return transformers.GroundingDinoImageProcessorPil()
    side = int(opened.config.vision_config.image_size)
    quarter = opened.config.prompt_encoder_config.image_embedding_size * 4
    return transformers.SamImageProcessorPil(
        size={"longest_edge": side},
        pad_size={"height": side, "width": side},
        mask_size={"longest_edge": quarter},
        mask_pad_size={"height": quarter, "width": quarter},
    )
