"""One run of the pipeline in a process of its own, with or without the stage cache, timed.

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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from prelabel.bench.workload import SIZE, Workload, build_workload
from prelabel.data import StuffScores

__all__ = ["Request", "measure", "write_pictures"]


@dataclass(frozen=True, slots=True)
class Request:
    """What to run.

    Attributes:
        config: a file that names the architectures.
        pictures: a folder of images.
        classes: kinds of stuff, one component each.
        cache: the cache's folder, or None for none.
        overrides: as after `--set`, among them where the weights are.
    """

    config: str
    pictures: str
    classes: int
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

    On a machine that does other work too, only the processors' seconds can be compared.
    """
    from prelabel.images import decode

    start, start_cpu = time.perf_counter(), time.process_time()
    pipeline, cache = _pipeline(request)
    pipeline.config.fingerprint("merge")  # as every job does, which reads the weights
    pipeline.load()
    loaded, loaded_cpu = time.perf_counter(), time.process_time()
    stages, labels = dict[str, float](), []
    for record in _records(Path(request.pictures)):
        (found,) = pipeline.run([decode(Path(record.uri), record)], explain=False)
        for stage, seconds in found.seconds.items():
            stages[stage] = stages.get(stage, 0.0) + seconds
        digest = hashlib.sha256(found.label.id_map.tobytes())
        digest.update(repr(found.label.segments).encode())
        labels.append(digest.hexdigest())
    return {
        "load_s": loaded - start,
        "load_cpu_s": loaded_cpu - start_cpu,
        "label_s": time.perf_counter() - loaded,
        "label_cpu_s": time.process_time() - loaded_cpu,
        "stages_s": stages,
        "labels": labels,
        "hits": {} if cache is None else dict(cache.hits),
        "misses": {} if cache is None else dict(cache.misses),
        "bytes": {} if cache is None else dict(cache.use().nbytes),
    }


def _records(folder: Path) -> list[Any]:
    from prelabel.data import ImageRecord

    return [ImageRecord(path.name, str(path)) for path in sorted(folder.iterdir())]


def _pipeline(request: Request) -> tuple[Any, Any]:
    from prelabel.bench.fed import Counted, FedDetector, FedScorer, FedSegmenter
    from prelabel.cache import StageCache
    from prelabel.cache.networks import CachedDetector, CachedStuffScorer
    from prelabel.cache.segmenter import CachedSegmenter
    from prelabel.config import load_config
    from prelabel.pipeline import Pipeline

    work, counted = ramped(build_workload(request.classes)), Counted()
    config = load_config(Path(request.config), request.overrides)
    config = config.model_copy(update={"ontology": work.ontology})
    pipeline = Pipeline.from_config(config, device="cpu")
    pipeline.detector = FedDetector(pipeline.detector, work, counted)
    pipeline.segmenter = FedSegmenter(pipeline.segmenter, work, counted)
    pipeline.stuff_scorer = FedScorer(pipeline.stuff_scorer, work, counted)
    if request.cache is None:
        return pipeline, None
    cache = StageCache(Path(request.cache), 2**40)
    pipeline.detector = CachedDetector(pipeline.detector, config.detect, cache)
    pipeline.segmenter = CachedSegmenter(pipeline.segmenter, config.segment, cache)
    pipeline.stuff_scorer = CachedStuffScorer(pipeline.stuff_scorer, config.stuff, cache)
    return pipeline, cache


def main() -> None:
    """Read the request, measure, print."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    document = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    document["overrides"] = tuple(document["overrides"])
    sys.stdout.write(json.dumps(measure(Request(**document))) + "\n")


if __name__ == "__main__":
    main()
