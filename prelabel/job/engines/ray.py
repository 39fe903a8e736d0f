"""The engine of a cluster: Ray Core actors, one worker each, on a cluster that is already there.

Retries belong to the supervision here, not to Ray: an actor that dies, with its node or alone, is
replaced. Labels are written by the actors, so the run's folder must be one that all nodes see; the
ledger stays with the driver.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from prelabel.errors import ConfigError
from prelabel.job.engines.service import Service
from prelabel.job.engines.supervision import Line, supervise
from prelabel.job.protocol import Event, Task, WorkerPlan

__all__ = ["RayEngine", "RayOptions"]

_LISTENING = 10.0
"""Seconds after which an actor without news answers all the same."""
_GATHERING = 0.01
"""Seconds that an actor with news waits for more, so that a call brings several."""
_KNOCKING = 10.0
"""Seconds in which the cluster's address has to answer."""
_PATIENCE = 30.0
"""Seconds after which it is told that actors find no place on the cluster."""
_LOGGER = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RayOptions:
    """How the cluster is used.

    Attributes:
        address: of the cluster, as `ray.init` takes it; "auto" finds the one of this machine.
        workers: how many actors.
        cpus, gpus: what each of them reserves.
        ahead: images that an actor is given beyond one batch.
        image_timeout: seconds without a word from a busy actor, after which it counts as hung.
    """

    address: str = "auto"
    workers: int = 1
    cpus: float = 1.0
    gpus: float = 0.0
    ahead: int = 4
    image_timeout: float = 600.0


class RayEngine:
    """An `Engine` of actors.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """

    def __init__(self, options: RayOptions) -> None:
        self._options = options

    def run(
        self,
        plan: WorkerPlan,
        tasks: Sequence[Task],
        handle: Callable[[Event], None],
        stopping: threading.Event,
    ) -> None:
        """Label all tasks, in no particular order."""
        if tasks:
            crew = _Actors(_connect(self._options.address), self._options, plan)
            supervise(crew, plan, tasks, handle, stopping)


def _connect(address: str) -> Any:
    with _signals_kept():
        try:
            import ray
        except ImportError as error:
            raise ConfigError(
                'engine ray needs the package ray; install it with: pip install "prelabel[ray]"'
            ) from error
        if not ray.is_initialized():
            try:
                _knock(os.environ.get("RAY_ADDRESS", "") if address == "auto" else address)
                ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
            except (OSError, ValueError, RuntimeError) as error:
                raise ConfigError(
                    f"no Ray cluster answers at {address!r} ({error}); start one with `ray start "
                    "--head`, or name its address with --ray-address"
                ) from error
    return ray


def _knock(address: str) -> None:
    """Raise OSError where nobody is at host:port; Ray itself would try for minutes."""
    if address.startswith("ray://"):
        raise ConfigError(
            f"{address} is for Ray's client; run this on a node of the cluster, and give the "
            "host:port that `ray start` shows"
        )
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_KNOCKING).close()


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Ray takes SIGTERM for itself; what it means here is for the run to decide."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- on the nodes -------------------------------------------------------------------------------


class _Actor:
    """What runs on a node: a worker, and two calls that do not wait for each other."""

    def __init__(self, plan: WorkerPlan, device: str) -> None:
        self._events: queue.SimpleQueue[object] = queue.SimpleQueue()
        self._left = threading.Event()
        self._service = Service(plan, self._events.put)
        threading.Thread(target=self._serve, args=(device,), daemon=True).start()

    def _serve(self, device: str) -> None:
        try:
            self._service.run(device)
        except BaseException:
            traceback.print_exc()  # into Ray's log of this actor
            os._exit(1)
        self._left.set()

    def tell(self, message: object) -> None:
        """A task, or what else a `Service` is told."""
        self._service.tell(message)

    def listen(self) -> list[object]:
        """What there is to say. Raises EOFError: nothing more, for good."""
        last = self._left.is_set()
        try:
            found = [self._events.get(timeout=0.0 if last else _LISTENING)]
        except queue.Empty:
            if last:
                raise EOFError from None
            return []
        time.sleep(_GATHERING)
        while not self._events.empty():
            found.append(self._events.get())
        return found


# --- at the driver ------------------------------------------------------------------------------


class _Actors:
    """The `Crew` of one run."""

    hears_all = False
    """What an actor has not answered before it dies is lost."""

    def __init__(self, ray: Any, options: RayOptions, plan: WorkerPlan) -> None:
        self._ray, self._options = ray, options
        self.places = ("cuda" if options.gpus else "cpu",) * options.workers
        self.image_timeout, self.ahead = options.image_timeout, options.ahead
        self._plan = ray.put(plan)
        # Never restarted or retried behind the driver's back.
        self._class = ray.remote(
            max_restarts=0,
            max_task_retries=0,
            num_cpus=options.cpus,
            num_gpus=options.gpus,
            concurrency_groups={"tell": 1, "listen": 1},
        )(_Actor)
        self._told = False

    def start(self, plan: WorkerPlan, place: str) -> Line:
        """A new actor, wherever there is room; `plan` lies in Ray's store already."""
        return _ActorLine(self._ray, self._class.remote(self._plan, place))

    def wait(self, lines: Sequence[Line], seconds: float) -> Sequence[Line]:
        """Those whose call has been answered, or never will be."""
        listening = {line.listening: line for line in cast("Sequence[_ActorLine]", lines)}
        calls = list(listening)
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=seconds)
        if ready:
            ready, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        self._tell_of_waiting(list(listening.values()))
        return [listening[call] for call in ready]

    def _tell_of_waiting(self, lines: list[_ActorLine]) -> None:
        late = time.monotonic() - _PATIENCE
        waiting = sum(not line.answered and line.begun < late for line in lines)
        if waiting and not self._told:
            self._told = True
            _LOGGER.warning(
                "%d of %d Ray workers have not come up within %.0f s; does the cluster have %g CPUs"
                " and %g GPUs to spare for each? The others work meanwhile",
                *(waiting, len(lines), _PATIENCE, self._options.cpus, self._options.gpus),
            )


class _ActorLine:
    """A `Line` to an actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self._tell = actor.tell.options(concurrency_group="tell")
        self._listen = actor.listen.options(concurrency_group="listen")
        self.listening = self._listen.remote()
        self.begun, self.answered = time.monotonic(), False
        self._end = "has left"

    def send(self, message: object) -> None:
        if message is not None:  # nobody waits for an actor without work, `leave` ends it
            self._tell.remote(message)

    def receive(self) -> Sequence[object]:
        try:
            found: list[object] = self._ray.get(self.listening)
        except self._ray.exceptions.RayActorError as error:
            self._end = f"died ({_reason(error)})"
            raise EOFError from error
        self.answered = True
        self.listening = self._listen.remote()
        return found

    def kill(self) -> None:
        self._ray.kill(self._actor)

    def bury(self) -> str:
        self._ray.kill(self._actor)
        return self._end

    def leave(self, *, busy: bool) -> None:
        del busy
        self._ray.kill(self._actor)


def _reason(error: Exception) -> str:
    """Of Ray's long words on a death, those that say what of."""
    text = " ".join(str(error).split())
    _, marker, reason = text.partition("The actor is dead because ")
    return (reason if marker else text)[:200]
