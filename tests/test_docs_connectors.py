"""The connector of docs/connectors.md is short, works, and passes its own test."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from PIL import Image

from prelabel.cli import connect
from prelabel.errors import ConfigError

TEXT = (Path(__file__).parent.parent / "docs/connectors.md").read_text(encoding="utf-8")


def test_the_example_of_a_connector_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connector, test = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (project,) = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)
    assert len(connector.splitlines()) < 60
    (tmp_path / "prelabel_zip.py").write_text(connector, encoding="utf-8")
    (tmp_path / "test_zip.py").write_text(test, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout
    assert "6 passed" in done.stdout

    entries = tomllib.loads(project)["project"]["entry-points"]["prelabel.connectors"]
    monkeypatch.syspath_prepend(tmp_path)
    named = {key: EntryPoint(key, value, connect.GROUP) for key, value in entries.items()}
    monkeypatch.setattr(connect, "_names", lambda: named)
    Image.new("RGB", (3, 2)).save(tmp_path / "x.png")
    with pytest.raises(ConfigError, match="cannot be read as a ZIP archive"):
        list(connect.open_source(f"zip:{tmp_path / 'x.png'}").records())
    sys.modules.pop("prelabel_zip")
