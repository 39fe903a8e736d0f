"""Connectors: one platform or file format per module, found through entry points."""

from __future__ import annotations

__all__: list[str] = []
