"""Explanations on disk: `explanations/<key>.json` for the words, `.npz` for the heat maps.

Heat maps are kept in 256 steps: they are looked at, not computed with.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prelabel.archive import read_archive, write_archive
from prelabel.coco import parse_json
from prelabel.data import Explanation, Heatmap
from prelabel.errors import LabelError
from prelabel.files import write_atomically

__all__ = ["EXPLANATION_VERSION", "read_explanations", "write_explanations"]

EXPLANATION_VERSION = 1
"""Version of the schema of both files."""
_SCHEMA = "prelabel.explanations"
_ARCHIVE = "Heatmaps"


def write_explanations(
    run: str | os.PathLike[str], key: str, explanations: tuple[Explanation, ...]
) -> None:
    """Write the explanations of one image into a run's folder."""
    folder = Path(run) / "explanations"
    folder.mkdir(exist_ok=True)
    arrays: dict[str, NDArray[np.generic]] = {}
    for one in explanations:
        for name, heatmap in one.heatmaps.items():
            arrays[f"{one.segment_id}.{name}"] = np.rint(heatmap.values * 255).astype(np.uint8)
    write_archive(folder / f"{key}.npz", _ARCHIVE, EXPLANATION_VERSION, arrays)
    document = {
        "schema": _SCHEMA,
        "version": EXPLANATION_VERSION,
        "explanations": [_document(one) for one in explanations],
    }
    text = json.dumps(document, ensure_ascii=True, allow_nan=False, indent=1) + "\n"
    write_atomically(folder / f"{key}.json", text.encode())


def read_explanations(run: str | os.PathLike[str], key: str) -> tuple[Explanation, ...]:
    """The explanations of one image; none where they were not asked for.

    Raises:
        LabelError: a file is damaged.
    """
    path = Path(run) / "explanations" / f"{key}.json"
    if not path.is_file():
        return ()
    document = parse_json(path.read_text(encoding="utf-8"), str(path))
    if (
        not isinstance(document, dict)
        or document.get("schema") != _SCHEMA
        or document.get("version") != EXPLANATION_VERSION
    ):
        raise LabelError(f"{path} holds no explanations of version {EXPLANATION_VERSION}")
    arrays = read_archive(path.with_suffix(".npz"), _ARCHIVE, EXPLANATION_VERSION)
    try:
        return tuple(_explanation(part, arrays) for part in document["explanations"])
    except (KeyError, TypeError, ValueError) as error:
        raise LabelError(f"{path} lacks a part or holds a wrong one: {error}") from error


def _document(one: Explanation) -> dict[str, Any]:
    return {
        "segment_id": one.segment_id,
        "prompt": one.prompt,
        "scores": {name: float(score) for name, score in one.scores.items()},
        "words": {word: float(share) for word, share in one.words.items()},
        "runner_up": one.runner_up,
        "margin": float(one.margin),
        "pixels_lost_to": {name: int(lost) for name, lost in one.pixels_lost_to.items()},
        "heatmaps": {name: heatmap.question for name, heatmap in one.heatmaps.items()},
    }


def _explanation(part: dict[str, Any], arrays: Mapping[str, NDArray[np.generic]]) -> Explanation:
    heatmaps = {}
    for name, question in part["heatmaps"].items():
        steps = arrays[f"{part['segment_id']}.{name}"].astype(np.float32)
        heatmaps[name] = Heatmap(question, steps / np.float32(255))
    return Explanation(**(part | {"heatmaps": heatmaps}))
