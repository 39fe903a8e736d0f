"""A disk that fails and a process that dies, at file operations spread over small runs.

The whole of it, every operation, is `scripts/fault-sweep`.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from prelabel.bench.faults.audit import look
from prelabel.bench.faults.injection import compile_shim
from prelabel.job.ledger import Ledger, Row

ROOT = Path(__file__).resolve().parent.parent
SCENARIOS = ("run", "resume", "repair", "join")

needs_gcc = pytest.mark.skipif(
    sys.platform != "linux" or not (shutil.which("gcc") or shutil.which("cc")),
    reason="faults are injected by a library that gcc compiles, on Linux",
)


# --- the list of faults -----------------------------------------------------------------------


def test_every_test_that_the_page_names_exists() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    named = re.findall(r"`(?:tests/)?((?:ray/)?test_\w+)::(test_\w+)`", page)
    assert len(named) > 60
    for file, name in named:
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f"def {name}(" in text, f"{file}::{name}"


def test_the_faults_are_numbered_without_gaps() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    table = page.partition("| # | fault | test |")[2]
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1)) and len(numbers) > 60


# --- the sweep --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    file = tmp_path_factory.mktemp("faults") / "report.json"
    command = [sys.executable, str(ROOT / "scripts" / "fault-sweep"), "--most", "1"]
    done = subprocess.run(
        [*command, "--json", str(file), "--only", *SCENARIOS],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert file.is_file(), done.stderr
    found: dict[str, Any] = json.loads(file.read_text())
    return found


@needs_gcc
def test_nothing_is_lost(report: dict[str, Any]) -> None:
    assert (report["lost"], report["findings"]) == (0, [])


@needs_gcc
def test_nothing_is_doubled(report: dict[str, Any]) -> None:
    assert report["doubled"] == 0


@needs_gcc
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_kind_of_fault_was_met(report: dict[str, Any], scenario: str) -> None:
    points = report["by_scenario"][scenario]
    assert set(points) == {
        *("killgroup", "EIO", "EIO, sticky", "EROFS", "EROFS, sticky"),
        *("ENOSPC", "ENOSPC, sticky"),
    }
    # A full disk lets files be removed, so a fault that meets just that does not happen.
    assert sum(points.values()) >= 5


# --- the instruments --------------------------------------------------------------------------


@needs_gcc
def test_the_injector_does_what_it_is_told(tmp_path: Path) -> None:
    script = textwrap.dedent(
        """
        import json, os, sys
        from pathlib import Path
        from prelabel.bench.faults.injection import Fault, run_under

        def main(arguments):  # open, write, rename: three operations
            root = Path(arguments[0])
            code = 0
            for name in ("one", "two"):
                try:
                    (root / name).write_bytes(b"x" * 100)
                    (root / name).rename(root / f"{name}.done")
                except OSError as error:
                    code = error.errno
            raise SystemExit(code)

        root = Path(sys.argv[1]) / "root"
        for fault in (Fault(), Fault(1, "EIO"), Fault(3, "EROFS", True), Fault(5, "killgroup"),
                      Fault(9, "EIO")):
            for path in root.iterdir():
                path.unlink()
            ended = run_under(main, [str(root)], fault, root)
            sizes = {path.name: path.stat().st_size for path in root.iterdir()}
            print(json.dumps([ended.code, ended.operations, ended.fired, sizes]))
        """
    )
    (tmp_path / "root").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | {"LD_PRELOAD": str(compile_shim(tmp_path))},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        [0, 6, 0, {"one.done": 100, "two.done": 100}],
        [5, 4, 1, {"two.done": 100}],
        [30, 4, 2, {"one": 100}],
        # In the middle of the second write: half of it is there.
        [-9, 5, 1, {"one.done": 100, "two": 50}],
        [0, 6, 0, {"one.done": 100, "two.done": 100}],
    ]


def _label(run: Path, name: str, image_id: str, *, damaged: bool = False) -> None:
    png = name.encode()
    document = {
        "image_id": image_id,
        "png_sha256": hashlib.sha256(png).hexdigest(),
        "provenance": {"fingerprint": "f"},
    }
    (run / "labels" / f"{name}.png").write_bytes(b"?" if damaged else png)
    (run / "labels" / f"{name}.json").write_text(json.dumps(document))


def test_what_is_lost_and_doubled_is_seen(tmp_path: Path) -> None:
    (tmp_path / "labels").mkdir()
    _label(tmp_path, "a", "a.jpg")
    _label(tmp_path, "a2", "a.jpg")
    _label(tmp_path, "b", "b.jpg", damaged=True)
    _label(tmp_path, "c", "c.jpg")
    (tmp_path / "labels" / "d.json").write_text('{"image_')
    (tmp_path / "labels" / ".0-1.part").write_text("")
    with Ledger(tmp_path / "job.db") as ledger:
        for name in ("a.jpg", "b.jpg", "d.jpg"):
            ledger.mark(name, Row("done"))
        ledger.mark("e.jpg", Row("failed"))
    before = sorted(path.name for path in tmp_path.iterdir())
    holding = look(tmp_path)
    assert holding.lost == {"b.jpg", "d.jpg"}
    assert holding.doubled == {"a.jpg"}
    assert set(holding.whole) == {"a.jpg", "c.jpg"}
    assert holding.strays == ("labels/.0-1.part",)
    assert holding.others == ("b.json", "b.png", "d.json")
    assert holding.claims is not None and holding.claims["e.jpg"] == "failed"
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_a_ledger_that_cannot_be_read_is_seen(tmp_path: Path) -> None:
    assert look(tmp_path).claims == {}
    (tmp_path / "job.db").write_bytes(b"SQLite format 3\0" + bytes(5000))
    assert look(tmp_path).claims is None
