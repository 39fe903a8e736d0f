"""These tests run in .venv-s3, by scripts/test-s3; elsewhere none is collected."""

from __future__ import annotations

from importlib.util import find_spec

collect_ignore_glob: list[str] = []
if find_spec("s3fs") is None or find_spec("moto") is None:
    collect_ignore_glob.append("test_*.py")
