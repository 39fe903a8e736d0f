"""Writing a COCO panoptic file image by image."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from prelabel.coco.codec import write_id_map
from prelabel.coco.reading import check_relative
from prelabel.coco.records import CocoSegment, category_record, measure_ids, to_xywh
from prelabel.data import Ontology, PanopticLabel
from prelabel.errors import ConfigError, LabelError
from prelabel.files import replacing

__all__ = ["PanopticWriter"]

_MAX_STEM = 80
_SCORE_DIGITS = 6


class PanopticWriter:
    """A context manager that writes a PNG per image at once and the JSON at the end.

    The JSON appears, atomically, only when the block ends without an error; an older one of that
    name goes with the first image, so that a JSON always means a complete set. The same calls give
    the same bytes.

    PNG names: `<stem>.png`, after the stem of `file_name`. Where that name is taken (compared
    without case), or the stem has characters other than ASCII letters, digits, `.`, `_` and `-`,
    or more than 80 of them, it is `<safe stem>-<first 8 digits of the sha256 of file_name>.png`.

        with PanopticWriter(Path("out/panoptic.json"), ontology) as writer:
            writer.add("a/1.jpg", label, coco_image_id=1)
            writer.add_map("a/2.jpg", id_map, measure_segments(id_map, {1: 7, 2: 9}), 2)
    """

    def __init__(self, json_path: Path, ontology: Ontology) -> None:
        self._path = Path(json_path)
        if self._path.suffix != ".json":
            raise ConfigError(f"{self._path}: the name of a COCO panoptic file ends in .json")
        self._ontology = ontology
        # Kept as text: a tenth of the memory that the objects would take over 100,000 images.
        self._images: list[str] = []
        self._annotations: list[str] = []
        self._file_names: set[str] = set()
        self._image_ids: set[int] = set()
        self._png_names: set[str] = set()

    @property
    def folder(self) -> Path:
        """Where the PNGs go: the path of the JSON without `.json`."""
        return self._path.with_suffix("")

    def __enter__(self) -> Self:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"{self.folder} cannot be made: {error.strerror}") from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._write_json()

    def add(
        self,
        file_name: str,
        label: PanopticLabel,
        coco_image_id: int,
        *,
        png_name: str | None = None,
    ) -> Path:
        """Write one label with its scores; returns the path of its PNG. Arguments as `add_map`."""
        segments = [
            CocoSegment(
                segment.segment_id,
                segment.category_id,
                segment.area,
                to_xywh(segment.box),
                score=segment.score,
            )
            for segment in label.segments
        ]
        return self.add_map(file_name, label.id_map, segments, coco_image_id, png_name=png_name)

    def add_map(
        self,
        file_name: str,
        id_map: NDArray[np.int32],
        segments: Iterable[CocoSegment],
        coco_image_id: int,
        *,
        png_name: str | None = None,
    ) -> Path:
        """Write one id map; returns the path of its PNG.

        Args:
            file_name: of the image, relative, with extension; unique in the file.
            id_map: int32 (H, W), segment ids below 2^24, 0 is void.
            segments: exactly those in the map; `measure_segments` makes them.
            coco_image_id: at least 0, unique in the file.
            png_name: a name of the caller's own, such as "a-1f3c.png", instead of the rule above.

        Raises:
            LabelError: a name or id stands twice, a path is unsafe, or segments and map disagree.
        """
        listed = tuple(segments)
        self._check_image(file_name, coco_image_id)
        self._check_segments(file_name, id_map, listed)
        if png_name is None:
            png_name = self._png_name(file_name)
        else:
            self._check_png_name(png_name)
        if not self._images:
            self._path.unlink(missing_ok=True)
        write_id_map(self.folder / png_name, id_map)
        height, width = id_map.shape
        self._file_names.add(file_name)
        self._image_ids.add(coco_image_id)
        self._png_names.add(png_name.lower())
        self._images.append(
            _dump({"id": coco_image_id, "file_name": file_name, "height": height, "width": width})
        )
        self._annotations.append(
            _dump(
                {
                    "image_id": coco_image_id,
                    "file_name": png_name,
                    "segments_info": [_segment_record(segment) for segment in listed],
                }
            )
        )
        return self.folder / png_name

    def _check_image(self, file_name: str, coco_image_id: int) -> None:
        check_relative(file_name, str(self._path))
        if file_name in self._file_names:
            raise LabelError(f"{self._path}: the image {file_name!r} was added twice")
        if coco_image_id in self._image_ids:
            raise LabelError(
                f"{self._path}: the image id {coco_image_id} of {file_name!r} is already taken"
            )

    def _check_segments(
        self, file_name: str, id_map: NDArray[np.int32], segments: tuple[CocoSegment, ...]
    ) -> None:
        if id_map.ndim != 2 or id_map.size == 0:
            raise LabelError(f"{file_name}: expected an id map int32 (H, W), got {id_map.shape}")
        measured = measure_ids(id_map)
        ids = [segment.segment_id for segment in segments]
        if sorted(ids) != sorted(measured):
            raise LabelError(
                f"{file_name}: the map holds the ids {sorted(measured)}, its segments are {ids}"
            )
        for segment in segments:
            area, box = measured[segment.segment_id]
            if segment.category_id not in self._ontology.by_id:
                raise LabelError(
                    f"{file_name}: segment {segment.segment_id} has category "
                    f"{segment.category_id}, which the ontology does not list"
                )
            if segment.area != area or segment.box_xywh != to_xywh(box):
                raise LabelError(
                    f"{file_name}: segment {segment.segment_id} says area {segment.area} and box "
                    f"{segment.box_xywh} (xywh), its pixels {area} and {to_xywh(box)}"
                )
            if segment.score is not None and not 0.0 <= segment.score <= 1.0:
                raise LabelError(
                    f"{file_name}: segment {segment.segment_id} has score {segment.score}, "
                    "expected a number in [0, 1]"
                )

    def _check_png_name(self, png_name: str) -> None:
        check_relative(png_name, str(self._path))
        if "/" in png_name or "\\" in png_name or not png_name.endswith(".png"):
            raise LabelError(f"{self._path}: {png_name!r} is not the name of a PNG without folders")
        if png_name.lower() in self._png_names:
            raise LabelError(f"{self._path}: the PNG name {png_name!r} is already taken")

    def _png_name(self, file_name: str) -> str:
        stem = PurePosixPath(file_name.replace("\\", "/")).stem
        safe = re.sub(r"[^A-Za-z0-9._-]", "_", stem)[:_MAX_STEM].lstrip(".") or "image"
        if safe == stem and f"{safe}.png".lower() not in self._png_names:
            return f"{safe}.png"
        digest = hashlib.sha256(file_name.encode(errors="surrogatepass")).hexdigest()
        for length in range(8, len(digest) + 1, 8):
            name = f"{safe}-{digest[:length]}.png"
            if name.lower() not in self._png_names:
                return name
        raise LabelError(f"{self._path}: no free PNG name for the image {file_name!r}")

    def _write_json(self) -> None:
        lists = {
            "categories": [_dump(category_record(category)) for category in self._ontology],
            "images": self._images,
            "annotations": self._annotations,
        }
        with (
            replacing(self._path) as part,
            part.open("w", encoding="utf-8", newline="\n") as stream,
        ):
            stream.write('{"info":{"description":"Panoptic labels written by prelabel"}')
            for key, records in lists.items():
                stream.write(f',\n"{key}":[\n')
                stream.writelines(
                    record + (",\n" if index + 1 < len(records) else "\n")
                    for index, record in enumerate(records)
                )
                stream.write("]")
            stream.write("}\n")


def _segment_record(segment: CocoSegment) -> dict[str, object]:
    record: dict[str, object] = {
        "id": int(segment.segment_id),
        "category_id": int(segment.category_id),
        "area": None if segment.area is None else int(segment.area),
        "bbox": None if segment.box_xywh is None else [int(side) for side in segment.box_xywh],
        "iscrowd": int(segment.iscrowd),
    }
    if segment.score is not None:
        record["score"] = round(float(segment.score), _SCORE_DIGITS)
    return record


def _dump(record: dict[str, object]) -> str:
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
