"""One side of the benchmark in a process of its own: seconds, operations and memory as JSON.

    python -m prelabel.bench.worker ours CONFIG FOLDER CLASSES REPEATS

Operations are counted in a first run, which also warms up; the others are timed, and the quickest
counts, stage by stage.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from prelabel.bench.workload import Workload, build_workload

__all__ = ["Meter", "matmul_peak", "measure"]


class Meter:
    """Seconds and operations by stage, added up."""

    def __init__(self, *, counting: bool = False) -> None:
        self.counting = counting
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.flops: defaultdict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        from torch.utils.flop_counter import FlopCounterMode

        counter = FlopCounterMode(display=False) if self.counting else None
        start = time.perf_counter()
        with counter or nullcontext():
            yield
        self.seconds[stage] += time.perf_counter() - start
        if counter is not None:
            self.flops[stage] += counter.get_total_flops()


def _reference(_config: Path, root: Path, work: Workload) -> Callable[[Meter], None]:
    from prelabel.bench.reference import Reference

    reference = Reference(root)

    def run(meter: Meter) -> None:
        reference.run(work, meter)

    return run


def _ours(config: Path, root: Path, work: Workload) -> Callable[[Meter], None]:
    from prelabel.bench.checkpoints import weights_overrides
    from prelabel.bench.fed import Counted, FedDetector, FedScorer, FedSegmenter
    from prelabel.config import load_config
    from prelabel.pipeline import Pipeline

    settings = load_config(config, weights_overrides(root)).model_copy(
        update={"ontology": work.ontology, "device": "cpu"}
    )
    pipeline = Pipeline.from_config(settings)
    counted = Counted()
    pipeline.detector = FedDetector(pipeline.detector, work, counted)
    pipeline.segmenter = FedSegmenter(pipeline.segmenter, work, counted)
    pipeline.stuff_scorer = FedScorer(pipeline.stuff_scorer, work, counted)
    pipeline.load()

    def run(meter: Meter) -> None:
        counted.by = meter if meter.counting else None
        (labelled,) = pipeline.run([work.frame], explain=False)
        meter.seconds.update(labelled.seconds)

    return run


def measure(side: str, config: Path, root: Path, classes: int, repeats: int) -> dict[str, Any]:
    """Seconds and operations by stage, and peak MiB of this process.

    Args:
        side: "ours" or "reference".
        config: names the architectures, and how ours works.
        root: holds the weights, as `save_untrained` wrote them.
        classes: kinds of stuff.
        repeats: timed runs.
    """
    work = build_workload(classes)
    run = {"ours": _ours, "reference": _reference}[side](config, root, work)
    first = Meter(counting=True)
    run(first)
    timings = []
    for _ in range(repeats):
        meter, start = Meter(), time.perf_counter()
        run(meter)
        timings.append({**meter.seconds, "whole": time.perf_counter() - start})
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    return {"seconds": _best(timings), "flops": dict(first.flops), "peak_mib": round(peak)}


def _best(timings: list[dict[str, float]]) -> Mapping[str, float]:
    return {stage: min(timing[stage] for timing in timings) for stage in timings[0]}


def matmul_peak(side: int = 2048, repeats: int = 5) -> float:
    """Operations per second of this machine's best fp32 matrix product, all threads."""
    import torch

    a, b = torch.rand(side, side), torch.rand(side, side)
    best = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        a @ b
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def main() -> None:
    """Read the arguments, measure, print."""
    side, config, root, classes, repeats = sys.argv[1:]
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    found = measure(side, Path(config), Path(root), int(classes), int(repeats))
    found["peak_flops"] = matmul_peak()
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
