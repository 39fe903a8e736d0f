"""The rules of a COCO panoptic file, and a breach of one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

__all__ = ["RULES", "Problem"]

RULES: Mapping[str, str] = {
    "structure": "a list or an object is missing, or is something else",
    "empty": "the file lists no category or no image",
    "field": "a value is missing, of the wrong type or out of range; numbers are integers",
    "isthing": "isthing of a category is neither 0 nor 1",
    "category-id": "the id of a category is below 1",
    "duplicate-category": "two categories have the same id or the same name",
    "duplicate-image-id": "two images have the same id",
    "duplicate-file-name": "two images have the same file_name",
    "unsafe-path": "a file_name is not a relative path inside its folder",
    "no-annotation": "an image has no annotation",
    "unknown-image": "an annotation is of an image that images[] does not list",
    "duplicate-annotation": "an image has two annotations",
    "duplicate-png": "two annotations name the same PNG",
    "png-name": "the name of a PNG does not end in .png",
    "png-missing": "a PNG is not there",
    "png-unreadable": "a PNG is damaged, or is no PNG",
    "png-mode": "a PNG is not 8-bit RGB",
    "png-size": "a PNG is not of its image's height and width",
    "segment-id": "the id of a segment is 0, which is void, or does not fit into 24 bits",
    "duplicate-segment": "two segments of an image have the same id",
    "unknown-category": "a segment is of a category that categories[] does not list",
    "stuff-twice": "an image has two segments of one stuff category",
    "empty-segment": "a segment of the JSON has no pixel in the PNG",
    "unlisted-id": "the PNG holds an id that the JSON does not list",
    "area": "the area of a segment is not its number of pixels",
    "bbox": "the bbox of a segment is not the tight x, y, width, height of its pixels",
}
"""Every rule, and what it means that it is broken."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule.

    Attributes:
        rule: a key of `RULES`.
        message: what is wrong, in words that name the place.
        image: file_name of the image, or that of its PNG where it has none; "" for the whole file.
        segment_id: in that image, or None.
    """

    rule: str
    message: str
    image: str = ""
    segment_id: int | None = None

    def to_json(self) -> dict[str, object]:
        return asdict(self)
