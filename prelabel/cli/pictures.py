"""A run's labels as pictures for people."""

from __future__ import annotations

from pathlib import Path

from prelabel.data import Ontology
from prelabel.images import decode
from prelabel.job.explanations import read_explanations
from prelabel.job.store import iterate_labels
from prelabel.review.overlay import draw_overlay

__all__ = ["write_overlays"]


def write_overlays(run: Path, ontology: Ontology) -> None:
    """`overlays/<key>.png` for every label of a run whose image can still be read."""
    folder = run / "overlays"
    folder.mkdir(exist_ok=True)
    for label, meta in iterate_labels(run):
        frame = decode(meta.record.uri, meta.record)
        explanations = read_explanations(run, meta.key)
        draw_overlay(frame, label, ontology, explanations).save(folder / f"{meta.key}.png")
