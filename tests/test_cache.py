"""Runs from the cache: which networks are asked, and that labels are the same to the bit."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.cache import StageCache
from prelabel.cache.keys import PixelDigests, category_digest, network_digest
from prelabel.cache.networks import Deferred
from prelabel.config import Config, build_config
from prelabel.data import Frame, ImageRecord, Ontology
from prelabel.errors import ModelError
from prelabel.models.paint import PaintDetector, PaintOptions, PaintSegmenter, PaintStuffScorer
from prelabel.models.roles import Prompts
from prelabel.pipeline import Labelled, Pipeline
from prelabel.strict_yaml import Document

COLORS = {"c": (200, 0, 0), "d": (0, 200, 0), "s": (0, 0, 200), "r": (80, 80, 80)}
NAMES = {"c": "car", "d": "dog", "s": "sky", "r": "road"}
SCENE = ["ssssss", "sscsss", "rccrdd", "rrrrdd"]
OTHER = ["rrrrrr", "rrdrrr", "srrrcc", "ssssss"]


def _config(**changes: Document) -> Config:
    """Painted things and stuff; `changes` are put over sections and over categories by name."""

    def entries(letters: str) -> list[Document]:
        return [
            {"name": NAMES[letter], "color": list(COLORS[letter])} | _section(NAMES[letter])
            for letter in letters
        ]

    def _section(name: str) -> dict[str, Any]:
        section = changes.get(name, {})
        assert isinstance(section, dict)
        return section

    document: dict[str, Document] = {
        "ontology": {"things": entries("cd"), "stuff": entries("sr")},
        "detect": {"kind": "paint"} | _section("detect"),
        "segment": {"kind": "paint"},
        "stuff": {"kind": "paint"},
        "refine": {"min_component": 0.0, "reach": 0.0} | _section("refine"),
        "merge": {"min_area": 0.0} | _section("merge"),
    }
    return build_config(document, "test")


def _paint(rows: list[str], image_id: str = "a") -> Frame:
    pixels = np.array([[COLORS[letter] for letter in row] for row in rows], dtype=np.uint8)
    return Frame(ImageRecord(image_id, image_id), pixels)


FRAMES = [_paint(SCENE, "a"), _paint(OTHER, "b"), _paint(["s"], "c")]


def _run(
    config: Config, cache: StageCache | None, frames: Sequence[Frame] = FRAMES, **how: bool
) -> list[Labelled]:
    return Pipeline.from_config(config, device="cpu", cache=cache).run(frames, **how)


def _alike(first: Sequence[Labelled], second: Sequence[Labelled]) -> bool:
    """Whether labels, traces and explanations are equal to the bit."""
    return len(first) == len(second) and all(
        np.array_equal(one.label.id_map, two.label.id_map)
        and one.label.segments == two.label.segments
        and repr(one.trace) == repr(two.trace)
        and repr(one.explanations) == repr(two.explanations)
        and all(
            np.array_equal(a.heatmaps[name].values, b.heatmaps[name].values)
            for a, b in zip(one.explanations, two.explanations, strict=True)
            for name in a.heatmaps
        )
        for one, two in zip(first, second, strict=True)
    )


@pytest.fixture
def cache(tmp_path: Path) -> StageCache:
    return StageCache(tmp_path / "cache", 2**30)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many frames, prompts and masks the networks were asked about, and how often loaded."""
    counts: Counter[str] = Counter()

    def count(network: type[Any], method: str, size: Any) -> None:
        answer = getattr(network, method)

        def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
            counts[method] += size(*args)
            return answer(self, *args, **kwargs)

        monkeypatch.setattr(network, method, counting)

    def prompts(_embedding: object, asked_for: Prompts) -> int:
        return len(asked_for)

    count(PaintDetector, "detect", lambda frames, _: len(frames))
    count(PaintSegmenter, "embed", len)
    count(PaintSegmenter, "masks", prompts)
    count(PaintSegmenter, "attention", lambda *_: 1)
    count(PaintStuffScorer, "score", lambda frames, _: len(frames))
    for network in (PaintDetector, PaintSegmenter, PaintStuffScorer):
        count(network, "load", lambda _: 1)
    return counts


# --- what is asked ----------------------------------------------------------------------------


def test_a_second_run_asks_nothing_and_loads_nothing(
    cache: StageCache, asked: Counter[str]
) -> None:
    first = _run(_config(), cache)
    assert asked == {"detect": 3, "embed": 3, "score": 3, "masks": 9, "load": 3}
    asked.clear()
    assert _alike(_run(_config(), cache), first)
    assert asked == {}
    assert _alike(_run(_config(), None), first)


@pytest.mark.parametrize("merge", [{"min_score": 0.93}, {"fill_void": False}])
def test_a_changed_merge_threshold_runs_no_network(
    cache: StageCache, asked: Counter[str], merge: dict[str, Document]
) -> None:
    before = _run(_config(), cache)
    asked.clear()
    after = _run(_config(merge=merge), cache)
    assert asked == {}
    assert _alike(after, _run(_config(merge=merge), None))
    if "min_score" in merge:
        assert [len(one.label.segments) for one in after] == [0, 0, 0]
        assert [len(one.label.segments) for one in before] == [4, 4, 1]


def test_a_changed_stuff_threshold_decodes_only_new_prompts(
    cache: StageCache, asked: Counter[str]
) -> None:
    """Without the road, then with it: the road is all that is new."""
    without = _config(road={"mask_threshold": 0.95})
    _run(without, cache, FRAMES[:1])
    assert asked == {"detect": 1, "embed": 1, "score": 1, "masks": 3, "load": 3}
    asked.clear()
    after = _run(_config(), cache, FRAMES[:1])
    assert asked == {"masks": 1, "load": 1}
    assert _alike(after, _run(_config(), None, FRAMES[:1]))
    asked.clear()
    _run(without, cache, FRAMES[:1])
    _run(_config(refine={"threshold": 0.95}), cache, FRAMES[:1])
    assert asked == {}


def test_a_changed_stuff_prompt_scores_again_and_nothing_before_it(
    cache: StageCache, asked: Counter[str]
) -> None:
    _run(_config(), cache)
    asked.clear()
    changed = _config(sky={"prompts": ["sky", "heaven"]})
    after = _run(changed, cache)
    # The painted scorer sees colours only: the same maps, so the same prompts for masks.
    assert asked == {"score": 3, "load": 1}
    assert _alike(after, _run(changed, None))


def test_a_changed_thing_detects_again_but_encodes_no_image(
    cache: StageCache, asked: Counter[str]
) -> None:
    _run(_config(), cache)
    asked.clear()
    changed = _config(detect={"score": 0.7})
    after = _run(changed, cache)
    assert asked == {"detect": 3, "load": 1}
    assert _alike(after, _run(changed, None))


def test_names_and_paths_do_not_count(cache: StageCache, asked: Counter[str]) -> None:
    _run(_config(), cache)
    asked.clear()
    renamed = [Frame(ImageRecord(f"new/{f.record.image_id}", "x"), f.pixels) for f in FRAMES]
    _run(_config(road={"id": 4, "name": "way", "prompts": ["road"]}), cache, renamed)
    assert asked["detect"] == asked["embed"] == asked["score"] == 0


def test_only_new_images_of_a_batch_are_asked_about(cache: StageCache, asked: Counter[str]) -> None:
    _run(_config(), cache, FRAMES[1:2])
    asked.clear()
    together = _run(_config(), cache)
    assert (asked["detect"], asked["embed"], asked["score"]) == (2, 2, 2)
    assert [one.label.image_id for one in together] == ["a", "b", "c"]
    assert _alike(together, _run(_config(), None))


def test_an_ontology_of_only_one_sort_asks_only_its_network(
    cache: StageCache, asked: Counter[str]
) -> None:
    for keep in (True, False):
        some = Ontology(tuple(c for c in _config().ontology if c.isthing == keep))
        config = _config().model_copy(update={"ontology": some})
        asked.clear()
        assert _alike(_run(config, cache), _run(config, None))
        assert (asked["detect"], asked["score"]) == ((6, 3) if keep else (3, 6))


# --- explanations -----------------------------------------------------------------------------


def test_evidence_is_asked_for_once_and_serves_runs_without(
    cache: StageCache, asked: Counter[str]
) -> None:
    _run(_config(), cache)
    asked.clear()
    explained = _run(_config(), cache, explain=True)
    assert asked == {"detect": 3, "embed": 3, "attention": 9, "load": 2}
    asked.clear()
    assert _alike(_run(_config(), cache, explain=True), explained)
    assert _alike(_run(_config(), cache), _run(_config(), None))
    del asked["load"]
    assert asked == {"detect": 3, "embed": 3, "score": 3, "masks": 9}  # those without a cache
    assert _alike(_run(_config(), None, explain=True), explained)


def test_a_run_with_evidence_serves_a_run_without(cache: StageCache, asked: Counter[str]) -> None:
    _run(_config(), cache, explain=True)
    asked.clear()
    found = _run(_config(), cache)
    assert asked == {}
    assert found[0].findings.evidence is None
    assert found[0].findings.embedding.attention_input.size == 0


# --- damage and disks -------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0, 20, -1])
def test_damaged_entries_are_made_again(cache: StageCache, asked: Counter[str], keep: int) -> None:
    first = _run(_config(), cache, explain=True)
    files = [path for path in cache.folder.glob("*/*/*") if path.is_file()]
    for path in files:
        path.write_bytes(path.read_bytes()[:keep])
    asked.clear()
    assert _alike(_run(_config(), cache, explain=True), first)
    assert asked["detect"] == asked["embed"] == asked["score"] == 3
    asked.clear()
    assert _alike(_run(_config(), cache, explain=True), first)
    assert asked == {}


def test_entries_of_another_shape_are_made_again(
    cache: StageCache, asked: Counter[str], caplog: pytest.LogCaptureFixture
) -> None:
    first = _run(_config(), cache, FRAMES[:1])
    for kind in ("detections", "rough-maps", "mask-logits", "embeddings", "refined-masks"):
        for path in (cache.folder / kind).glob("*/*"):
            cache.put(kind, path.parent.name + path.name, {"other": np.zeros(3)})
    asked.clear()
    assert _alike(_run(_config(), cache, FRAMES[:1]), first)
    assert asked == {"detect": 1, "embed": 1, "score": 1, "masks": 4, "load": 3}
    assert "did not fit and is made again" in caplog.text


def test_a_full_disk_ends_the_cache_and_not_the_run(
    cache: StageCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    assert _alike(_run(_config(), cache), _run(_config(), None))
    assert caplog.text.count("No space left on device") == 1


# --- loading ----------------------------------------------------------------------------------


class _Unfit:
    def load(self, device: str) -> None:
        raise ModelError(f"does not fit on {device}")


def test_what_is_wrong_with_weights_is_told_at_the_start(cache: StageCache) -> None:
    for _ in range(2):
        with pytest.raises(ModelError, match="does not fit on cpu"):
            Deferred(_Unfit(), PaintOptions(), cache).load("detect", "cpu")


def test_a_network_that_was_not_loaded_says_so(cache: StageCache) -> None:
    pipeline = Pipeline.from_config(_config(), device="cpu", cache=cache)
    with pytest.raises(ModelError, match=r"before load\(\)"):
        pipeline.detector.detect(FRAMES, _config().ontology)


# --- keys -------------------------------------------------------------------------------------


def test_device_role_and_options_make_other_networks() -> None:
    digests = {
        network_digest(role, PaintOptions(score=score), device)
        for role in ("detect", "segment")
        for score in (0.5, 0.6)
        for device in ("cpu", "cuda")
    }
    assert len(digests) == 8
    first, second = (network_digest("stuff", PaintOptions(), f"cuda:{index}") for index in (0, 1))
    assert first == second


def test_categories_count_by_what_a_network_reads() -> None:
    def of(**car: Document) -> str:
        return category_digest(_config(car=car).ontology.things, PaintOptions())

    assert of(mask_threshold=0.4) == of()
    for change in ({"prompts": ["auto"]}, {"box_threshold": 0.1}, {"id": 9}, {"color": [1, 2, 3]}):
        assert of(**change) != of()


def test_pixels_count_by_value_and_shape() -> None:
    digests, pixels = PixelDigests(), np.zeros((2, 3, 3), dtype=np.uint8)

    def of(values: np.ndarray) -> str:
        return digests(Frame(ImageRecord("a", "a"), values))

    assert of(pixels) == of(pixels.copy()) == of(np.zeros((4, 6, 3), dtype=np.uint8)[::2, ::2])
    assert len({of(pixels), of(pixels.reshape(3, 2, 3)), of(pixels + 1)}) == 3
    assert len(digests._known) <= 2  # what no frame holds any more is forgotten
