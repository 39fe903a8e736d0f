"""What the stages hand on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from prelabel.data.masks import Mask
from prelabel.data.stored import Stored, check_array, check_unit, plain_parts
from prelabel.errors import LabelError

__all__ = ["Detections", "Instances", "StuffRegions", "StuffScores"]


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
        check_array("boxes", self.boxes, np.float32, None, 4)
        check_array("category_ids", self.category_ids, np.int32, count)
        check_array("scores", self.scores, np.float32, count)
        check_array("class_scores", self.class_scores, np.float32, count, None)
        check_array("query_ids", self.query_ids, np.int32, count)
        check_array("prompt_ids", self.prompt_ids, np.int32, count)
        check_unit("scores", self.scores)
        check_unit("class_scores", self.class_scores)

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
        check_array("ious", self.ious, np.float32, count)
        check_array("stabilities", self.stabilities, np.float32, count)
        check_unit("ious", self.ious)
        check_unit("stabilities", self.stabilities)

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def _parts(cls, arrays: Mapping[str, NDArray[np.generic]]) -> dict[str, object]:
        nested = {name: array for name, array in arrays.items() if name.startswith("detections.")}
        parts = plain_parts({name: arrays[name] for name in arrays if name not in nested})
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
        check_array("category_ids", self.category_ids, np.int32, count)
        check_array("prompt_ids", self.prompt_ids, np.int32, count)
        check_array("probs", self.probs, np.float32, count, None, None)
        check_unit("probs", self.probs)

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
        check_array("category_ids", self.category_ids, np.int32, count)
        check_array("rivals", self.rivals, np.int32, count)
        check_array("refined", self.refined, np.bool_, count)
        for name in ("ious", "agreements", "probs", "rival_probs"):
            check_array(name, getattr(self, name), np.float32, count)
            check_unit(name, getattr(self, name))

    def __len__(self) -> int:
        return len(self.masks)

    @classmethod
    def empty(cls) -> Self:
        """No region of any stuff category."""
        ids, values = np.empty(0, dtype=np.int32), np.empty(0, dtype=np.float32)
        none = np.empty(0, dtype=np.bool_)
        return cls(ids, (), values, values, values, ids, values, none)
