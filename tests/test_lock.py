"""One process per run folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from prelabel.errors import LockedError
from prelabel.job import lock as lock_module
from prelabel.job.lock import is_locked, locked

pytestmark = pytest.mark.skipif(os.name == "nt", reason="there is no flock")


def test_a_second_holder_is_refused_and_the_first_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "_PAUSE", 0.0)
    with locked(tmp_path):
        assert is_locked(tmp_path)
        with pytest.raises(LockedError, match=f"by process {os.getpid()} on "), locked(tmp_path):
            pass
    assert not is_locked(tmp_path)
    with locked(tmp_path):
        pass


def test_to_ask_writes_nothing(tmp_path: Path) -> None:
    assert not is_locked(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_who_asks_only_for_an_instant_refuses_nobody(tmp_path: Path) -> None:
    """`prelabel status` looks at the lock; a run that begins just then is let in."""
    import fcntl
    import threading

    (tmp_path / ".lock").touch()
    with (tmp_path / ".lock").open() as stream:
        fcntl.flock(stream, fcntl.LOCK_SH)
        threading.Timer(0.05, lambda: fcntl.flock(stream, fcntl.LOCK_UN)).start()
        with locked(tmp_path):
            assert is_locked(tmp_path)


def test_a_holder_that_is_killed_lets_go(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from prelabel.job.lock import locked
        with locked(Path(sys.argv[1])):
            print("in", flush=True)
            time.sleep(600)
        """
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "in\n"
        with pytest.raises(LockedError, match=f"process {holder.pid} on"), locked(tmp_path):
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with locked(tmp_path):
            assert f"process {os.getpid()} on" in (tmp_path / ".lock").read_text()
