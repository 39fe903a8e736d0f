"""Engine ray on two nodes: one is killed, the driver is killed, and each image has one label."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.data import Failure, ImageRecord
from prelabel.job.engines.ray import RayEngine, RayOptions
from prelabel.job.progress import Silence
from prelabel.job.protocol import WorkerOptions, WorkerPlan
from prelabel.job.rehearsal import Rehearsal, RehearsalSource
from prelabel.job.runner import JobOptions, run_job
from prelabel.label_files import list_labels

sys.path.insert(0, str(Path(__file__).parent))
from cluster import two_nodes

CONFIG = """
source: {folder}/photos
out: {folder}/run
ontology:
  things: [{{name: car, color: [200, 0, 0]}}]
  stuff: [{{name: sky, color: [0, 0, 200]}}]
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
"""


@pytest.fixture
def nodes() -> Iterator[tuple[Any, Any]]:
    """A cluster of its own for each test, since they break it."""
    with two_nodes() as both:
        yield both


class Counts(Silence):
    """What was told of each image."""

    def __init__(self) -> None:
        self.done_: Counter[str] = Counter()
        self.bad: list[Failure] = []
        self.enough = threading.Event()

    def done(self, record: ImageRecord, segments: int, seconds: Mapping[str, float]) -> None:
        self.done_[record.image_id] += 1
        if self.done_.total() == 30:
            self.enough.set()

    def failed(self, failure: Failure) -> None:
        self.bad.append(failure)

    quarantined = failed


def _statuses(ledger: Path) -> Counter[str]:
    with closing(sqlite3.connect(ledger)) as database:
        return Counter(status for (status,) in database.execute("SELECT status FROM images"))


def test_a_node_that_is_killed_loses_and_doubles_nothing(
    nodes: tuple[Any, Any], tmp_path: Path
) -> None:
    cluster, second = nodes
    ids = tuple(f"{index:03}" for index in range(240))
    log = tmp_path / "log"
    plan = WorkerPlan(
        Rehearsal(seconds=0.2, log=log),
        RehearsalSource(ids),
        tmp_path / "run",
        WorkerOptions("prelabel test", "none"),
    )
    counts = Counts()

    def kill() -> None:
        counts.enough.wait(120)
        cluster.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=kill)
    killer.start()
    engine = RayEngine(RayOptions(cluster.address, workers=6, cpus=2.0))
    summary = run_job(engine, plan, JobOptions(), counts)
    killer.join()
    assert counts.enough.is_set() and not counts.bad
    assert (summary.total, summary.done, summary.todo) == (240, 240, 0)
    assert counts.done_ == Counter(ids)
    assert sorted(meta.record.image_id for meta in list_labels(tmp_path / "run")) == list(ids)
    assert _statuses(tmp_path / "run" / "job.db") == {"done": 240}
    begun = Counter(line.split()[0] for line in log.read_text().splitlines())
    # Three workers of the node at most had five images each in hand or waiting.
    assert sum(begun.values()) - 240 <= 15
    assert len(cluster.list_all_nodes()) == 1


# --- the command line ---------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for index in range(60):
        pixels = np.full((40, 60, 3), (0, 0, 200), dtype=np.uint8)
        pixels[10:30, index % 20 : index % 20 + 20] = (200, 0, 0)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index:02}.png")
    (tmp_path / "photos" / "bad.jpg").write_text("<html>")
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    return path


def _command(config: Path, address: str) -> list[str]:
    cache = f"cache.folder={config.parent}/cache"
    command = [sys.executable, "-m", "prelabel", "run", str(config), "--set", cache, "--json"]
    return [*command, "--engine", "ray", "--ray-address", address, "--workers", "4"]


def _summary(run: Path) -> dict[str, Any]:
    return dict(json.loads((run / "summary.json").read_text()))


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_driver_that_is_ended_goes_on_later(
    nodes: tuple[Any, Any], config: Path, how: signal.Signals
) -> None:
    """And no worker outlives it."""
    address, run = nodes[0].address, config.parent / "run"
    with subprocess.Popen(_command(config, address), stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        for line in driver.stdout:
            if json.loads(line)["event"] == "done":
                break
        os.kill(driver.pid, how)
        driver.stdout.read()
    assert driver.returncode == (-9 if how == signal.SIGKILL else 130)
    before = len(list(list_labels(run)))
    assert 1 <= before < 60
    deadline = time.monotonic() + 60
    while _actors() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _actors()
    assert subprocess.run(_command(config, address), stdout=subprocess.DEVNULL).returncode == 3
    summary = _summary(run)
    # A worker may have finished an image after that look.
    assert summary["done"] <= 60 - before and summary["done"] + summary["skipped"] == 60
    assert (summary["failed"], summary["todo"]) == (1, 0)
    assert len(list(list_labels(run))) == 60
    assert _statuses(run / "job.db") == {"done": 60, "failed": 1}


def _actors() -> list[int]:
    """Processes of actors that work."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if b"ray::_Actor" in entry.read_bytes():
                found.append(int(entry.parent.name))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at '127.0.0.1:1'"),
        ("auto", "no Ray cluster answers at 'auto'"),
        ("ray://127.0.0.1:10001", "run this on a node of the cluster"),
    ],
)
def test_a_cluster_that_is_not_there_is_told(config: Path, address: str, told: str) -> None:
    done = subprocess.run(_command(config, address), capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    said = " ".join(done.stderr.split())
    assert f"error: {told}" in said.replace("ray://127.0.0.1:10001 is for Ray's client; ", "")
    assert "Traceback" not in said and "labels" not in os.listdir(config.parent)
