"""The nouns of prelabel: frozen data classes whose shapes are checked once, at construction.

Boxes are xyxy, in pixels of the original image, half-open: `x1` and `y1` are the first column and
row *outside*. Sizes are `(height, width)`. Ids start at 1; 0 is void. BGR exists nowhere.
"""

from __future__ import annotations

from prelabel.data.categories import Category, Color, Ontology
from prelabel.data.images import Frame, ImageRecord, image_key
from prelabel.data.labels import VOID, PanopticLabel, Segment
from prelabel.data.masks import Box, Mask
from prelabel.data.outputs import Detections, Instances, StuffRegions, StuffScores
from prelabel.data.reasons import Candidate, Explanation, Failure, Heatmap, Trace
from prelabel.data.stored import Stored

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
