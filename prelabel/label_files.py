"""Labels on disk, one pair of files per image: `labels/<key>.png` and `labels/<key>.json`.

The PNG holds segment ids as COCO does (R + 256 G + 65536 B, 0 is void); the JSON holds the segments
and where they come from, and the PNG's sha256. It is written last: a JSON whose PNG fits is a whole
label. A run keeps its labels so, and `docs/labels.md` describes every key.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image

from prelabel.coco import decode_ids, encode_ids, parse_json
from prelabel.data import Category, ImageRecord, Ontology, PanopticLabel, Segment, image_key
from prelabel.errors import ConfigError, LabelError
from prelabel.files import write_atomically

__all__ = [
    "LABEL_VERSION",
    "ONTOLOGY_NAME",
    "LabelMeta",
    "Provenance",
    "iterate_labels",
    "list_labels",
    "read_label",
    "read_meta",
    "read_ontology",
    "write_label",
    "write_ontology",
]

LABEL_VERSION = 1
"""Version of the schema of `labels/<key>.json`."""
ONTOLOGY_NAME = "ontology.json"
"""Beside `labels/`, where there is no config to hold the categories."""
_SCHEMA = "prelabel.label"
_ONTOLOGY_SCHEMA = "prelabel.ontology"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What made a label.

    Attributes:
        tool: name and version.
        fingerprint: of the config and weights, see `Config.fingerprint`.
        seconds: wall-clock per stage.
        source_stamp: of the image file when it was read, see `ImageSource.stamp`.
    """

    tool: str
    fingerprint: str
    seconds: Mapping[str, float] = field(default_factory=dict)
    source_stamp: str = ""


@dataclass(frozen=True, slots=True)
class LabelMeta:
    """What stands in `labels/<key>.json`.

    Attributes:
        key: the name of the artifacts.
        record: the image.
        size: (height, width) in pixels.
        score: of the whole label, in [0, 1].
        segments: as in the label.
        png_sha256: of `labels/<key>.png`.
        source_sha256: of the image file, or "" where it was not at hand.
        provenance: what made it.
    """

    key: str
    record: ImageRecord
    size: tuple[int, int]
    score: float
    segments: tuple[Segment, ...]
    png_sha256: str
    source_sha256: str
    provenance: Provenance


def write_label(
    root: Path,
    record: ImageRecord,
    label: PanopticLabel,
    provenance: Provenance,
    *,
    source_sha256: str = "",
) -> LabelMeta:
    """Write the pair of one image into `root/labels`; an older one of the same image gives way.

    Raises:
        OSError: the disk is full, read-only or broken.
    """
    key, stream = image_key(record.image_id), io.BytesIO()
    Image.fromarray(encode_ids(label.id_map)).save(stream, format="PNG")
    png = stream.getvalue()
    meta = LabelMeta(
        key,
        record,
        label.size,
        label.score,
        label.segments,
        hashlib.sha256(png).hexdigest(),
        source_sha256,
        provenance,
    )
    write_atomically(root / "labels" / f"{key}.png", png)
    write_atomically(root / "labels" / f"{key}.json", _dump(meta).encode())
    return meta


def list_labels(run: str | os.PathLike[str]) -> list[LabelMeta]:
    """The labels of a run by image_id; no PNG is opened.

    Raises:
        ConfigError: the folder is no run.
        LabelError: a JSON is damaged.
    """
    folder = Path(run) / "labels"
    if not folder.is_dir():
        raise ConfigError(f"{run} is no run folder: it has no labels/ folder inside")
    metas = [read_meta(Path(run), path.stem) for path in folder.glob("[!.]*.json")]
    return sorted(metas, key=lambda meta: meta.record.image_id)


def read_label(run: str | os.PathLike[str], key: str) -> tuple[PanopticLabel, LabelMeta]:
    """One label with its id map.

    Raises:
        LabelError: a file of the pair is missing or damaged, or they do not belong together.
    """
    meta = read_meta(Path(run), key)
    path = Path(run) / "labels" / f"{key}.png"
    try:
        png = path.read_bytes()
    except OSError as error:
        raise LabelError(f"{path} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(png).hexdigest() != meta.png_sha256:
        raise LabelError(f"{path} is not the file that {key}.json describes; run the image again")
    with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
        id_map = decode_ids(np.asarray(image))
    if id_map.shape != meta.size:
        raise LabelError(f"{path} has size {id_map.shape}, {key}.json says {meta.size}")
    return PanopticLabel(meta.record.image_id, id_map, meta.segments), meta


def iterate_labels(run: str | os.PathLike[str]) -> Iterator[tuple[PanopticLabel, LabelMeta]]:
    """Every label of a run in the order of image_id, one at a time in memory."""
    for meta in list_labels(run):
        yield read_label(run, meta.key)


def _dump(meta: LabelMeta) -> str:
    fields = dataclasses.asdict(meta)
    record = fields.pop("record")
    document = {"schema": _SCHEMA, "version": LABEL_VERSION} | record | fields
    # ASCII keeps even names that are not valid Unicode.
    return json.dumps(document, ensure_ascii=True, allow_nan=False, indent=1) + "\n"


def read_meta(run: Path, key: str) -> LabelMeta:
    """What stands in `labels/<key>.json`. Raises LabelError: it is missing or damaged."""
    path = run / "labels" / f"{key}.json"
    document = _read_document(path, _SCHEMA, "label")
    try:
        return _meta(document)
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError(f"{path} lacks a part or holds a wrong one: {error}") from error


def _meta(document: dict[str, Any]) -> LabelMeta:
    height, width = document["size"]
    return LabelMeta(
        document["key"],
        ImageRecord(document["image_id"], document["uri"], document["ref"]),
        (int(height), int(width)),
        float(document["score"]),
        tuple(_segment(part) for part in document["segments"]),
        document["png_sha256"],
        document["source_sha256"],
        Provenance(**document["provenance"]),
    )


def _segment(part: dict[str, Any]) -> Segment:
    box = cast("tuple[int, int, int, int]", tuple(part["box"]))
    return Segment(**(part | {"box": box}))


# --- categories -------------------------------------------------------------------------------


def write_ontology(root: Path, ontology: Ontology) -> None:
    """Write `root/ontology.json`. Raises OSError: the disk is full, read-only or broken."""
    categories = [dataclasses.asdict(category) for category in ontology]
    document = {"schema": _ONTOLOGY_SCHEMA, "version": LABEL_VERSION, "categories": categories}
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, indent=1) + "\n"
    write_atomically(root / ONTOLOGY_NAME, text.encode())


def read_ontology(root: Path) -> Ontology:
    """What `write_ontology` wrote. Raises LabelError: it is missing or damaged."""
    path = root / ONTOLOGY_NAME
    document = _read_document(path, _ONTOLOGY_SCHEMA, "ontology")
    try:
        return Ontology(tuple(_category(part) for part in document["categories"]))
    except (KeyError, TypeError, ValueError, ConfigError) as error:
        raise LabelError(f"{path} lacks a part or holds a wrong one: {error}") from error


def _category(part: dict[str, Any]) -> Category:
    color = None if part["color"] is None else tuple(part["color"])
    return Category(**(part | {"prompts": tuple(part["prompts"]), "color": color}))


def _read_document(path: Path, schema: str, what: str) -> dict[str, Any]:
    """A JSON object of a known schema and version."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LabelError(f"{path} cannot be read: {error}") from error
    document = parse_json(text, str(path))
    if not isinstance(document, dict) or document.get("schema") != schema:
        raise LabelError(f"{path} is no {what} of prelabel")
    if document.get("version") != LABEL_VERSION:
        raise LabelError(
            f"{path} has version {document.get('version')} of the schema, expected {LABEL_VERSION}"
        )
    return document
