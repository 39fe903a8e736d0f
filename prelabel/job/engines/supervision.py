"""What engines with workers of their own have in common: work out, answers in, deaths mended.

A worker that dies or hangs is replaced. The images it had in hand are each tried once more, alone;
whichever takes its worker down again is quarantined, and the others go on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from prelabel.data import Failure
from prelabel.errors import ModelError
from prelabel.job.engines.service import HALT, LoadFailed, Ready
from prelabel.job.protocol import Done, Event, Failed, Quarantined, Started, Task, WorkerPlan

__all__ = ["Crew", "Line", "supervise"]

_LOGGER = logging.getLogger(__name__)
_TICK = 0.5
"""Seconds between looks at clocks and signals."""
_DEATHS_WHILE_LOADING = 3


class Line(Protocol):
    """To one worker, wherever it is."""

    def send(self, message: object) -> None:
        """Tell it something; nothing happens where it is dead."""

    def receive(self) -> Sequence[object]:
        """What it said; asked only when there is something. Raises EOFError: it is gone."""

    def kill(self) -> None:
        """End it at once; `receive` will then say so."""

    def bury(self) -> str:
        """Let go of one that is gone; returns how it ended, as in "was ended by SIGKILL"."""

    def leave(self, *, busy: bool) -> None:
        """End one that is alive, gently where it is not busy."""


class Crew(Protocol):
    """Makes workers.

    Attributes:
        places: one worker each; its device, or another word for where it is.
        image_timeout: seconds without a word from a busy worker, after which it counts as hung.
        ahead: tasks that a worker is given beyond one batch.
        hears_all: whether what a worker said before it died is always heard.
    """

    @property
    def places(self) -> Sequence[str]: ...

    @property
    def image_timeout(self) -> float: ...

    @property
    def ahead(self) -> int: ...

    @property
    def hears_all(self) -> bool: ...

    def start(self, plan: WorkerPlan, place: str) -> Line:
        """A new worker."""

    def wait(self, lines: Sequence[Line], seconds: float) -> Sequence[Line]:
        """Those that have said something or are gone; after `seconds` at the latest."""


def supervise(
    crew: Crew,
    plan: WorkerPlan,
    tasks: Sequence[Task],
    handle: Callable[[Event], None],
    stopping: threading.Event,
) -> None:
    """Get all tasks done by a crew, as `Engine.run` is to."""
    if tasks:
        _Supervision(crew, plan, tasks, handle, stopping).run()


@dataclass(eq=False)
class _Child:
    """A worker and what it was given.

    Attributes:
        given: tasks without an answer, by image_id, in the order they were sent.
        started: those of them that it has in hand.
        alone: whether it has a suspect, and nothing beside it.
        heard: when it last said something, or was given something while it had nothing.
    """

    place: str
    line: Line
    ready: bool = False
    alone: bool = False
    given: dict[str, Task] = field(default_factory=dict)
    started: set[str] = field(default_factory=set)
    heard: float = field(default_factory=time.monotonic)
    hung: bool = False


class _Supervision:
    """One run of an engine."""

    def __init__(
        self,
        crew: Crew,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        self._crew, self._plan = crew, plan
        self._handle, self._stopping = handle, stopping
        self._waiting = deque(tasks)
        self._suspects: deque[Task] = deque()
        self._children: list[_Child] = []
        self._deaths_while_loading = 0
        self._halted = False

    def run(self) -> None:
        try:
            for place in self._crew.places[: len(self._waiting)]:
                self._start(place)
            while self._goes_on():
                self._feed()
                self._listen()
                self._watch()
        finally:
            for child in self._children:
                child.line.send(None)
            for child in self._children:
                child.line.leave(busy=bool(child.given))

    def _start(self, place: str) -> None:
        self._children.append(_Child(place, self._crew.start(self._plan, place)))

    def _goes_on(self) -> bool:
        if self._stopping.is_set() and not self._halted:
            self._halted = True
            for child in self._children:
                child.line.send(HALT)
        busy = any(child.given for child in self._children)
        # Once halted, a worker answers for what it has begun and leaves; the rest stays to do.
        return busy or (not self._halted and bool(self._waiting or self._suspects))

    # --- work out -------------------------------------------------------------------------------

    def _feed(self) -> None:
        if self._halted:
            return
        for child in self._children:
            if not child.ready or child.alone:
                continue
            if self._suspects and not child.given:
                child.alone = True
                self._give(child, self._suspects.popleft())
            # Suspects come first, so nothing more is given to a worker that will take one.
            elif not self._suspects or len(self._children) > 1:
                window = self._plan.options.batch_size + self._crew.ahead
                while self._waiting and len(child.given) < window:
                    self._give(child, self._waiting.popleft())

    def _give(self, child: _Child, task: Task) -> None:
        if not child.given:
            child.heard = time.monotonic()
        child.given[task.record.image_id] = task
        child.line.send(task)

    # --- answers in -----------------------------------------------------------------------------

    def _listen(self) -> None:
        lines = {id(child.line): child for child in self._children}
        for line in self._crew.wait([child.line for child in self._children], _TICK):
            child = lines[id(line)]
            try:
                messages = line.receive()
            except EOFError:
                self._bury(child)
                continue
            if messages:
                child.heard = time.monotonic()
            for message in messages:
                self._take(child, message)

    def _take(self, child: _Child, message: object) -> None:
        if isinstance(message, Ready):
            child.ready, self._deaths_while_loading = True, 0
            return
        if isinstance(message, LoadFailed):
            raise message.error
        if isinstance(message, Started):
            if message.image_id in child.given:
                child.started.add(message.image_id)
        elif isinstance(message, (Done, Failed)):
            image_id = message.image_id if isinstance(message, Done) else message.failure.image_id
            child.given.pop(image_id, None)
            child.started.discard(image_id)
            child.alone = False
        self._handle(message)  # type: ignore[arg-type]

    # --- deaths ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Kill what has been silent too long over an image; its line then says so."""
        for child in self._children:
            silent = time.monotonic() - child.heard
            if child.ready and child.given and silent > self._crew.image_timeout:
                child.hung, child.heard = True, time.monotonic()
                child.line.kill()

    def _bury(self, child: _Child) -> None:
        end = child.line.bury()
        if child.hung:
            end = "said nothing for too long"
        self._children.remove(child)
        if self._halted:
            # Asked to begin nothing more, it has left; what it had read ahead stays to do.
            return
        hand = ", ".join(child.started or child.given)
        _LOGGER.warning(
            "the worker on %s %s%s and is replaced", child.place, end, f" over {hand}" * bool(hand)
        )
        if not child.ready:
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= _DEATHS_WHILE_LOADING:
                raise ModelError(
                    f"the worker on {child.place} {end} while it loaded the networks, "
                    f"{_DEATHS_WHILE_LOADING} times; is there enough memory?"
                )
        for image_id, task in reversed(child.given.items()):
            if child.alone:
                self._quarantine(child, task, end)
            elif image_id in child.started or not self._crew.hears_all:
                self._suspects.appendleft(task)
            else:
                self._waiting.appendleft(task)
        if self._waiting or self._suspects:
            self._start(child.place)

    def _quarantine(self, child: _Child, task: Task, end: str) -> None:
        image_id, kind = task.record.image_id, "hung" if child.hung else "killed"
        message = f"{image_id}: the worker {end} over it, by itself too"
        self._handle(Quarantined(Failure(image_id, "label", kind, message), task.stamp))
