"""COCO panoptic files: ids as colours, a tolerant reader, a streaming writer.

A file is a pair: `panoptic.json`, and beside it the folder `panoptic/` with one 8-bit RGB PNG per
image. A pixel's id is R + 256 G + 65536 B; 0 is void. Boxes in the JSON are xywh, hence `box_xywh`.
See Kirillov et al. 2019, "Panoptic Segmentation", and https://cocodataset.org/#format-data.

Reading is strict about types and paths only: crowd regions, gaps in ids, missing scores and unknown
keys are normal in the files of others. Writing is strict about everything. `check_panoptic` names
every rule that a file breaks, `repair_panoptic` writes a repaired copy.
"""

from __future__ import annotations

from prelabel.coco.checking import check_panoptic
from prelabel.coco.codec import decode_ids, encode_ids, read_id_map, write_id_map
from prelabel.coco.reading import PanopticFile, check_relative, parse_json, read_panoptic
from prelabel.coco.records import (
    CocoAnnotation,
    CocoCategory,
    CocoImage,
    CocoSegment,
    ImageId,
    category_color,
    category_record,
    count_pairs,
    count_values,
    measure_segments,
    to_xywh,
)
from prelabel.coco.repairing import repair_panoptic
from prelabel.coco.repairs import Repair, RepairReport
from prelabel.coco.rules import RULES, Problem
from prelabel.coco.writing import PanopticWriter

__all__ = [
    "RULES",
    "CocoAnnotation",
    "CocoCategory",
    "CocoImage",
    "CocoSegment",
    "ImageId",
    "PanopticFile",
    "PanopticWriter",
    "Problem",
    "Repair",
    "RepairReport",
    "category_color",
    "category_record",
    "check_panoptic",
    "check_relative",
    "count_pairs",
    "count_values",
    "decode_ids",
    "encode_ids",
    "measure_segments",
    "parse_json",
    "read_id_map",
    "read_panoptic",
    "repair_panoptic",
    "to_xywh",
    "write_id_map",
]
