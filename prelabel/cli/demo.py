"""The demo: scenes with known truth, labelled by the embedded networks, and how well that went."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from prelabel.cli import console
from prelabel.cli.connect import open_source
from prelabel.cli.results import quality_rows, summary_rows
from prelabel.cli.running import RunRequest, exit_code, export_run, label_source, resolve_config
from prelabel.demo.export import write_scenes
from prelabel.errors import ConfigError
from prelabel.review.evaluate import evaluate
from prelabel.review.overlay import write_overlays

__all__ = ["DemoRequest", "draw_scenes", "run_demo"]


@dataclass(frozen=True, slots=True)
class DemoRequest:
    """The arguments of `prelabel demo`."""

    out: Path
    config: Path
    count: int
    seed: int


def draw_scenes(out: Path, *, count: int, seed: int) -> None:
    """Write held-out scenes into a folder that is new or empty."""
    _refuse_filled(out)
    write_scenes(out, seed=seed, count=count)


def run_demo(request: DemoRequest) -> int:
    """Scenes → labels → COCO → evaluation → pictures → one table; returns the exit code."""
    _refuse_filled(request.out)
    scenes = request.out / "scenes"
    images = scenes / "images"
    # A second demo is to show what the networks take, not the cache.
    run = RunRequest(
        *(request.config, str(images), str(request.out)),
        overrides=("cache.enabled=false",),
        explain=True,
    )
    config = resolve_config(run)
    console.note(f"drawing {request.count} scenes into {scenes}")
    draw_scenes(scenes, count=request.count, seed=request.seed)
    summary = label_source(config, open_source(str(images)))
    if summary.done < summary.total:
        return exit_code(summary)
    coco = request.out / "coco"
    export_run(request.out, "coco-panoptic", coco)
    console.note("comparing with the truth, and drawing overlays")
    evaluation = evaluate(coco / "panoptic.json", scenes / "panoptic.json")
    write_overlays(request.out, config.ontology)
    rows = summary_rows(summary)
    rows += [(f"PQ {name}, ×100", pq) for name, pq, *_ in quality_rows(evaluation)]
    console.show_table("Demo", ("", ""), rows)
    for what, where in (
        ("pictures", request.out / "overlays"),
        ("labels", request.out / "labels"),
        ("COCO panoptic", coco / "panoptic.json"),
        ("truth", scenes / "panoptic.json"),
    ):
        console.show_line(f"{what + ':':<14} {where}")
    return exit_code(summary)


def _refuse_filled(folder: Path) -> None:
    """Nothing of the user's is ever mixed with, or deleted."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"{folder} is not empty; name a new folder, or remove it first")
