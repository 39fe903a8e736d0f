"""These tests need the SDK of Segments.ai (scripts/test-segments); elsewhere none is collected."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

collect_ignore_glob: list[str] = []
if find_spec("segments") is None:
    collect_ignore_glob.append("test_*.py")
else:
    # Where the server stands that the tests share.
    sys.path.insert(0, str(Path(__file__).parent))
