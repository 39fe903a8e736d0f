"""What a path means where labels are to be compared: a file, a download, or a run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from prelabel.cli.running import export_run
from prelabel.job.store import holds_labels

__all__ = ["panoptic_file"]

_NAME = "panoptic.json"


@contextmanager
def panoptic_file(path: Path) -> Iterator[Path]:
    """The COCO panoptic JSON that `path` stands for.

    A run, or a folder of labels, is exported into a folder of its own, which goes when the block
    ends; a folder such as `prelabel download` writes has the file inside; anything else is the file
    itself.
    """
    if holds_labels(path):
        with tempfile.TemporaryDirectory(prefix="prelabel-") as folder:
            export_run(path, "coco-panoptic", Path(folder))
            yield Path(folder) / _NAME
    elif (path / _NAME).is_file():
        yield path / _NAME
    else:
        yield path
