#!/usr/bin/env python3
"""How engine ray scales: workers that sleep, 1 to 16 of them on two nodes; run by scripts/test-ray.

    scripts/test-ray --json FILE

Efficiency is the rate against the number of workers times what one sleeping worker could do at
most, so that 1.0 cannot be beaten. It is counted from when all workers have begun until the first
of them has nothing to begin.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from cluster import two_nodes

from prelabel.job.engines.ray import RayEngine, RayOptions
from prelabel.job.progress import Silence
from prelabel.job.protocol import Event, Started, WorkerOptions, WorkerPlan
from prelabel.job.rehearsal import Rehearsal, RehearsalSource
from prelabel.job.runner import JobOptions, run_job

SECONDS = 0.5
PER_WORKER = 40
BOUND = 0.95


class Watched(RayEngine):
    """Notes when images are begun and done."""

    def run(self, plan, tasks, handle, stopping):  # type: ignore[no-untyped-def]
        self.times: list[float] = []
        self.begun, self.all_begun, self.fed = set[str](), 0.0, 0.0
        log = plan.make_labeller.log

        def note(event: Event) -> None:
            now = time.perf_counter()
            if isinstance(event, Started):
                self.begun.add(event.image_id)
                if not self.all_begun and log.exists():
                    pids = {line.split()[1] for line in log.read_text().splitlines()}
                    self.all_begun = now if len(pids) == self._options.workers else 0.0
                if len(self.begun) == len(tasks):
                    self.fed = self.fed or now
            elif not isinstance(event, Started):
                self.times.append(now)
            handle(event)

        super().run(plan, tasks, note, stopping)


def measure(address: str, workers: int, folder: Path) -> dict[str, float]:
    ids = tuple(f"{index:04}" for index in range(PER_WORKER * workers))
    labeller = Rehearsal(seconds=SECONDS, log=folder / f"log-{workers}")
    source, options = RehearsalSource(ids), WorkerOptions("prelabel bench", "none")
    plan = WorkerPlan(labeller, source, folder / f"run-{workers}", options)
    engine = Watched(RayOptions(address, workers=workers))
    cpu, begun = time.process_time(), time.perf_counter()
    summary = run_job(engine, plan, JobOptions(), Silence())
    cpu, wall = time.process_time() - cpu, time.perf_counter() - begun
    if summary.done != len(ids) or len(engine.times) != len(ids):
        sys.exit(f"not each image once: {summary.done} labelled, {len(engine.times)} answers")
    window = [at for at in engine.times if engine.all_begun < at <= engine.fed]
    rate = len(window) / (engine.fed - engine.all_begun)
    return {
        "workers": workers,
        "images": len(ids),
        "images_per_second": rate,
        "efficiency": rate * SECONDS / workers,
        "driver_ms_per_image": cpu / len(ids) * 1e3,
        "wall_s": wall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    arguments = parser.parse_args()
    rows = []
    with two_nodes() as (cluster, _), tempfile.TemporaryDirectory() as folder:
        print("workers  images  images/s  efficiency  driver, ms CPU per image")
        for workers in (1, 4, 16):
            row = measure(cluster.address, workers, Path(folder))
            rows.append(row)
            print(
                f"{row['workers']:7.0f} {row['images']:7.0f} {row['images_per_second']:9.2f} "
                f"{row['efficiency']:11.3f} {row['driver_ms_per_image']:9.1f}",
                flush=True,
            )
    if arguments.json:
        arguments.json.write_text(json.dumps({"seconds": SECONDS, "rows": rows}, indent=1) + "\n")
    if rows[-1]["efficiency"] < BOUND * min(1.0, rows[0]["efficiency"]):
        sys.exit(f"16 workers do less than {BOUND} of 16 times what one does")


if __name__ == "__main__":
    main()
