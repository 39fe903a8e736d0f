"""Labels into a folder of plain files: an id map and a JSON per image, and the categories."""

from __future__ import annotations

from pathlib import Path

from prelabel.data import ImageRecord, Ontology, image_key
from prelabel.errors import ConfigError, ConnectorError, LabelError
from prelabel.label_files import ONTOLOGY_NAME, Provenance, list_labels, write_label, write_ontology
from prelabel.ports import Delivery

__all__ = ["LabelFolderSink"]

_OF_A_RUN = ("config.yaml", "job.db", "traces")


class LabelFolderSink:
    """A `LabelSink` that writes `labels/<key>.png`, `labels/<key>.json` and `ontology.json`.

    The pairs are those of a run (docs/labels.md), so that this folder can be exported and compared
    as a run can. Everything of a label is kept: scores, runners-up, where its segments come from,
    and what made it; evidence is not. `ontology.json` appears in `finalize` and says that the
    folder is whole. Labels that an earlier export left there, and that are not among the new ones,
    go then.

    Args:
        location: the folder; made where it is missing.
    """

    def __init__(self, location: str) -> None:
        if not location:
            raise ConfigError("the folder to export to is empty; name one")
        self.root = Path(location).expanduser()
        self._ontology: Ontology | None = None
        self._before: set[str] = set()
        self._pushed: set[str] = set()

    def check(self, ontology: Ontology) -> None:
        """Make the folder. Raises ConfigError: it is a run's, or cannot be written."""
        for name in _OF_A_RUN:
            if (self.root / name).exists():
                raise ConfigError(
                    f"{self.root} is a run's folder, whose labels are its own; export to another"
                )
        labels = self.root / "labels"
        try:
            labels.mkdir(parents=True, exist_ok=True)
            (self.root / ONTOLOGY_NAME).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigError(f"{labels} cannot be written: {error.strerror or error}") from error
        try:
            self._before = {meta.key for meta in list_labels(self.root)}
        except LabelError as error:
            raise ConfigError(f"{labels} holds something else already: {error}") from error
        self._ontology = ontology

    def push(self, delivery: Delivery) -> None:
        """Write one label's pair; the same image twice is once."""
        if self._ontology is None:
            raise ConnectorError("check the ontology before the first push")
        record = delivery.record
        if record.image_id not in self._pushed:
            made = Provenance(delivery.tool, delivery.fingerprint)
            write_label(self.root, record, delivery.label, made)
            self._pushed.add(record.image_id)

    def remote_status(self, record: ImageRecord) -> str | None:
        """The word "written" for an image that was pushed here, else None."""
        return "written" if record.image_id in self._pushed else None

    def finalize(self) -> None:
        """Write the categories; labels of an earlier export go."""
        if self._ontology is None:
            return
        for key in self._before - {image_key(image_id) for image_id in self._pushed}:
            for suffix in ("json", "png"):
                (self.root / "labels" / f"{key}.{suffix}").unlink(missing_ok=True)
        write_ontology(self.root, self._ontology)
        self._ontology = None
