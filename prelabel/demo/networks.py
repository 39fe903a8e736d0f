"""The demo detector and stuff scorer: transformers' own classes at a fraction of their size.

transformers' initialisation (a standard deviation of 0.02 everywhere) starves widths as small as
these, so linear layers start by Glorot and Bengio's rule, and what multiplies starts at one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    SwinConfig,
)

__all__ = [
    "DETECTOR_EDGES",
    "IMAGE_MEAN",
    "IMAGE_STD",
    "STUFF_EDGE",
    "build_detector",
    "build_stuff_scorer",
    "initialise_linear",
    "whiten_patches",
]

IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)

DETECTOR_EDGES = (224, 320)
"""Shortest and longest edge, in pixels, that the detector sees."""

STUFF_EDGE = 256
"""Edge, in pixels, of the square that the stuff scorer sees."""

_PRIOR_LOGIT = -4.0


def initialise_linear(modules: Iterable[nn.Module]) -> None:
    """Glorot-uniform weights and zero biases for the linear layers among `modules`."""
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


@torch.no_grad()
def whiten_patches(projection: nn.Conv2d, pixel_values: Tensor) -> None:
    """Set a patch embedding to the whitened principal components of real patches.

    Raw patches are nearly one colour each, and the norm that follows divides by it: without this
    hundreds of steps go into learning that edges matter.

    Args:
        projection: a convolution whose stride is its kernel.
        pixel_values: float32 (N, 3, h, w), normalised, some dozens of images.
    """
    patch = projection.kernel_size
    patches = nn.functional.unfold(pixel_values, patch, stride=patch).transpose(1, 2)
    flat = patches.flatten(0, 1)
    mean = flat.mean(0)
    values, vectors = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    matrix = (vectors / (values.clamp(min=0) + 0.02).sqrt()).T.flip(0)[: projection.out_channels]
    projection.weight.copy_(matrix.view_as(projection.weight))
    if projection.bias is not None:
        projection.bias.copy_(-(matrix @ mean))


def build_detector(tokenizer: BertTokenizer, seed: int = 0) -> GroundingDinoForObjectDetection:
    """A Grounding DINO of about 2 million weights, fresh from `seed`."""
    backbone: dict[str, Any] = {
        "image_size": DETECTOR_EDGES[0],
        "embed_dim": 32,
        "depths": [1, 1, 3, 1],
        "num_heads": [1, 2, 4, 8],
        "window_size": 8,
        "mlp_ratio": 2.0,
        "drop_path_rate": 0.0,
        "out_indices": [2, 3, 4],
    }
    text = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        pad_token_id=0,
    )
    config = GroundingDinoConfig(
        backbone_config=SwinConfig(**backbone),
        text_config=text,
        num_queries=100,
        d_model=64,
        encoder_layers=2,
        encoder_n_points=2,
        encoder_ffn_dim=256,
        encoder_attention_heads=4,
        decoder_layers=3,
        decoder_ffn_dim=256,
        decoder_attention_heads=4,
        dropout=0.0,
        fusion_droppath=0.0,
        max_text_len=256,
    )
    torch.manual_seed(seed)
    network = GroundingDinoForObjectDetection(config)
    _initialise_detector(network)
    return network


@torch.no_grad()
def _initialise_detector(network: Any) -> None:
    for name, module in network.named_modules():
        leaf = name.rsplit(".", 1)[-1]
        if leaf in ("sampling_offsets", "attention_weights"):
            continue  # deformable attention starts as a ring of points around the reference
        initialise_linear([module])
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.5)
    for parameter_name, parameter in network.named_parameters():
        if parameter_name.endswith(("fusion_layer.vision_param", "fusion_layer.text_param")):
            parameter.fill_(0.3)  # 1e-4 would keep the text from the image for hundreds of steps
    for head in (network.bbox_embed[0], network.model.encoder_output_bbox_embed):
        nn.init.zeros_(head.layers[-1].weight)
        nn.init.zeros_(head.layers[-1].bias)
    nn.init.normal_(network.model.level_embed, std=0.5)
    _set_prior(network)


def _set_prior(network: Any) -> None:
    """Let every class logit start near `_PRIOR_LOGIT`, as focal loss wants it, and be small.

    The logit is the product of two normalised vectors, without a bias of its own. Constants in the
    two norms' biases make one: what varies has mean zero, so the constants meet only each other.
    The text's norm is the one to shrink: the box heads read the other, and read it normalised for
    what they say but not for where the next layer looks, so its weight must stay one.
    """
    width = network.config.d_model
    text_norm = network.model.encoder.layers[-1].text_enhancer_layer.layer_norm_after
    text_norm.weight.fill_(0.2)
    text_norm.bias.fill_(0.2)
    for norm in (network.model.enc_output_norm, network.model.decoder.layer_norm):
        norm.bias.fill_(_PRIOR_LOGIT / (0.2 * width))


def build_stuff_scorer(tokenizer: CLIPTokenizer, seed: int = 0) -> CLIPSegForImageSegmentation:
    """A CLIPSeg of about 2 million weights, fresh from `seed`."""
    vision = {
        "hidden_size": 160,
        "intermediate_size": 384,
        "num_hidden_layers": 6,
        "num_attention_heads": 5,
        "image_size": STUFF_EDGE,
        "patch_size": 16,
    }
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 77,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    config = CLIPSegConfig(
        text_config=text,
        vision_config=vision,
        projection_dim=64,
        extract_layers=[1, 3, 5],
        reduce_dim=64,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=128,
        use_complex_transposed_convolution=True,
    )
    torch.manual_seed(seed)
    network = CLIPSegForImageSegmentation(config)
    _initialise_stuff_scorer(network)
    return network


@torch.no_grad()
def _initialise_stuff_scorer(network: Any) -> None:
    for module in network.modules():
        initialise_linear([module])
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
        elif isinstance(module, nn.Embedding):
            nn.init.normal_(module.weight, std=0.2)
    embeddings = network.clip.vision_model.embeddings
    nn.init.normal_(embeddings.class_embedding, std=0.2)
    embeddings.position_embedding.weight[1:] = 0.5 * _sines(STUFF_EDGE // 16, 160)
    # The condition multiplies around one: at first every prompt sees the image.
    nn.init.ones_(network.decoder.film_mul.bias)


def _sines(side: int, width: int) -> Tensor:
    """float32 (side², width): sines and cosines of the row in one half, of the column in the other.

    Frequencies run from half a period to a quarter of `side` periods over the image.
    """
    count = width // 4
    frequencies = torch.pi * torch.logspace(0, torch.log10(torch.tensor(side / 2)), count)
    angles = (torch.arange(side) + 0.5)[:, None] / side * frequencies
    line = torch.cat([angles.sin(), angles.cos()], dim=1)
    rows = line[:, None].expand(side, side, -1)
    columns = line[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1).reshape(side * side, width)
