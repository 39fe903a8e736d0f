"""One run in a process of its own, with or without the stage cache, timed.

    python -m prelabel.bench.rerun REQUEST

REQUEST is a JSON file, see `Request`. Networks run in full on random weights; their answers are
replaced by a workload's *before* the cache sees them: ten boxes, and rough maps that fall off
towards their edges, so that another threshold gives other components and other points.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prelabel.bench.fed import Counted, FedDetector, FedScorer, FedSegmenter
from prelabel.bench.workload import SIZE, Workload, build_workload
from prelabel.cache import StageCache
from prelabel.config import Config, load_config
from prelabel.data import Frame, ImageRecord, StuffScores
from prelabel.images import decode
from prelabel.job.engines.inline import InlineEngine
from prelabel.job.progress import Silence
from prelabel.job.protocol import WorkerOptions, WorkerPlan
from prelabel.job.runner import JobOptions, run_job
from prelabel.label_files import LabelMeta, list_labels
from prelabel.pipeline import Pipeline

__all__ = ["Request", "measure", "write_pictures"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        config: a file that names the architectures.
        pictures: a folder of images.
        classes: kinds of stuff, one component each.
        out: the run's folder.
        cache: the cache's folder, or None for none.
        overrides: as after `--set`, among them where the weights are.
    """

    config: str
    pictures: str
    classes: int
    out: str
    cache: str | None = None
    overrides: tuple[str, ...] = ()


def write_pictures(folder: Path, count: int) -> None:
    """Different pictures of the workload's size, as JPEG."""
    folder.mkdir(parents=True)
    for index in range(count):
        rng = np.random.default_rng(index)
        coarse = rng.uniform(0, 255, (SIZE[0] // 32, SIZE[1] // 32, 3))
        full = np.kron(coarse, np.ones((32, 32, 1))) + rng.normal(0, 8, (*SIZE, 3))
        picture = Image.fromarray(np.clip(full, 0, 255).astype(np.uint8))
        picture.save(folder / f"{index}.jpg", quality=90)


def ramped(work: Workload) -> Workload:
    """The workload with rough maps that rise from 0.4 at a rectangle's edge to 0.9 inside."""
    probs = np.full_like(work.scores.probs, 0.02)
    scale = np.array([probs.shape[2] / SIZE[1], probs.shape[1] / SIZE[0]] * 2)
    for row, (x0, y0, x1, y1) in enumerate(np.round(work.cells * scale).astype(int)):
        x, y = np.arange(x1 - x0), np.arange(y1 - y0)
        depth = np.minimum.outer(np.minimum(y, y[::-1]), np.minimum(x, x[::-1]))
        probs[row, y0:y1, x0:x1] = 0.4 + 0.5 * np.minimum(1, depth / max(1, depth.max() / 2))
    scores = StuffScores(work.scores.category_ids, work.scores.prompt_ids, probs)
    return dataclasses.replace(work, scores=scores)


def measure(request: Request) -> dict[str, Any]:
    """Seconds to load and to label, of this machine's clock and of its processors; what came of it.

    It is a job as of `prelabel run --engine inline`, with ledger, labels and all. On a machine that
    does other work too, only the processors' seconds can be compared.
    """
    start = _Times()
    opened: list[StageCache | None] = []
    config = _config(request)

    def load(device: str) -> Pipeline:
        pipeline, cache = _pipeline(config, request.cache, device)
        opened.append(cache)
        return pipeline.load()

    # As every run does, which reads the weights.
    made = WorkerOptions("prelabel bench", config.fingerprint("merge"))
    plan = WorkerPlan(load, _Pictures(Path(request.pictures)), Path(request.out), made)
    watch = _Watch()
    summary = run_job(InlineEngine("cpu"), plan, JobOptions(fresh=True), watch)
    end = _Times()
    cache = opened[0]
    return {
        "load_s": watch.loaded.wall - start.wall,
        "load_cpu_s": watch.loaded.cpu - start.cpu,
        "label_s": end.wall - watch.loaded.wall,
        "label_cpu_s": end.cpu - watch.loaded.cpu,
        "stages_s": dict(summary.seconds),
        "labels": [_digest(meta) for meta in list_labels(Path(request.out))],
        "hits": {} if cache is None else dict(cache.hits),
        "misses": {} if cache is None else dict(cache.misses),
        "bytes": {} if cache is None else dict(cache.use().nbytes),
    }


class _Times:
    """Now, in seconds of the clock and of this process's processors."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()


class _Watch(Silence):
    """Notes when loading has ended."""

    def __init__(self) -> None:
        self.loaded = _Times()

    def begun(self, seconds: float) -> None:
        self.loaded = _Times()


def _digest(meta: LabelMeta) -> str:
    return hashlib.sha256(repr((meta.png_sha256, meta.segments)).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class _Pictures:
    """A folder as an `ImageSource`; connectors are above this layer."""

    folder: Path

    def records(self) -> Iterator[ImageRecord]:
        for path in sorted(self.folder.iterdir()):
            yield ImageRecord(path.name, str(path))

    def read(self, record: ImageRecord) -> Frame:
        return decode(Path(record.uri), record)

    def stamp(self, record: ImageRecord) -> str:
        return ""


def _config(request: Request) -> Config:
    config = load_config(Path(request.config), request.overrides)
    ontology = build_workload(request.classes).ontology
    return config.model_copy(update={"ontology": ontology})


def _pipeline(
    config: Config, folder: str | None, device: str
) -> tuple[Pipeline, StageCache | None]:
    """With networks that are fed, and the cache before them."""
    work, counted = ramped(build_workload(len(config.ontology.stuff))), Counted()
    pipeline = Pipeline.from_config(config, device=device)
    pipeline.detector = FedDetector(pipeline.detector, work, counted)
    pipeline.segmenter = FedSegmenter(pipeline.segmenter, work, counted)
    pipeline.stuff_scorer = FedScorer(pipeline.stuff_scorer, work, counted)
    if folder is None:
        return pipeline, None
    cache = StageCache(Path(folder), 2**40)
    pipeline.put_behind(cache)
    return pipeline, cache


def main() -> None:
    """Read the request, measure, print."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    document["overrides"] = tuple(document["overrides"])
    sys.stdout.write(json.dumps(measure(Request(**document))) + "\n")


if __name__ == "__main__":
    main()
