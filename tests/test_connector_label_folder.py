"""Labels as a folder of plain files, and from there to everything else."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from connectors.coco_panoptic import CocoPanopticSink
from connectors.label_folder import LabelFolderSink
from connectors.testing import example_label
from prelabel.data import Category, ImageRecord, Ontology
from prelabel.errors import ConfigError, ConnectorError, LabelError
from prelabel.job.export import export_labels
from prelabel.job.store import LabelStore, holds_labels, run_ontology
from prelabel.label_files import Provenance, iterate_labels, read_ontology, write_ontology
from prelabel.ports import Delivery

ONTOLOGY = Ontology((Category(4, "car", True, (), (1, 2, 3)), Category(2, "sky", False)))


def _run(folder: Path, *names: str) -> Path:
    store = LabelStore(folder)
    for name in names:
        label = example_label(name, ONTOLOGY, (5, 7))
        store.write(ImageRecord(name, f"/p/{name}", "7"), label, Provenance("prelabel 1", "f00d"))
    return folder


def _files(folder: Path) -> dict[str, bytes]:
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_a_run_goes_through_the_folder_unchanged(tmp_path: Path) -> None:
    run, folder = _run(tmp_path / "run", "b.jpg", "a/b.jpg"), tmp_path / "folder"
    assert export_labels(run, LabelFolderSink(str(folder)), ONTOLOGY) == 2
    assert run_ontology(folder) == ONTOLOGY
    pairs = zip(iterate_labels(run), iterate_labels(folder), strict=True)
    for (label, meta), (copy, kept) in pairs:
        assert meta == kept
        assert np.array_equal(label.id_map, copy.id_map)
        assert label.segments == copy.segments
    for name, source in (("one", run), ("two", folder)):
        export_labels(source, CocoPanopticSink(str(tmp_path / name)), run_ontology(folder))
    assert _files(tmp_path / "one") == _files(tmp_path / "two")


def test_it_is_no_folder_of_labels_before_the_end(tmp_path: Path) -> None:
    sink = LabelFolderSink(str(tmp_path))
    sink.check(ONTOLOGY)
    sink.push(Delivery(ImageRecord("a", ""), example_label("a", ONTOLOGY, (2, 4))))
    assert not holds_labels(tmp_path)
    sink.finalize()
    assert holds_labels(tmp_path)
    LabelFolderSink(str(tmp_path)).check(ONTOLOGY)
    assert not holds_labels(tmp_path)


def test_labels_of_an_earlier_export_go(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    export_labels(_run(tmp_path / "1", "a.jpg", "b.jpg"), LabelFolderSink(str(folder)), ONTOLOGY)
    export_labels(_run(tmp_path / "2", "b.jpg", "c.jpg"), LabelFolderSink(str(folder)), ONTOLOGY)
    assert [label.image_id for label, _ in iterate_labels(folder)] == ["b.jpg", "c.jpg"]
    assert len(list((folder / "labels").iterdir())) == 4


@pytest.mark.parametrize("name", ["config.yaml", "job.db"])
def test_a_run_s_own_folder_is_left_alone(tmp_path: Path, name: str) -> None:
    run = _run(tmp_path, "a.jpg")
    (run / name).write_text("")
    with pytest.raises(ConfigError, match="a run's folder"):
        LabelFolderSink(str(run)).check(ONTOLOGY)


def test_misuse_and_bad_places_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="folder to export to is empty"):
        LabelFolderSink("")
    with pytest.raises(ConnectorError, match="before the first push"):
        LabelFolderSink(str(tmp_path)).push(
            Delivery(ImageRecord("a", ""), example_label("a", ONTOLOGY, (2, 4)))
        )
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        LabelFolderSink(str(tmp_path / "file")).check(ONTOLOGY)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "notes.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"something else.*notes\.json is no label"):
        LabelFolderSink(str(tmp_path)).check(ONTOLOGY)


def test_every_field_of_the_categories_comes_back(tmp_path: Path) -> None:
    full = Category(7, "été", True, ("a", "b"), (1, 2, 3), 0.25, 0.5, 0.001)
    ontology = Ontology((full, Category(1, "sky", False)))
    write_ontology(tmp_path, ontology)
    assert read_ontology(tmp_path) == ontology


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"schema": "other"}, "is no ontology of prelabel"),
        ({"version": 2}, "has version 2"),
        ({"categories": []}, "ontology is empty"),
        ({"categories": [{"name": "x"}]}, "lacks a part"),
        ({"categories": 3}, "lacks a part"),
    ],
)
def test_damaged_categories_are_told(tmp_path: Path, change: dict[str, object], told: str) -> None:
    write_ontology(tmp_path, ONTOLOGY)
    path = tmp_path / "ontology.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(LabelError, match=told):
        read_ontology(tmp_path)
