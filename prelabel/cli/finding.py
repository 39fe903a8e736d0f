"""What a path means where labels are to be compared: a file, a download, or a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prelabel.cli.running import export_run

__all__ = ["is_run", "panoptic_file"]

_NAME = "panoptic.json"


def is_run(path: Path) -> bool:
    """Whether `path` is a run's folder."""
    return (path / "labels").is_dir() and (path / "config.yaml").is_file()


@contextmanager
def panoptic_file(path: Path) -> Iterator[Path]:
    """The COCO panoptic JSON that `path` stands for.

    A run is exported into a folder of its own, which goes when the block ends; a folder such as
    `prelabel download` writes has the file inside; anything else is the file itself.
    """
    if is_run(path):
        with tempfile.TemporaryDirectory(prefix="prelabel-") as folder:
            export_run(path, "coco-panoptic", Path(folder))
            yield Path(folder) / _NAME
    elif (path / _NAME).is_file():
        yield path / _NAME
    else:
        yield path
