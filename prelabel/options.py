"""Options of the stages that hold no network, frozen and strict.

Every number names its unit and range. Lengths and areas are relative to the image, so that one
config serves every size.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["CacheOptions", "ExplainOptions", "Fraction", "MergeOptions", "RefineOptions", "Section"]

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number in [0, 1]."""


class Section(BaseModel):
    """A part of the config: frozen, picklable, and closed to unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class RefineOptions(Section):
    """How rough maps of stuff become regions with edges."""

    threshold: Fraction = 0.5
    """Least probability of the rough map for a pixel to belong to a category."""
    min_component: Fraction = 0.002
    """Least area of a connected component, as a share of the image."""
    rescue: Fraction = 0.25
    """A category that has nothing so large keeps its largest component from this share of it on."""
    max_components: Annotated[int, Field(ge=1)] = 6
    """At most so many components per category, the largest first."""
    positives: Annotated[int, Field(ge=1, le=64)] = 8
    """Points inside each component."""
    negatives: Annotated[int, Field(ge=0, le=64)] = 4
    """Points on rival categories and on things."""
    mask_prompt: bool = False
    """Whether the segmenter also sees the rough map as a mask prompt."""
    min_agreement: Fraction = 0.5
    """Least IoU of the refined with the rough component; below it the segmenter disagrees."""
    min_rough: Fraction = 0.05
    """Least area, as a share of the image, of a rough component that is kept so; a smaller one
    that the segmenter does not confirm is dropped."""
    reach: Fraction = 0.15
    """How far a refined region may go beyond its rough component, as a share of the short side."""
    snap: Annotated[float, Field(ge=0.0, le=0.1)] = 0.02
    """Radius, as a share of the longer side, within which masks of things and stuff follow the
    picture's edges: two to three cells of the segmenter's own mask; 0: they stay as drawn."""


class MergeOptions(Section):
    """How overlapping candidates become one label."""

    min_score: Fraction = 0.35
    """Least combined score of a candidate."""
    duplicate_iou: Fraction = 0.6
    """Two things whose masks overlap by at least this IoU are one object."""
    part: Fraction = 0.8
    """Of two things of one category with at least this share of the smaller one inside the other,
    the worse is a part of the better, or a group around it."""
    containment: Fraction = 0.8
    """A thing with at least this share inside a larger one lies on top of it…"""
    containment_ratio: Fraction = 0.6
    """…if its area is at most this share of the larger one's."""
    by_pixel: bool = True
    """Whether the rough maps decide, pixel by pixel, between regions of stuff that overlap."""
    max_speck: Fraction = 0.02
    """Parts of a mask that are smaller than this share of it are dropped."""
    max_hole: Fraction = 0.02
    """Holes in a mask of at most this share of it are filled."""
    min_visible: Fraction = 0.5
    """Least share of a thing's mask that must stay visible."""
    min_area: Fraction = 0.001
    """Least visible area of a segment, as a share of the image, where its category has none."""
    fill_void: bool = True
    """Whether pixels that nobody claims go to the most likely stuff category present."""
    fill_threshold: Fraction = 0.25
    """Least probability of the rough map for that; where it is less, void stays void."""


class ExplainOptions(Section):
    """What is stored for the question "why this segment?"."""

    enabled: bool = False
    """Whether the networks' attention is captured and stored beside each label."""
    heatmap_side: Annotated[int, Field(ge=8, le=512)] = 64
    """Longest side of a stored heat map, in cells."""


class CacheOptions(Section):
    """What the networks answered, kept for later runs; never changes a result."""

    enabled: bool = True
    """Whether answers are looked up and kept."""
    folder: str | None = None
    """Where; None: prelabel/stages in the user's cache folder."""
    max_gib: Annotated[float, Field(ge=0.01, le=1e6)] = 20.0
    """Most that it holds, GiB; what was not used for longest goes first."""
