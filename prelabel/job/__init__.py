"""The run over a source: loop, store of labels, progress, export."""

from __future__ import annotations

__all__: list[str] = []
