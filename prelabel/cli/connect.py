"""Connectors by name, found through entry points, so that a third party adds one without a fork."""

from __future__ import annotations

import re
from contextlib import suppress
from importlib.metadata import EntryPoint, entry_points
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from prelabel.data import Ontology
from prelabel.errors import ConfigError
from prelabel.ports import ImageSource, LabelPlatform, LabelSink
from prelabel.redaction import holds_password, redact

__all__ = ["GROUP", "lacking_there", "open_platform", "open_sink", "open_source"]

GROUP = "prelabel.connectors"
"""The group of entry points: a name, and a class that takes a location."""

# Two letters at least, so that a drive such as `C:` stays a path.
_SCHEME = re.compile(r"^([a-z][a-z0-9+-]+):(.*)$", re.DOTALL)


def open_source(location: str) -> ImageSource:
    """The source at `location`.

    `scheme:rest` is the connector of that name; `scheme://rest` that no connector is called is a
    URL for fsspec; everything else is a folder's path.

    Raises:
        ConfigError: no connector and no store has that name, it offers no images, or a password
            stands in it.
    """
    _refuse_password(location)
    match = _SCHEME.match(location)
    if match and match[1] in _names():
        return _open_source(match[1], match[2])
    if match and match[2].startswith("//"):
        return _open_url(match[1], location)
    return _open_source("folder", location)


def lacking_there(source: ImageSource, ontology: Ontology, location: str) -> str:
    """What to say before a run whose labels its source, a platform too, would not take; or ""."""
    if not isinstance(source, LabelPlatform):
        return ""
    lacking = [name for name in ontology.by_name if name not in source.ontology().by_name]
    if not lacking:
        return ""
    return (
        f"{redact(location)} has no category {', '.join(lacking)}: labels with it cannot be "
        f"uploaded there; prelabel init {redact(location)} writes a config with those it has"
    )


def _open_url(scheme: str, location: str) -> ImageSource:
    if scheme == "file":
        return _open_source("folder", url2pathname(urlsplit(location).path))
    try:
        return _open_source("fsspec", location)
    except ConfigError as error:
        raise ConfigError(f"source {error}; connectors are {_known()}") from error


def open_sink(name: str, location: str) -> LabelSink:
    """The sink `name`, writing to `location`.

    Raises:
        ConfigError: no connector has that name, or it takes no labels.
    """
    connector = _load(name)(location)
    if not isinstance(connector, LabelSink):
        raise ConfigError(
            f"the connector {name!r} takes no labels into files; those that do are {_sinks()}"
        )
    return connector


def open_platform(location: str) -> LabelPlatform:
    """The platform at `location`, which is `connector:place`.

    Raises:
        ConfigError: no connector has that name, or people do not correct labels there.
    """
    _refuse_password(location)
    match = _SCHEME.match(location)
    if match is None:
        raise ConfigError(
            f"{location!r} names no platform; expected connector:place, such as "
            f"segments-ai:owner/dataset; connectors are {_known()}"
        )
    connector = _load(match[1])(match[2])
    if not isinstance(connector, LabelPlatform):
        raise ConfigError(
            f"the connector {match[1]!r} is no platform where labels are corrected; "
            "prelabel export writes files"
        )
    return connector


def _open_source(name: str, location: str) -> ImageSource:
    connector = _load(name)(location)
    if not isinstance(connector, ImageSource):
        raise ConfigError(f"the connector {name!r} offers no images; it is a target for labels")
    return connector


def _refuse_password(location: str) -> None:
    if holds_password(location):
        raise ConfigError(
            f"a password stands in {redact(location)}; credentials come from the environment only, "
            "never from a config or an argument"
        )


def _names() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=GROUP)}


def _known() -> str:
    return ", ".join(sorted(_names())) or "none: is prelabel installed?"


def _sinks() -> str:
    """The connectors that write files; what cannot be imported here is none."""
    found = []
    for name, entry in sorted(_names().items()):
        with suppress(ImportError):
            if issubclass(entry.load(), LabelSink):
                found.append(name)
    return ", ".join(found)


def _load(name: str) -> Any:
    entry = _names().get(name)
    if entry is None:
        raise ConfigError(
            f"no connector is called {name!r}; known are {_known()}. One of another package is "
            "there once that package is: pip install …"
        )
    try:
        return entry.load()
    except ImportError as error:
        raise ConfigError(f"the connector {name!r} cannot be imported: {error}") from error
