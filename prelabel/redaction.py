"""Secrets that ride in addresses, taken out before anything is stored or shown."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["holds_password", "redact"]

_PASSWORD = re.compile(r"://[^/@\s:]*:[^/@\s]+@")

_PATTERNS = (
    (re.compile(r"(?<=://)[^/@\s]+@"), "***@"),
    (
        re.compile(
            r"([?&][^=&\s]*(?:token|key|secret|signature|credential|password|sig)[^=&\s]*=)[^&\s]+",
            re.IGNORECASE,
        ),
        r"\1***",
    ),
)
"""A user and password before a host, and values of telling names in a query."""


def holds_password(address: str) -> bool:
    """Whether a password stands before the host of an address."""
    return _PASSWORD.search(address) is not None


def redact(value: Any) -> Any:
    """`value`, a text or lists and dicts of them, with secrets as `***`."""
    if isinstance(value, dict):
        return {key: redact(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [redact(inner) for inner in value]
    if isinstance(value, str):
        for pattern, mask in _PATTERNS:
            value = pattern.sub(mask, value)
    return value
