"""The cache before the real architectures: equal to the last bit, and not loaded for nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from prelabel.cache import StageCache
from prelabel.cache.segmenter import CachedSegmenter, KeyedEmbedding
from prelabel.config import Config, build_config
from prelabel.data import Frame, ImageRecord
from prelabel.models.grounding_dino import GroundingDino
from prelabel.models.roles import Embedding, MaskLogits, Prompts
from prelabel.models.sam import Sam, SamOptions
from prelabel.pipeline import Labelled, Pipeline


def _frame(height: int, width: int) -> Frame:
    coarse = np.random.default_rng(3).integers(0, 256, (height // 16, width // 16, 3))
    pixels = np.kron(coarse, np.ones((16, 16, 1))).astype(np.uint8)
    return Frame(ImageRecord("noise", "noise"), pixels)


def _config(checkpoints: Path, threshold: float = 0.0) -> Config:
    names = {"detect": "grounding-dino", "segment": "sam", "stuff": "clipseg"}
    sections = {
        role: {"kind": name, "weights": str(checkpoints / name)} for role, name in names.items()
    }
    return build_config(
        {
            "ontology": {"things": ["car", "person"], "stuff": ["sky", "road"]},
            **sections,  # type: ignore[dict-item]
            "detect": sections["detect"] | {"box_threshold": 0.0, "max_detections": 3},
            "refine": {"threshold": threshold, "min_agreement": 0.0, "min_rough": 0.0},
            "merge": {"min_score": 0.0, "min_area": 0.0, "min_visible": 0.0, "duplicate_iou": 1.0},
        },
        "test",
    )


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache", 2**30)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The classes that were loaded, as they are."""
    names: list[str] = []
    for network in (GroundingDino, Sam):
        load = network.load

        def note(self: object, device: str, load: object = load) -> None:
            names.append(type(self).__name__)
            load(self, device)  # type: ignore[operator]

        monkeypatch.setattr(network, "load", note)
    yield names


def _same(first: Labelled, second: Labelled) -> bool:
    one, two = first.findings, second.findings
    return (
        np.array_equal(first.label.id_map, second.label.id_map)
        and first.label.segments == second.label.segments
        and np.array_equal(one.instances.ious, two.instances.ious)
        and np.array_equal(one.regions.ious, two.regions.ious)
        and np.array_equal(one.scores.probs, two.scores.probs)
        and np.array_equal(one.embedding.features, two.embedding.features)
        and all(
            np.array_equal(a.heatmaps[name].values, b.heatmaps[name].values) and a.words == b.words
            for a, b in zip(first.explanations, second.explanations, strict=True)
            for name in a.heatmaps
        )
    )


def test_labels_from_the_cache_are_the_same_to_the_bit(
    checkpoints: Path, cache: StageCache, loaded: list[str]
) -> None:
    config, frames = _config(checkpoints), [_frame(96, 128)]
    (bare,) = Pipeline.from_config(config, device="cpu").run(frames, explain=True)
    assert len(bare.label.segments) >= 2 and bare.explanations[0].heatmaps
    (first,) = Pipeline.from_config(config, device="cpu", cache=cache).run(frames, explain=True)
    loaded.clear()
    (again,) = Pipeline.from_config(config, device="cpu", cache=cache).run(frames, explain=True)
    assert _same(first, bare) and _same(again, bare)
    # What was captured serves a run without, which says the same as a run without would.
    (without,) = Pipeline.from_config(config, device="cpu", cache=cache).run(frames)
    assert loaded == []
    (plain,) = Pipeline.from_config(config, device="cpu").run(frames)
    assert _same(without, plain)
    changed = _config(checkpoints, threshold=0.505)
    loaded.clear()
    (moved,) = Pipeline.from_config(changed, device="cpu", cache=cache).run(frames)
    assert loaded in (["Sam"], [])
    assert _same(moved, Pipeline.from_config(changed, device="cpu").run(frames)[0])


class _AtOnce(SamOptions):
    """As on a GPU: several prompts at once, here on the CPU."""

    def at_once(self, device: str) -> int:
        return self.prompts_per_pass


class _Counting(Sam):
    """Counts the prompts that it decodes."""

    asked = 0

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        self.asked += len(prompts)
        return super().masks(embedding, prompts, multimask=multimask)


def _points(count: int) -> Prompts:
    rng = np.random.default_rng(1)
    points = (rng.random((count, 4, 2)) * [128, 96]).astype(np.float32)
    return Prompts(points=points, labels=np.ones((count, 4), dtype=np.int32))


def _part(prompts: Prompts, part: slice) -> Prompts:
    assert prompts.points is not None and prompts.labels is not None
    return Prompts(points=prompts.points[part], labels=prompts.labels[part])


@pytest.mark.parametrize(("options", "new"), [(SamOptions, 3), (_AtOnce, 6)])
def test_prompts_among_others_are_the_same_to_the_bit(
    checkpoints: Path, cache: StageCache, options: type[SamOptions], new: int
) -> None:
    """Only new ones are decoded; where the network takes several at once, only known calls are."""
    chosen = options(weights=str(checkpoints / "sam"))
    plain, counting = Sam(chosen), _Counting(chosen)
    plain.load("cpu")
    cached = CachedSegmenter(counting, chosen, cache)
    cached.load("cpu")
    (bare,), (embedding,) = plain.embed([_frame(96, 128)]), cached.embed([_frame(96, 128)])
    prompts = _points(7)
    cached.masks(embedding, _part(prompts, slice(0, 4)), multimask=True)
    counting.asked = 0
    for _ in range(2):
        some = _part(prompts, slice(1, 7))
        found = cached.masks(embedding, some, multimask=True)
        expected = plain.masks(bare, some, multimask=True)
        assert np.array_equal(found.logits, expected.logits)
        assert np.array_equal(found.ious, expected.ious)
        assert counting.asked == new
    cached.masks(embedding, _part(prompts, slice(1, 7)), multimask=False)
    assert counting.asked == new + 6


def test_what_needs_no_weights_loads_none(
    checkpoints: Path, cache: StageCache, loaded: list[str], tmp_path: Path
) -> None:
    options, frame = SamOptions(weights=str(checkpoints / "sam")), _frame(96, 128)
    for _ in range(2):
        loaded.clear()
        cached = CachedSegmenter(Sam(options), options, cache)
        cached.load("cpu")
        (embedding,) = cached.embed([frame])
        side = int(embedding.features.shape[-1]) * 4
        logits = np.random.default_rng(0).normal(size=(2, side, side)).astype(np.float32)
        full = cached.upscale(embedding, logits, (96, 128))
        grid = cached.to_logit_grid(embedding, full, -6.0)
    assert loaded == []
    plain = Sam(options)
    plain.load("cpu")
    assert np.array_equal(plain.upscale(embedding, logits, (96, 128)), full)
    assert np.array_equal(plain.to_logit_grid(embedding, full, -6.0), grid)
    assert isinstance(embedding, KeyedEmbedding)
    embedding.save(tmp_path / "embedding.npz")
    stored = Embedding.load(tmp_path / "embedding.npz")
    assert np.array_equal(stored.features, embedding.features)
    # An embedding from elsewhere has no key; the network is asked.
    found = cached.masks(stored, _points(2), multimask=False)
    assert loaded == ["Sam", "Sam"]
    assert np.array_equal(found.logits, plain.masks(stored, _points(2), multimask=False).logits)


def test_an_unloaded_segmenter_that_cannot_enlarge_is_loaded(
    checkpoints: Path, cache: StageCache, monkeypatch: pytest.MonkeyPatch, loaded: list[str]
) -> None:
    """As the authors' own package, which enlarges masks by a method of its network."""
    upscale = Sam.upscale

    def need_network(self: Sam, *args: object) -> object:
        self._loaded()
        return upscale(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(Sam, "upscale", need_network)
    options = SamOptions(weights=str(checkpoints / "sam"))
    for _ in range(2):
        cached = CachedSegmenter(Sam(options), options, cache)
        cached.load("cpu")
        (embedding,) = cached.embed([_frame(96, 128)])
    loaded.clear()
    assert cached.upscale(embedding, np.zeros((1, 8, 8), np.float32), (4, 6)).shape == (1, 4, 6)
    assert loaded == ["Sam"]


def test_evidence_changes_no_detection(checkpoints: Path) -> None:
    """So one entry serves runs with explanations and without."""
    config = _config(checkpoints)
    detector = GroundingDino(config.detect)  # type: ignore[arg-type]
    detector.load("cpu")
    plain, captured = (
        detector.detect([_frame(96, 128)], config.ontology, capture=capture)[0].detections
        for capture in (False, True)
    )
    assert np.array_equal(plain.boxes, captured.boxes)
    assert np.array_equal(plain.class_scores, captured.class_scores)
