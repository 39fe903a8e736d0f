"""The example of a network in CONTRIBUTING.md is one file and one row, and works."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

from prelabel.data import Category, Frame, ImageRecord, Ontology
from prelabel.models import registry

TEXT = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
ONTOLOGY = Ontology((Category(3, "grass", False), Category(1, "car", True)))


def test_the_example_of_a_network_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, row = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)[:2]
    kind, where = re.fullmatch(r'\s+"(.*)": "prelabel\.models\.(.*)",\n', row).groups()  # type: ignore[union-attr]
    (tmp_path / "green.py").write_text(file, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(registry._STUFF_SCORERS, kind, where)
    options = registry.option_types("stuff")[-1]
    scorer = registry.create_stuff_scorer(options.model_validate({"kind": kind, "gain": 1.5}))
    scorer.load("cpu")
    pixels = np.array([[[0, 9, 0], [5, 5, 5], [1, 2, 1], [0, 0, 0]]], dtype=np.uint8)
    (scores,) = scorer.score([Frame(ImageRecord("a", "a"), pixels)], ONTOLOGY)
    assert scores.category_ids.tolist() == [3]
    assert np.allclose(scores.probs, [[[1.0, 0.0, 0.25, 0.0]]])
    sys.modules.pop("green")
