"""The loop over a source: one image at a time, where one bad image is data and not the end."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from prelabel.data import (
    Explanation,
    Failure,
    Frame,
    ImageRecord,
    PanopticLabel,
    Trace,
    image_key,
)
from prelabel.errors import ImageError
from prelabel.files import file_sha256, write_atomically
from prelabel.job.interrupts import interrupts
from prelabel.job.progress import Observer, Silence
from prelabel.job.store import LabelStore, Provenance
from prelabel.ports import ImageSource

__all__ = ["JobOptions", "LabelledImage", "Labeller", "Summary", "run_job"]

_LOGGER = logging.getLogger(__name__)


class LabelledImage(Protocol):
    """What a labeller says about one image; `pipeline.Labelled` is one."""

    @property
    def label(self) -> PanopticLabel: ...

    @property
    def trace(self) -> Trace: ...

    @property
    def explanations(self) -> tuple[Explanation, ...]: ...

    @property
    def seconds(self) -> Mapping[str, float]: ...


class Labeller(Protocol):
    """Labels frames, in order; `pipeline.Pipeline` is one."""

    def run(
        self, frames: Sequence[Frame], *, explain: bool | None = None
    ) -> Sequence[LabelledImage]: ...


@dataclass(frozen=True, slots=True)
class JobOptions:
    """How a run goes.

    Attributes:
        tool: name and version, kept with each label.
        fingerprint: of the config and weights; labels with the same one are not made again.
        config_yaml: the resolved config, kept as `config.yaml`.
        limit: at most so many images of the source, None for all.
        explain: whether explanations are made and kept.
        again: whether what is labelled already is labelled again.
        batch_size: images that go through the networks together.
    """

    tool: str
    fingerprint: str
    config_yaml: str = ""
    limit: int | None = None
    explain: bool = False
    again: bool = False
    batch_size: int = 1


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run did: `total = done + failed + skipped + todo`.

    Attributes:
        total: images the run was about.
        done: labelled now.
        failed: with a failure each.
        skipped: labelled before in the same way.
        todo: left over by an interrupt.
        segments: in the labels made now.
        seconds: wall-clock per stage, with "read" and "write".
        wall_seconds: of the whole loop.
        failures: one per failed image.
        peak_memory_mb: most memory the process held, MiB; None where the system does not tell.
        interrupted: whether a signal ended it.
    """

    total: int
    done: int = 0
    failed: int = 0
    skipped: int = 0
    segments: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    failures: tuple[Failure, ...] = ()
    peak_memory_mb: float | None = None
    interrupted: bool = False

    @property
    def todo(self) -> int:
        return self.total - self.done - self.failed - self.skipped

    def to_json(self) -> dict[str, object]:
        """As in `summary.json`; seconds to the millisecond."""
        document = dataclasses.asdict(self) | {"todo": self.todo}
        document["seconds"] = {name: round(value, 3) for name, value in self.seconds.items()}
        document["wall_seconds"] = round(self.wall_seconds, 3)
        return document


def run_job(
    pipeline: Labeller,
    source: ImageSource,
    store: LabelStore,
    options: JobOptions,
    observer: Observer | None = None,
) -> Summary:
    """Label every image of `source` into `store`.

    Failures of single images end up in the summary. The first SIGINT or SIGTERM lets the image in
    hand finish, the second stops at once.

    Raises:
        ConfigError: the source is missing or empty.
        OSError: the output can no longer be written; what is done stays done.
    """
    observer = observer or Silence()
    records = list(itertools.islice(source.records(), options.limit))
    write_atomically(store.root / "config.yaml", options.config_yaml.encode())
    tally, start = _Tally(len(records)), time.perf_counter()
    observer.started(len(records))
    try:
        with interrupts(observer) as interrupted:
            _Job(pipeline, source, store, options, tally, observer).run(records, interrupted)
    except BaseException as error:
        tally.interrupted = isinstance(error, KeyboardInterrupt)
        # On a full disk this fails as well; then the first error is the one to be seen.
        with suppress(OSError):
            _write_summary(store, tally.summary(start))
        raise
    summary = tally.summary(start)
    _write_summary(store, summary)
    return summary


# --- some images ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Job:
    """The parts of one run, and its way through the records."""

    pipeline: Labeller
    source: ImageSource
    store: LabelStore
    options: JobOptions
    tally: _Tally
    observer: Observer

    def run(self, records: Sequence[ImageRecord], interrupted: threading.Event) -> None:
        """Label all that is not labelled yet, in batches; what is in hand is always finished."""
        batch: list[Frame] = []
        for record in records:
            if interrupted.is_set():
                break
            if self._is_done(record):
                self.tally.skipped += 1
                self.observer.skipped(record)
                continue
            frame = self._read(record)
            if frame is not None:
                batch.append(frame)
            if len(batch) == self.options.batch_size:
                self._label(batch)
                batch = []
        self._label(batch)
        self.tally.interrupted = interrupted.is_set() and self.tally.todo > 0

    def _is_done(self, record: ImageRecord) -> bool:
        options = self.options
        return not options.again and self.store.is_done(
            record, options.fingerprint, explained=options.explain
        )

    def _read(self, record: ImageRecord) -> Frame | None:
        try:
            with self.tally.clock("read"):
                return self.source.read(record)
        except Exception as error:  # the boundary: whatever one image does, the others go on
            self._fail(record, error)
            return None

    def _label(self, frames: Sequence[Frame]) -> None:
        """Label a batch; where that fails, each image by itself, so that only the bad one fails."""
        if not frames:
            return
        try:
            results = self.pipeline.run(frames, explain=self.options.explain)
        except Exception as error:  # the same boundary
            if len(frames) == 1:
                self._fail(frames[0].record, error)
                return
            for frame in frames:
                self._label([frame])
            return
        for frame, result in zip(frames, results, strict=True):
            self._keep(frame.record, result)

    def _keep(self, record: ImageRecord, result: LabelledImage) -> None:
        """An error from here on is the output's, not the image's: it ends the run."""
        self.tally.add_seconds(result.seconds)
        with self.tally.clock("write"):
            _write(record, result, self.store, self.options)
        self.tally.done += 1
        self.tally.segments += len(result.label.segments)
        self.observer.done(record, len(result.label.segments))

    def _fail(self, record: ImageRecord, error: Exception) -> None:
        failure = _failure(record, error)
        _LOGGER.debug("%s failed", record.image_id, exc_info=error)
        self.tally.failures.append(failure)
        self.observer.failed(failure)


def _write(
    record: ImageRecord, result: LabelledImage, store: LabelStore, options: JobOptions
) -> None:
    key = image_key(record.image_id)
    store.write_trace(key, result.trace)
    if options.explain:
        store.write_explanations(key, result.explanations)
    provenance = Provenance(
        options.tool,
        options.fingerprint,
        {name: round(value, 4) for name, value in result.seconds.items()},
    )
    # The pair comes last: where it stands, all that belongs to the image does.
    store.write(record, result.label, provenance, source_sha256=_source_sha256(record))


def _source_sha256(record: ImageRecord) -> str:
    """Of the image file, where it is one of this machine's; it was read a moment ago."""
    path = Path(record.uri)
    try:
        return file_sha256(path) if path.is_file() else ""
    except OSError:
        return ""


def _failure(record: ImageRecord, error: Exception) -> Failure:
    if isinstance(error, ImageError):
        return Failure(record.image_id, "decode", error.kind, str(error))
    kind = "memory" if isinstance(error, MemoryError) else type(error).__name__
    # The pipeline notes on its errors in which stage they rose.
    notes = [note.removeprefix("stage: ") for note in getattr(error, "__notes__", ())]
    stage = notes[0] if notes else "label"
    return Failure(record.image_id, stage, kind, f"{record.image_id}: {error or kind}")


# --- the whole --------------------------------------------------------------------------------


class _Tally:
    """The counts of a run while it goes."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = self.skipped = self.segments = 0
        self.failures: list[Failure] = []
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.interrupted = False

    @property
    def todo(self) -> int:
        return self.total - self.done - self.skipped - len(self.failures)

    def add_seconds(self, seconds: Mapping[str, float]) -> None:
        for stage, value in seconds.items():
            self.seconds[stage] += value

    @contextmanager
    def clock(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[stage] += time.perf_counter() - start

    def summary(self, start: float) -> Summary:
        return Summary(
            total=self.total,
            done=self.done,
            failed=len(self.failures),
            skipped=self.skipped,
            segments=self.segments,
            seconds=dict(self.seconds),
            wall_seconds=time.perf_counter() - start,
            failures=tuple(self.failures),
            peak_memory_mb=_peak_memory_mb(),
            interrupted=self.interrupted,
        )


def _write_summary(store: LabelStore, summary: Summary) -> None:
    text = json.dumps(summary.to_json(), ensure_ascii=True, indent=2) + "\n"
    write_atomically(store.root / "summary.json", text.encode())


def _peak_memory_mb() -> float | None:
    if sys.platform == "win32":
        return None
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # macOS counts bytes, Linux kibibytes.
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)
