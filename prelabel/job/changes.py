"""Whether a run's labels were made in the way that is asked for now, and what differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Protocol

from prelabel.errors import ChangedError
from prelabel.job.ledger import Ledger
from prelabel.strict_yaml import Document, parse_yaml

__all__ = ["differences", "refuse_change"]

_FREE = frozenset(
    {"source", "out", "device", "batch_size", "threads", "explain", "cache", "compile"}
)
"""Keys of a config that change no label."""
_MOST = 5


class _Asked(Protocol):
    @property
    def config_yaml(self) -> str: ...

    @property
    def accept_change(self) -> bool: ...

    @property
    def again(self) -> bool: ...


def refuse_change(ledger: Ledger, fingerprint: str, options: _Asked) -> bool:
    """Compare with what the ledger remembers, and remember what is asked for now.

    Returns:
        Whether the ledger's rows still count; False after an accepted change.

    Raises:
        ChangedError: the labels were made in another way, and that is not accepted.
    """
    before, config = ledger.meta("fingerprint"), ledger.meta("config") or ""
    same = before in (None, fingerprint)
    if not same and not (options.accept_change or options.again):
        found = differences(config, options.config_yaml)
        what = "; ".join(found[:_MOST]) or "the weights behind the same config"
        more = f" and {len(found) - _MOST} more" if len(found) > _MOST else ""
        raise ChangedError(
            f"{ledger.path.parent} holds labels that were made in another way: {what}{more}. "
            "--accept-change makes them again, --fresh starts over, another --out keeps them"
        )
    if not same:
        ledger.replace({})
    ledger.set_meta("fingerprint", fingerprint)
    ledger.set_meta("config", options.config_yaml)
    return same


def differences(before: str, after: str) -> list[str]:
    """The keys in which two resolved configs differ in what counts: "key was a, is b"."""
    old, new = (dict(_leaves(parse_yaml(text, "config.yaml"))) for text in (before, after))
    return [
        f"{key} was {old.get(key, 'absent')}, is {new.get(key, 'absent')}"
        for key in dict.fromkeys([*old, *new])
        if old.get(key) != new.get(key)
    ]


def _leaves(document: Document, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(document, Mapping):
        for key, value in document.items():
            if str(key) not in _FREE:
                yield from _leaves(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(document, list) and any(isinstance(part, Mapping) for part in document):
        for index, value in enumerate(document):
            yield from _leaves(value, f"{prefix}.{index}")
    else:
        yield prefix, str(document)
