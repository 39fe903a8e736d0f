"""A run over a source: what is left to do goes to an engine, what comes back into the ledger.

One bad image is data and not the end. What is done stays done, whatever ends the run.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import ImageRecord, image_key
from prelabel.files import write_atomically
from prelabel.job.changes import refuse_change
from prelabel.job.interrupts import interrupts
from prelabel.job.ledger import Ledger, Row, ledger_path
from prelabel.job.lock import locked
from prelabel.job.mounts import make_folder
from prelabel.job.planning import Plan, label_keys, make_plan, reap
from prelabel.job.progress import Observer, Silence
from prelabel.job.protocol import (
    Broken,
    Done,
    Engine,
    Event,
    Failed,
    Quarantined,
    Remark,
    Started,
    Task,
    WorkerPlan,
)
from prelabel.job.remarks import RunLog, remarks
from prelabel.job.repair import adopt, rows_from_labels
from prelabel.job.shards import Shard
from prelabel.job.store import LabelStore
from prelabel.job.summary import Summary, Tally, write_summary
from prelabel.redaction import redact

__all__ = ["JobOptions", "run_job"]


@dataclass(frozen=True, slots=True)
class JobOptions:
    """Which images a run is about.

    Attributes:
        config_yaml: the resolved config, kept as `config.yaml`.
        limit: at most so many images of the source, None for all.
        shard: a part of the source, for one of several machines.
        retry: of what failed before, "failed" and "quarantined" images are tried again.
        fresh: what the folder holds of earlier runs is removed first.
        again: what is labelled already is labelled again, whatever made it.
        accept_change: labels made with another config or other weights are made again.
        state: a folder on this machine for the ledger, where the run's folder is on another.
    """

    config_yaml: str = ""
    limit: int | None = None
    shard: Shard | None = None
    retry: Collection[str] = ()
    fresh: bool = False
    again: bool = False
    accept_change: bool = False
    state: Path | None = None


def run_job(
    engine: Engine,
    plan: WorkerPlan,
    options: JobOptions,
    observer: Observer | None = None,
) -> Summary:
    """Label every image of `plan.source` that has no label yet into `plan.root`.

    Failures of single images end up in the summary. The first SIGINT or SIGTERM lets the images in
    hand finish, the second stops at once.

    Raises:
        ConfigError: the source is missing or empty, or the ledger is damaged.
        LockedError: another run is in the same folder.
        ChangedError: the folder's labels were made with another config or other weights.
        OSError: the output can no longer be written; what is done stays done.
    """
    observer = observer or Silence()
    tasks = _list(plan, options)
    # Says at once, before anything loads, whether the folder can be written.
    LabelStore(plan.root)
    with locked(plan.root):
        if options.fresh:
            _clear(plan.root, options)
        reap(plan.root)
        with _open_ledger(plan.root, options) as ledger:
            kept = refuse_change(ledger, plan.options.fingerprint, options)
            ledger.set_meta("total", str(len(tasks)))
            if options.again:
                ledger.replace({})
            rows = ledger.rows() if kept else {}
            keys = set() if options.again else label_keys(plan.root)
            unknown = [
                task
                for task in tasks
                if task.record.image_id not in rows and image_key(task.record.image_id) in keys
            ]
            for image_id, row in adopt(plan.root, unknown, plan.options.fingerprint).items():
                rows[image_id] = row
                ledger.mark(image_id, row)
            work = make_plan(
                tasks,
                rows,
                keys,
                explain=plan.options.explain,
                retry=options.retry,
            )
            # Until it is made again, a label that is being replaced may be half of each.
            ledger.forget(
                task.record.image_id for task in work.todo if task.record.image_id in rows
            )
            return _Run(engine, plan, options, ledger, observer).go(work)


def _list(plan: WorkerPlan, options: JobOptions) -> list[Task]:
    records: Iterator[ImageRecord] = plan.source.records()
    if options.shard is not None:
        shard = options.shard
        records = (record for record in records if shard.holds(record.image_id))
    return [
        Task(record, plan.source.stamp(record))
        for record in itertools.islice(records, options.limit)
    ]


def _clear(root: Path, options: JobOptions) -> None:
    ledger = ledger_path(root, options.state)
    # At no moment may the ledger know more than the folder holds: it goes before the labels, and
    # its log, without which it is only an older one, before it.
    for suffix in ("-wal", "-shm", ""):
        ledger.with_name(ledger.name + suffix).unlink(missing_ok=True)
    for name in ("labels", "traces", "explanations"):
        if (root / name).is_dir():
            shutil.rmtree(root / name)
    LabelStore(root)


@contextmanager
def _open_ledger(root: Path, options: JobOptions) -> Iterator[Ledger]:
    """The ledger; where there is none but labels are, it is made from them."""
    path = ledger_path(root, options.state)
    make_folder(path.parent)
    new = not path.exists()
    with Ledger(path) as ledger:
        if new or ledger.meta("complete") is None:
            found = rows_from_labels(root)
            ledger.replace(found.rows)
            if found.fingerprint:
                ledger.set_meta("fingerprint", found.fingerprint)
            ledger.set_meta("complete", "yes")
        yield ledger


class _Run:
    """One run, once it is known what there is to do."""

    def __init__(
        self,
        engine: Engine,
        plan: WorkerPlan,
        options: JobOptions,
        ledger: Ledger,
        observer: Observer,
    ) -> None:
        self._engine, self._plan, self._options = engine, plan, options
        self._ledger, self._observer = ledger, observer
        self._log = RunLog(plan.root)

    def go(self, work: Plan) -> Summary:
        write_atomically(self._plan.root / "config.yaml", self._options.config_yaml.encode())
        tally = self._begin(work)
        self._open = {task.record.image_id: task.record for task in work.todo}
        try:
            with interrupts(self._observer) as stopping, remarks(self._remark):
                self._engine.run(self._plan, work.todo, self._handler(tally), stopping)
                tally.interrupted = stopping.is_set() and tally.summary().todo > 0
            self._ledger.flush()
            if self._open and not stopping.is_set():
                raise RuntimeError(f"the engine gave no answer for {sorted(self._open)[:5]}")
        except BaseException as error:
            tally.interrupted = isinstance(error, KeyboardInterrupt)
            self._log.write("error", f"ended by {type(error).__name__}: {redact(str(error))}")
            # On a full disk these fail as well; then the first error is the one to be seen.
            with suppress(OSError):
                self._ledger.flush()
            with suppress(OSError):
                write_summary(self._plan.root, tally.summary())
            raise
        summary = tally.summary()
        write_summary(self._plan.root, summary)
        self._log.write("info", f"{'interrupted' if summary.interrupted else 'through'}: {summary}")
        return summary

    def _remark(self, remark: Remark) -> None:
        self._log.write(remark.level, str(remark))
        self._observer.remarked(remark)

    def _begin(self, work: Plan) -> Tally:
        tally = Tally(work.total)
        tally.skipped = len(work.skipped)
        tally.failed, tally.quarantined = len(work.failed), len(work.quarantined)
        tally.failures += [*work.failed, *work.quarantined]
        self._observer.started(work.total)
        made = self._plan.options
        self._log.write(
            "info", f"{made.tool}, {made.fingerprint[:12]}: {len(work.todo)} of {work.total} to do"
        )
        for record in work.skipped:
            self._observer.skipped(record)
        for failure in (*work.failed, *work.quarantined):
            self._observer.failed_before(failure)
        return tally

    def _handler(self, tally: Tally) -> Callable[[Event], None]:
        def handle(event: Event) -> None:
            if isinstance(event, Done):
                # Only the first answer counts, whoever else comes with one.
                if record := self._open.pop(event.image_id, None):
                    self._done(event, record, tally)
            elif isinstance(event, (Failed, Quarantined)):
                if self._open.pop(event.failure.image_id, None):
                    self._failed(event, tally)
            elif isinstance(event, Broken):
                raise OSError(event.number, event.reason, event.filename)
            elif isinstance(event, Started):
                if tally.loaded():
                    self._observer.begun(tally.loading_seconds)
                self._ledger.flush_if_due()
            else:
                self._remark(event)

        return handle

    def _done(self, event: Done, record: ImageRecord, tally: Tally) -> None:
        explained = self._plan.options.explain
        self._ledger.mark(
            event.image_id, Row("done", event.stamp, explained, segments=event.segments)
        )
        tally.done += 1
        tally.segments += event.segments
        tally.add_seconds(event.seconds)
        self._observer.done(record, event.segments, event.seconds)

    def _failed(self, event: Failed | Quarantined, tally: Tally) -> None:
        failure = event.failure
        status = "failed" if isinstance(event, Failed) else "quarantined"
        self._ledger.mark(
            failure.image_id,
            Row(
                "failed" if isinstance(event, Failed) else "quarantined",
                event.stamp,
                stage=failure.stage,
                kind=failure.kind,
                message=failure.message,
            ),
        )
        tally.failures.append(failure)
        self._log.write(
            status, f"{failure.image_id} ({failure.stage}, {failure.kind}): {failure.message}"
        )
        if status == "failed":
            tally.failed += 1
            self._observer.failed(failure)
        else:
            tally.quarantined += 1
            self._observer.quarantined(failure)
