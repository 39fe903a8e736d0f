"""The tokenizer that an original GroundingDINO checkpoint needs and does not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prelabel.errors import ConfigError, ModelError
from prelabel.models.hub import find_on_hub
from prelabel.models.loading import quiet_transformers
from prelabel.models.weights import DEFAULT_TOKENIZER

__all__ = ["locate_tokenizer", "save_tokenizer"]

_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")
_VOCABULARIES = ("tokenizer.json", "vocab.txt")
_SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Ids that are written into the network's code."""


def locate_tokenizer(tokenizer: str) -> Path:
    """The folder that holds the tokenizer, fetched from the hub where need be; no torch is needed.

    Raises:
        ConfigError: it is nowhere; the message says what is missing and how to bring it.
    """
    folder = Path(tokenizer).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise ConfigError(
                f"the tokenizer folder {folder} holds no {' or '.join(_VOCABULARIES)}"
            )
        return folder
    if folder.is_absolute() or tokenizer.startswith((".", "~")):
        raise ConfigError(
            f"the tokenizer folder {tokenizer} does not exist; give a folder with tokenizer.json "
            f"or vocab.txt, or a hub id such as {DEFAULT_TOKENIZER}"
        )
    try:
        return find_on_hub(tokenizer, None, _FILES, complete=_has_vocabulary, key="tokenizer")
    except ConfigError as error:
        raise ConfigError(
            f"an original GroundingDINO checkpoint holds no tokenizer, so it needs one: {error}"
        ) from error


def _has_vocabulary(folder: Path) -> bool:
    return any((folder / name).is_file() for name in _VOCABULARIES)


def save_tokenizer(tokenizer: str, folder: Path, *, words: int) -> None:
    """Write the tokenizer to `folder`, for a network that knows `words` tokens.

    Raises:
        ConfigError: it is nowhere.
        ModelError: it is not one that the network was trained with.
    """
    from transformers import BertTokenizer

    source = locate_tokenizer(tokenizer)
    try:
        with quiet_transformers():
            found: Any = BertTokenizer.from_pretrained(source, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the tokenizer {tokenizer} cannot be loaded: {error}") from error
    separators = {token: found.convert_tokens_to_ids(token) for token in _SEPARATORS}
    if separators != _SEPARATORS:
        raise ModelError(
            f"the tokenizer {tokenizer} numbers its separators {separators}, and GroundingDINO "
            f"needs {_SEPARATORS}; take {DEFAULT_TOKENIZER}"
        )
    if len(found) > words:
        raise ModelError(
            f"the tokenizer {tokenizer} has {len(found)} tokens, the checkpoint {words}; give the "
            "one that it was trained with"
        )
    with quiet_transformers():
        found.save_pretrained(folder)
