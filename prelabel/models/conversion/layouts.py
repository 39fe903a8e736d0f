"""Whose checkpoint a file is, told from the names of its tensors."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from prelabel.errors import ModelError
from prelabel.models.conversion import grounding_dino, meta_sam

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig

__all__ = ["LAYOUTS", "Layout", "detect_layout"]


@dataclass(frozen=True, slots=True)
class Layout:
    """One family of original checkpoints."""

    name: str
    """For people."""
    kind: str
    """The `kind` of networks that load it."""
    network: str
    """The class in transformers."""
    has_text: bool
    """Whether a tokenizer belongs to it."""
    recognise: Callable[[Collection[str]], bool]
    """Whether names of tensors are of this family."""
    convert: Callable[[Mapping[str, torch.Tensor]], tuple[dict[str, torch.Tensor], list[str]]]
    """Tensors under transformers' names, and the names that are unknown."""
    read_config: Callable[[Mapping[str, torch.Tensor]], PretrainedConfig]
    """The sizes; KeyError names a tensor that is not there."""


LAYOUTS = (
    Layout(
        name="Meta's SAM",
        kind="sam",
        network="SamModel",
        has_text=False,
        recognise=meta_sam.recognise,
        convert=meta_sam.convert,
        read_config=meta_sam.read_config,
    ),
    Layout(
        name="IDEA Research's GroundingDINO",
        kind="grounding-dino",
        network="GroundingDinoForObjectDetection",
        has_text=True,
        recognise=grounding_dino.recognise,
        convert=grounding_dino.convert,
        read_config=grounding_dino.read_config,
    ),
)

_FOREIGN = (
    ("sam_mask_decoder.", "Meta's SAM 2; take facebook/sam2.1-hiera-tiny or a larger one"),
    ("language_model.language_backbone.", "MM-Grounding-DINO; take one of openmmlab-community's"),
    ("film_mul.", "CLIPSeg's decoder alone; take CIDAS/clipseg-rd64-refined"),
)
"""Beginnings of names of checkpoints that are served from the hub only."""

_TRANSFORMERS = ("vision_encoder.", "model.text_backbone.", "clip.text_model.")


def detect_layout(names: Collection[str], file: Path) -> Layout:
    """The family that `file` belongs to.

    Raises:
        ModelError: it is none that can be converted; the message says what to take in its place.
    """
    for layout in LAYOUTS:
        if layout.recognise(names):
            return layout
    for beginning, what in _FOREIGN:
        if any(name.startswith(beginning) for name in names):
            raise ModelError(f"{file} is {what} from the hub, which is in transformers' layout")
    if any(name.startswith(_TRANSFORMERS) for name in names):
        raise ModelError(
            f"{file} is in transformers' layout already; save the model with save_pretrained and "
            "give the folder"
        )
    known = " and ".join(layout.name for layout in LAYOUTS)
    some = ", ".join(sorted(names)[:5])
    raise ModelError(
        f"{file} is of another architecture than {known}: it holds {len(names)} tensors, such as "
        f"{some}; give a folder in transformers' layout instead"
    )
