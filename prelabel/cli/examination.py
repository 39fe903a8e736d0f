"""The examinations before a run, in their order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from prelabel.cli.doctor_device import examine_device
from prelabel.cli.doctor_models import examine_ontology, examine_prompts, examine_weights
from prelabel.cli.doctor_places import (
    SourceSample,
    examine_cache,
    examine_output,
    examine_source,
)
from prelabel.cli.findings import Finding, attempt, fail, ok, warn
from prelabel.cli.running import RunRequest, resolve_config
from prelabel.config import Config
from prelabel.errors import ConfigError

__all__ = ["examine"]


def examine(request: RunRequest, *, deep: bool = False) -> Iterator[Finding]:
    """All findings, as they are made; without a config that loads there is only one."""
    try:
        config = resolve_config(request)
    except ConfigError as error:
        yield fail("config", str(error))
        return
    yield ok("config", f"{request.config} is complete and free of unknown keys")
    sample = SourceSample()
    exams: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("ontology", lambda: examine_ontology(config.ontology)),
        ("weights", lambda: examine_weights(config)),
        ("prompts", lambda: examine_prompts(config)),
        ("device", lambda: examine_device(config)),
        ("source", lambda: examine_source(config, sample)),
        ("output", lambda: examine_output(config, sample)),
        ("cache", lambda: examine_cache(config)),
    ]
    if deep:
        exams.append(("networks", lambda: _examine_networks(config, sample)))
    failed = False
    for subject, exam in exams:
        if subject == "networks" and failed:
            yield warn(subject, "not loaded, since what stands above has to be mended first")
            return
        for finding in attempt(subject, exam):
            failed = failed or finding.status == "fail"
            yield finding


def _examine_networks(config: Config, sample: SourceSample) -> Iterator[Finding]:
    """Load everything and label one image, as a run would, but write nothing."""
    from prelabel.pipeline import Pipeline

    # Answers of earlier runs would make it look faster than it is.
    config = config.model_copy(update={"cache": config.cache.model_copy(update={"enabled": False})})
    start = time.perf_counter()
    pipeline = Pipeline.from_config(config).load()
    yield ok("networks", f"loaded in {time.perf_counter() - start:.1f} s")
    if sample.frame is None:
        return
    pipeline.run([sample.frame])  # the first one prepares what the others share
    start = time.perf_counter()
    label = pipeline.run([sample.frame])[0].label
    seconds = time.perf_counter() - start
    text = (
        f"{label.image_id} has {len(label.segments)} segments after {seconds:.2f} s; "
        f"{sample.count} images take about {_duration(seconds * sample.count)} on one device"
    )
    yield (
        ok("label", text)
        if label.segments
        else warn(
            "label", f"{text}. Nothing was found on it; are the prompts those of its contents?"
        )
    )


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.0f} h"
