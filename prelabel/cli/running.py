"""The run and export commands."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

from prelabel import __version__
from prelabel.cli import console
from prelabel.cli.connect import open_sink, open_source
from prelabel.cli.results import show_summary
from prelabel.config import Config, dump_config, load_config
from prelabel.errors import ConfigError
from prelabel.job.export import export_labels
from prelabel.job.runner import JobOptions, Summary, run_job
from prelabel.job.store import LabelStore
from prelabel.ports import ImageSource

__all__ = [
    "RunRequest",
    "exit_code",
    "export_run",
    "label_source",
    "resolve_config",
    "run_command",
]


@dataclass(frozen=True, slots=True)
class RunRequest:
    """The arguments of `prelabel run`; None is "as in the config"."""

    config: Path
    source: str | None = None
    out: str | None = None
    limit: int | None = None
    device: str | None = None
    overrides: tuple[str, ...] = ()
    explain: bool = False


def run_command(request: RunRequest, *, as_json: bool) -> int:
    """Label a source; returns the exit code."""
    config = resolve_config(request)
    if config.source is None:
        raise ConfigError(f"{request.config} names no source; add `source:`, or give --source")
    summary = label_source(config, open_source(config.source), limit=request.limit)
    if as_json:
        console.show_json({"out": config.out} | summary.to_json())
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
    config: Config, source: ImageSource, *, limit: int | None = None, again: bool = False
) -> Summary:
    """Check everything that can be wrong, load the networks, and label.

    Args:
        config: where labels go, and how they are made.
        source: the images.
        limit: at most so many of them, None for all.
        again: whether what is labelled already is labelled again.

    Raises:
        ConfigError: the source is empty, the output cannot be written, weights are missing. All
            of it is told before any network loads.
    """
    next(iter(source.records()), None)
    # The label depends on everything up to merge; explanations come on top and are looked for.
    options = JobOptions(
        f"prelabel {__version__}",
        config.fingerprint("merge"),
        dump_config(config),
        limit,
        config.explain.enabled,
        again,
        config.batch_size,
    )
    store = LabelStore(config.out)

    from prelabel.pipeline import Pipeline

    start = time.perf_counter()
    pipeline = Pipeline.from_config(config).load()
    console.note(f"networks loaded in {time.perf_counter() - start:.1f} s")
    with console.RunDisplay() as display:
        return run_job(pipeline, source, store, options, display)


def exit_code(summary: Summary) -> int:
    """0 all done, 3 some images failed, 130 interrupted."""
    if summary.interrupted:
        return 130
    return 3 if summary.failed else 0


def export_run(run: Path, to: str, out: Path) -> int:
    """Write a run's labels through the sink `to`; returns how many."""
    sink = open_sink(to, str(out))
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} is no run folder: it has no config.yaml inside")
    return export_labels(run, sink, load_config(path).ontology)
