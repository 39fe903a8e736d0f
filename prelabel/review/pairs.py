"""Two COCO panoptic files side by side, checked against each other and opened image by image."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from prelabel.coco import (
    CocoAnnotation,
    CocoCategory,
    CocoSegment,
    count_values,
    read_panoptic,
)
from prelabel.data import VOID
from prelabel.errors import ConfigError, LabelError
from prelabel.review.matching import (
    ImagePair,
    match_categories,
    match_images,
    name_some,
    refuse_missing,
)

__all__ = ["Pair", "PairOptions", "PairedFiles", "Sort"]

_log = logging.getLogger(__name__)

Sort: TypeAlias = Literal["things", "stuff"]


@dataclass(frozen=True, slots=True)
class PairOptions:
    """What is compared.

    Attributes:
        limit: only the truth's first so many images; None for all.
        missing: what a true image or category is that the prediction does not list: an error, or
            something of which every segment was missed.
        extra: what a predicted image is that the truth does not list: an error, or left out.
        only: things or stuff alone; None for both.
    """

    limit: int | None = None
    missing: Literal["error", "miss"] = "error"
    extra: Literal["error", "ignore"] = "error"
    only: Sort | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """One image of both files, with what is to be compared.

    Attributes:
        file_name: of the image, as in the truth.
        true_map: int32 (H, W), segment ids of the truth, 0 is void.
        true_segments: the truth's segments by id, of the categories that are compared.
        id_map: int32 (H, W), segment ids of the prediction.
        predicted: the category_id, among the truth's, of each predicted segment by its id.
        annotation: the prediction's, or None where it has none.
        predicted_name: the image's file_name in the prediction, or "".
    """

    file_name: str
    true_map: NDArray[np.int32]
    true_segments: Mapping[int, CocoSegment]
    id_map: NDArray[np.int32]
    predicted: Mapping[int, int]
    annotation: CocoAnnotation | None
    predicted_name: str


class PairedFiles:
    """A prediction and its truth, checked against each other.

    Attributes:
        categories: the truth's, those that are compared, in its order.
        matched: the truth's category_id for each of the prediction's that is compared.
        images: of the truth, each with the prediction's or None.

    Raises:
        ConfigError: a file is missing, or images or categories do not match.
        LabelError: a file is broken.
    """

    def __init__(self, prediction: Path, truth: Path, options: PairOptions) -> None:
        if options.limit is not None and options.limit < 1:
            raise ConfigError(
                f"limit is {options.limit}; expected at least 1 image, or none for all"
            )
        self.guess, self.real = read_panoptic(prediction), read_panoptic(truth)
        self.matched = match_categories(self.guess, self.real, options.missing, options.only)
        self.categories: tuple[CocoCategory, ...] = tuple(
            row
            for row in self.real.categories
            if options.only is None or row.isthing == (options.only == "things")
        )
        self.images: list[ImagePair] = match_images(self.guess, self.real, options.extra)
        self.images = self.images[: options.limit]
        if options.missing == "error":
            refuse_missing(self.images, self.guess, self.real)
        bare = len(self.real.images) - len(self.real.annotations)
        if bare > 0:
            _log.warning(
                "%s lists %d images without annotation, which nothing is compared with", truth, bare
            )

    def open(self, images: ImagePair) -> Pair:
        """Read both PNGs of one image.

        Raises:
            LabelError: a PNG is missing or broken, sizes differ, or a prediction's PNG and JSON
                disagree.
        """
        true_annotation, annotation = images
        name = self.real.images_by_id[true_annotation.image_id].file_name
        true_map, true_segments = self._open_truth(true_annotation)
        if annotation is None:
            return Pair(name, true_map, true_segments, np.zeros_like(true_map), {}, None, "")
        path = self.guess.folder / annotation.file_name
        segments = _segments_by_id(annotation, self.guess.categories_by_id, path)
        id_map = self.guess.id_map(annotation)
        if id_map.shape != true_map.shape:
            true_path = self.real.folder / true_annotation.file_name
            raise LabelError(
                f"{path} has (height, width) {id_map.shape}, but {true_path} has {true_map.shape}; "
                "label the image at its own size"
            )
        found = count_values(id_map).keys() - {VOID}
        if found != segments.keys():
            raise LabelError(
                f"{path} and its JSON disagree: ids only in the PNG: "
                f"{name_some(found - segments.keys())}; only in the JSON: "
                f"{name_some(segments.keys() - found)}"
            )
        predicted = {
            segment_id: self.matched[segment.category_id]
            for segment_id, segment in segments.items()
            if segment.category_id in self.matched
        }
        named = self.guess.images_by_id[annotation.image_id].file_name
        return Pair(name, true_map, true_segments, id_map, predicted, annotation, named)

    def _open_truth(
        self, annotation: CocoAnnotation
    ) -> tuple[NDArray[np.int32], Mapping[int, CocoSegment]]:
        path = self.real.folder / annotation.file_name
        segments = _segments_by_id(annotation, self.real.categories_by_id, path)
        id_map = self.real.id_map(annotation)
        unlisted = count_values(id_map).keys() - {VOID} - segments.keys()
        if unlisted:
            _log.warning("%s holds ids that its JSON does not list: %s", path, name_some(unlisted))
        wanted = {row.category_id for row in self.categories}
        return id_map, {
            segment_id: segment
            for segment_id, segment in segments.items()
            if segment.category_id in wanted
        }


def _segments_by_id(
    annotation: CocoAnnotation, categories: Mapping[int, object], path: Path
) -> Mapping[int, CocoSegment]:
    segments: dict[int, CocoSegment] = {}
    for segment in annotation.segments:
        if segment.segment_id in segments:
            raise LabelError(f"{path}: its JSON lists segment {segment.segment_id} twice")
        if segment.segment_id == VOID:
            raise LabelError(f"{path}: its JSON lists a segment with id {VOID}, which is void")
        if segment.category_id not in categories:
            raise LabelError(
                f"{path}: segment {segment.segment_id} has category {segment.category_id}, "
                "which its JSON does not list"
            )
        segments[segment.segment_id] = segment
    return segments
