"""Commands that run with one fault at one file operation, in a process of their own.

The shim beside this file has to be preloaded into this process (`preloaded`); commands are then
forked off it, so that a thousand of them do not import everything a thousand times.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from prelabel.errors import ConfigError

__all__ = ["KINDS", "Ended", "Fault", "Main", "compile_shim", "preloaded", "run_under"]

Main = Callable[[list[str]], None]
"""A command line: takes arguments, leaves by SystemExit."""

KINDS = ("kill", "killgroup", "ENOSPC", "EIO", "EROFS")
"""The process dies, its whole group does, or the operation fails with that errno."""

_SOURCE = Path(__file__).with_name("shim.c")
_PATIENCE = 300.0
"""Seconds after which a command counts as hung."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at which operation.

    Attributes:
        at: from 1; 0 for never.
        kind: one of `KINDS`.
        sticky: whether all later operations fail as well; a process dies but once.
    """

    at: int = 0
    kind: str = "EIO"
    sticky: bool = False

    def __str__(self) -> str:
        return f"{self.kind}{' from' if self.sticky else ' at'} operation {self.at}"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, or minus the signal; None where it had to be ended.
        operations: how many it did.
        fired: how often the fault happened.
        said: all of its output.
    """

    code: int | None
    operations: int
    fired: int
    said: str


def compile_shim(folder: Path) -> Path:
    """The shim as a library in `folder`. Raises ConfigError: no C compiler, or no Linux."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None or sys.platform != "linux":
        raise ConfigError("faults are injected on Linux, and need gcc")
    target = folder / "shim.so"
    command = [compiler, "-O1", "-shared", "-fPIC", str(_SOURCE), "-o", str(target), "-ldl"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise ConfigError(f"{_SOURCE.name} does not compile here: {done.stderr.strip()}")
    return target


def preloaded() -> Path | None:
    """The shim that this process was started with."""
    path = os.environ.get("LD_PRELOAD", "")
    return Path(path) if path.endswith("shim.so") else None


def run_under(main: Main, arguments: Sequence[str], fault: Fault, root: Path) -> Ended:
    """Run one command with `fault` below `root`, which is where it writes."""
    counter, said = root.with_suffix(".counter"), root.with_suffix(".said")
    counter.write_bytes(bytes(16))
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _become(main, arguments, _environment(fault, root, counter), said)
    code = _await(pid)
    operations, fired = struct.unpack("qq", counter.read_bytes())
    return Ended(code, operations, fired, said.read_text(errors="replace"))


def _environment(fault: Fault, root: Path, counter: Path) -> dict[str, str]:
    kind = fault.kind if fault.kind.startswith("kill") else str(getattr(errno, fault.kind))
    return {
        "PRELABEL_FAULT_ROOT": str(root.resolve()),
        "PRELABEL_FAULT_COUNTER": str(counter.resolve()),
        "PRELABEL_FAULT_AT": str(fault.at),
        "PRELABEL_FAULT_KIND": kind,
        "PRELABEL_FAULT_STICKY": str(int(fault.sticky)),
    }


def _become(
    main: Main, arguments: Sequence[str], environment: dict[str, str], said: Path
) -> NoReturn:
    """In the forked process: the command, and nothing after it."""
    code = 1
    try:
        os.setsid()
        output = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.update(environment)
        ctypes.CDLL(str(preloaded())).prelabel_fault_arm()
        main(list(arguments))
    except SystemExit as ending:
        code = int(ending.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _await(pid: int) -> int | None:
    """The exit code, once the whole group of processes has left."""
    deadline, code = time.monotonic() + _PATIENCE, None
    while time.monotonic() < deadline:
        if code is None:
            found, status = os.waitpid(pid, os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if found else None
        if code is not None and not _members(pid):
            return code
        time.sleep(0.002)
    os.killpg(pid, signal.SIGKILL)
    if code is None:
        os.waitpid(pid, 0)
    return None


def _members(group: int) -> list[int]:
    """Living processes of a process group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return []
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, members_group = entry.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        # Nobody may be there to bury an orphan, so the dead are told from the living.
        if int(members_group) == group and state != "Z":
            found.append(int(entry.parent.name))
    return found
