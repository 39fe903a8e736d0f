"""These tests run in .venv-judges, by scripts/test-judges; elsewhere none is collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob: list[str] = []
if find_spec("datumaro") is None:
    collect_ignore_glob.append("test_*.py")
