"""Documents checked against pydantic models, with errors that are sentences."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from prelabel.errors import ConfigError
from prelabel.strict_yaml import Document

__all__ = ["nearest", "parse_model", "sentence", "short", "unknown_key"]

_Model = TypeVar("_Model", bound=BaseModel)
_Path = tuple[str | int, ...]

_EXPECTED: Mapping[str, str] = {
    "bool_type": "true or false",
    "dict_type": "a group of keys",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "is_instance_of": "a group of keys",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "literal_error": "{expected}",
    "model_type": "a group of keys",
    "string_type": "text",
    "too_long": "at most {max_length} entries",
    "too_short": "at least {min_length} entries",
    "tuple_type": "a list",
}


def parse_model(model: type[_Model], document: Document, prefix: _Path, where: str) -> _Model:
    """`document` as an instance of `model`.

    Args:
        model: the expected type; closed to unknown keys.
        document: as parsed from YAML.
        prefix: the keys that lead to `document`, for errors.
        where: the file, for errors.

    Raises:
        ConfigError: one sentence with file, dotted path, what was expected and what stands there.
    """
    if not isinstance(document, dict):
        raise ConfigError(
            f"{where}: {_dotted(prefix)} is {short(document)}; expected a group of keys"
        )
    try:
        # JSON's strictness is YAML's: a list may be a tuple, but "0.3" and true are no numbers.
        return model.model_validate_json(json.dumps(document), strict=True)
    except ValidationError as error:
        raise ConfigError(sentence(error, model, prefix, where)) from error


def sentence(error: ValidationError, model: type[BaseModel], prefix: _Path, where: str) -> str:
    """The first of pydantic's complaints, for people; the number of the others follows."""
    complaints = error.errors()
    first = complaints[0]
    path = (*prefix, *first["loc"])
    if first["type"] == "extra_forbidden":
        text = unknown_key(str(path[-1]), path[:-1], _keys_at(model, first["loc"][:-1]))
    elif first["type"] == "missing":
        text = f"{_dotted(path)} is missing"
    else:
        expected = _EXPECTED.get(first["type"], first["msg"])
        expected = expected.format_map({"expected": "", **first.get("ctx", {})})
        text = f"{_dotted(path)} is {short(first['input'])}; expected {expected}"
    others = len(complaints) - 1
    return f"{where}: {text}" + (f" (and {others} more)" if others else "")


def unknown_key(key: str, parents: _Path, known: Iterable[str]) -> str:
    """What to say of a key that nobody knows."""
    known = list(known)
    hint = nearest(key, [_dotted((*parents, name)) for name in known], _dotted((*parents, key)))
    listed = ", ".join(known)
    return f"unknown key {_dotted((*parents, key))}{hint or f'; known keys are: {listed}'}"


def nearest(word: str, known: Iterable[str], compared: str | None = None) -> str:
    """A question such as "; did you mean merge.min_score?" where something is close, else ""."""
    close = difflib.get_close_matches(compared or word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {close[0]}?" if close else ""


def short(value: object) -> str:
    """`value` as it would be written, cut to a line."""
    if value is None:
        return "empty"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _dotted(path: _Path) -> str:
    return ".".join(str(part) for part in path)


def _keys_at(model: type[BaseModel], path: _Path) -> list[str]:
    """The keys known where `path` leads, starting from `model`."""
    for part in path:
        if isinstance(part, str) and part in model.model_fields:
            model = _inner_model(model.model_fields[part].annotation) or model
    return list(model.model_fields)


def _inner_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in get_args(annotation):
        found = _inner_model(argument)
        if found is not None:
            return found
    return None
