"""Converted checkpoints, kept in the user's cache by the sha256 of the original file."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from prelabel.errors import ModelError
from prelabel.models.conversion.converting import RECORD, write_converted
from prelabel.models.weights import DEFAULT_TOKENIZER

__all__ = ["conversions", "converted", "converted_folder", "converted_root"]

_LOGGER = logging.getLogger(__name__)
_ABANDONED_SECONDS = 24 * 3600
"""A temporary folder as old as this was left by a process that died."""


def converted_root() -> Path:
    """The folder of all converted checkpoints: below $XDG_CACHE_HOME, else ~/.cache."""
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    # A relative path there is invalid and to be ignored, says the XDG specification.
    return (base if base.is_absolute() else Path.home() / ".cache") / "prelabel" / "converted"


def conversions() -> dict[str, Mapping[str, object]]:
    """The record of each converted checkpoint, by its folder's path."""
    found: dict[str, Mapping[str, object]] = {}
    for path in sorted(converted_root().glob(f"[!.]*/{RECORD}")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if isinstance(record, dict):
            found[str(path.parent)] = record
    return found


def converted(file: Path, kind: str, sha256: str, tokenizer: str) -> Path:
    """The folder of `file` in transformers' layout, made now if it is not there yet.

    Args:
        file: an original checkpoint.
        kind: of the network that it is to be.
        sha256: of the file.
        tokenizer: a hub id or a folder; only a detector's counts.

    Two processes may ask at once: each writes to a folder of its own, and the first to finish
    gives the folder its name.

    Raises:
        ConfigError: the tokenizer cannot be had.
        ModelError: the file cannot be converted, is of another kind, or the cache not be written.
    """
    folder = converted_folder(sha256, tokenizer)
    if (folder / RECORD).is_file():
        return folder
    _LOGGER.info("converting %s to %s, once", file, folder)
    try:
        _remove_abandoned(folder.parent)
        write_converted(file, folder, tokenizer, kind)
    except OSError as error:
        if (folder / RECORD).is_file():  # another process was faster
            return folder
        raise ModelError(
            f"the converted weights cannot be written to {folder}: {error.strerror or error}; set "
            f"XDG_CACHE_HOME to a folder with room, or run `prelabel models convert {file} DIR` "
            "and set `weights: DIR`"
        ) from error
    return folder


def converted_folder(sha256: str, tokenizer: str) -> Path:
    """Where that conversion is, or will be."""
    name = sha256[:16]
    if tokenizer != DEFAULT_TOKENIZER:
        name += "-" + hashlib.sha256(tokenizer.encode()).hexdigest()[:8]
    return converted_root() / name


def _remove_abandoned(root: Path) -> None:
    for part in root.glob(".*.part"):
        with suppress(OSError):  # gone in the meantime
            if time.time() - part.stat().st_mtime > _ABANDONED_SECONDS:
                shutil.rmtree(part, ignore_errors=True)
