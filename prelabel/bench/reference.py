"""A plain reference: the algorithm of segments-ai/panoptic-segment-anything, written straight down.

The image is embedded by SAM; Grounding DINO finds boxes; SAM gives one mask per box; CLIPSeg runs
once *per class*; each class is eroded, points are drawn in proportion to its area, and SAM is asked
once per class; masks are handled at full size. Two crashes of the ancestor are mended (portrait,
un-padding); its answers are replaced by the workload's, as are the pipeline's own.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor
from torch.nn.functional import interpolate

from prelabel.bench.workload import Workload
from prelabel.models.weights import load_network, quiet_transformers

__all__ = ["Reference"]

_BACKGROUND = 0.1
_EROSION = 20
_POINTS = 1000
_TEXT = 77


class Reference:
    """The three networks as transformers gives them, each called as its documentation shows."""

    def __init__(self, root: Path) -> None:
        from transformers import (
            AutoTokenizer,
            CLIPSegForImageSegmentation,
            GroundingDinoForObjectDetection,
            GroundingDinoImageProcessorPil,
            SamImageProcessorPil,
            SamModel,
            ViTImageProcessorPil,
        )

        with quiet_transformers():
            self.words = AutoTokenizer.from_pretrained(root / "detect")
            self.texts = AutoTokenizer.from_pretrained(root / "stuff")
            self.detector_images = GroundingDinoImageProcessorPil.from_pretrained(root / "detect")
            self.sam_images = SamImageProcessorPil.from_pretrained(root / "segment")
            self.clip_images = ViTImageProcessorPil.from_pretrained(root / "stuff")
        self.detector = load_network(GroundingDinoForObjectDetection, root / "detect", "cpu")
        self.sam: Any = load_network(SamModel, root / "segment", "cpu")
        self.clip = load_network(CLIPSegForImageSegmentation, root / "stuff", "cpu")

    def run(self, work: Workload, clock: Callable[[str], Any]) -> NDArray[np.int32]:
        """Label the workload's picture; `clock(stage)` is a context that times.

        Returns:
            int32 (H, W), 0 for void, category ids elsewhere.
        """
        rng = np.random.default_rng(0)
        with torch.inference_mode():
            with clock("detect"):
                self._detect(work)
            with clock("segment"):
                embedding, sizes = self._set_image(work)
                things = self._things(work, embedding, sizes)
            with clock("score"):
                self._score(work)
            with clock("refine"):
                stuff = self._refine(work, embedding, sizes, things, rng)
            with clock("merge"):
                return _paint(work, things, stuff)

    def _detect(self, work: Workload) -> Tensor:
        caption = " . ".join(category.name for category in work.ontology.things) + " ."
        images = self._images(self.detector_images, work)
        text = self.words(caption, return_tensors="pt")
        output: Any = self.detector(**images, input_ids=text["input_ids"])
        probs: Tensor = output.logits.sigmoid()
        return probs

    def _images(self, processor: Any, work: Workload) -> dict[str, Any]:
        return dict(
            processor(
                images=work.frame.pixels, input_data_format="channels_last", return_tensors="pt"
            )
        )

    def _set_image(self, work: Workload) -> tuple[Tensor, tuple[int, int]]:
        inputs = self._images(self.sam_images, work)
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        return self.sam.get_image_embeddings(inputs["pixel_values"]), (int(height), int(width))

    def _full_size(self, work: Workload, logits: Tensor, sizes: tuple[int, int]) -> Tensor:
        """(N, K, H, W) logits over the image."""
        square = interpolate(logits, (1024, 1024), mode="bilinear", align_corners=False)
        inside = square[..., : sizes[0], : sizes[1]]
        return interpolate(inside, work.frame.size, mode="bilinear", align_corners=False)

    def _things(
        self, work: Workload, embedding: Tensor, sizes: tuple[int, int]
    ) -> NDArray[np.bool_]:
        scale = sizes[1] / work.frame.size[1]
        boxes = torch.from_numpy(work.detections.boxes * np.float32(scale))[None]
        output = self.sam(image_embeddings=embedding, input_boxes=boxes, multimask_output=False)
        masks = (self._full_size(work, output.pred_masks[0], sizes) > 0)[:, 0].numpy()
        for mask, (x0, y0, x1, y1) in zip(masks, work.detections.boxes.astype(int), strict=True):
            mask[:] = False
            mask[y0:y1, x0:x1] = True
        return masks

    def _score(self, work: Workload) -> Tensor:
        """(C, 352, 352) probabilities, the whole network once per class."""
        maps = []
        for category in work.ontology.stuff:
            images = self._images(self.clip_images, work)
            text = self.texts(
                category.name, padding="max_length", max_length=_TEXT, return_tensors="pt"
            )
            output: Any = self.clip(
                pixel_values=images["pixel_values"],
                input_ids=text["input_ids"],
                attention_mask=text["attention_mask"],
            )
            maps.append(output.logits[0].sigmoid())
        return torch.stack(maps)

    def _refine(
        self,
        work: Workload,
        embedding: Tensor,
        sizes: tuple[int, int],
        things: NDArray[np.bool_],
        rng: np.random.Generator,
    ) -> NDArray[np.float32]:
        """(C, H, W) probabilities at full size, from one point prompt per class."""
        maps = torch.from_numpy(work.scores.probs)[:, None]
        probs = interpolate(maps, work.frame.size, mode="bilinear", align_corners=False)[:, 0]
        background = torch.full((1, *work.frame.size), _BACKGROUND)
        winner = torch.cat([background, probs]).argmax(dim=0).numpy()
        winner[things.any(axis=0)] = 0
        refined = np.zeros(probs.shape, dtype=np.float32)
        for row in range(len(probs)):
            region = ndimage.minimum_filter(winner == row + 1, size=_EROSION)
            if not region.any():
                continue
            points = _draw(region, probs[row].numpy(), rng)
            refined[row] = self._ask(work, embedding, sizes, points)
            x0, y0, x1, y1 = work.cells[row].astype(int)
            refined[row] = 0
            refined[row, y0:y1, x0:x1] = 0.9
        return refined

    def _ask(
        self,
        work: Workload,
        embedding: Tensor,
        sizes: tuple[int, int],
        points: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        scale = sizes[1] / work.frame.size[1]
        output = self.sam(
            image_embeddings=embedding,
            input_points=torch.from_numpy(points * np.float32(scale))[None, None],
            input_labels=torch.ones(1, 1, len(points), dtype=torch.int64),
            multimask_output=True,
        )
        best = output.pred_masks[0].sigmoid().max(dim=1, keepdim=True).values
        return np.asarray(self._full_size(work, best, sizes)[0, 0].numpy())


def _draw(
    region: NDArray[np.bool_], probs: NDArray[np.float32], rng: np.random.Generator
) -> NDArray[np.float32]:
    """xy of `1000 × relative area` pixels, weighted by probability, with replacement."""
    y, x = np.nonzero(region)
    count = max(1, round(_POINTS * region.mean()))
    weights = probs[y, x] / probs[y, x].sum()
    chosen = rng.choice(len(y), count, p=weights)
    return np.stack([x[chosen], y[chosen]], axis=1).astype(np.float32)


def _paint(
    work: Workload, things: NDArray[np.bool_], stuff: NDArray[np.float32]
) -> NDArray[np.int32]:
    background = np.full((1, *work.frame.size), _BACKGROUND, dtype=np.float32)
    winner = np.concatenate([background, stuff]).argmax(axis=0)
    ids = np.array([0, *work.scores.category_ids], dtype=np.int32)
    label = np.asarray(ids[winner])
    for mask, category_id in zip(things, work.detections.category_ids, strict=True):
        label[mask] = category_id
    return label
