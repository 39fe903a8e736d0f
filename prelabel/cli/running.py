"""The run and export commands."""

from __future__ import annotations

import time
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from prelabel import __version__
from prelabel.cli import console
from prelabel.cli.connect import lacking_there, open_sink, open_source
from prelabel.cli.results import show_summary
from prelabel.cli.watching import EventLines, RunDisplay
from prelabel.config import Config, dump_config, load_config
from prelabel.errors import ConfigError
from prelabel.job.engines.devices import worker_devices
from prelabel.job.engines.inline import InlineEngine
from prelabel.job.engines.local import LocalEngine
from prelabel.job.export import export_labels
from prelabel.job.progress import Observer
from prelabel.job.protocol import Engine, Labeller, WorkerOptions, WorkerPlan
from prelabel.job.runner import JobOptions, run_job
from prelabel.job.shards import Shard
from prelabel.job.store import run_ontology
from prelabel.job.summary import Summary
from prelabel.ports import ImageSource

__all__ = [
    "EngineName",
    "JobRequest",
    "RunRequest",
    "exit_code",
    "export_run",
    "label_source",
    "resolve_config",
    "run_command",
]

EngineName = Literal["local", "inline", "ray"]


@dataclass(frozen=True, slots=True)
class JobRequest:
    """How the work is done, and what of it; see `JobOptions` and the engines."""

    engine: EngineName = "local"
    image_timeout: float = 600.0
    workers: int | None = None
    ray_address: str = "auto"
    gpus_per_worker: float = 0.0
    limit: int | None = None
    shard: str | None = None
    retry: Collection[str] = ()
    fresh: bool = False
    again: bool = False
    accept_change: bool = False
    state: Path | None = None


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The arguments of `prelabel run`; None is "as in the config"."""

    config: Path
    source: str | None = None
    out: str | None = None
    device: str | None = None
    overrides: tuple[str, ...] = ()
    explain: bool = False
    job: JobRequest = JobRequest()


def run_command(request: RunRequest, *, as_json: bool) -> int:
    """Label a source; returns the exit code."""
    config = resolve_config(request)
    if config.source is None:
        raise ConfigError(f"{request.config} names no source; add `source:`, or give --source")
    if Path(config.source).expanduser().resolve() == Path(config.out).resolve():
        raise ConfigError(
            f"source and out are the same folder, {config.out}; labels beside images would be read "
            "as images: choose another --out"
        )
    source = open_source(config.source)
    if remark := lacking_there(source, config.ontology, config.source):
        console.note(f"warning: {remark}")
    display = EventLines() if as_json else None
    summary = label_source(config, source, request.job, display)
    if as_json:
        console.show_event("summary", {"out": config.out} | summary.to_json())
    else:
        show_summary(summary, Path(config.out))
    return exit_code(summary)


def resolve_config(request: RunRequest) -> Config:
    """The config of the file with what the command line says on top."""
    config = load_config(request.config, request.overrides)
    given = {"source": request.source, "out": request.out, "device": request.device}
    update: dict[str, object] = {key: value for key, value in given.items() if value is not None}
    if request.explain:
        update["explain"] = config.explain.model_copy(update={"enabled": True})
    return config.model_copy(update=update)


def label_source(
    config: Config,
    source: ImageSource,
    job: JobRequest | None = None,
    observer: Observer | None = None,
) -> Summary:
    """Check everything that can be wrong, load the networks where there is work, and label.

    Args:
        config: where labels go, and how they are made.
        source: the images.
        job: which of them, and by which engine.
        observer: watches the run; None draws a bar.

    Raises:
        ConfigError: the source is empty, the output cannot be written, weights are missing. All
            of it is told before any network loads.
    """
    job = job or JobRequest()
    shard = None if job.shard is None else Shard.parse(job.shard)
    root = Path(config.out) / shard.folder if shard else Path(config.out)
    # The label depends on everything up to merge; explanations come on top and are looked for.
    options = WorkerOptions(
        f"prelabel {__version__}",
        config.fingerprint("merge"),
        config.explain.enabled,
        config.batch_size,
    )
    # What any worker of this job has put into the cache stays there until the job has ended.
    load = partial(_load_pipeline, config, time.time())
    plan = WorkerPlan(load, source, root, options)
    what = JobOptions(
        config_yaml=dump_config(config),
        limit=job.limit,
        shard=shard,
        retry=job.retry,
        fresh=job.fresh,
        again=job.again,
        accept_change=job.accept_change,
        state=job.state,
    )
    if observer is not None:
        return run_job(_engine(config, job), plan, what, observer)
    with RunDisplay() as display:
        return run_job(_engine(config, job), plan, what, display)


def _engine(config: Config, job: JobRequest) -> Engine:
    if job.engine == "inline":
        return InlineEngine(config.device)
    if job.engine == "ray":
        from prelabel.job.engines.ray import RayEngine, RayOptions

        return RayEngine(
            RayOptions(
                address=job.ray_address,
                workers=job.workers or 1,
                gpus=job.gpus_per_worker,
                image_timeout=job.image_timeout,
            )
        )
    return LocalEngine(worker_devices(config.device, job.workers), job.image_timeout)


def _load_pipeline(config: Config, since: float, device: str) -> Labeller:
    """In the worker's process: the networks, ready; those behind the cache when they are needed."""
    from prelabel.cache import open_cache
    from prelabel.pipeline import Pipeline

    cache = open_cache(config.cache, since=since)
    return Pipeline.from_config(config, device=device, cache=cache).load()


def exit_code(summary: Summary) -> int:
    """0 all done, 3 some images failed, 130 interrupted."""
    if summary.interrupted:
        return 130
    return 3 if summary.failed or summary.quarantined else 0


def export_run(run: Path, to: str, out: Path) -> int:
    """Write a run's labels through the sink `to`; returns how many."""
    return export_labels(run, open_sink(to, str(out)), run_ontology(run))
