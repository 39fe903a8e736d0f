"""A run's labels to a platform: a phase of its own, resumable, also while the run goes on.

Each label is first an intent in the outbox, then sent, then read back. Some threads do that at a
time. A label that fails for good is data and not the end; a platform that fails again and again is
left alone for a while, and what is not sent stays in the outbox for the next time.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from prelabel.data import Failure, Ontology
from prelabel.errors import ConfigError, ConnectorError, PrelabelError
from prelabel.job.breaker import Breaker
from prelabel.job.courier import Courier
from prelabel.job.interrupts import interrupts
from prelabel.job.lock import is_locked, locked
from prelabel.job.outbox import Outbox, OutboxRow
from prelabel.job.planning import label_keys
from prelabel.job.progress import Silence
from prelabel.job.upload_terms import UploadObserver, UploadOptions, UploadSummary
from prelabel.label_files import LabelMeta, read_meta
from prelabel.ports import LabelPlatform

__all__ = ["preview_upload", "upload_run"]

_FOLDER = "uploads"
_NAME = "outbox.db"
_POLL_SECONDS = 1.0
_TRIES = 3
"""Of one label, each with the connector's own tries inside."""


def upload_run(
    run: Path,
    platform: LabelPlatform,
    ontology: Ontology,
    target: str,
    options: UploadOptions,
    observer: UploadObserver,
) -> UploadSummary:
    """Send what `target` does not have yet of a run's labels.

    Args:
        run: the run's folder.
        platform: not yet checked.
        ontology: of the run.
        target: what the outbox calls the platform, such as "segments-ai:owner/dataset".
        options: see `UploadOptions`.
        observer: watches.

    Raises:
        ConfigError: the folder is no run, or what the platform's `check` refuses.
        ConnectorError: the platform cannot be asked at all.
        LockedError: another upload of the same run goes on.
    """
    if not (run / "labels").is_dir():
        raise ConfigError(f"{run} is no run folder: it has no labels/ folder inside")
    folder = (options.state or run) / _FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        for remark in platform.check(ontology):
            observer.remark(remark)
        with Outbox(folder / _NAME, target) as outbox:
            return _Upload(run, platform, outbox, options, observer).go()


def preview_upload(run: Path, platform: LabelPlatform, options: UploadOptions) -> dict[str, int]:
    """What an upload would do, by count: send, human, missing. Nothing is sent.

    `platform` is checked already.
    """
    counts = Counter({"send": 0, "human": 0, "missing": 0})
    for key in sorted(label_keys(run)):
        status = platform.remote_status(read_meta(run, key).record)
        if status is None:
            counts["missing"] += 1
        elif platform.is_human(status) and not options.rules.overwrite_human:
            counts["human"] += 1
        else:
            counts["send"] += 1
    return dict(counts)


class _Upload:
    """One upload, once the platform is checked."""

    def __init__(
        self,
        run: Path,
        platform: LabelPlatform,
        outbox: Outbox,
        options: UploadOptions,
        observer: UploadObserver,
    ) -> None:
        self._run, self._platform, self._outbox = run, platform, outbox
        self._options, self._observer = options, observer
        self._courier = Courier(run, platform, outbox, options)
        self._summary = UploadSummary()
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[LabelMeta | None] = queue.SimpleQueue()
        self._pending = 0
        self._tries: Counter[str] = Counter()
        self._stopping, self._settled = threading.Event(), threading.Event()
        self._broken: BaseException | None = None
        # While the run goes on a platform may fail for as long as it likes: labels queue.
        patience = float("inf") if options.follow else options.patience
        self._breaker = Breaker(max(3, options.jobs), patience=patience, on_open=self._tell_pause)

    def go(self) -> UploadSummary:
        start = time.monotonic()
        threads = [
            # Daemons, so that a second interrupt ends the process at once.
            threading.Thread(target=self._send_all, name=f"upload-{number}", daemon=True)
            for number in range(self._options.jobs)
        ]
        with interrupts(_Stop(self._observer)) as interrupted:
            for thread in threads:
                thread.start()
            for batch in self._batches(interrupted):
                self._take(batch)
            self._breaker.patience = self._options.patience
            self._wait(interrupted)
            for _ in threads:
                self._work.put(None)
            for thread in threads:
                thread.join()
            self._summary.interrupted = interrupted.is_set() and self._summary.left > 0
        if self._broken is not None:
            raise self._broken
        if self._breaker.given_up and not (self._summary.stopped or interrupted.is_set()):
            self._summary.stopped = "the platform failed again and again"
        self._summary.seconds = time.monotonic() - start
        return self._summary

    def _batches(self, interrupted: threading.Event) -> Iterator[list[str]]:
        """Keys of labels that were not seen before; while the run goes on, again and again."""
        seen: set[str] = set()
        while True:
            # Asked first: what was written between two looks at the folder is not missed.
            running = self._options.follow and is_locked(self._run)
            new = sorted(label_keys(self._run) - seen)
            seen.update(new)
            yield new
            if not running or interrupted.is_set() or self._breaker.given_up:
                return
            interrupted.wait(_POLL_SECONDS)

    def _take(self, keys: list[str]) -> None:
        """Put what is to be sent into the outbox and the queue."""
        self._summary.total += len(keys)
        intents: dict[str, str] = {}
        work: list[LabelMeta] = []
        for key in keys:
            try:
                meta = read_meta(self._run, key)
            except PrelabelError as error:
                # Without a row in the outbox, so that it is sent once it is repaired.
                self._settle(key, OutboxRow("", "failed", "", "label", str(error)))
                continue
            image_id = meta.record.image_id
            row = self._courier.row(meta)
            if self._is_done(meta, row):
                self._count_before(image_id, row)
                continue
            if not row.noted and row.state != "sent":
                intents[image_id] = row.label
            work.append(meta)
        self._outbox.intend(intents)
        with self._lock:
            self._pending += len(work)
        for meta in work:
            self._work.put(meta)

    def _count_before(self, image_id: str, row: OutboxRow) -> None:
        with self._lock:
            self._summary.before += row.state in ("sent", "verified")
            self._summary.human += row.state == "human"
            if row.state == "failed":
                self._summary.failures.append(_failure(image_id, row))

    def _is_done(self, meta: LabelMeta, row: OutboxRow) -> bool:
        """Whether there is nothing to do; the platform is believed before the outbox."""
        status = self._platform.remote_status(meta.record)
        human = self._platform.is_human(status or "")
        if row.state == "failed":
            there_now = row.kind == "gone" and status is not None
            return not (self._options.retry or there_now)
        if row.state == "human" or human:
            return row.state != "intent" and human and not self._options.rules.overwrite_human
        if not status:
            return False
        return row.state == "verified" or (
            row.state == "sent" and not self._courier.wants_proof(meta)
        )

    def _wait(self, interrupted: threading.Event) -> None:
        """Until every label is settled or given up."""
        while True:
            if interrupted.is_set() and not self._stopping.is_set():
                self._stopping.set()
                self._breaker.stop()
            with self._lock:
                if not self._pending:
                    return
            # Short, so that signals are seen.
            self._settled.wait(0.2)
            self._settled.clear()

    # --- in the threads -----------------------------------------------------------------------

    def _send_all(self) -> None:
        while (meta := self._work.get()) is not None:
            again = False
            try:
                again = not self._stopping.is_set() and self._send(meta)
            except BaseException as error:  # handed on to the main thread
                self._broken = self._broken or error
                self._stopping.set()
                self._breaker.stop()
            if again:
                self._work.put(meta)
                continue
            with self._lock:
                self._pending -= 1
            self._settled.set()

    def _send(self, meta: LabelMeta) -> bool:
        """Try one label; whether it is to be tried again, after the others."""
        if not self._breaker.allow():
            return False
        try:
            row = self._courier.deliver(meta)
        except ConnectorError as error:
            if error.retryable:
                return self._is_worth_more(meta)
            self._breaker.succeeded()
            if error.kind == "denied":
                self._deny(str(error))
                return False
            row = self._courier.fail(meta, error.kind or "refused", error)
        except PrelabelError as error:
            self._breaker.succeeded()
            row = self._courier.fail(meta, getattr(error, "kind", "label"), error)
        else:
            self._breaker.succeeded()
        self._settle(meta.record.image_id, row)
        return False

    def _is_worth_more(self, meta: LabelMeta) -> bool:
        """What fails while the platform is down does not count against the label."""
        if self._breaker.failed():
            with self._lock:
                self._tries[meta.key] += 1
        return self._tries[meta.key] < _TRIES

    # --- what is told -------------------------------------------------------------------------

    def _settle(self, image_id: str, row: OutboxRow) -> None:
        with self._lock:
            self._summary.verified += row.state == "verified"
            self._summary.sent += row.state == "sent"
            self._summary.human += row.state == "human"
            if row.state == "failed":
                self._summary.failures.append(_failure(image_id, row))
            self._observer.settled(image_id, row)

    def _deny(self, message: str) -> None:
        with self._lock:
            self._summary.denied, self._summary.stopped = True, message
        self._stopping.set()
        self._breaker.stop()

    def _tell_pause(self, seconds: float) -> None:
        with self._lock:
            self._observer.waiting(seconds)


class _Stop(Silence):
    """Hands an interrupt on."""

    def __init__(self, observer: UploadObserver) -> None:
        self._observer = observer

    def stopping(self) -> None:
        self._observer.stopping()


def _failure(image_id: str, row: OutboxRow) -> Failure:
    return Failure(image_id, "upload", row.kind, row.message)
