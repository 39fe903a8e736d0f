"""The embedded default: drawn scenes with exact truth, and the tiny networks trained on them."""

from __future__ import annotations

__all__: list[str] = []
