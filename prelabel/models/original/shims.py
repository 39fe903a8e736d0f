"""What the authors' packages of 2023 miss on a machine of today, put in place while they load.

Nothing here acts at import. A stand-in for a package that is absent lies in `sys.modules` only
while the authors' modules are being imported; where the true package is there, that is used. The
methods that transformers lost are put on one instance of BERT. What they print stays unseen.
"""

from __future__ import annotations

import importlib
import importlib.util
import io
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from types import ModuleType
from typing import TYPE_CHECKING, Any

from prelabel.errors import ConfigError
from prelabel.models.loading import quiet_transformers
from prelabel.models.original.stand_ins import missing_packages

if TYPE_CHECKING:
    import torch

__all__ = [
    "build_groundingdino",
    "import_groundingdino",
    "import_segment_anything",
    "quiet_authors",
]

_INSTALL = 'pip install "prelabel[original]"'


def import_segment_anything() -> Any:
    """Meta's package. Raises ConfigError where it is not installed."""
    return _import("segment_anything", "segment-anything-original")


def import_groundingdino(module: str) -> Any:
    """A module of IDEA Research's package, such as "groundingdino.models".

    Raises:
        ConfigError: the package, or one that it needs, is not installed.
    """
    return _import(module, "groundingdino-original")


def _import(name: str, kind: str) -> Any:
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        raise ConfigError(
            f"kind: {kind} runs the authors' own package, which is not installed; {_INSTALL}, best "
            "in an environment of its own (docs/original.md)"
        )
    _warm_transformers()
    try:
        with _in_sys_modules(missing_packages()), redirect_stdout(io.StringIO()):
            return importlib.import_module(name)
    except ImportError as error:
        raise ConfigError(
            f"kind: {kind} runs the authors' own package, which cannot be imported: {error}; "
            f"{_INSTALL} brings what it needs"
        ) from error


def _warm_transformers() -> None:
    """Let transformers find out that torchvision is absent, if it is, and keep that answer.

    It asks when a class is first used. Asked while a stand-in is there, it would take that for the
    true package, and image processors would fail from then on.
    """
    import transformers

    importlib.import_module("transformers.utils").is_torchvision_available()
    for name in ("AutoTokenizer", "BertModel", "BertTokenizer", "RobertaModel"):
        getattr(transformers, name)


@contextmanager
def _in_sys_modules(modules: Mapping[str, ModuleType]) -> Iterator[None]:
    """Let `modules` be imported within one block; what imported them keeps them."""
    hidden = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name, module in hidden.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


# --- groundingdino ------------------------------------------------------------------------------


def build_groundingdino(config_name: str, tokenizer: Any, text_config: Any) -> Any:
    """The authors' network, untrained, in eval mode.

    Args:
        config_name: one of the package's own, such as "GroundingDINO_SwinT_OGC".
        tokenizer: what the network keeps as its tokenizer.
        text_config: transformers' BertConfig of the text encoder.
    """
    models = import_groundingdino("groundingdino.models")
    texts = import_groundingdino("groundingdino.util.get_tokenlizer")
    config = import_groundingdino(f"groundingdino.config.{config_name}")
    # Checkpointing saves memory in training; without gradients it only warns.
    arguments = {**vars(config), "use_checkpoint": False, "use_transformer_ckpt": False}
    found = {
        "get_tokenlizer": lambda _name: tokenizer,
        # Theirs fetches BERT's weights from the hub, which the checkpoint then overwrites.
        "get_pretrained_language_model": lambda _name: _bert(text_config),
    }
    with _attributes(texts, found), redirect_stdout(io.StringIO()), quiet_authors():
        return models.build_model(_Arguments(arguments)).eval()


class _Arguments:
    """A config's values as attributes, which is how the authors' builders read them."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        vars(self).update(values)


@contextmanager
def _attributes(module: Any, values: Mapping[str, Any]) -> Iterator[None]:
    """Other values for some attributes of `module`, for one block."""
    before = {name: getattr(module, name) for name in values}
    vars(module).update(values)
    try:
        yield
    finally:
        vars(module).update(before)


def _bert(config: Any) -> Any:
    """A BertModel with the three methods that groundingdino takes from it and transformers 5 lost.

    They are put on this instance alone: no other part of transformers sees them.
    """
    from transformers import BertModel

    model: Any = BertModel(config)
    model.get_extended_attention_mask = _extended_mask
    model.get_head_mask = _no_head_mask
    # Taken, but called for a decoder beside an encoder only, which this is not.
    model.invert_attention_mask = None
    return model


def _extended_mask(mask: torch.Tensor, _shape: Sequence[int], _device: object) -> torch.Tensor:
    """What is added to the logits of attention: 0 where `mask` allows it, else the least float.

    Args:
        mask: bool or int (N, T), or (N, T, T) with a row per query.

    Returns:
        float32 (N, 1, 1 or T, T), which broadcasts over the heads.
    """
    import torch

    allowed = (mask[:, None] if mask.dim() == 3 else mask[:, None, None]).bool()
    nothing = torch.zeros(allowed.shape, device=mask.device)
    return nothing.masked_fill(~allowed, torch.finfo(torch.float32).min)


def _no_head_mask(_mask: None, layers: int) -> list[None]:
    return [None] * layers


@contextmanager
def quiet_authors() -> Iterator[None]:
    """Hold back, for one block, what torch and transformers say about the style of 2023."""
    with quiet_transformers(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.meshgrid", category=UserWarning)
        warnings.filterwarnings("ignore", message=".*torch.cuda.amp", category=FutureWarning)
        yield
