"""GroundingDINO by its authors' own package: their modules, their forward pass, their `.pth`.

What goes around the network is that of `kind: grounding-dino`: prompt lists cut by token, scores by
token span and never by phrase, texts encoded once per job and images once for all prompt lists. So
what differs between the two is the network, and the resizing, which is the authors' own: where the
long edge reaches its limit it is 1331 to 1335 pixels, transformers' is 1333. The package tells
nothing of its attention, so `capture` brings no evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from prelabel.data import Frame, Ontology
from prelabel.errors import ModelError
from prelabel.models.candidates import DetectorOptions
from prelabel.models.conversion.grounding_dino import read_config
from prelabel.models.conversion.tokenizer import locate_tokenizer
from prelabel.models.grounding_dino import GroundingDino
from prelabel.models.memory import remember
from prelabel.models.original.checkpoint import load_original, read_original
from prelabel.models.original.shims import (
    build_groundingdino,
    import_groundingdino,
    quiet_authors,
)
from prelabel.models.precision import Arithmetic
from prelabel.models.roles import Detected
from prelabel.models.weights import DEFAULT_TOKENIZER, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["GroundingDinoOriginal", "GroundingDinoOriginalOptions"]

_CONFIGS = {96: "GroundingDINO_SwinT_OGC", 128: "GroundingDINO_SwinB_cfg"}
"""The package's configs by the channels of the checkpoint's first layer."""

_UNUSED = ("label_enc.weight", "bert.embeddings.position_ids")
_SEPARATORS = {"[CLS]": 101, "[SEP]": 102, ".": 1012, "?": 1029}
"""Ids that `prompt_lists` lays lists out with."""
_SHORTEST, _LONGEST = 800, 1333
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class GroundingDinoOriginalOptions(DetectorOptions):
    """Options of `kind: groundingdino-original`. What the package cannot do has one value."""

    reads_original: ClassVar[bool] = True
    kind: Literal["groundingdino-original"] = "groundingdino-original"
    weights: str
    """The authors' checkpoint, a .pth file: SwinT_OGC, SwinB or one of their architectures."""
    tokenizer: str = DEFAULT_TOKENIZER
    """The tokenizer it was trained with, which the file does not hold: a hub id or a folder."""
    revision: None = None
    precision: Literal["fp32"] = "fp32"
    preprocess: Literal["exact"] = "exact"
    compile: Literal[False] = False


class GroundingDinoOriginal(GroundingDino):
    """A `Detector`. Networks exist only after `load`."""

    Options: ClassVar[type[DetectorOptions]] = GroundingDinoOriginalOptions

    def __init__(self, options: GroundingDinoOriginalOptions) -> None:
        super().__init__(options)
        self._tokenizer_name = options.tokenizer

    def load(self, device: str) -> None:
        """Load the package, the tokenizer and the checkpoint onto `device`."""
        # First, since it is what may be missing.
        resize = import_groundingdino("groundingdino.datasets.transforms").resize
        tensors = read_original(self.options.weights, "groundingdino-original")
        self._tokenizer = _load_tokenizer(self._tokenizer_name)
        self._processor = _reader(resize, _SHORTEST, _LONGEST)
        network = _build(tensors, self._tokenizer, self.options.weights)
        load_original(network, tensors, _UNUSED, self.options.weights, device)
        remember(network.bert, lambda input_ids, **_rest: _key(input_ids))
        self._network = _AsTransformers(network)
        self._device = device
        self._arithmetic = Arithmetic(device)

    def detect(
        self, frames: Sequence[Frame], ontology: Ontology, *, capture: bool = False
    ) -> list[Detected]:
        """Boxes of the ontology's things, above each category's threshold; never any evidence."""
        return super().detect(frames, ontology, capture=False)


def _load_tokenizer(tokenizer: str) -> Any:
    from transformers import BertTokenizer

    folder = locate_tokenizer(tokenizer)
    try:
        with quiet_transformers():
            return BertTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"the tokenizer {tokenizer} cannot be loaded: {error}") from error


def _build(tensors: Mapping[str, torch.Tensor], tokenizer: Any, weights: str) -> Any:
    """The authors' network in the size of these tensors, untrained."""
    try:
        width = len(tensors["backbone.0.patch_embed.proj.weight"])
        text_config = read_config(tensors).text_config
    except KeyError as error:
        raise ModelError(
            f"{weights} is no checkpoint of GroundingDINO's authors: it lacks {error.args[0]}"
        ) from error
    if width not in _CONFIGS:
        raise ModelError(
            f"{weights} has a backbone of {width} channels; the authors' package has configs for "
            f"{' and '.join(map(str, _CONFIGS))}; take kind: grounding-dino"
        )
    if tokenizer.convert_tokens_to_ids(list(_SEPARATORS)) != list(_SEPARATORS.values()):
        raise ModelError(
            f"the tokenizer numbers its separators otherwise than GroundingDINO, {_SEPARATORS}; "
            "take the one that it was trained with"
        )
    return build_groundingdino(_CONFIGS[width], _Ids(tokenizer), text_config)


class _AsTransformers:
    """The authors' network, called and answering as transformers' is."""

    def __init__(self, network: Any) -> None:
        self._network = network
        self.model = SimpleNamespace(backbone=network.backbone, text_backbone=network.bert)
        self.config = SimpleNamespace(max_text_len=network.max_text_len)

    def __call__(
        self, pixel_values: torch.Tensor, input_ids: torch.Tensor, output_attentions: bool = False
    ) -> SimpleNamespace:
        with quiet_authors():
            found = self._network(pixel_values, captions=input_ids)
        return SimpleNamespace(logits=found["pred_logits"], pred_boxes=found["pred_boxes"])


class _Ids:
    """Stands where the network keeps its tokenizer, and passes on lists that are tokens already."""

    def __init__(self, tokenizer: Any) -> None:
        # The network asks for its separators' ids, once.
        self.convert_tokens_to_ids = tokenizer.convert_tokens_to_ids

    def __call__(self, captions: torch.Tensor, **_how: object) -> Any:
        from transformers import BatchEncoding

        return BatchEncoding(
            {
                "input_ids": captions,
                "attention_mask": captions.new_ones(captions.shape),
                "token_type_ids": captions.new_zeros(captions.shape),
            }
        )


def _key(input_ids: torch.Tensor) -> tuple[Any, ...]:
    return tuple(input_ids.shape), tuple(input_ids[0].tolist())


def _reader(resize: Callable[..., Any], shortest: int, longest: int) -> Any:
    """What stands where transformers has an image processor: resize, scale, normalise."""

    def read(images: NDArray[np.uint8], **_how: object) -> dict[str, torch.Tensor]:
        import torch
        from PIL import Image

        resized, _ = resize(Image.fromarray(images), None, shortest, longest)
        unit = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (_MEAN, _STD))
        return {"pixel_values": ((unit - mean) / std)[None]}

    return read
