"""Ontology, weights and prompts, examined before a run and without loading torch."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from prelabel.cli.findings import Finding, fail, ok, warn
from prelabel.config import Config
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError, ModelError
from prelabel.models.hub import cached_on_hub
from prelabel.models.prompt_lists import chunk_prompts
from prelabel.models.registry import ROLES
from prelabel.models.weights import (
    CHECKPOINT_FILES,
    EMBEDDED,
    NetworkOptions,
    is_complete,
    locate_weights,
    weights_sha256,
)

__all__ = [
    "examine_ontology",
    "examine_prompts",
    "examine_weights",
    "weights_bytes",
    "weights_here",
]

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
_DEFAULT_TOKENS = 256


# --- ontology ---------------------------------------------------------------------------------


def examine_ontology(ontology: Ontology) -> Iterator[Finding]:
    """What is legal and yet hardly meant."""
    prompts = sum(len(category.prompts) for category in ontology)
    count = f"{len(ontology.things)} things, {len(ontology.stuff)} stuff, {prompts} prompts"
    doubts = [*_missing_half(ontology), *_shared_words(ontology), *_equal_colors(ontology)]
    if not doubts:
        yield ok("ontology", count)
    for doubt in doubts:
        yield warn("ontology", doubt)


def _missing_half(ontology: Ontology) -> Iterator[str]:
    if not ontology.things:
        yield "it has no things, so nothing is detected and cut out"
    if not ontology.stuff:
        yield "it has no stuff, so all but the things stays void"


def _shared_words(ontology: Ontology) -> Iterator[str]:
    owners: defaultdict[str, list[str]] = defaultdict(list)
    for category in ontology:
        for word in {prompt.strip().lower() for prompt in category.prompts}:
            owners[word].append(category.name)
    for word, names in owners.items():
        if len(names) > 1:
            yield (
                f"{word!r} is a prompt of {' and '.join(names)}, of which one will win; give each "
                "its own words"
            )
    spellings: defaultdict[str, list[str]] = defaultdict(list)
    for category in ontology:
        spellings[category.name.strip().lower()].append(category.name)
    for alike in spellings.values():
        if len(alike) > 1:
            yield f"the names {' and '.join(alike)} differ only in case; people will confuse them"


def _equal_colors(ontology: Ontology) -> Iterator[str]:
    owners: defaultdict[object, list[str]] = defaultdict(list)
    for category in ontology:
        if category.color is not None:
            owners[category.color].append(category.name)
    for color, names in owners.items():
        if len(names) > 1:
            yield f"{' and '.join(names)} have the same color {color}; pictures cannot tell them"


# --- weights ----------------------------------------------------------------------------------


def examine_weights(config: Config) -> Iterator[Finding]:
    """Whether each network's weights are here and of the right kind."""
    for role in ROLES:
        subject, options = f"weights of {role}", getattr(config, role)
        if not isinstance(options, NetworkOptions):
            yield ok(subject, f"kind {options.kind} needs none")
            continue
        try:
            yield _weights(subject, options)
        except (ConfigError, ModelError) as error:
            yield fail(subject, str(error))


def _weights(subject: str, options: NetworkOptions) -> Finding:
    found = weights_here(options)
    if found is None:
        return warn(
            subject,
            f"{options.weights} is not on this machine and will be fetched at the start, which "
            f"needs a network; `prelabel models pull {options.weights}` does it now",
        )
    kind = str(getattr(options, "kind", ""))
    megabytes = weights_bytes(found) / 1e6
    digest = weights_sha256(found)[:12]
    what = found.name if found.is_file() else options.weights
    converted = "; it is converted at the first run" if found.is_file() else ""
    return ok(subject, f"{kind}, {what}, {megabytes:.0f} MB, digest {digest}{converted}")


def weights_here(options: NetworkOptions) -> Path | None:
    """Where the weights are, or None for a hub id that was not fetched. Nothing is fetched."""
    name = options.weights
    if name != EMBEDDED and not Path(name).expanduser().exists() and _HUB_ID.fullmatch(name):
        folder = cached_on_hub(name, options.revision, CHECKPOINT_FILES)
        if folder is None or not is_complete(folder):
            return None
    return locate_weights(str(getattr(options, "kind", "")), options)


def weights_bytes(found: Path) -> int:
    """Of the files that `weights_here` found."""
    files = [found] if found.is_file() else found.glob("*.safetensors")
    return sum(file.stat().st_size for file in files)


# --- prompts ----------------------------------------------------------------------------------


def examine_prompts(config: Config) -> Iterator[Finding]:
    """Whether the networks' vocabularies know the words, and how many lists they take."""
    ontology = config.ontology
    for role, categories in (("detect", ontology.things), ("stuff", ontology.stuff)):
        options = getattr(config, role)
        folder = weights_here(options) if isinstance(options, NetworkOptions) else None
        file = folder / "tokenizer.json" if folder is not None else None
        if not categories or file is None or not file.is_file():
            continue
        tokenizer = _tokenizer(file)
        if role == "detect":
            yield from _thing_prompts(tokenizer, file.parent, categories)
        else:
            yield from _stuff_prompts(tokenizer, file.parent, categories)


def _tokenizer(file: Path) -> Any:
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise ConfigError(f"{file} is no tokenizer: {error}; bring the checkpoint again") from error


def _thing_prompts(
    tokenizer: Any, folder: Path, categories: Sequence[Category]
) -> Iterator[Finding]:
    unknown = tokenizer.token_to_id("[UNK]")
    tokens = [
        [
            tokenizer.encode(prompt.lower(), add_special_tokens=False).ids
            for prompt in category.prompts
        ]
        for category in categories
    ]
    for category, prompts in zip(categories, tokens, strict=True):
        for prompt, ids in zip(category.prompts, prompts, strict=True):
            if not ids:
                yield fail(
                    "prompts", f"{prompt!r} of {category.name} has no token; spell it in words"
                )
            elif unknown in ids:
                share = "nothing" if set(ids) == {unknown} else "only a part"
                yield warn(
                    "prompts",
                    f"the detector's vocabulary knows {share} of {prompt!r} of {category.name}; "
                    "use a word that it was trained on",
                )
    most = _config_number(folder, "max_text_len", _DEFAULT_TOKENS)
    lists = len(chunk_prompts(tokens, most))
    count = sum(len(ids) + 1 for prompts in tokens for ids in prompts) + 2
    if lists > 1:
        yield warn(
            "prompts",
            f"the things' prompts take {count} tokens, so {lists} lists of at most {most}; "
            "categories of different lists do not compete. Cut the list where that is possible",
        )
    else:
        yield ok("prompts", f"the things' prompts take {count} of {most} tokens")


def _stuff_prompts(
    tokenizer: Any, folder: Path, categories: Sequence[Category]
) -> Iterator[Finding]:
    most = _config_number(folder, "max_position_embeddings", 77)
    longest = 0
    for category in categories:
        for prompt in category.prompts:
            length = len(tokenizer.encode(prompt).ids)
            longest = max(longest, length)
            if length > most:
                yield fail(
                    "prompts",
                    f"{prompt!r} of {category.name} takes {length} tokens, more than {most}; "
                    "shorten it",
                )
    yield ok("prompts", f"the longest prompt of stuff takes {longest} of {most} tokens")


def _config_number(folder: Path, key: str, default: int) -> int:
    """A number of config.json, also where it stands in `text_config`."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return default
    for part in (document.get("text_config") or {}, document):
        if isinstance(part.get(key), int):
            return int(part[key])
    return default
