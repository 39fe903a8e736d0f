"""What the demo stuff scorer learns: one map per prompt, from an image that is encoded once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import CLIPSegForImageSegmentation, CLIPTokenizer
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from prelabel.demo.networks import (
    IMAGE_MEAN,
    IMAGE_STD,
    STUFF_EDGE,
    build_stuff_scorer,
    whiten_patches,
)
from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.scenes import draw_scene
from prelabel.demo.tokenizers import build_clip_tokenizer
from prelabel.demo.training.data import (
    DISTRACTORS,
    MappedScene,
    ScenePool,
    map_scene,
    to_batch,
    world_words,
)
from prelabel.demo.training.loop import LoopOptions, export_network
from prelabel.demo.training.segmenter_optimiser import MatrixOptimiser

__all__ = [
    "OPTIONS",
    "StuffTask",
    "evaluate_folder",
    "evaluate_stuff",
    "make_optimiser",
    "make_task",
    "stuff_logits",
]

OPTIONS = LoopOptions(
    steps=2500, rate=7e-4, warmup=0.05, clip=0.5, average=0.995, evaluate_every=200
)

_TEMPLATES = ("{}", "{}", "{}", "{}", "{}", "{}", "a {}", "the {}", "a photo of a {}")


class StuffTask:
    """Maps of stuff and of things, by any synonym; nothing where the prompt is absent.

    Every image is asked `prompts` questions: up to four kinds of stuff that are there, one thing
    that is there, and the rest from what is absent.
    """

    def __init__(self, seed: int = 0, scenes: int = 1800, batch: int = 8, prompts: int = 6) -> None:
        self.tokenizer = build_clip_tokenizer(world_words())
        self.network: Any = build_stuff_scorer(self.tokenizer, seed)
        self.batch, self.prompts = batch, prompts
        prepare = partial(map_scene, edge=STUFF_EDGE)
        self._pool: ScenePool[MappedScene] = ScenePool("train", seed, scenes, prepare)
        first = to_batch([self._pool[index].pixels for index in range(48)])
        whiten_patches(self.network.clip.vision_model.embeddings.patch_embedding, first)

    def losses(self, rng: np.random.Generator, progress: float) -> Mapping[str, Tensor]:
        """Cross entropy per pixel, Dice over the prompts that are there, and words for patches."""
        known = min(len(self._pool), 300 + int(4 * progress * len(self._pool)))
        scenes = [self._pool[int(index)] for index in rng.integers(known, size=self.batch)]
        images, texts, targets, maps = [], [], [], []
        for scene in scenes:
            step = -1 if rng.random() < 0.5 else 1
            categories = scene.categories[:, ::step]
            images.append(scene.pixels[:, ::step])
            maps.append(torch.from_numpy(categories.astype(np.int64)))
            for prompt, category_id in _questions(rng, np.unique(categories), self.prompts):
                texts.append(prompt)
                targets.append(torch.from_numpy((categories == category_id) & (category_id > 0)))
        seen = encode(self.network, self.tokenizer, to_batch(images), texts)
        logits = seen.logits.flatten(1)
        truth = torch.stack(targets).flatten(1).float()
        cross = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        words = [str(rng.choice(category.prompts)) for category in ONTOLOGY]
        named = self._name_patches(seen.patches, words, torch.stack(maps))
        return {"cross": cross, "dice": 0.3 * _dice(logits, truth), "named": 0.2 * named}

    def _name_patches(self, patches: Tensor, words: list[str], maps: Tensor) -> Tensor:
        """Cross entropy of naming each patch among one word per category, as CLIP names images.

        The decoder alone teaches the encoders slowly: at first all prompts but "sky" look alike.
        """
        with torch.autocast("cpu", dtype=torch.bfloat16):
            tokens = self.tokenizer(words, padding=True, return_tensors="pt")
            named = self.network.clip.get_text_features(**tokens).pooler_output
            logits = self.network.clip.visual_projection(patches) @ named.T
        side = STUFF_EDGE // 16
        blocks = maps.view(-1, side, 16, side, 16).permute(0, 1, 3, 2, 4).flatten(3)
        ids = torch.tensor([category.category_id for category in ONTOLOGY])
        shares = (blocks[..., None, :] == ids[:, None]).float().mean(-1).flatten(1, 2)
        logits = logits.float() / named.shape[1] ** 0.5
        loss: Tensor = -(shares * logits.log_softmax(-1)).sum(-1).mean()
        return loss

    def evaluate(self, network: nn.Module) -> Mapping[str, float]:
        figures = evaluate_stuff(network, self.tokenizer, "val", count=30)
        return {name: value for name, value in figures.items() if isinstance(value, float)}

    def export(self, network: nn.Module, folder: Path) -> None:
        """Weights, tokenizer and image processor as one `from_pretrained` folder."""
        export_network(network, folder)
        self.tokenizer.save_pretrained(folder)
        processor = ViTImageProcessorPil(
            size={"height": STUFF_EDGE, "width": STUFF_EDGE},
            image_mean=list(IMAGE_MEAN),
            image_std=list(IMAGE_STD),
        )
        processor.save_pretrained(folder)


def make_task(seed: int) -> StuffTask:
    """The task of the recipe."""
    return StuffTask(seed)


def make_optimiser(network: nn.Module, options: LoopOptions) -> MatrixOptimiser:
    """Muon for the matrices inside the transformers, AdamW for all else."""
    return MatrixOptimiser(network, options, _is_inner)


def _is_inner(name: str, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 2 and ".layers." in name and name.endswith(".weight")


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What the network makes of B images with P prompts each.

    Attributes:
        logits: float32 (B·P, edge, edge).
        patches: (B, patches, width), the last activation that the decoder reads.
    """

    logits: Tensor
    patches: Tensor


def encode(network: Any, tokenizer: CLIPTokenizer, pixels: Tensor, texts: list[str]) -> Seen:
    """Run the network on `pixels` (B, 3, edge, edge) with P prompts each, image by image.

    The network's own `forward` is not used: it keeps gradients from the vision and text encoders,
    which were frozen in the original.
    """
    each = len(texts) // len(pixels)
    distinct = sorted(set(texts))
    tokens = tokenizer(distinct, padding=True, return_tensors="pt")
    order = torch.tensor([distinct.index(text) for text in texts])
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=network.training):
        seen = network.clip.vision_model(pixels, output_hidden_states=True).hidden_states
        chosen = [seen[layer + 1] for layer in network.extract_layers]
        conditions = network.clip.get_text_features(**tokens).pooler_output[order]
        activations = [state.repeat_interleave(each, 0) for state in chosen]
        logits: Tensor = network.decoder(activations, conditions).logits
    return Seen(logits.float(), chosen[-1][:, 1:])


def stuff_logits(
    network: Any, tokenizer: CLIPTokenizer, pixels: Tensor, texts: list[str]
) -> Tensor:
    """Logits float32 (B·P, edge, edge), as `encode` makes them."""
    return encode(network, tokenizer, pixels, texts).logits


def _questions(
    rng: np.random.Generator, present: NDArray[np.uint8], count: int
) -> list[tuple[str, int]]:
    """Pairs of a prompt and its category id; 0 for a prompt from outside the drawn world."""
    there = [category for category in ONTOLOGY if category.category_id in present]
    absent = [category for category in ONTOLOGY if category.category_id not in present]
    stuff = [category for category in there if not category.isthing]
    things = [category for category in there if category.isthing]
    chosen = [stuff[at] for at in rng.permutation(len(stuff))[:4]]
    chosen += [things[at] for at in rng.permutation(len(things))[:1]]
    # Absent stuff is what will really be asked for in vain, so it is asked for more often.
    weights = np.array([1.0 if category.isthing else 3.0 for category in absent])
    while len(chosen) < count and absent and rng.random() < 0.85:
        chosen.append(absent[int(rng.choice(len(absent), p=weights / weights.sum()))])
    asked = [
        (str(rng.choice(category.prompts)), category.category_id) for category in chosen[:count]
    ]
    while len(asked) < count:
        asked.append((str(rng.choice(DISTRACTORS)), 0))
    return [(str(rng.choice(_TEMPLATES)).format(prompt), number) for prompt, number in asked]


def _dice(logits: Tensor, truth: Tensor) -> Tensor:
    there = truth.sum(1) > 0
    probs, truth = logits[there].sigmoid(), truth[there]
    overlap = 2 * (probs * truth).sum(1) + 1
    return (1 - overlap / (probs.sum(1) + truth.sum(1) + 1)).mean()


@torch.no_grad()
def evaluate_stuff(
    network: nn.Module, tokenizer: CLIPTokenizer, split: str, count: int, seed: int = 0
) -> dict[str, Any]:
    """Mean IoU at 0.5 in pixels of the original image, over images in which a class is there.

    `iou` asks for the categories' names, `synonyms` for their other prompts; `absent` is the part
    of the image that is claimed for stuff that is not there; `classes` has IoU by name.
    """
    network.eval()
    stuff = ONTOLOGY.stuff
    texts = [prompt for category in stuff for prompt in category.prompts]
    owners = [category for category in stuff for _ in category.prompts]
    named: dict[str, list[float]] = {category.name: [] for category in stuff}
    other: list[float] = []
    absent: list[float] = []
    for index in range(count):
        scene = draw_scene(split, seed, index)
        lookup = np.array([0, *scene.category_ids])
        categories = torch.from_numpy(lookup[scene.id_map])
        pixels = to_batch([map_scene(scene, STUFF_EDGE).pixels])
        logits = stuff_logits(network, tokenizer, pixels, texts)
        wide = nn.functional.interpolate(logits[None], categories.shape, mode="bilinear")[0] > 0
        for text, category, claimed in zip(texts, owners, wide, strict=True):
            truth = categories == category.category_id
            if not truth.any():
                absent.append(float(claimed.float().mean()))
                continue
            iou = float((claimed & truth).sum() / (claimed | truth).sum())
            (named[category.name] if text == category.name else other).append(iou)
    classes = {name: float(np.mean(values)) for name, values in named.items() if values}
    return {
        "iou": float(np.mean(list(classes.values()))),
        "synonyms": float(np.mean(other)) if other else 0.0,
        "absent": float(np.mean(absent)) if absent else 0.0,
        "classes": classes,
    }


def evaluate_folder(folder: Path, split: str, count: int) -> dict[str, Any]:
    """The figures of an exported network."""
    network: Any = CLIPSegForImageSegmentation.from_pretrained(folder, local_files_only=True)
    tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    return evaluate_stuff(network, tokenizer, split, count)
