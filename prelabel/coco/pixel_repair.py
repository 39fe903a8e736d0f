"""Repairs one image of a COCO panoptic file: its PNG and the list of its segments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from prelabel.coco.checking import read_png_header
from prelabel.coco.codec import decode_ids, read_id_map
from prelabel.coco.loose import LooseAnnotation, LooseSegment
from prelabel.coco.records import count_values, measure_ids
from prelabel.coco.repairs import RepairLog
from prelabel.data import VOID, Box
from prelabel.errors import LabelError

__all__ = ["CategoryTable", "RepairedImage", "fits_exactly", "repair_image"]

_COUNTED = "counted anew"


@dataclass(frozen=True, slots=True)
class CategoryTable:
    """Which categories the new file has.

    Attributes:
        ids: new category_id by the old one.
        stuff: new ids of categories that are stuff for certain.
    """

    ids: Mapping[int, int]
    stuff: frozenset[int]


@dataclass(frozen=True, slots=True, eq=False)
class RepairedImage:
    """One image's label after the repair.

    Attributes:
        id_map: int32 (H, W), segment ids, 0 is void.
        changed: whether the PNG has to be written anew.
        segments: records for `segments_info[]`.
    """

    id_map: NDArray[np.int32]
    changed: bool
    segments: tuple[Mapping[str, object], ...]


def repair_image(
    png: Path, annotation: LooseAnnotation, table: CategoryTable, image: str, log: RepairLog
) -> RepairedImage | None:
    """The repaired label, or None where nothing can be saved; `log` says which.

    Args:
        png: path of the old PNG.
        annotation: of the image.
        table: the new file's categories.
        image: its file_name.
        log: what is done is added to it.
    """
    strays = [fault for fault in annotation.faults if fault.rule == "structure"]
    if annotation.segments is None:
        log.add_faults(strays, "the image is left out", "left-out")
        return None
    log.add_faults(strays, "left out", "left-out")
    opened = _open(png, annotation.segments, image, log)
    if opened is None:
        return None
    id_map, changed = opened
    patient = _Patient(id_map, table, image, log)
    kept = patient.choose(annotation.segments)
    kept = patient.drop_empty(kept)
    patient.clear_others(kept, annotation.segments)
    kept = patient.merge_stuff(kept)
    return RepairedImage(patient.id_map, changed or patient.changed, patient.records(kept))


def fits_exactly(png: Path, annotation: LooseAnnotation) -> bool:
    """Whether the PNG holds just the annotation's segments, with the areas and boxes it says."""
    try:
        measured = measure_ids(read_id_map(png))
    except LabelError:
        return False
    listed = {
        row.segment_id: (row.area, row.box_xywh)
        for row in annotation.segments or ()
        if row.segment_id is not None
    }
    return listed == {key: (area, _to_xywh(box)) for key, (area, box) in measured.items()}


# --- the PNG ----------------------------------------------------------------------------------


def _open(
    png: Path, segments: tuple[LooseSegment, ...], image: str, log: RepairLog
) -> tuple[NDArray[np.int32], bool] | None:
    """The ids int32 (H, W), and whether they have to be written anew."""
    if not png.is_file():
        log.add("png-missing", "left-out", f"{png} is not there; the image is left out", image)
        return None
    try:
        header = read_png_header(png)
        if header.is_rgb8:
            return read_id_map(png), False
        maps = _readings(png)
    except LabelError as error:
        log.add("png-unreadable", "left-out", f"{error}; the image is left out", image)
        return None
    listed = {row.segment_id for row in segments if row.segment_id is not None}
    for id_map in maps:
        if count_values(id_map).keys() - {VOID} == listed:
            log.add("png-mode", "repaired", f"{png} is {header}; written as 8-bit RGB", image)
            return id_map, True
    message = f"{png} is {header}, and its values are not the listed ids; the image is left out"
    log.add("png-mode", "left-out", message, image)
    return None


def _readings(png: Path) -> list[NDArray[np.int32]]:
    """What a PNG of another mode can mean: ids as colours, or as plain numbers; int32 (H, W)."""
    try:
        with Image.open(png, formats=("PNG",)) as opened:
            opened.load()
            # Alpha is cut off, not blended: transparent pixels keep their id.
            colors = np.asarray(opened.convert("RGBA"))[..., :3]
            numbers = np.asarray(opened)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise LabelError(f"{png} cannot be read as a PNG: {error}") from error
    readings = [decode_ids(np.ascontiguousarray(colors))]
    if numbers.ndim == 2:
        readings.append(numbers.astype(np.int32))
    return readings


# --- the segments -----------------------------------------------------------------------------


class _Patient:
    """One label on the table; `changed` says whether its pixels were touched."""

    def __init__(
        self, id_map: NDArray[np.int32], table: CategoryTable, image: str, log: RepairLog
    ) -> None:
        self.id_map = id_map
        self.changed = False
        self._measured = measure_ids(id_map)
        self._table = table
        self._image = image
        self._log = log

    def choose(self, segments: tuple[LooseSegment, ...]) -> dict[int, LooseSegment]:
        """One segment for each id that can be read and whose category is known."""
        groups: dict[int, list[LooseSegment]] = {}
        for row in segments:
            if row.segment_id is not None:
                groups.setdefault(row.segment_id, []).append(row)
                continue
            done = "the segment is left out, since no pixel can be its"
            self._log.add_faults(row.faults, done, "left-out")
        kept = {}
        for segment_id, rows in groups.items():
            chosen = rows[0] if len(rows) == 1 else self._choose_twin(segment_id, rows)
            if chosen is None:
                continue
            if chosen.category_id is None or chosen.category_id not in self._table.ids:
                message = f"segment {segment_id} has no known category; its pixels become void"
                rule = "field" if chosen.category_id is None else "unknown-category"
                self._log.add(rule, "left-out", message, self._image, segment_id)
                continue
            kept[segment_id] = chosen
        return kept

    def _choose_twin(self, segment_id: int, rows: list[LooseSegment]) -> LooseSegment | None:
        """The one of several with the same id that its pixels speak for."""
        if len({row.category_id for row in rows}) == 1:
            fits = rows[:1]
        else:
            fits = [row for row in rows if self._fits(segment_id, row)]
        if len(fits) == 1:
            message = f"segment {segment_id} stood {len(rows)} times; now once"
            self._log.add("duplicate-segment", "repaired", message, self._image, segment_id)
            return fits[0]
        message = (
            f"segment {segment_id} stands {len(rows)} times, of different categories; which one "
            "holds cannot be told, so its pixels become void"
        )
        self._log.add("duplicate-segment", "left-out", message, self._image, segment_id)
        return None

    def _fits(self, segment_id: int, row: LooseSegment) -> bool:
        if segment_id not in self._measured:
            return False
        area, box = self._measured[segment_id]
        return row.area == area and row.box_xywh == _to_xywh(box)

    def drop_empty(self, kept: Mapping[int, LooseSegment]) -> dict[int, LooseSegment]:
        """Those that have a pixel."""
        for segment_id in kept.keys() - self._measured.keys():
            message = f"segment {segment_id} had no pixel; taken out of the list"
            self._log.add("empty-segment", "repaired", message, self._image, segment_id)
        return {key: row for key, row in kept.items() if key in self._measured}

    def clear_others(
        self, kept: Mapping[int, LooseSegment], segments: tuple[LooseSegment, ...]
    ) -> None:
        """Make void what no segment of the list owns."""
        homeless = self._measured.keys() - kept.keys()
        if homeless:
            self._paint({segment_id: VOID for segment_id in homeless})
        for segment_id in sorted(homeless - {row.segment_id for row in segments}):
            message = f"{self._measured[segment_id][0]} pixels of the unlisted id {segment_id}"
            message += " became void"
            self._log.add("unlisted-id", "repaired", message, self._image, segment_id)

    def merge_stuff(self, kept: Mapping[int, LooseSegment]) -> dict[int, LooseSegment]:
        """One segment per stuff category: the first takes the others' pixels."""
        first: dict[int, int] = {}
        moved: dict[int, int] = {}
        for segment_id, row in kept.items():
            category_id = self._category_of(row)
            if category_id not in self._table.stuff:
                continue
            if category_id in first:
                moved[segment_id] = first[category_id]
            else:
                first[category_id] = segment_id
        for segment_id, target in moved.items():
            message = f"segment {segment_id} joined segment {target}, of the same stuff category"
            self._log.add("stuff-twice", "repaired", message, self._image, segment_id)
        if moved:
            self._paint(moved)
        return {key: row for key, row in kept.items() if key not in moved}

    def _category_of(self, row: LooseSegment) -> int:
        return self._table.ids[row.category_id or 0]

    def _paint(self, changes: Mapping[int, int]) -> None:
        values, inverse = np.unique(self.id_map, return_inverse=True)
        painted = [changes.get(value, value) for value in values.tolist()]
        table = np.array(painted, dtype=np.int32)
        self.id_map = table[inverse].reshape(self.id_map.shape)
        self.changed = True

    def records(self, kept: Mapping[int, LooseSegment]) -> tuple[Mapping[str, object], ...]:
        """The list of segments, areas and boxes counted in the final map."""
        final = measure_ids(self.id_map) if self.changed else self._measured
        records = []
        for segment_id, row in kept.items():
            self._log_values(segment_id, row)
            area, box = final[segment_id]
            record: dict[str, object] = {
                **row.record,
                "id": segment_id,
                "category_id": self._category_of(row),
                "area": area,
                "bbox": list(_to_xywh(box)),
                "iscrowd": int(row.iscrowd),
            }
            if any(".score is" in fault.message for fault in row.faults):
                del record["score"]
            records.append(record)
        return tuple(records)

    def _log_values(self, segment_id: int, row: LooseSegment) -> None:
        self._log.add_faults(row.faults, "set right, counted anew or taken out")
        area, box = self._measured[segment_id]
        if row.area is not None and row.area != area:
            message = f"segment {segment_id} said area {row.area}; {_COUNTED}: {area}"
            self._log.add("area", "repaired", message, self._image, segment_id)
        if row.box_xywh is not None and row.box_xywh != _to_xywh(box):
            message = f"segment {segment_id} said bbox {list(row.box_xywh)}; {_COUNTED}: "
            message += str(list(_to_xywh(box)))
            self._log.add("bbox", "repaired", message, self._image, segment_id)


def _to_xywh(box: Box) -> tuple[int, int, int, int]:
    x0, y0, x1, y1 = box
    return x0, y0, x1 - x0, y1 - y0
