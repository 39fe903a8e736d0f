"""Labels and categories as Segments.ai holds them: pure functions, without its SDK."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from prelabel.coco import decode_ids, encode_ids
from prelabel.data import VOID, Category, Explanation, Ontology, PanopticLabel, Segment
from prelabel.errors import ConfigError, LabelError
from prelabel.images import MAX_PIXELS

__all__ = [
    "RemoteCategory",
    "Spot",
    "build_ontology",
    "clean_map",
    "doubtful_spot",
    "list_annotations",
    "map_categories",
    "parse_bitmap",
    "priority",
    "write_bitmap",
]

_DIGITS = 4
"""Of scores that people see."""


class RemoteCategory(Protocol):
    """A category as the SDK gives it."""

    id: int
    name: str
    color: Any
    has_instances: bool | None


# --- categories -------------------------------------------------------------------------------


def build_ontology(categories: Iterable[RemoteCategory], where: str) -> Ontology:
    """The platform's categories with its ids.

    A category whose objects are counted (`has_instances`) is a thing; so is one of which the
    platform does not say it.

    Raises:
        ConfigError: there is none, or an id or name does not fit.
    """
    found = []
    for category in categories:
        if category.id < 1:
            raise ConfigError(
                f"{where}: category {category.name!r} has id {category.id}; ids start at 1 here, "
                "since 0 is void: give it another id on the platform"
            )
        prompt = " ".join(re.sub(r"[._?/-]+", " ", category.name).split())
        color = tuple(category.color[:3]) if category.color else None
        isthing = category.has_instances is not False
        found.append(Category(category.id, category.name, isthing, (prompt,), color))
    if not found:
        raise ConfigError(f"{where} has no categories yet; add them on the platform")
    return Ontology(tuple(found))


def map_categories(
    ours: Ontology, theirs: Ontology, where: str
) -> tuple[dict[int, int], list[str]]:
    """The platform's category_id for each of ours, matched by name, and the names only it has.

    Raises:
        ConfigError: the platform lacks a category; every one is named.
    """
    missing = [category.name for category in ours if category.name not in theirs.by_name]
    if missing:
        raise ConfigError(
            f"{where} has no category called {', '.join(map(repr, missing))}; it has "
            f"{', '.join(repr(category.name) for category in theirs)}. Names must be equal: add "
            "them on the platform, or rename them in the config (prelabel init writes one)"
        )
    spare = [category.name for category in theirs if category.name not in ours.by_name]
    ids = {category.category_id: theirs.by_name[category.name].category_id for category in ours}
    return ids, spare


# --- labels -----------------------------------------------------------------------------------


def write_bitmap(id_map: NDArray[np.int32]) -> bytes:
    """Segment ids int32 (H, W) as an RGBA PNG: R + 256 G + 65536 B, alpha 255, 0 is unlabeled."""
    colors = encode_ids(id_map)
    opaque = np.full((*id_map.shape, 1), 255, dtype=np.uint8)
    stream = io.BytesIO()
    # Level 3: a fifth larger than the default's 6, in half the time.
    Image.fromarray(np.concatenate([colors, opaque], axis=2)).save(
        stream, format="PNG", compress_level=3
    )
    return stream.getvalue()


def parse_bitmap(png: bytes, where: str) -> NDArray[np.int32]:
    """The segment ids int32 (H, W) of a bitmap.

    Raises:
        LabelError: it is no PNG in RGB or RGBA, is damaged, or too large.
    """
    try:
        with Image.open(io.BytesIO(png), formats=("PNG",)) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise LabelError(f"{where}: a bitmap of {width} × {height} pixels is too large")
            if image.mode not in ("RGB", "RGBA"):
                raise LabelError(f"{where}: a bitmap has mode {image.mode}, expected RGBA")
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabelError(f"{where}: its bitmap cannot be read as a PNG: {error}") from error
    return decode_ids(np.ascontiguousarray(pixels[..., :3]))


def list_annotations(
    label: PanopticLabel, category_ids: Mapping[int, int], names: Mapping[int, str]
) -> list[dict[str, Any]]:
    """One entry per segment: id, category, and score, margin and runner-up for people to see.

    Args:
        label: with our category ids.
        category_ids: the platform's by ours.
        names: of our categories.
    """
    return [
        {
            "id": int(segment.segment_id),
            "category_id": category_ids[segment.category_id],
            "attributes": _attributes(segment, names),
        }
        for segment in label.segments
    ]


def _attributes(segment: Segment, names: Mapping[int, str]) -> dict[str, float | str]:
    """Plain floats: the SDK can send no numpy number, and would send NaN."""
    shown: dict[str, float | str] = {
        "score": round(float(segment.score), _DIGITS),
        "margin": round(float(segment.margin), _DIGITS),
    }
    if segment.runner_up is not None:
        shown["runner_up"] = names[segment.runner_up]
    return shown


def priority(label: PanopticLabel) -> float:
    """1 less the label's score: the queue begins with the highest, hence with the doubtful."""
    return round(1.0 - min(max(float(label.score), 0.0), 1.0), _DIGITS)


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in an image, in pixels, and what there is to say about it."""

    x: int
    y: int
    text: str


def doubtful_spot(
    label: PanopticLabel, names: Mapping[int, str], evidence: tuple[Explanation, ...] = ()
) -> Spot | None:
    """The pixel deepest inside the segment of the lowest score, or None for an empty label."""
    if not label.segments:
        return None
    segment = min(label.segments, key=lambda one: (one.score, one.margin, one.segment_id))
    x0, y0, x1, y1 = segment.box
    inside = np.pad(label.id_map[y0:y1, x0:x1] == segment.segment_id, 1)
    depth = ndimage.distance_transform_edt(inside)
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    text = f"{names[segment.category_id]}, score {segment.score:.2f}"
    if segment.runner_up is not None:
        text += f"; or {names[segment.runner_up]}?"
    prompts = [one.prompt for one in evidence if one.segment_id == segment.segment_id]
    if prompts:
        text += f" (found as {prompts[0]!r})"
    return Spot(x0 + int(column) - 1, y0 + int(row) - 1, text)


def clean_map(
    id_map: NDArray[np.int32], category_ids: Mapping[int, int], stuff: Iterable[int]
) -> tuple[NDArray[np.int32], dict[int, int]]:
    """A label as a person left it, made to fit the format: every id of the map has its category.

    Ids without an entry become void, entries without pixels go, and segments of one stuff category
    become one, the one with the lowest id.

    Args:
        id_map: int32 (H, W).
        category_ids: by segment id.
        stuff: category ids of which an image has at most one segment.
    """
    present = set(np.unique(id_map).tolist()) - {VOID}
    target: dict[int, int] = dict.fromkeys(present, VOID)
    firsts: dict[int, int] = {}
    stuff = set(stuff)
    for segment_id in sorted(present & category_ids.keys()):
        category_id = category_ids[segment_id]
        first = firsts.setdefault(category_id, segment_id)
        target[segment_id] = first if category_id in stuff else segment_id
    if any(before != after for before, after in target.items()):
        ids, places = np.unique(id_map, return_inverse=True)
        table = np.array([target.get(int(one), VOID) for one in ids], dtype=np.int32)
        id_map = table[places].reshape(id_map.shape)
    kept = set(target.values()) - {VOID}
    return id_map, {segment_id: category_ids[segment_id] for segment_id in sorted(kept)}
