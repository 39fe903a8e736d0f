"""The nouns of prelabel: frozen data classes whose shapes are checked once, at construction.

Boxes are xyxy, in pixels of the original image, half-open: `x1` and `y1` are the first column and
row *outside*. Sizes are `(height, width)`. Ids start at 1; 0 is void. BGR exists nowhere.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import PurePosixPath
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.archive import pack_text, read_archive, unpack_text, write_archive
from prelabel.errors import ConfigError, LabelError

__all__ = [
    "VOID",
    "Box",
    "Candidate",
    "Category",
    "Color",
    "Detections",
    "Explanation",
    "Failure",
    "Frame",
    "Heatmap",
    "ImageRecord",
    "Instances",
    "Mask",
    "Ontology",
    "PanopticLabel",
    "Segment",
    "Stored",
    "StuffRegions",
    "StuffScores",
    "Trace",
    "image_key",
]

VOID = 0
"""The id, in an id map, of pixels that belong to no segment."""

_MAX_STEM = 60

Color: TypeAlias = tuple[int, int, int]
Box: TypeAlias = tuple[int, int, int, int]


# --- what is looked for -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Category:
    """One class of the ontology.

    Attributes:
        category_id: at least 1; the platform's own id where there is one.
        name: as shown to people; unique in its ontology.
        isthing: True for countable things, False for stuff.
        prompts: what the networks are asked for; several synonyms mean this one category.
            Empty means the name itself.
        color: RGB, 0 to 255 each, or None for a colour derived from the id.
        box_threshold: least detector score in [0, 1] for this category; None: the stage's own.
        mask_threshold: least rough-map probability in [0, 1]; None: the stage's own.
    """

    category_id: int
    name: str
    isthing: bool
    prompts: tuple[str, ...] = ()
    color: Color | None = None
    box_threshold: float | None = None
    mask_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.category_id < 1:
            raise ConfigError(
                f"category {self.name!r} has id {self.category_id}; ids start at 1, since 0 is void"
            )
        if not self.name.strip():
            raise ConfigError(f"category {self.category_id} has an empty name")
        if not self.prompts:
            object.__setattr__(self, "prompts", (self.name,))
        for prompt in self.prompts:
            if not prompt.strip():
                raise ConfigError(f"category {self.name!r} has an empty prompt")
            if "." in prompt or "?" in prompt:
                raise ConfigError(
                    f"prompt {prompt!r} of category {self.name!r} holds '.' or '?', which separate "
                    "prompts; spell it without"
                )


@dataclass(frozen=True)
class Ontology:
    """Categories with unique ids and names, in a fixed order."""

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        if not self.categories:
            raise ConfigError("the ontology is empty; name at least one thing or stuff category")
        _check_unique("id", (category.category_id for category in self.categories))
        _check_unique("name", (category.name for category in self.categories))

    def __iter__(self) -> Iterator[Category]:
        return iter(self.categories)

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def things(self) -> tuple[Category, ...]:
        return tuple(category for category in self.categories if category.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        return tuple(category for category in self.categories if not category.isthing)

    @cached_property
    def by_name(self) -> Mapping[str, Category]:
        return {category.name: category for category in self.categories}

    @cached_property
    def by_id(self) -> Mapping[int, Category]:
        return {category.category_id: category for category in self.categories}


def _check_unique(what: str, values: Iterable[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"two categories have the {what} {value!r}; each needs its own")
        seen.add(value)


# --- what is looked at ------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One image of a source, before it is opened.

    Attributes:
        image_id: stable and unique in its source; for a folder the relative path with extension.
        uri: where the pixels are, for people and logs.
        ref: the platform's own key, or "".
    """

    image_id: str
    uri: str
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Frame:
    """A decoded image: `pixels` is uint8 (H, W, 3) RGB, with EXIF orientation applied."""

    record: ImageRecord
    pixels: NDArray[np.uint8]

    def __post_init__(self) -> None:
        shape, dtype = self.pixels.shape, self.pixels.dtype
        if len(shape) != 3 or shape[2] != 3 or 0 in shape or dtype != np.uint8:
            raise LabelError(f"expected pixels uint8 (H, W, 3), got {dtype} {shape}")

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]


def image_key(image_id: str) -> str:
    """The name of an image's artifacts: a readable ASCII stem and a short hash of the whole id.

    Equal stems in different folders, cases or Unicode forms get different keys on any file system.
    """
    stem = PurePosixPath(image_id.replace("\\", "/")).stem
    ascii_stem = unicodedata.normalize("NFKD", stem).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^A-Za-z0-9_-]+", "-", ascii_stem).strip("-")[:_MAX_STEM] or "image"
    digest = hashlib.sha256(image_id.encode(errors="surrogatepass")).hexdigest()
    return f"{safe}-{digest[:10]}"


# --- masks ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Mask:
    """A binary mask as a crop: `bitmap` bool (h, w), its top-left pixel at (`x0`, `y0`)."""

    x0: int
    y0: int
    bitmap: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if self.bitmap.ndim != 2 or self.bitmap.dtype != np.bool_:
            raise LabelError(
                f"expected a bitmap bool (h, w), got {self.bitmap.dtype} {self.bitmap.shape}"
            )
        if self.x0 < 0 or self.y0 < 0:
            raise LabelError(f"expected an offset of at least 0, got ({self.x0}, {self.y0})")

    @classmethod
    def from_full(cls, full: NDArray[np.bool_]) -> Self:
        """The tight crop of a bool (H, W) map; an empty map gives a (0, 0) bitmap."""
        rows, columns = np.flatnonzero(full.any(axis=1)), np.flatnonzero(full.any(axis=0))
        if not len(rows):
            return cls(0, 0, np.zeros((0, 0), dtype=np.bool_))
        y0, y1, x0, x1 = rows[0], rows[-1] + 1, columns[0], columns[-1] + 1
        return cls(int(x0), int(y0), np.ascontiguousarray(full[y0:y1, x0:x1]))

    @property
    def box(self) -> Box:
        """The crop's own box, xyxy pixels, half-open."""
        height, width = self.bitmap.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height

    @property
    def window(self) -> tuple[slice, slice]:
        """Rows and columns of the crop in the full image."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    @property
    def area(self) -> int:
        """Number of pixels set."""
        return int(np.count_nonzero(self.bitmap))

    def to_full(self, size: tuple[int, int]) -> NDArray[np.bool_]:
        """The mask as bool (height, width)."""
        x0, y0, x1, y1 = self.box
        if x1 > size[1] or y1 > size[0]:
            raise LabelError(f"a mask with box {(x0, y0, x1, y1)} does not fit into {size}")
        full = np.zeros(size, dtype=np.bool_)
        full[self.window] = self.bitmap
        return full

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mask):
            return NotImplemented
        return (self.x0, self.y0) == (other.x0, other.y0) and np.array_equal(
            self.bitmap, other.bitmap
        )

    __hash__ = None  # type: ignore[assignment]


def _pack_masks(masks: tuple[Mask, ...]) -> dict[str, NDArray[np.generic]]:
    """Masks as two arrays: int32 (N, 4) boxes and their bitmaps' packed bits, one after another."""
    boxes = np.array([mask.box for mask in masks], dtype=np.int32).reshape(-1, 4)
    bits = [np.packbits(mask.bitmap.ravel()) for mask in masks]
    return {
        "mask_boxes": boxes,
        "mask_bits": np.concatenate(bits) if bits else np.empty(0, dtype=np.uint8),
    }


def _unpack_masks(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[Mask, ...]:
    bits = arrays["mask_bits"].astype(np.uint8)
    masks, start = [], 0
    for x0, y0, x1, y1 in arrays["mask_boxes"].astype(np.int64):
        count = int((x1 - x0) * (y1 - y0))
        stop = start + -(-count // 8)
        bitmap = np.unpackbits(bits[start:stop], count=count).astype(np.bool_)
        masks.append(Mask(int(x0), int(y0), bitmap.reshape(y1 - y0, x1 - x0)))
        start = stop
    return tuple(masks)


# --- what the stages hand on ------------------------------------------------------------------


class Stored:
    """`save` and `load` for a data class made of arrays and at most one tuple of masks."""

    __slots__ = ()
    _VERSION = 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a `.npz` without pickle, with a version."""
        arrays: dict[str, NDArray[np.generic]] = {}
        for item in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, item.name)
            if item.name == "masks":
                arrays |= _pack_masks(value)
            elif dataclasses.is_dataclass(value):
                arrays |= {
                    f"{item.name}.{part.name}": getattr(value, part.name)
                    for part in dataclasses.fields(value)
                }
            else:
                arrays[item.name] = value
        write_archive(path, type(self).__name__, self._VERSION, arrays)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises LabelError for any other file."""
        arrays = read_archive(path, cls.__name__, cls._VERSION)
        try:
            return cls(**cls._parts(arrays))
        except (KeyError, TypeError) as error:
            raise LabelError(f"{path} lacks a part of {cls.__name__}: {error}") from error

    @classmethod
    def _parts(cls, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
        parts: dict[str, object] = dict(arrays)
        if "mask_boxes" in parts:
            del parts["mask_boxes"], parts["mask_bits"]
            parts["masks"] = _unpack_masks(arrays)
        return parts


def _check(name: str, array: NDArray[np.generic], dtype: type, *shape: int | None) -> None:
    fits = array.ndim == len(shape) and all(
        want is None or want == have for want, have in zip(shape, array.shape, strict=True)
    )
    if not fits or array.dtype != dtype:
        wanted = ", ".join("*" if want is None else str(want) for want in shape)
        raise LabelError(
            f"expected {name} {np.dtype(dtype)} ({wanted}), got {array.dtype} {array.shape}"
        )


def _check_unit(name: str, array: NDArray[np.generic]) -> None:
    values = np.asarray(array, dtype=np.float64)
    if values.size and not (values.min() >= 0.0 and values.max() <= 1.0):
        raise LabelError(f"expected {name} in [0, 1], got {values.min():.4g} to {values.max():.4g}")


@dataclass(frozen=True, slots=True, eq=False)
class Detections(Stored):
    """Boxes of things in one image; N = 0 is normal.

    Attributes:
        boxes: float32 (N, 4), xyxy pixels of the original image, half-open.
        category_ids: int32 (N,).
        scores: float32 (N,) in [0, 1], how sure the detector is.
        class_scores: float32 (N, K) in [0, 1], one column per thing category of the ontology.
        query_ids: int32 (N,), which of the network's queries gave the box.
        prompt_ids: int32 (N,), which synonym of the category fired.
    """

    boxes: NDArray[np.float32]
    category_ids: NDArray[np.int32]
    scores: NDArray[np.float32]
    class_scores: NDArray[np.float32]
    query_ids: NDArray[np.int32]
    prompt_ids: NDArray[np.int32]

    def __post_init__(self) -> None:
        count = len(self.boxes)
        _check("boxes", self.boxes, np.float32, None, 4)
        _check("category_ids", self.category_ids, np.int32, count)
        _check("scores", self.scores, np.float32, count)
        _check("class_scores", self.class_scores, np.float32, count, None)
        _check("query_ids", self.query_ids, np.int32, count)
        _check("prompt_ids", self.prompt_ids, np.int32, count)
        _check_unit("scores", self.scores)
        _check_unit("class_scores", self.class_scores)

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: NDArray[np.bool_] | NDArray[np.integer] | slice) -> Detections:
        """The detections at a mask, an array of indices or a slice."""
        return Detections(
            self.boxes[index],
            self.category_ids[index],
            self.scores[index],
            self.class_scores[index],
            self.query_ids[index],
            self.prompt_ids[index],
        )

    @classmethod
    def empty(cls, things: int = 0) -> Self:
        """No detections at all, under an ontology of `things` thing categories."""
        ids, scores = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        return cls(
            np.empty((0, 4), dtype=np.float32),
            ids,
            scores,
            np.empty((0, things), dtype=np.float32),
            ids,
            ids,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Instances(Stored):
    """Detections with one mask each.

    Attributes:
        detections: N of them.
        masks: N masks in pixels of the original image.
        ious: float32 (N,) in [0, 1], the segmenter's prediction of its own mask quality.
        stabilities: float32 (N,) in [0, 1], SAM's measure: IoU of the mask at logits +1 and −1.
    """

    detections: Detections
    masks: tuple[Mask, ...]
    ious: NDArray[np.float32]
    stabilities: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.detections)
        if len(self.masks) != count:
            raise LabelError(f"expected {count} masks, one per detection, got {len(self.masks)}")
        _check("ious", self.ious, np.float32, count)
        _check("stabilities", self.stabilities, np.float32, count)
        _check_unit("ious", self.ious)
        _check_unit("stabilities", self.stabilities)

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def _parts(cls, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
        nested = {name: array for name, array in arrays.items() if name.startswith("detections.")}
        parts = Stored._parts.__func__(  # type: ignore[attr-defined]
            cls, {name: array for name, array in arrays.items() if name not in nested}
        )
        fields = {name.removeprefix("detections."): array for name, array in nested.items()}
        return {**parts, "detections": Detections(**fields)}  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True, eq=False)
class StuffScores(Stored):
    """Rough maps of stuff over the whole image.

    Attributes:
        category_ids: int32 (C,).
        prompt_ids: int32 (C,), which synonym gave the map, the strongest one.
        probs: float32 (C, h, w) in [0, 1]; the map covers the whole image, at the network's own
            resolution: column j of w spans [j / w, (j + 1) / w) of the image's width.
    """

    category_ids: NDArray[np.int32]
    prompt_ids: NDArray[np.int32]
    probs: NDArray[np.float32]

    def __post_init__(self) -> None:
        count = len(self.category_ids)
        _check("category_ids", self.category_ids, np.int32, count)
        _check("prompt_ids", self.prompt_ids, np.int32, count)
        _check("probs", self.probs, np.float32, count, None, None)
        _check_unit("probs", self.probs)

    def __len__(self) -> int:
        return len(self.category_ids)

    @classmethod
    def empty(cls) -> Self:
        """No stuff category was asked for."""
        ids = np.empty(0, dtype=np.int32)
        return cls(ids, ids, np.empty((0, 1, 1), dtype=np.float32))


@dataclass(frozen=True, slots=True, eq=False)
class StuffRegions(Stored):
    """Refined regions of stuff, one per connected component of a rough map.

    Attributes:
        category_ids: int32 (R,); a category may have several regions.
        masks: R masks in pixels of the original image.
        ious: float32 (R,) in [0, 1], the segmenter's predicted mask quality; 0 where the rough map
            itself was kept.
        agreements: float32 (R,) in [0, 1], IoU of the region with its component of the rough map.
        probs: float32 (R,) in [0, 1], mean rough-map probability inside the region.
        rivals: int32 (R,), the category with the next highest mean probability, 0 for none.
        rival_probs: float32 (R,) in [0, 1], that rival's mean probability inside the region.
        refined: bool (R,), False where the segmenter disagreed and the rough map was kept.
    """

    category_ids: NDArray[np.int32]
    masks: tuple[Mask, ...]
    ious: NDArray[np.float32]
    agreements: NDArray[np.float32]
    probs: NDArray[np.float32]
    rivals: NDArray[np.int32]
    rival_probs: NDArray[np.float32]
    refined: NDArray[np.bool_]

    def __post_init__(self) -> None:
        count = len(self.masks)
        _check("category_ids", self.category_ids, np.int32, count)
        _check("rivals", self.rivals, np.int32, count)
        _check("refined", self.refined, np.bool_, count)
        for name in ("ious", "agreements", "probs", "rival_probs"):
            _check(name, getattr(self, name), np.float32, count)
            _check_unit(name, getattr(self, name))

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def empty(cls) -> Self:
        """No region of any stuff category."""
        ids, values = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        none = np.empty(0, dtype=np.bool_)
        return cls(ids, (), values, values, values, ids, values, none)


# --- the result -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Segment:
    """One entry of a panoptic label.

    Attributes:
        segment_id: at least 1; the value of its pixels in the id map.
        category_id: the winning category.
        isthing: whether that category is a thing.
        area: pixels in the final map, at least 1.
        box: xyxy pixels, half-open, tight around the final pixels.
        score: how sure, in [0, 1]; comparable between things and stuff.
        runner_up: category_id of the next best guess, or None where there was no other.
        margin: score minus what the runner-up would have scored, in [0, 1].
        source: the candidates it was made of, such as "thing:3" or "stuff:0+stuff:2".
    """

    segment_id: int
    category_id: int
    isthing: bool
    area: int
    box: Box
    score: float
    runner_up: int | None
    margin: float
    source: str


@dataclass(frozen=True, slots=True, eq=False)
class PanopticLabel:
    """One image's pre-label: each pixel in exactly one segment, or void.

    Attributes:
        image_id: as in the record.
        id_map: int32 (H, W), segment ids; 0 is void.
        segments: ids contiguous from 1, in order.
        score: area-weighted mean of the segments' scores in [0, 1], void counted as 0.

    Raises:
        LabelError: ids of map and list differ, an area is not its pixel count, a stuff category has
            two segments, or ids are not 1..N.
    """

    image_id: str
    id_map: NDArray[np.int32]
    segments: tuple[Segment, ...]
    score: float = field(init=False)

    def __post_init__(self) -> None:
        _check("id_map", self.id_map, np.int32, None, None)
        ids = [segment.segment_id for segment in self.segments]
        if ids != list(range(1, len(ids) + 1)):
            raise LabelError(f"expected segment ids 1..{len(ids)}, got {ids}")
        if self.id_map.size and self.id_map.min() < VOID:
            raise LabelError(f"expected ids of at least 0 in the map, got {self.id_map.min()}")
        counts = np.bincount(self.id_map.ravel(), minlength=len(ids) + 1)
        if len(counts) > len(ids) + 1:
            raise LabelError(f"the map holds id {len(counts) - 1}, but only {len(ids)} segments")
        for segment in self.segments:
            if segment.area != counts[segment.segment_id] or segment.area < 1:
                raise LabelError(
                    f"segment {segment.segment_id} has area {segment.area}, but the map holds "
                    f"{counts[segment.segment_id]} of its pixels"
                )
        stuff = [segment.category_id for segment in self.segments if not segment.isthing]
        if len(stuff) != len(set(stuff)):
            raise LabelError(f"a stuff category has more than one segment: {sorted(stuff)}")
        weighted = sum(segment.area * segment.score for segment in self.segments)
        object.__setattr__(self, "score", float(weighted / self.id_map.size))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.id_map.shape[0], self.id_map.shape[1]

    def mask(self, segment_id: int) -> NDArray[np.bool_]:
        """The segment's pixels as bool (H, W)."""
        return np.asarray(self.id_map == segment_id)


@dataclass(frozen=True, slots=True)
class Candidate:
    """What a stage proposed for the label, and what merge made of it.

    Attributes:
        candidate_id: "thing:3" (third instance) or "stuff:1" (second region).
        category_id: what it was proposed as.
        isthing: whether that is a thing category.
        mask: as proposed, before anything was taken from it.
        score: in [0, 1], the one score by which merge orders.
        rule: what decided: "kept", "merged", "duplicate", "covered", "too-small", "low-score".
        beaten_by: the candidate that beat it, or "".
        segment_id: the segment it became part of, 0 where it was beaten.
    """

    candidate_id: str
    category_id: int
    isthing: bool
    mask: Mask
    score: float
    rule: str
    beaten_by: str = ""
    segment_id: int = 0


@dataclass(frozen=True, slots=True)
class Trace:
    """What merge decided about one image: every candidate, in the order it was considered.

    `losses[(a, b)]` is how many pixels of candidate `a` went to candidate `b`.
    """

    image_id: str
    candidates: tuple[Candidate, ...]
    losses: Mapping[tuple[str, str], int] = field(default_factory=dict)

    _VERSION = 1

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a `.npz` without pickle, with a version."""
        rows = self.candidates
        pairs = sorted(self.losses)
        arrays: dict[str, NDArray[np.generic]] = {
            "image_id": np.array([self.image_id]),
            "candidate_ids": pack_text(tuple(row.candidate_id for row in rows)),
            "category_ids": np.array([row.category_id for row in rows], dtype=np.int32),
            "isthing": np.array([row.isthing for row in rows], dtype=np.bool_),
            "scores": np.array([row.score for row in rows], dtype=np.float64),
            "rules": pack_text(tuple(row.rule for row in rows)),
            "beaten_by": pack_text(tuple(row.beaten_by for row in rows)),
            "segment_ids": np.array([row.segment_id for row in rows], dtype=np.int32),
            "losers": pack_text(tuple(loser for loser, _ in pairs)),
            "winners": pack_text(tuple(winner for _, winner in pairs)),
            "lost": np.array([self.losses[pair] for pair in pairs], dtype=np.int64),
        }
        write_archive(
            path, "Trace", self._VERSION, arrays | _pack_masks(tuple(row.mask for row in rows))
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what `save` wrote. Raises LabelError for any other file."""
        arrays = read_archive(path, "Trace", cls._VERSION)
        candidates = tuple(
            Candidate(name, int(category_id), bool(isthing), mask, float(score), rule, by, int(won))
            for name, category_id, isthing, mask, score, rule, by, won in zip(
                unpack_text(arrays["candidate_ids"]),
                arrays["category_ids"],
                arrays["isthing"],
                _unpack_masks(arrays),
                arrays["scores"],
                unpack_text(arrays["rules"]),
                unpack_text(arrays["beaten_by"]),
                arrays["segment_ids"],
                strict=True,
            )
        )
        pairs = zip(unpack_text(arrays["losers"]), unpack_text(arrays["winners"]), strict=True)
        losses = {pair: int(lost) for pair, lost in zip(pairs, arrays["lost"], strict=True)}
        return cls(str(arrays["image_id"][0]), candidates, losses)


@dataclass(frozen=True, slots=True, eq=False)
class Heatmap:
    """One map of an explanation.

    Attributes:
        question: what the map answers, in words for people.
        values: float32 (h, w) in [0, 1], covering the whole image.
    """

    question: str
    values: NDArray[np.float32]

    def __post_init__(self) -> None:
        _check("values", self.values, np.float32, None, None)
        _check_unit("values", self.values)


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why a segment is there.

    Attributes:
        segment_id: of the label.
        prompt: the synonym that fired.
        scores: each factor of the segment's score by its name, in [0, 1].
        words: how much the network attended to each word of the prompt list, by word.
        runner_up: category_id of the next best guess, or None.
        margin: in [0, 1].
        pixels_lost_to: pixels of its candidates that went to another, by candidate_id.
        heatmaps: by a short name: "sampling", "attention", "rough".
    """

    segment_id: int
    prompt: str
    scores: Mapping[str, float]
    words: Mapping[str, float]
    runner_up: int | None
    margin: float
    pixels_lost_to: Mapping[str, int]
    heatmaps: Mapping[str, Heatmap]


@dataclass(frozen=True, slots=True)
class Failure:
    """One image that could not be labelled: data, not the end of the job.

    Attributes:
        image_id: as in the record.
        stage: "decode", "detect", "segment", "score", "refine", "merge", "explain" or "write".
        kind: a short machine-readable reason, such as "truncated".
        message: a sentence for people.
    """

    image_id: str
    stage: str
    kind: str
    message: str
