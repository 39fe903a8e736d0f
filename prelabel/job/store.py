"""A run's folder: the labels, which are the truth of the run, beside them `traces/<key>.npz`, and
`explanations/` where they were asked for.
"""

from __future__ import annotations

import os
from pathlib import Path

from prelabel.config import load_config
from prelabel.data import Explanation, ImageRecord, Ontology, PanopticLabel, Trace
from prelabel.errors import ConfigError
from prelabel.files import write_atomically
from prelabel.job.explanations import write_explanations
from prelabel.job.mounts import DISK_ERRORS
from prelabel.label_files import ONTOLOGY_NAME, LabelMeta, Provenance, read_ontology, write_label

__all__ = ["LabelStore", "holds_labels", "run_ontology"]


class LabelStore:
    """Writes a run's folder. One writer at a time.

    Args:
        root: the run's folder; made where it is missing.

    Raises:
        ConfigError: the folder cannot be made or written.
        OSError: the disk is full, read-only or broken.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        try:
            for name in ("labels", "traces"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            write_atomically(self.root / "labels" / ".writable", b"")
            # Several workers may do this at the same moment.
            (self.root / "labels" / ".writable").unlink(missing_ok=True)
        except OSError as error:
            if error.errno in DISK_ERRORS:
                raise
            raise ConfigError(
                f"the output folder {self.root} cannot be written: {error.strerror or error}"
            ) from error

    def write(
        self,
        record: ImageRecord,
        label: PanopticLabel,
        provenance: Provenance,
        *,
        source_sha256: str = "",
    ) -> LabelMeta:
        """Write the pair of one image; older ones of the same image give way.

        Raises:
            OSError: the disk is full, read-only or broken.
        """
        return write_label(self.root, record, label, provenance, source_sha256=source_sha256)

    def write_trace(self, key: str, trace: Trace) -> None:
        """Write what merge decided."""
        trace.save(self.root / "traces" / f"{key}.npz")

    def write_explanations(self, key: str, explanations: tuple[Explanation, ...]) -> None:
        """Write why each segment is there."""
        write_explanations(self.root, key, explanations)


def holds_labels(folder: Path) -> bool:
    """Whether `folder` is a run's, or one that was exported to `label-folder`."""
    named = (folder / "config.yaml", folder / ONTOLOGY_NAME)
    return (folder / "labels").is_dir() and any(path.is_file() for path in named)


def run_ontology(folder: Path) -> Ontology:
    """The categories of a run's folder, or of one that was exported to `label-folder`.

    Raises:
        ConfigError: it is neither.
        LabelError: its `ontology.json` is damaged.
    """
    config = folder / "config.yaml"
    if config.is_file():
        return load_config(config).ontology
    if (folder / ONTOLOGY_NAME).is_file():
        return read_ontology(folder)
    raise ConfigError(f"{folder} is no run folder: it has no config.yaml inside")
