"""Which networks can play which role: one table per role, imported lazily.

Listing and checking models imports no torch: a network's file imports it only when it loads.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, Literal, cast

from prelabel.errors import ConfigError
from prelabel.models.roles import Detector, PromptableSegmenter, StuffScorer
from prelabel.options import Section

__all__ = [
    "ROLES",
    "Role",
    "create_detector",
    "create_segmenter",
    "create_stuff_scorer",
    "kinds",
    "option_types",
]

Role = Literal["detect", "segment", "stuff"]

_DETECTORS = {
    "grounding-dino": "prelabel.models.grounding_dino:GroundingDino",
    "mm-grounding-dino": "prelabel.models.mm_grounding_dino:MmGroundingDino",
    "groundingdino-original": "prelabel.models.original.groundingdino:GroundingDinoOriginal",
    "paint": "prelabel.models.paint:PaintDetector",
}
_SEGMENTERS = {
    "sam": "prelabel.models.sam:Sam",
    "sam2": "prelabel.models.sam2:Sam2",
    "segment-anything-original": (
        "prelabel.models.original.segment_anything:SegmentAnythingOriginal"
    ),
    "paint": "prelabel.models.paint:PaintSegmenter",
}
_STUFF_SCORERS = {
    "clipseg": "prelabel.models.clipseg:ClipSeg",
    "paint": "prelabel.models.paint:PaintStuffScorer",
}

ROLES: Mapping[Role, Mapping[str, str]] = MappingProxyType(
    {"detect": _DETECTORS, "segment": _SEGMENTERS, "stuff": _STUFF_SCORERS}
)
"""For each role, `kind -> "module:Class"`. A class names its options type as `Options`."""


def kinds(role: Role) -> tuple[str, ...]:
    """The kinds of networks that can play `role`."""
    return tuple(ROLES[role])


@cache
def _class(role: Role, kind: str) -> type[Any]:
    try:
        path = ROLES[role][kind]
    except KeyError:
        known = ", ".join(kinds(role))
        raise ConfigError(f"{role}.kind is {kind!r}; known kinds are: {known}") from None
    module, _, name = path.partition(":")
    return cast("type[Any]", getattr(importlib.import_module(module), name))


def option_types(role: Role) -> tuple[type[Section], ...]:
    """The options types of every kind of a role, each with a literal `kind`."""
    return tuple(_class(role, kind).Options for kind in kinds(role))


def _create(role: Role, options: Section) -> Any:
    return _class(role, getattr(options, "kind", ""))(options)


def create_detector(options: Section) -> Detector:
    """The detector that `options.kind` names; its weights load in `load(device)`."""
    return cast("Detector", _create("detect", options))


def create_segmenter(options: Section) -> PromptableSegmenter:
    """The promptable segmenter that `options.kind` names."""
    return cast("PromptableSegmenter", _create("segment", options))


def create_stuff_scorer(options: Section) -> StuffScorer:
    """The stuff scorer that `options.kind` names."""
    return cast("StuffScorer", _create("stuff", options))
