"""The commands that faults are injected into, and the state of the folder that they begin with."""

from __future__ import annotations

import gc
import io
import os
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from prelabel.bench.faults.injection import Fault, Main, run_under

__all__ = ["BAD", "GOOD", "Scenario", "Stage", "scenarios"]

GOOD = tuple(f"{name}.png" for name in "abcdef")
"""Images that can be labelled."""
BAD = "bad.jpg"
"""One that cannot."""
_CONFIG = """
ontology:
  things: [{name: car, color: [200, 0, 0]}]
  stuff: [{name: sky, color: [0, 0, 200]}]
detect: {kind: paint}
segment: {kind: paint}
stuff: {kind: paint}
refine: {min_component: 0.0, reach: 0.0}
merge: {min_area: 0.0}
cache: {enabled: false}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """Where it all happens.

    Attributes:
        folder: with the images and the config.
        main: the command line.
    """

    folder: Path
    main: Main

    def set(self) -> None:
        """Draw the images and write the config."""
        photos = self.folder / "photos"
        photos.mkdir(parents=True)
        (self.folder / "config.yaml").write_text(_CONFIG)
        for index, name in enumerate(GOOD):
            pixels = np.full((5, 7, 3), (0, 0, 200), dtype=np.uint8)
            pixels[1:4, index : index + 2] = (200, 0, 0)
            Image.fromarray(pixels).save(photos / name)
            os.utime(photos / name, (1_700_000_000, 1_700_000_000))
        (photos / BAD).write_text("<html>")

    def warm(self) -> None:
        """Do once what takes long the first time, before processes are forked off this one."""
        with suppress(SystemExit), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            self.main(self.run(self.folder / "warm", "--engine", "inline", "--limit", "2"))
        gc.collect()
        gc.freeze()  # so that a fork's collections copy no memory

    def run(self, out: Path, *more: str) -> list[str]:
        """The arguments of `prelabel run`."""
        source = str(self.folder / "photos")
        config = str(self.folder / "config.yaml")
        return ["run", config, "--source", source, "--out", str(out), "--device", "cpu", *more]

    def call(self, arguments: list[str], root: Path, fault: Fault | None = None) -> None:
        """Run a command while a scenario is made ready."""
        run_under(self.main, arguments, fault or Fault(), root)


@dataclass(frozen=True, slots=True)
class Scenario:
    """A command, what it finds, and what the user does after it broke.

    Attributes:
        name: of it, in reports.
        prepare: makes the state that the command begins with, in an empty folder.
        command: the arguments, given the folder.
        after: commands that follow without a fault; the last is a run.
        out: the run's folder, below the folder.
        kinds: of faults.
        stride: of the points; 1 is every operation.
        resumes: whether what the broken command finished is kept by those that follow.
    """

    name: str
    prepare: Callable[[Path], None]
    command: Callable[[Path], list[str]]
    after: Callable[[Path], list[list[str]]]
    out: str = "run"
    kinds: tuple[str, ...] = ("killgroup", "ENOSPC", "EIO", "EROFS")
    stride: int = 1
    resumes: bool = True


def scenarios(stage: Stage) -> Iterator[Scenario]:
    """All of them, the cheapest first."""

    def inline(root: Path) -> list[str]:
        return stage.run(root / "run", "--engine", "inline")

    def explained(root: Path) -> list[str]:
        return [*inline(root), "--explain"]

    def local(root: Path) -> list[str]:
        return stage.run(root / "run", "--engine", "local")

    def repair(root: Path) -> list[str]:
        return ["repair", str(root / "run")]

    def join(root: Path) -> list[str]:
        shards = [str(root / "run" / f"shard-{k}-of-2") for k in range(2)]
        return ["join", *shards, "--out", str(root / "run")]

    def nothing(root: Path) -> None:
        del root

    def half_done(root: Path) -> None:
        stage.call(inline(root), root, Fault(70, "killgroup"))

    def damaged(root: Path) -> None:
        stage.call(inline(root), root)
        for path in (root / "run").glob("job.db-*"):
            path.unlink()
        (root / "run" / "job.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
        next((root / "run" / "labels").glob("c-*.png")).write_bytes(b"x")

    def changed(root: Path) -> None:
        stage.call([*inline(root), "--set", "merge.min_score=0.99"], root)

    def accepted(root: Path) -> list[str]:
        return [*inline(root), "--accept-change"]

    def cached(root: Path) -> list[str]:
        cache = ["--set", "cache.enabled=true", "--set", f"cache.folder={root / 'cache'}"]
        return [*inline(root), *cache]

    def fresh(root: Path) -> list[str]:
        return [*inline(root), "--fresh"]

    def sharded(root: Path) -> None:
        for k in range(2):
            stage.call([*inline(root), "--shard", f"{k}/2"], root)

    yield Scenario("run", nothing, inline, lambda root: [inline(root)])
    yield Scenario("resume", half_done, inline, lambda root: [inline(root)])
    yield Scenario("run --explain", nothing, explained, lambda root: [explained(root)], stride=3)
    yield Scenario("run --accept-change", changed, accepted, lambda r: [accepted(r)], stride=3)
    yield Scenario(
        "run --fresh", changed, fresh, lambda root: [fresh(root)], stride=3, resumes=False
    )
    yield Scenario("run, cache", nothing, cached, lambda root: [cached(root)], stride=3)
    yield Scenario("repair", damaged, repair, lambda root: [repair(root), inline(root)])
    yield Scenario("join", sharded, join, lambda root: [join(root), inline(root)])
    kinds = ("kill", "killgroup", "ENOSPC")
    yield Scenario("run, workers", nothing, local, lambda r: [inline(r)], kinds=kinds, stride=9)
