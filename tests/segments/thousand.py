"""A thousand uploads to the local server: with faults, killed and resumed, and timed.

    scripts/test-segments --json FILE

The command line is run as a user runs it, in a process of its own; the server stands here. Prints a
table, writes the figures to FILE, and exits 1 where one is out of bounds.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from segments_platform import HUMAN, Platform
from segments_server import KEY, SIGNATURE, Faults, Server, serving

from prelabel.data import ImageRecord, PanopticLabel, Segment
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance

DATASET = "me/street"
CATEGORIES = [
    {"id": 31, "name": "car", "has_instances": True},
    {"id": 7, "name": "sky", "has_instances": False},
]
CONFIG = "ontology: {things: [{id: 1, name: car}], stuff: [{id: 2, name: sky}]}\n"
SIZE = (48, 64)
PEOPLE = 25
"""So many samples a person labelled before, and as many while the upload is about to write."""


@dataclass
class World:
    """A platform, a run, and what is expected of the upload."""

    platform: Platform
    run: Path
    maps: dict[str, np.ndarray]
    labelled: list[str]
    """Samples that a person labelled before."""
    late: list[str]
    """Samples that a person labels between the upload's reading and writing."""

    @property
    def people(self) -> set[str]:
        return {*self.labelled, *self.late}


def make_label(number: int) -> tuple[np.ndarray, PanopticLabel]:
    """A label of two cars and sky, or fewer."""
    rng = np.random.default_rng(number)
    id_map = np.full(SIZE, 3, dtype=np.int32)
    x, y = rng.integers(0, 30, size=2)
    id_map[y : y + 10, x : x + 20] = 1
    id_map[30:40, 10 : 12 + number % 40] = 2
    id_map[rng.random(SIZE) < 0.02] = 0
    segments = []
    for key, category in ((1, 1), (2, 1), (3, 2)):
        rows, columns = np.nonzero(id_map == key)
        box = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
        score = float(rng.random())
        segments.append(
            Segment(
                *(key, category, category == 1, len(rows), tuple(int(side) for side in box)),
                *(score, 3 - category, score / 2, f"thing:{key}"),
            )
        )
    return id_map, PanopticLabel(f"street/{number:05d}.png", id_map, tuple(segments))


def make_world(folder: Path, count: int) -> World:
    """`count` labels that are to arrive, and 50 where people are or will be."""
    platform = Platform()
    platform.add_dataset(DATASET, CATEGORIES)
    store = LabelStore(folder / "run")
    (folder / "run" / "config.yaml").write_text(CONFIG)
    maps, keys = {}, []
    for number in range(count + 2 * PEOPLE):
        id_map, label = make_label(number)
        key = platform.add_sample(DATASET, label.image_id, metadata={"night": number % 2 == 0})
        maps[key] = id_map
        keys.append(key)
        record = ImageRecord(label.image_id, "", key)
        store.write(record, label, Provenance("prelabel test", "f00d"))
    chosen = random.Random(1).sample(keys, 2 * PEOPLE)
    world = World(platform, folder / "run", maps, chosen[:PEOPLE], chosen[PEOPLE:])
    for key, status in zip(world.labelled, sorted(HUMAN) * 9, strict=False):
        platform.edit(key, np.ones(SIZE, dtype=np.int32), {1: 31}, status)
    return world


class People:
    """Label the late samples when the listing was read for the first time."""

    def __init__(self, world: World) -> None:
        self.world, self.done = world, False

    def __call__(self) -> None:
        if not self.done:
            self.done = True
            for key in self.world.late:
                self.world.platform.edit(key, np.ones(SIZE, dtype=np.int32), {1: 31})


def start(world: World, server: Server, *more: str) -> subprocess.Popen[str]:
    """`prelabel upload`, as a user starts it."""
    to = f"segments-ai:{DATASET}::allow-private::timeout=2"
    command = [sys.executable, "-m", "prelabel", "upload", str(world.run), "--to", to, "--json"]
    environment = os.environ | {"SEGMENTS_API_KEY": KEY, "SEGMENTS_API_URL": server.url}
    return subprocess.Popen(
        [*command, *more],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], said: list[str]) -> int:
    """Wait for the end; keeps what was printed."""
    out, error = process.communicate(timeout=1800)
    said += [out, error]
    return process.returncode


def judge(world: World, server: Server, said: list[str]) -> dict[str, Any]:
    """What the platform holds now, read without prelabel."""
    platform, right = world.platform, 0
    for key, id_map in world.maps.items():
        label = platform.labels.get((key, "ground-truth"))
        if key in world.people or label is None or label["label_status"] != "PRELABELED":
            continue
        categories = {one["id"]: one["category_id"] for one in label["attributes"]["annotations"]}
        same = np.array_equal(platform.bitmap(key), id_map)
        sample = platform.samples[key]
        described = "night" in sample["metadata"] and "prelabel_tool" in sample["metadata"]
        right += same and categories == {1: 31, 2: 31, 3: 7} and described
        right -= abs(sample["priority"] + label["score"] - 1) > 1e-3
    people_kept = sum(
        (platform.bitmap(key) == 1).all()
        and platform.labels[key, "ground-truth"]["label_status"] in HUMAN
        for key in world.people
    )
    remarks = Counter(issue["sample_uuid"] for issue in platform.issues)
    text = "".join(said) + "".join(
        path.read_bytes().decode("latin-1")
        for path in world.run.rglob("*")
        if path.is_file() and path.suffix != ".png"
    )
    return {
        "labels": right,
        "doubled": sum(count > 1 for count in remarks.values())
        + len(platform.labels)
        - right
        - len(world.people),
        "human_touched": len(platform.human_touched) + len(world.people) - people_kept,
        "orphans": len(platform.orphans()),
        "faults": sum(server.faults.counts.values()),
        "faults_by_kind": dict(server.faults.counts),
        "violations": platform.violations[:5],
        "secrets_shown": text.count(KEY) + text.count(SIGNATURE),
    }


def upload(folder: Path, count: int, kills: int, rate: float) -> dict[str, Any]:
    """Upload with faults, killed `kills` times."""
    world, said, began = make_world(folder, count), [], time.monotonic()
    chance = random.Random(kills)
    with serving(Server(world.platform, Faults(rate))) as server:
        server.on_listed = People(world)
        for _ in range(kills):
            process = start(world, server, "--pin-doubts")
            assert process.stdout is not None
            # The moment is random within the work, and now and then before it begins.
            if chance.random() < 0.8:
                said.append(process.stdout.readline())
            time.sleep(chance.uniform(0, 2.5))
            process.kill()
            finish(process, said)
        codes = []
        while not codes or (codes[-1] in (3, 5) and len(codes) < 5):
            codes.append(finish(start(world, server, "--pin-doubts", "--retry"), said))
        found = judge(world, server, said)
    found |= {"kills": kills, "exit_codes": codes, "seconds": round(time.monotonic() - began, 1)}
    if codes[-1] != 0:
        found["said"] = said[-1][-2000:] + said[-2][-2000:]
    return found


def timed_upload(folder: Path, count: int, jobs: int) -> dict[str, float]:
    """One upload without faults, to a server that takes 20 ms more for each request."""
    world, said = make_world(folder, count), []
    with serving(Server(world.platform)) as server:
        server.latency = 0.02
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        code = finish(start(world, server, "--jobs", str(jobs)), said)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(said[0].splitlines()[-1])
    if code or summary["verified"] != count + PEOPLE:
        raise SystemExit(f"the timed upload failed: {said[-1]}")
    return {
        "uploads": summary["verified"],
        "wall": summary["seconds"],
        "server": server.busy_seconds / jobs,
        "cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "requests": float(sum(server.requests.values())),
    }


def overhead(folder: Path, count: int, jobs: int) -> dict[str, Any]:
    """Milliseconds per upload beyond the server's time, with `jobs` at a time and no faults.

    Two uploads of different length are subtracted, so that what a process needs to begin does not
    count. On a busy machine the wall-clock says more about its other work; `cpu_ms`, the processor
    time that the client needs, does not depend on that.
    """
    short, long = (timed_upload(folder / str(n), n, jobs) for n in (count // 4, count))
    part = {name: long[name] - short[name] for name in long}
    per = {name: 1000 * part[name] / part["uploads"] for name in ("wall", "server", "cpu")}
    return {
        **{"jobs": jobs, "uploads": part["uploads"], "wall_ms": round(per["wall"], 2)},
        **{"server_ms": round(per["server"], 2), "cpu_ms": round(per["cpu"], 2)},
        "overhead_ms": round(per["wall"] - per["server"], 2),
        "requests_per_upload": round(part["requests"] / part["uploads"], 2),
        "load_average": round(os.getloadavg()[0], 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="where the figures go")
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=20)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root, count = Path(folder), options.count
        timed = overhead(root / "timed", count // 2, 8)
        print("timed", json.dumps(timed), flush=True)
        plain = upload(root / "faults", count, 0, 0.05)
        print("faults", json.dumps(plain), flush=True)
        killed = upload(root / "killed", count, options.kills, 0.05)
        print("killed", json.dumps(killed), flush=True)
    names = ("labels", "doubled", "human_touched", "orphans", "faults")
    figures = {name: plain[name] for name in names} | {
        "runs": {"faults": plain, "killed": killed, "timed": timed}
    }
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    good = timed["overhead_ms"] <= 20 and all(
        run["labels"] == count
        and run["doubled"] == run["human_touched"] == run["secrets_shown"] == 0
        and run["orphans"] <= run["faults"] + run["kills"]
        and not run["violations"]
        for run in (plain, killed)
    )
    print("within bounds" if good else "OUT OF BOUNDS")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
