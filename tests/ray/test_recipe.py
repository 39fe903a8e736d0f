"""The commands of docs/ray.md, as they stand there, on two nodes of this machine."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent


def _commands() -> list[str]:
    """The first block of commands on the page, one a line."""
    page = (ROOT / "docs" / "ray.md").read_text()
    found = re.search(r"```sh\n(.*?)```", page, re.DOTALL)
    assert found is not None
    joined = found[1].replace("\\\n", " ")
    return [line.partition("  #")[0].strip() for line in joined.splitlines() if line.strip()]


def test_the_recipe_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for index in range(4):
        pixels = np.full((48, 64, 3), 60 * index, dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{index}.png")
    tools = Path(sys.executable).parent
    environment = os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PRELABEL": f"{sys.executable} -m prelabel",
    }
    commands = _commands()
    assert [line.split()[0] for line in commands] == ["ray", "ray", "prelabel", "ray"]
    for line in commands:
        line = line.replace("HEAD:6379", "127.0.0.1:6379")
        line = line.replace("prelabel run configs/base.yaml", "$PRELABEL run configs/demo.yaml")
        line = line.replace("/shared", str(tmp_path)).replace("--gpus-per-worker 1", "")
        line = line.replace("--workers 16", "--workers 2")
        if line.startswith("ray start"):
            line += " --num-cpus=1"
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=ROOT,
            env=environment,
            check=False,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}"
    summary = json.loads((tmp_path / "runs" / "photos" / "summary.json").read_text())
    assert (summary["total"], summary["done"]) == (4, 4)
