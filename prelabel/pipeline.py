"""One batch of images through all stages."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from prelabel.cache import StageCache
from prelabel.cache.networks import CachedDetector, CachedStuffScorer
from prelabel.cache.refined import RefinedMasks
from prelabel.cache.segmenter import CachedSegmenter
from prelabel.config import Config, load_config
from prelabel.data import (
    Explanation,
    Frame,
    ImageRecord,
    Instances,
    PanopticLabel,
    StuffRegions,
    StuffScores,
    Trace,
)
from prelabel.errors import ConfigError, ImageError
from prelabel.hand import at_stage
from prelabel.images import decode
from prelabel.models.registry import create_detector, create_segmenter, create_stuff_scorer
from prelabel.models.roles import Detected, Embedding
from prelabel.stages.explain import Findings, explain
from prelabel.stages.merge import merge
from prelabel.stages.refine import refine_stuff
from prelabel.stages.sample import generator_for
from prelabel.stages.segment import segment_things
from prelabel.stages.snap import snap_masks

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["STAGES", "Labelled", "Pipeline"]

_MAX_ASPECT = 50

STAGES = ("detect", "segment", "score", "refine", "merge", "explain")
"""The stages, in the order in which they run."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """One image's label and how it came about.

    Attributes:
        label: the pre-label.
        trace: what merge decided.
        explanations: one per segment, or none where they were not asked for.
        findings: what each stage found.
        seconds: per stage, wall-clock.
    """

    label: PanopticLabel
    trace: Trace
    explanations: tuple[Explanation, ...]
    findings: Findings
    seconds: Mapping[str, float]


class Pipeline:
    """The networks of one config and the way through them.

    >>> label = Pipeline.from_config("configs/demo.yaml").label("photo.jpg")
    """

    def __init__(self, config: Config, device: str, cache: StageCache | None = None) -> None:
        self.config = config
        self.ontology = config.ontology
        self.device = device
        self.detector = create_detector(config.detect)
        self.segmenter = create_segmenter(config.segment)
        self.stuff_scorer = create_stuff_scorer(config.stuff)
        self._cache: StageCache | None = None
        self._refined: RefinedMasks | None = None
        self._loaded = False
        if cache is not None:
            self.put_behind(cache)

    def put_behind(self, cache: StageCache) -> None:
        """Ask the networks, before they load, only what `cache` does not know."""
        config, self._cache = self.config, cache
        self.detector = CachedDetector(self.detector, config.detect, cache)
        self.segmenter = CachedSegmenter(self.segmenter, config.segment, cache)
        self.stuff_scorer = CachedStuffScorer(self.stuff_scorer, config.stuff, cache)

    @classmethod
    def from_config(
        cls,
        config: Config | str | os.PathLike[str],
        *,
        device: str | None = None,
        cache: StageCache | None = None,
    ) -> Self:
        """A pipeline that has loaded nothing yet. Raises ConfigError for a wrong config.

        With `cache`, as `open_cache(config.cache)` gives it, networks are asked only what they
        were not asked before, and load when that happens.
        """
        if not isinstance(config, Config):
            config = load_config(Path(config))
        return cls(config, device or config.device, cache)

    def load(self) -> Self:
        """Load the weights, once. Raises ConfigError or ModelError."""
        if not self._loaded:
            device = _resolve_device(self.device)
            if self.config.threads is not None:
                _limit_threads(self.config.threads)
            for network in (self.detector, self.segmenter, self.stuff_scorer):
                network.load(device)
            if self._cache is not None:
                self._refined = RefinedMasks(self.config, self._cache, device)
            self._loaded = True
        return self

    def label(self, image: Image | NDArray[np.uint8] | str | os.PathLike[str]) -> PanopticLabel:
        """The label of one image: a path, a PIL image, or uint8 (H, W, 3) RGB.

        Raises:
            ImageError: the file cannot be read.
        """
        return self.run([_frame(image)], explain=False)[0].label

    def run(self, frames: Sequence[Frame], *, explain: bool | None = None) -> list[Labelled]:
        """Label some frames as one batch. `explain` overrides the config's `explain.enabled`.

        Raises:
            ImageError: one of them cannot be labelled; then none is.
        """
        capture = self.config.explain.enabled if explain is None else explain
        self.load()
        together = _Clock()
        with together("detect"):
            for frame in frames:
                _refuse_thin(frame)
            detected = self.detector.detect(frames, self.ontology, capture=capture)
        with together("segment"):
            embeddings = self.segmenter.embed(frames, capture=capture)
        with together("score"):
            scores = self.stuff_scorer.score(frames, self.ontology)
        share = {name: value / len(frames) for name, value in together.seconds.items()}
        parts = zip(frames, detected, embeddings, scores, strict=True)
        return [self._finish(_Seen(*part), capture, _Clock(share)) for part in parts]

    def _finish(self, seen: _Seen, capture: bool, clock: _Clock) -> Labelled:
        """From what the networks say about one frame to its label."""
        frame, detected, embedding, scores = seen
        config, ontology, image_id = self.config, self.ontology, frame.record.image_id
        instances, regions = self._masks(seen, clock)
        with clock("merge"):
            label, trace = merge(
                image_id, frame.size, instances, regions, scores, ontology, config.merge
            )
        findings = Findings(instances, scores, regions, embedding, detected.evidence)
        reasons: tuple[Explanation, ...] = ()
        if capture:
            with clock("explain"):
                reasons = explain(label, trace, findings, self.segmenter, ontology, config.explain)
        return Labelled(label, trace, reasons, findings, clock.seconds)

    def _masks(self, seen: _Seen, clock: _Clock) -> tuple[Instances, StuffRegions]:
        """What merge decides over: masks of things and regions of stuff, snapped to edges."""
        frame, detected, embedding, scores = seen
        options, ontology = self.config.refine, self.ontology
        if self._refined is not None:
            with clock("refine"):
                known = self._refined.get(frame)
            if known is not None:
                return known
        with clock("segment"):
            instances = segment_things(self.segmenter, embedding, detected.detections)
        with clock("refine"):
            rng = generator_for(frame.record.image_id)
            regions = refine_stuff(
                self.segmenter, embedding, scores, instances, ontology, options, rng
            )
            instances, regions = snap_masks(instances, regions, frame.pixels, options.snap)
            if self._refined is not None:
                self._refined.put(frame, instances, regions)
        return instances, regions


class _Seen(NamedTuple):
    """One frame and what each network says about it."""

    frame: Frame
    detected: Detected
    embedding: Embedding
    scores: StuffScores


class _Clock:
    """Wall-clock seconds by stage, added up; `start` is what they begin with."""

    def __init__(self, start: Mapping[str, float] | None = None) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float, start or {})

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            with at_stage(stage):
                yield
        except BaseException as error:
            # Read by the job, which tells the stage of each failure.
            error.add_note(f"stage: {stage}")
            raise
        self.seconds[stage] += time.perf_counter() - start


def _refuse_thin(frame: Frame) -> None:
    """Refuse what the networks' resizing would leave without height or width."""
    if max(frame.size) > _MAX_ASPECT * min(frame.size):
        height, width = frame.size
        raise ImageError(
            f"{frame.record.image_id} is {width} x {height} pixels; one side is more than "
            f"{_MAX_ASPECT} times the other, which leaves nothing to label",
            kind="too-thin",
        )


def _resolve_device(device: str) -> str:
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _limit_threads(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _frame(image: Image | NDArray[np.uint8] | str | os.PathLike[str]) -> Frame:
    if isinstance(image, (str, os.PathLike)):
        path = Path(image)
        return decode(path, ImageRecord(path.name, str(path)))
    if not isinstance(image, np.ndarray):
        return Frame(ImageRecord("image", ""), np.asarray(image.convert("RGB")))
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ConfigError(f"expected an image uint8 (H, W, 3), got {image.dtype} {image.shape}")
    return Frame(ImageRecord("image", ""), image)
