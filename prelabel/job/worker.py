"""A worker: decodes, labels, encodes and writes, each beside the others.

Images are decoded ahead by one thread and labels written behind by another, while the networks run
in the caller's thread. Both queues are bounded by bytes, so memory stays flat over a run.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from prelabel.data import Failure, Frame, ImageRecord, image_key
from prelabel.errors import ImageError, LoadError
from prelabel.files import file_sha256
from prelabel.hand import at_stage, over_image
from prelabel.job.protocol import (
    Broken,
    Done,
    Event,
    Failed,
    LabelledImage,
    Labeller,
    Started,
    Task,
    WorkerPlan,
)
from prelabel.job.queues import ByteQueue, Closed
from prelabel.job.store import LabelStore
from prelabel.label_files import Provenance
from prelabel.redaction import redact

__all__ = ["Worker"]

_PATIENCE = 0.05
"""Seconds that a batch waits for another image, before it goes as it is."""


@dataclass(frozen=True, slots=True, eq=False)
class _Read:
    """An image in memory, and the seconds it took to get there."""

    task: Task
    frame: Frame
    seconds: float


@dataclass(frozen=True, slots=True, eq=False)
class _Made:
    """A label that is to be written; the image itself is let go.

    Attributes:
        task: of the image.
        result: about it.
        seconds: that it took to read.
    """

    task: Task
    result: LabelledImage
    seconds: float

    @property
    def size(self) -> int:
        """Bytes of what weighs: the map of ids, and what explains it."""
        maps = (heatmap for one in self.result.explanations for heatmap in one.heatmaps.values())
        return self.result.label.id_map.nbytes + sum(heatmap.values.nbytes for heatmap in maps)


class Worker:
    """Labels images and says so.

    Args:
        plan: where images come from and labels go.
        labeller: the networks.
        emit: told each event, from any of the worker's threads.
    """

    def __init__(self, plan: WorkerPlan, labeller: Labeller, emit: Callable[[Event], None]) -> None:
        self._plan, self._labeller, self._emit = plan, labeller, emit
        self._store = LabelStore(plan.root)
        self._frames: ByteQueue[_Read] = ByteQueue(plan.options.ahead_bytes)
        self._labels: ByteQueue[_Made] = ByteQueue(plan.options.ahead_bytes)
        self._halted = threading.Event()
        self._bugs: list[BaseException] = []

    def halt(self) -> None:
        """Begin no further image; those in the networks are finished."""
        self._halted.set()

    def run(self, tasks: Iterable[Task], after_batch: Callable[[], None] = lambda: None) -> None:
        """Label `tasks` until they end, or the output breaks, or `halt` was called.

        Args:
            tasks: may block where the next one is not known yet.
            after_batch: called in this thread between batches, and at the end.
        """
        reader = threading.Thread(target=self._guarded, args=(self._read_all, tasks), daemon=True)
        writer = threading.Thread(target=self._guarded, args=(self._write_all,), daemon=True)
        reader.start()
        writer.start()
        try:
            for batch in self._batches():
                self._label(batch)
                after_batch()
        except Closed:
            pass  # the writer gave up and has said why
        finally:
            self._halted.set()
            self._frames.close()
            self._labels.close()
            writer.join()
        after_batch()
        if self._bugs:
            raise self._bugs[0]

    def _guarded(self, target: Callable[..., None], *args: object) -> None:
        """A thread's errors are kept for `run` to raise; nobody else would see them."""
        try:
            target(*args)
        except BaseException as error:
            self._bugs.append(error)
        finally:
            # Nobody waits for what a thread that has ended would have brought, or taken.
            self._frames.close()
            if target == self._write_all:
                self._labels.close()

    # --- before the networks --------------------------------------------------------------------

    def _read_all(self, tasks: Iterable[Task]) -> None:
        with contextlib.suppress(Closed):
            for task in tasks:
                if self._halted.is_set():
                    break
                self._emit(Started(task.record.image_id))
                start = time.perf_counter()
                try:
                    with over_image(task.record.image_id), at_stage("read"):
                        frame = self._plan.source.read(task.record)
                except Exception as error:  # the boundary: whatever one image does, others go on
                    self._fail(task, error)
                    continue
                self._frames.put(
                    _Read(task, frame, time.perf_counter() - start), frame.pixels.nbytes
                )

    def _batches(self) -> Iterator[list[_Read]]:
        while True:
            try:
                batch = [self._frames.get()]
            except Closed:
                return
            with contextlib.suppress(Closed, TimeoutError):
                while len(batch) < self._plan.options.batch_size:
                    batch.append(self._frames.get(_PATIENCE))
            if self._halted.is_set():
                return
            yield batch

    # --- the networks ---------------------------------------------------------------------------

    def _label(self, batch: Sequence[_Read]) -> None:
        """Label a batch; where that fails, each image by itself, so that only the bad one fails."""
        try:
            with over_image(", ".join(read.task.record.image_id for read in batch)):
                results = self._labeller.run(
                    [read.frame for read in batch], explain=self._plan.options.explain
                )
        except LoadError:
            raise  # no image is to blame, and the next would fare no better
        except Exception as error:  # the same boundary
            if len(batch) == 1:
                self._fail(batch[0].task, error)
                return
            for read in batch:
                self._label([read])
            return
        for read, result in zip(batch, results, strict=True):
            made = _Made(read.task, result, read.seconds)
            self._labels.put(made, made.size)

    def _fail(self, task: Task, error: Exception) -> None:
        self._emit(Failed(_failure(task.record, error), task.stamp))

    # --- behind the networks --------------------------------------------------------------------

    def _write_all(self) -> None:
        with contextlib.suppress(Closed):
            while True:
                made = self._labels.get()
                try:
                    self._emit(self._write(made))
                except OSError as error:
                    name = str(error.filename or self._plan.root)
                    reason = error.strerror or str(error)
                    self._emit(Broken(error.errno or 0, reason, name))
                    return

    def _write(self, made: _Made) -> Done:
        task, result, options = made.task, made.result, self._plan.options
        record, start = task.record, time.perf_counter()
        key = image_key(record.image_id)
        self._store.write_trace(key, result.trace)
        if options.explain:
            self._store.write_explanations(key, result.explanations)
        seconds = {"read": made.seconds, **result.seconds}
        provenance = Provenance(
            options.tool,
            options.fingerprint,
            {name: round(value, 4) for name, value in seconds.items()},
            task.stamp,
        )
        # The pair comes last: where it stands, all that belongs to the image does.
        self._store.write(record, result.label, provenance, source_sha256=_source_sha256(record))
        seconds["write"] = time.perf_counter() - start
        return Done(record.image_id, len(result.label.segments), seconds, task.stamp)


def _source_sha256(record: ImageRecord) -> str:
    """Of the image file, where it is one of this machine's; it was read a moment ago."""
    path = Path(record.uri)
    try:
        return file_sha256(path) if path.is_file() else ""
    except (OSError, ValueError):
        return ""


def _failure(record: ImageRecord, error: Exception) -> Failure:
    if isinstance(error, ImageError):
        return Failure(record.image_id, "decode", error.kind, str(redact(str(error))))
    kind = "memory" if isinstance(error, MemoryError) else type(error).__name__
    # The pipeline notes on its errors in which stage they rose.
    notes = [note.removeprefix("stage: ") for note in getattr(error, "__notes__", ())]
    stage = notes[0] if notes else "label"
    message = redact(f"{record.image_id}: {error or kind}")
    return Failure(record.image_id, stage, kind, str(message))
