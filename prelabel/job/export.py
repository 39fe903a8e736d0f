"""From a run's labels to a sink, such as a COCO panoptic file. What is written is derived: the
labels of the run stay the truth.
"""

from __future__ import annotations

import os

from prelabel.data import Ontology
from prelabel.errors import ConfigError
from prelabel.job.explanations import read_explanations
from prelabel.label_files import list_labels, read_label
from prelabel.ports import Delivery, LabelSink

__all__ = ["export_labels"]


def export_labels(run: str | os.PathLike[str], sink: LabelSink, ontology: Ontology) -> int:
    """Push every label of a run into `sink`, in the order of image_id.

    Args:
        run: the run's folder.
        sink: where the labels go.
        ontology: of the run.

    Returns:
        How many labels were pushed.

    Raises:
        ConfigError: the folder is no run, or holds no label.
        LabelError: a label is damaged.
    """
    metas = list_labels(run)
    if not metas:
        raise ConfigError(f"{run} holds no label yet; run a job first")
    sink.check(ontology)
    for meta in metas:
        label, _ = read_label(run, meta.key)
        made = meta.provenance
        evidence = read_explanations(run, meta.key)
        sink.push(Delivery(meta.record, label, evidence, made.tool, made.fingerprint))
    sink.finalize()
    return len(metas)
