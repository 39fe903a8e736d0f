"""Full-size checkpoints with random weights, on disk as the hub would give them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prelabel.config import Config
from prelabel.demo.tokenizers import build_bert_tokenizer, build_clip_tokenizer
from prelabel.models.architectures import build_untrained
from prelabel.models.weights import quiet_transformers

__all__ = ["save_untrained", "weights_overrides"]

ROLES = ("detect", "segment", "stuff")


def save_untrained(config: Config, root: Path) -> Mapping[str, int]:
    """Write the three networks that `config` names by hub id, untrained, below `root`.

    Vocabularies are the demo's: random weights know no words, and theirs would have to be fetched.

    Returns:
        The number of weights of each.
    """
    import torch
    from transformers import (
        GroundingDinoImageProcessorPil,
        SamImageProcessorPil,
        ViTImageProcessorPil,
    )

    clip = build_clip_tokenizer()
    parts = {
        "detect": (GroundingDinoImageProcessorPil(), build_bert_tokenizer()),
        "segment": (SamImageProcessorPil(), None),
        "stuff": (ViTImageProcessorPil(size={"height": 352, "width": 352}), clip),
    }
    counts = {}
    for role, (processor, tokenizer) in parts.items():
        torch.manual_seed(0)
        network = build_untrained(getattr(config, role).weights, "cpu")
        if role == "stuff":
            # Our small vocabulary ends a text with another id than the checkpoint's own.
            network.config.text_config.eos_token_id = clip.eos_token_id
        with quiet_transformers():
            for part in (network, processor, tokenizer):
                if part is not None:
                    part.save_pretrained(root / role)
        counts[role] = sum(parameter.numel() for parameter in network.parameters())
    return counts


def weights_overrides(root: Path) -> list[str]:
    """The overrides that point a config to what `save_untrained` wrote."""
    return [f"{role}.weights={root / role}" for role in ROLES]
