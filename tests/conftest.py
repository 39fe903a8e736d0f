"""What several test files need: small random checkpoints, made once."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

# What runs keep for later is kept here, also by fixtures that outlive a test.
_CACHE = tempfile.mkdtemp(prefix="prelabel-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE
atexit.register(shutil.rmtree, _CACHE, ignore_errors=True)

# As the command line does: threads that spin while they wait are slow on a busy machine.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# A busy machine is no reason to fail: time is measured by benchmarks, not by tests.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test finds what another one left in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", tempfile.mkdtemp(dir=_CACHE))


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `grounding-dino`, `sam` and `clipseg`, untrained, in transformers' layout."""
    from transformers import (
        GroundingDinoImageProcessorPil,
        SamImageProcessorPil,
        ViTImageProcessorPil,
    )

    from prelabel.demo.networks import build_detector, build_stuff_scorer
    from prelabel.demo.segmenter_network import build_segmenter
    from prelabel.demo.tokenizers import build_bert_tokenizer, build_clip_tokenizer
    from prelabel.models.weights import quiet_transformers

    root = tmp_path_factory.mktemp("checkpoints")
    words = build_bert_tokenizer(["car", "person"])
    pairs = build_clip_tokenizer(["sky", "road"])
    sizes = {"shortest_edge": 224, "longest_edge": 320}
    with quiet_transformers():
        for part in (build_detector(words), words, GroundingDinoImageProcessorPil(size=sizes)):
            part.save_pretrained(root / "grounding-dino")
        square = {"height": 256, "width": 256}
        processor = SamImageProcessorPil(size={"longest_edge": 256}, pad_size=square)
        for part in (build_segmenter(), processor):
            part.save_pretrained(root / "sam")
        for part in (build_stuff_scorer(pairs), pairs, ViTImageProcessorPil(size=square)):
            part.save_pretrained(root / "clipseg")
    return root
