"""The result: one label per image, each pixel in exactly one segment or void."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from prelabel.data.masks import Box
from prelabel.data.stored import check_array
from prelabel.errors import LabelError

__all__ = ["VOID", "PanopticLabel", "Segment"]

VOID = 0
"""The id, in an id map, of pixels that belong to no segment."""


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
        check_array("id_map", self.id_map, np.int32, None, None)
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
