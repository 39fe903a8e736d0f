"""MM-Grounding-DINO as transformers implements it: things from text.

Zhao et al., "An Open and Comprehensive Pipeline for Unified Object Grounding and Detection", 2024.
The architecture of Grounding DINO with a learned bias of the contrastive classes, trained on open
data; prompts, scores and evidence are read in the same way.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from prelabel.models.candidates import DetectorOptions
from prelabel.models.grounding_dino import GroundingDino

__all__ = ["MmGroundingDino", "MmGroundingDinoOptions"]


class MmGroundingDinoOptions(DetectorOptions):
    """Options of `kind: mm-grounding-dino`."""

    kind: Literal["mm-grounding-dino"] = "mm-grounding-dino"


class MmGroundingDino(GroundingDino):
    """A `Detector`. Networks exist only after `load`."""

    Options: ClassVar[type[DetectorOptions]] = MmGroundingDinoOptions
    network: ClassVar[str] = "MMGroundingDinoForObjectDetection"
