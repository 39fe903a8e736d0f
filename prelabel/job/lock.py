"""One process per run folder: a lock that the system frees when its holder dies."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prelabel.errors import LockedError

__all__ = ["is_locked", "locked"]

_NAME = ".lock"
_TRIES = 5
_PAUSE = 0.1
"""Seconds between tries: `is_locked` holds the lock for an instant."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one block.

    Raises:
        LockedError: another process holds it; the message names it.
        OSError: the lock file cannot be written.
    """
    if os.name == "nt":  # where there is no flock; two runs in one folder are not caught there
        yield
        return
    import fcntl

    descriptor = os.open(folder / _NAME, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        for tries_left in reversed(range(_TRIES)):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if tries_left:
                    time.sleep(_PAUSE)
        else:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise LockedError(
                f"{folder} is in use by {holder}; wait for it, or choose another --out"
            )
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


def is_locked(folder: Path) -> bool:
    """Whether a process holds `folder`; nothing is written."""
    if os.name == "nt":
        return False
    import fcntl

    try:
        descriptor = os.open(folder / _NAME, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
