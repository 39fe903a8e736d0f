"""The config of a run: read strictly, overridden, fingerprinted, and written back in full.

A config is YAML with one group of keys per stage; keys that are left out have the defaults of
`options.py` and of the networks' own Options classes, which are the one truth about defaults.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    PlainSerializer,
    SerializeAsAny,
    ValidationError,
)

from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError
from prelabel.models.registry import ROLES, Role, kinds, option_types
from prelabel.models.weights import NetworkOptions, locate_weights, weights_sha256
from prelabel.ontology import (
    OntologyEntries,
    build_ontology,
    entries_document,
    ontology_document,
)
from prelabel.options import CacheOptions, ExplainOptions, MergeOptions, RefineOptions, Section
from prelabel.redaction import redact
from prelabel.strict_yaml import MAX_BYTES, TEXT_KEYS, Document, dump_yaml, parse_yaml
from prelabel.validation import nearest, parse_model, sentence, short, unknown_key

__all__ = [
    "STAGE_KEYS",
    "Config",
    "apply_override",
    "build_config",
    "default_config",
    "dump_config",
    "load_config",
    "options_digest",
]


class Config(BaseModel):
    """Everything a run depends on: frozen, picklable, without any weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str | None = None
    """Where images come from: a folder, or `scheme:rest` for another connector."""
    out: str = "runs/latest"
    """The run's folder."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """"auto" is cuda where there is one."""
    batch_size: Annotated[int, Field(ge=1, le=256)] = 1
    """Images that go through the networks together, where their input sizes are equal."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads of the networks; None: as many as torch chooses."""
    ontology: Annotated[
        InstanceOf[Ontology], PlainSerializer(ontology_document, return_type=dict[str, Any])
    ]
    detect: SerializeAsAny[InstanceOf[Section]]
    segment: SerializeAsAny[InstanceOf[Section]]
    stuff: SerializeAsAny[InstanceOf[Section]]
    refine: RefineOptions = RefineOptions()
    merge: MergeOptions = MergeOptions()
    explain: ExplainOptions = ExplainOptions()
    cache: CacheOptions = CacheOptions()

    def fingerprint(self, stage: str) -> str:
        """A digest of everything that affects the result of `stage`: see `STAGE_KEYS`.

        Weights count by their bytes, wherever they are; device, paths and colours do not count.

        Raises:
            ConfigError: the stage is unknown, or weights are nowhere to be found.
        """
        return _fingerprint(self, stage)


STAGE_KEYS: Mapping[str, tuple[str, ...]] = {
    "detect": ("things", "detect"),
    "segment": ("things", "detect", "segment"),
    "score": ("stuff_categories", "stuff"),
    "refine": ("things", "stuff_categories", "detect", "segment", "stuff", "refine"),
    "merge": ("things", "stuff_categories", "detect", "segment", "stuff", "refine", "merge"),
    "explain": (
        *("things", "stuff_categories", "detect", "segment", "stuff", "refine", "merge"),
        "explain",
    ),
}
"""What each stage's result depends on, with all that lies upstream of it."""


_STAGE_OPTIONS: Mapping[str, type[Section]] = {
    "refine": RefineOptions,
    "merge": MergeOptions,
    "explain": ExplainOptions,
    "cache": CacheOptions,
}

# --- reading ----------------------------------------------------------------------------------


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a config file.

    Args:
        path: YAML. An `ontology` that is a string is another file, relative to this one.
        overrides: `a.b=c` each; `c` is YAML.

    Raises:
        ConfigError: anything is missing, unknown or wrong; no weights are touched.
    """
    path = Path(path)
    document = _read_mapping(path)
    _inline_ontology(document, path.parent, str(path))
    for override in overrides:
        apply_override(document, override)
        # At once, so that a later override can reach into the file's categories.
        _inline_ontology(document, Path(), "--set ontology")
    return build_config(document, str(path))


def default_config(ontology: Ontology) -> Config:
    """The default: the embedded networks and every option's default, for `ontology`."""
    return build_config({"ontology": cast("Document", ontology_document(ontology))}, "the default")


def build_config(document: Mapping[str, Document], where: str) -> Config:
    """A checked document. Raises ConfigError, which names `where` and the key."""
    for key in document.keys() - Config.model_fields.keys():
        raise ConfigError(f"{where}: {unknown_key(key, (), Config.model_fields)}")
    parts: dict[str, object] = {
        key: value
        for key, value in document.items()
        if key not in ROLES and key not in _STAGE_OPTIONS and key != "ontology"
    }
    if document.get("ontology") is None:
        raise ConfigError(
            f"{where}: ontology is missing; list the categories under ontology.things and "
            "ontology.stuff, or name a file that does"
        )
    document_entries = entries_document(document["ontology"])
    entries = parse_model(OntologyEntries, document_entries, ("ontology",), where)
    parts["ontology"] = build_ontology(entries, f"{where}: ontology")
    for role in ROLES:
        parts[role] = _network_options(role, document.get(role), where)
    for stage, options in _STAGE_OPTIONS.items():
        parts[stage] = parse_model(options, document.get(stage) or {}, (stage,), where)
    try:
        return Config.model_validate(parts)
    except ValidationError as error:
        raise ConfigError(sentence(error, Config, (), where)) from error


def _read_mapping(path: Path) -> dict[str, Document]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is longer than {MAX_BYTES} bytes; is it the right file?")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise ConfigError(
            f"{path} does not exist; name a config such as configs/demo.yaml"
        ) from None
    except IsADirectoryError:
        raise ConfigError(f"{path} is a folder; name a config file inside it") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason}") from error
    document = parse_yaml(text, str(path))
    if not isinstance(document, dict):
        raise ConfigError(f"{path} holds no keys; expected `key: value` lines")
    return document


def _inline_ontology(document: dict[str, Document], folder: Path, where: str) -> None:
    """Replace an ontology that names a file by what that file says."""
    named = document.get("ontology")
    if not isinstance(named, str):
        return
    path = folder / Path(named).expanduser()
    if not path.is_file():
        raise ConfigError(f"{where}: the ontology file {path} does not exist")
    inner = _read_mapping(path)
    document["ontology"] = inner.get("ontology", inner)


def _network_options(role: Role, document: Document, where: str) -> Section:
    document = {} if document is None else document
    if not isinstance(document, dict):
        raise ConfigError(
            f"{where}: {role} is {short(document)}; expected keys such as {role}.kind"
        )
    kind = document.get("kind", kinds(role)[0])
    if kind not in kinds(role):
        known = ", ".join(kinds(role))
        raise ConfigError(
            f"{where}: {role}.kind is {short(kind)}{nearest(str(kind), kinds(role))}; "
            f"known kinds are: {known}"
        )
    options = option_types(role)[kinds(role).index(str(kind))]
    return parse_model(options, document, (role,), where)


# --- overrides --------------------------------------------------------------------------------


def apply_override(document: dict[str, Document], override: str) -> None:
    """Set one key of `document`, in place: `detect.box_threshold=0.4`, `ontology.things=[car]`."""
    dotted, equals, text = override.partition("=")
    keys = [key.strip() for key in dotted.split(".")]
    if not equals or not all(keys):
        raise ConfigError(f"--set {override}: expected a dotted key and a value, such as a.b=c")
    where = f"--set {dotted.strip()}"
    named = keys[-2] if keys[-1].isdecimal() and len(keys) > 1 else keys[-1]
    value = parse_yaml(text, where, as_text=named in TEXT_KEYS)
    place: Document = document
    for depth, key in enumerate(keys[:-1]):
        place = _step(place, key, ".".join(keys[: depth + 1]), where)
    last = keys[-1]
    if isinstance(place, list):
        place[_index(place, last, where)] = value
    elif isinstance(place, dict):
        place[last] = value
    else:
        raise ConfigError(f"{where}: {'.'.join(keys[:-1])} is {short(place)}, which has no keys")


def _step(place: Document, key: str, so_far: str, where: str) -> Document:
    if isinstance(place, list):
        return place[_index(place, key, where)]
    if not isinstance(place, dict):
        raise ConfigError(f"{where}: {so_far} cannot be set inside {short(place)}")
    if place.get(key) is None:
        place[key] = {}
    return place[key]


def _index(place: list[Document], key: str, where: str) -> int:
    if not key.isdecimal() or int(key) >= len(place):
        raise ConfigError(f"{where}: {key!r} is no position in a list of {len(place)}, from 0")
    return int(key)


# --- writing ----------------------------------------------------------------------------------


def dump_config(config: Config) -> str:
    """The config as YAML with every default written out; secrets in addresses are redacted."""
    return dump_yaml(redact(config.model_dump(mode="json")))


def _fingerprint(config: Config, stage: str) -> str:
    if stage not in STAGE_KEYS:
        raise ConfigError(f"no stage is called {stage!r}; they are {', '.join(STAGE_KEYS)}")
    parts: dict[str, object] = {}
    for key in STAGE_KEYS[stage]:
        if key == "things":
            parts[key] = _categories(config.ontology.things)
        elif key == "stuff_categories":
            parts[key] = _categories(config.ontology.stuff)
        else:
            parts[key] = options_digest(getattr(config, key))
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _categories(categories: Sequence[Category]) -> list[object]:
    return [
        [
            *(category.category_id, category.name, category.prompts),
            *(category.box_threshold, category.mask_threshold, category.min_area),
        ]
        for category in categories
    ]


def options_digest(options: Section) -> dict[str, object]:
    """What a part of a config contributes to a fingerprint; weights count by their bytes.

    Raises:
        ConfigError: weights are nowhere to be found.
    """
    values = options.model_dump(mode="json")
    if isinstance(options, NetworkOptions):
        # The same bytes are the same network, whether they came from a folder or the hub.
        values["weights"] = weights_sha256(locate_weights(values["kind"], options))
        del values["revision"]
    return values
