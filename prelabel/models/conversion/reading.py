"""PyTorch checkpoint files, opened without running anything that is in them."""

from __future__ import annotations

import argparse
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prelabel.errors import ModelError

if TYPE_CHECKING:
    import torch

__all__ = ["check_header", "read_state_dict"]

_ARCHIVE, _PICKLE = b"PK\x03\x04", b"\x80"
_FOREIGN = (
    (b"version https://git-lfs", "it is a pointer of git LFS; run `git lfs pull` where it is from"),
    (b"<", "it is a web page; download the file itself"),
)
_AGAIN = "bring it again and compare its size and sha256 with the publisher's"
_DAMAGE = (
    *(ArithmeticError, AssertionError, AttributeError, EOFError, LookupError, MemoryError, OSError),
    *(RuntimeError, TypeError, ValueError, struct.error),
)
"""What torch's reader raises over bytes that make no sense; it has no error of its own for them."""

_WRAPPERS = ("model", "state_dict")
"""Keys under which training scripts put the weights beside an optimiser and the like."""


def check_header(file: Path) -> None:
    """Tell from its first and last bytes whether `file` can be a checkpoint; no torch is needed.

    Raises:
        ModelError: it is truncated, or something else altogether.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(64)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}") from error
    if start.startswith(_ARCHIVE):
        if not _is_archive(file):
            raise ModelError(f"{file} is truncated: its end is missing; {_AGAIN}")
        return
    if start.startswith(_PICKLE):
        return
    why = next((hint for mark, hint in _FOREIGN if start.lstrip().startswith(mark)), None)
    if why is None:
        why = "it is empty" if not start else "it begins like no file that torch.save writes"
        why += f"; {_AGAIN}"
    raise ModelError(f"{file} is no PyTorch checkpoint: {why}")


def read_state_dict(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint by name, on the CPU, read only when they are used.

    What a training script wraps around them, and the `module.` of a parallel one, is taken off.

    Raises:
        ModelError: it is truncated, no checkpoint, or holds code, which is never run.
    """
    import torch

    check_header(file)
    found: Any = _load(file)
    for wrapper in _WRAPPERS:
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    tensors = {
        str(name).removeprefix("module."): value
        for name, value in (found.items() if isinstance(found, Mapping) else ())
        if isinstance(value, torch.Tensor)
    }
    if not tensors:
        raise ModelError(f"{file} holds no tensors by name, so it is no checkpoint of a network")
    return tensors


def _is_archive(file: Path) -> bool:
    """Whether the table at the end of a zip archive, which torch.save writes, is there."""
    try:
        return zipfile.is_zipfile(file)
    except zipfile.BadZipFile:
        return False


def _load(file: Path) -> object:
    import torch

    try:
        # A Namespace is what argparse makes of a training script's options: data, not code.
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pickle protocols; what matters raises
            return torch.load(file, map_location="cpu", weights_only=True, mmap=_is_archive(file))
    except pickle.UnpicklingError as error:
        code = re.search(
            r"GLOBAL\s+`?([\w.]+)|[Uu]nsupported (?:class|function)\s+`?([\w.]+)", str(error)
        )
        if code is None:
            raise ModelError(f"{file} is damaged or no PyTorch checkpoint; {_AGAIN}") from error
        raise ModelError(
            f"{file} asks for {code[1] or code[2]}, which is Python code and not weights; nothing "
            "of it was run. Take the file its authors publish, or one that holds tensors only"
        ) from error
    except _DAMAGE as error:
        if "TorchScript" in str(error):
            raise ModelError(
                f"{file} is a TorchScript program; take the checkpoint that torch.save wrote"
            ) from error
        raise ModelError(
            f"{file} is truncated, damaged or no PyTorch checkpoint; {_AGAIN}"
        ) from error
