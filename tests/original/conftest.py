"""These tests run in .venv-original, by scripts/test-original; elsewhere none is collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob: list[str] = []
if find_spec("groundingdino") is None or find_spec("segment_anything") is None:
    collect_ignore_glob.append("test_*.py")
