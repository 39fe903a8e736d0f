"""Looking at what a run produced: evaluation, and later reports and priorities."""

from __future__ import annotations

__all__: list[str] = []
