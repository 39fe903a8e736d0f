"""The engine of a cluster: Ray Core actors, one worker each, on a cluster that is already there.

Retries belong to this driver, not to Ray: an actor that dies, with its node or alone, is replaced;
the images it had in hand are tried once more, each alone, and what kills a second time is
quarantined. Labels are written by the actors, so the run's folder must be one that all nodes see;
the ledger stays with the driver.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from prelabel.data import Failure
from prelabel.errors import ConfigError, ModelError, PrelabelError
from prelabel.job.protocol import Event, Labeller, Quarantined, Task, WorkerPlan
from prelabel.job.worker import Worker

__all__ = ["RayEngine", "RayOptions"]

_TICK = 0.5
_DEATHS_WHILE_LOADING = 3
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How the cluster is used.

    Attributes:
        address: of the cluster, as `ray.init` takes it; "auto" finds the one of this machine.
        workers: how many actors.
        cpus, gpus: what each of them reserves.
        chunk: images per call.
        image_timeout: seconds that an image may take before its actor counts as hung.
    """

    address: str = "auto"
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    chunk: int = 8
    image_timeout: float = 600.0


class _Actor:
    """What runs on a node: a worker that labels a list of tasks per call."""

    def __init__(self, plan: WorkerPlan, device: str) -> None:
        self._plan = plan
        self._labeller: Labeller = plan.make_labeller(device)

    def ready(self) -> bool:
        """Answered once the networks are loaded."""
        return True

    def label(self, tasks: Sequence[Task]) -> list[Event]:
        """Label some images; their events, in order."""
        events: list[Event] = []
        Worker(self._plan, self._labeller, events.append).run(tasks)
        return events


@dataclass(eq=False)
class _Handle:
    """One actor and the calls it has not answered, oldest first."""

    actor: Any
    loading: Any
    calls: deque[tuple[Any, list[Task]]] = field(default_factory=deque)
    alone: bool = False
    since: float = 0.0


class RayEngine:
    """An `Engine` of Ray actors."""

    def __init__(self, options: RayOptions | None = None) -> None:
        self.options = options or RayOptions()

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        """Label all tasks, in the order in which actors become free."""
        if not tasks:
            return
        ray = _connect(self.options.address)
        _Drive(ray, self.options, plan, tasks, handle, stopping).run()


def _connect(address: str) -> Any:
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            'engine ray needs the package ray; install it with: pip install "prelabel[ray]"'
        ) from error
    if not ray.is_initialized():
        try:
            ray.init(address=address, include_dashboard=False, log_to_driver=False)
        except (ConnectionError, ValueError) as error:
            raise ConfigError(
                f"no Ray cluster answers at {address!r} ({error}); start one with `ray start "
                "--head`, or name its address with --ray-address"
            ) from error
    return ray


class _Drive:
    """One run of the engine."""

    def __init__(
        self,
        ray: Any,
        options: RayOptions,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        self._ray, self._options, self._handle_event = ray, options, handle
        self._stopping = stopping
        self._waiting, self._suspects = deque(tasks), deque[Task]()
        self._handles: list[_Handle] = []
        self._deaths_while_loading = 0
        self._plan = ray.put(plan)
        # Never restarted or retried behind the driver's back.
        self._actor_class = ray.remote(
            max_restarts=0, max_task_retries=0, num_cpus=options.cpus, num_gpus=options.gpus
        )(_Actor)

    def run(self) -> None:
        try:
            count = min(self._options.workers, -(-len(self._waiting) // self._options.chunk))
            self._handles = [self._start() for _ in range(count)]
            while self._goes_on():
                self._feed()
                self._listen()
                self._watch()
        finally:
            for handle in self._handles:
                self._ray.kill(handle.actor)

    def _start(self) -> _Handle:
        device = "cuda" if self._options.gpus else "cpu"
        actor = self._actor_class.remote(self._plan, device)
        return _Handle(actor, actor.ready.remote())

    def _goes_on(self) -> bool:
        if any(handle.calls for handle in self._handles):
            return True
        return not self._stopping.is_set() and bool(self._waiting or self._suspects)

    # --- work out -------------------------------------------------------------------------------

    def _feed(self) -> None:
        for handle in self._handles:
            if self._stopping.is_set() or handle.loading is not None or handle.alone:
                continue
            if self._suspects and not handle.calls:
                handle.alone = True
                self._call(handle, [self._suspects.popleft()])
            # A second call waits at the actor, so that it need not wait for the driver.
            while self._waiting and len(handle.calls) < 2 and not handle.alone:
                count = min(self._options.chunk, len(self._waiting))
                self._call(handle, [self._waiting.popleft() for _ in range(count)])

    def _call(self, handle: _Handle, tasks: list[Task]) -> None:
        if not handle.calls:
            handle.since = time.monotonic()
        handle.calls.append((handle.actor.label.remote(tasks), tasks))

    # --- answers in -----------------------------------------------------------------------------

    def _listen(self) -> None:
        awaited: dict[Any, _Handle] = {}
        for handle in self._handles:
            if handle.loading is not None:
                awaited[handle.loading] = handle
            elif handle.calls:
                awaited[handle.calls[0][0]] = handle
        ready, _ = self._ray.wait(list(awaited), num_returns=1, timeout=_TICK)
        for reference in ready:
            self._take(awaited[reference], reference)

    def _take(self, handle: _Handle, reference: Any) -> None:
        try:
            answer = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            raise _cause(error) from error
        except self._ray.exceptions.RayActorError as error:
            self._bury(handle, error)
            return
        if handle.loading is not None:
            handle.loading, self._deaths_while_loading = None, 0
            return
        handle.calls.popleft()
        handle.alone, handle.since = False, time.monotonic()
        for event in answer:
            self._handle_event(event)

    # --- deaths ---------------------------------------------------------------------------------

    def _watch(self) -> None:
        for handle in self._handles:
            if handle.calls:
                allowed = self._options.image_timeout * len(handle.calls[0][1])
                if time.monotonic() - handle.since > allowed:
                    self._ray.kill(handle.actor)
                    handle.since = time.monotonic()

    def _bury(self, handle: _Handle, error: Exception) -> None:
        _LOGGER.warning("a Ray worker died and is replaced: %s", str(error).splitlines()[0])
        self._handles.remove(handle)
        if handle.loading is not None:
            self._deaths_while_loading += 1
            if self._deaths_while_loading >= _DEATHS_WHILE_LOADING:
                raise ModelError(
                    f"Ray workers died {_DEATHS_WHILE_LOADING} times while they loaded the "
                    f"networks; is there enough memory on the nodes? ({error})"
                ) from error
        for index, (_, tasks) in reversed(list(enumerate(handle.calls))):
            if handle.alone:
                self._quarantine(tasks[0])
            elif index == 0:
                self._suspects.extendleft(reversed(tasks))
            else:
                self._waiting.extendleft(reversed(tasks))
        if self._waiting or self._suspects:
            self._handles.append(self._start())

    def _quarantine(self, task: Task) -> None:
        image_id = task.record.image_id
        message = f"{image_id}: its Ray worker died or hung over it, by itself too"
        self._handle_event(Quarantined(Failure(image_id, "label", "killed", message), task.stamp))


def _cause(error: Any) -> Exception:
    """What a worker raised, as itself where it is one of ours."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, PrelabelError):
        return cause
    return RuntimeError(f"a Ray worker failed: {error}")
