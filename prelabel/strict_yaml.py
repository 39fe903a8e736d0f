"""YAML without its surprises: no tags, no aliases, no duplicate keys, and text that stays text.

Only `true`, `false`, `null`, decimal integers and decimal fractions are anything but text, so that
`no`, `on`, `010` and `2024-01-01` mean what they look like. Below a key of `TEXT_KEYS` every plain
value is text, so that a category may be called `true` or `7`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import yaml

from prelabel.errors import ConfigError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "TEXT_KEYS", "Document", "dump_yaml", "parse_yaml"]

MAX_BYTES = 1_000_000
"""Longest document, in bytes of UTF-8."""
MAX_DEPTH = 16
"""Deepest nesting of lists and mappings."""
TEXT_KEYS = frozenset({"name", "prompts", "things", "stuff"})
"""Keys whose values, and the entries of whose lists, are names and never numbers."""

Document: TypeAlias = str | int | float | bool | list["Document"] | dict[str, "Document"] | None

_TAG = "tag:yaml.org,2002:"
_PLAIN: tuple[tuple[str, re.Pattern[str], str], ...] = (
    ("bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"),
    ("null", re.compile(r"^(?:null|Null|NULL|~|)$"), "nN~\0"),
    ("int", re.compile(r"^[-+]?(?:0|[1-9][0-9]*)$"), "-+0123456789"),
    (
        "float",
        re.compile(r"^[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?$"),
        "-+.0123456789",
    ),
)


class _Loader(yaml.SafeLoader):
    """Composes nodes and refuses, where they stand, the features that nobody expects."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise _RefusedError("anchors and aliases (& and *) are not allowed", event.start_mark)
        if getattr(event, "tag", None) is not None:
            raise _RefusedError("tags (!) are not allowed", event.start_mark)
        if self._depth >= MAX_DEPTH:
            raise _RefusedError(f"nested more than {MAX_DEPTH} levels deep", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


class _RefusedError(Exception):
    """Something in the text is not allowed, at a line."""

    def __init__(self, what: str, mark: yaml.Mark) -> None:
        super().__init__(what)
        self.what, self.line = what, mark.line + 1


_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _PLAIN:
    _Loader.add_implicit_resolver(_TAG + _name, _pattern, [*_first.replace("\0", "")])
    if "\0" in _first:
        _Loader.add_implicit_resolver(_TAG + _name, _pattern, [""])


def parse_yaml(text: str, where: str, *, as_text: bool = False) -> Document:
    """Parse one YAML document.

    Args:
        text: the document.
        where: named in errors, such as the file's path.
        as_text: whether plain values at the top are text, as below a key of `TEXT_KEYS`.

    Raises:
        ConfigError: it is no YAML, or holds what the module's docstring excludes.
    """
    if len(text.encode(errors="surrogatepass")) > MAX_BYTES:
        raise ConfigError(f"{where} is longer than {MAX_BYTES} bytes; is it the right file?")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            return None if node is None else _build(node, as_text)
        finally:
            loader.dispose()
    except _RefusedError as error:
        raise ConfigError(f"{where}, line {error.line}: {error.what}") from None
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line} is not valid YAML: {error.problem}") from error
    except yaml.YAMLError as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{where} is not valid YAML: {reason}") from error


def _build(node: yaml.Node, as_text: bool) -> Document:
    if isinstance(node, yaml.SequenceNode):
        return [_build(item, as_text) for item in node.value]
    if isinstance(node, yaml.MappingNode):
        record: dict[str, Document] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise _RefusedError("a key must be a single word", key_node.start_mark)
            key = str(key_node.value)
            if key in record:
                raise _RefusedError(f"the key {key!r} stands twice", key_node.start_mark)
            record[key] = _build(value_node, key in TEXT_KEYS)
        return record
    return _scalar(node, as_text)


def _scalar(node: yaml.Node, as_text: bool) -> Document:
    value, kind = str(node.value), node.tag.removeprefix(_TAG)
    if kind == "null" and not (as_text and value):
        return None
    if as_text or kind == "str":
        return value
    if kind == "bool":
        return value.lower() == "true"
    if kind == "int":
        # Python refuses to convert very long digit strings, with an error of its own.
        if len(value) > 30:
            raise _RefusedError(f"the number {value[:12]}… is too long", node.start_mark)
        return int(value)
    number = float(value)
    if not math.isfinite(number):
        raise _RefusedError(f"the number {value} is too large", node.start_mark)
    return number


class _Dumper(yaml.SafeDumper):
    """Quotes what either this module's rules or YAML 1.1 would not read as text."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_list(dumper: _Dumper, items: list[Document]) -> yaml.Node:
    """Numbers and names on one line, groups one below the other."""
    flow = not any(isinstance(item, list | dict) for item in items)
    return dumper.represent_sequence(_TAG + "seq", items, flow_style=flow)


_Dumper.add_representer(list, _represent_list)
for _name, _pattern, _first in _PLAIN:
    _Dumper.add_implicit_resolver(_TAG + _name, _pattern, [*_first.replace("\0", "")])


def dump_yaml(document: Mapping[str, Document]) -> str:
    """`document` as YAML that `parse_yaml` reads back as it was, keys in the given order."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)
