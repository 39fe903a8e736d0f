"""SAM as transformers implements it: masks from boxes and points.

Kirillov et al., "Segment Anything", ICCV 2023. The image is encoded once; boxes and points of
things and stuff are decoded from that embedding. Masks leave the padded square as in the paper's
code: enlarge to the network's input, cut the padding off, resize to the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prelabel.data import Frame, ImageRecord, Mask
from prelabel.errors import ModelError
from prelabel.models.batches import Batches
from prelabel.models.precision import Arithmetic, gate, probe_pixels
from prelabel.models.preprocess import Recipe, fast_pixels, longest_side
from prelabel.models.roles import Embedding, MaskLogits, Prompts
from prelabel.models.weights import NetworkOptions, find_weights, load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["Sam", "SamOptions"]

_GATE = 0.01
"""Most that a lower precision may change the masks' probabilities, on average."""


class SamOptions(NetworkOptions):
    """Options of `kind: sam`."""

    kind: Literal["sam"] = "sam"
    prompts_per_pass: Annotated[int, Field(ge=1)] = 16
    """How many prompts the mask decoder sees at once; bounds its memory, not its result."""


@dataclass(frozen=True, slots=True, eq=False)
class _Input:
    """A frame as the network reads it.

    Attributes:
        size: (height, width) of the original image.
        input_size: (height, width) of the image within the padded square.
        pixels: float32 (1, 3, side, side).
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    pixels: torch.Tensor


class Sam:
    """A `PromptableSegmenter`. Networks exist only after `load`."""

    Options = SamOptions

    def __init__(self, options: SamOptions) -> None:
        self.options = options
        self._network: Any = None
        self._batches = Batches()

    def load(self, device: str) -> None:
        """Load network and image processor onto `device`."""
        from transformers import SamImageProcessorPil, SamModel

        folder = find_weights(self.options.kind, self.options)
        with quiet_transformers():
            self._processor = SamImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._recipe = Recipe.of(self._processor)
        self._network = load_network(SamModel, folder, device)
        self._device = device
        self._side = int(self._network.config.vision_config.image_size)
        asked = Arithmetic.of(device, self.options.precision)
        self._arithmetic = gate(asked, self._probe, _GATE, "the segmenter")
        if self.options.compile:
            # Not the layer that explanations hook into: a compiled one would not call the hook.
            for layer in self._network.vision_encoder.layers:
                if layer is not _last_global(self._network):
                    layer.compile()

    def _loaded(self) -> Any:
        if self._network is None:
            raise ModelError("the segmenter is used before load()")
        return self._network

    # --- the image, once ----------------------------------------------------------------------

    def embed(self, frames: Sequence[Frame], *, capture: bool = False) -> list[Embedding]:
        """Encode each frame once."""
        self._loaded()
        return self._batches.run(
            [self._prepare(frame.pixels) for frame in frames],
            lambda item: item.pixels.shape,
            lambda group: self._embed_group(group, capture),
        )

    def _prepare(self, pixels: NDArray[np.uint8]) -> _Input:
        from torch.nn.functional import pad

        size = (pixels.shape[0], pixels.shape[1])
        if self.options.preprocess == "fast":
            height, width = longest_side(size, self._side)
            resized = fast_pixels(pixels, (height, width), self._recipe, self._device)
            square = pad(resized, (0, self._side - width, 0, self._side - height))
            return _Input(size, (height, width), square)
        inputs = self._processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        return _Input(size, (int(height), int(width)), inputs["pixel_values"])

    def _embed_group(self, group: Sequence[_Input], capture: bool) -> list[Embedding]:
        import torch

        network = self._loaded()
        pixels = torch.cat([item.pixels for item in group]).to(self._device)
        with self._arithmetic(), _watch_attention(network, enabled=capture) as seen:
            features = _numpy(network.get_image_embeddings(pixels))
        none = np.zeros((len(group), 0, 0, 0), dtype=np.float32)
        return [
            Embedding(
                size=np.array(item.size, dtype=np.int32),
                input_size=np.array(item.input_size, dtype=np.int32),
                features=features[row],
                attention_input=seen.get("input", none)[row],
            )
            for row, item in enumerate(group)
        ]

    def _probe(self, arithmetic: Arithmetic) -> NDArray[np.float32]:
        """Probabilities of two masks of a fixed picture."""
        self._arithmetic = arithmetic
        frame = Frame(ImageRecord("probe", ""), probe_pixels())
        boxes = np.array([[80, 140, 220, 280], [320, 180, 440, 300]], dtype=np.float32)
        (embedding,) = self.embed([frame])
        logits = self.masks(embedding, Prompts(boxes=boxes), multimask=False).logits
        return np.asarray(1 / (1 + np.exp(-np.clip(logits, -30, 30))), dtype=np.float32)

    # --- prompts, many ------------------------------------------------------------------------

    def masks(self, embedding: Embedding, prompts: Prompts, *, multimask: bool) -> MaskLogits:
        """One candidate per prompt, or with `multimask` three of different extent."""
        import torch

        network = self._loaded()
        candidates = network.config.mask_decoder_config.num_multimask_outputs if multimask else 1
        logits, ious = [], []
        with self._arithmetic():
            features = torch.from_numpy(embedding.features)[None].to(self._device)
            for start in range(0, len(prompts), self.options.prompts_per_pass):
                part = slice(start, start + self.options.prompts_per_pass)
                output = network(
                    multimask_output=multimask,
                    **self._decoder_inputs(embedding, prompts, part, features),
                )
                side = output.pred_masks.shape[-1]
                logits.append(_numpy(output.pred_masks.reshape(-1, candidates, side, side)))
                ious.append(_numpy(output.iou_scores.reshape(-1, candidates)))
        if not logits:
            side = embedding.features.shape[-1] * 4
            return MaskLogits(
                np.zeros((0, candidates, side, side), dtype=np.float32),
                np.zeros((0, candidates), dtype=np.float32),
            )
        return MaskLogits(np.concatenate(logits), np.clip(np.concatenate(ious), 0, 1))

    def _decoder_inputs(
        self, embedding: Embedding, prompts: Prompts, part: slice, features: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Prompts in the network's pixels: (1, n, …), or (n, 1, …) where each has its own mask."""
        import torch

        scale = embedding.input_size[::-1] / embedding.size[::-1]
        inputs: dict[str, torch.Tensor] = {}
        if prompts.boxes is not None:
            boxes = prompts.boxes[part].reshape(-1, 2, 2) * scale
            inputs["input_boxes"] = torch.from_numpy(boxes.reshape(-1, 4).astype(np.float32))[None]
        if prompts.points is not None and prompts.labels is not None:
            points = (prompts.points[part] * scale).astype(np.float32)
            inputs["input_points"] = torch.from_numpy(points)[None]
            inputs["input_labels"] = torch.from_numpy(prompts.labels[part].astype(np.int64))[None]
        count = len(prompts.boxes[part] if prompts.boxes is not None else inputs["input_points"][0])
        if prompts.masks is not None:
            # transformers takes one mask per batch element, not one per prompt.
            inputs = {name: value.transpose(0, 1) for name, value in inputs.items()}
            inputs["input_masks"] = torch.from_numpy(prompts.masks[part])[:, None]
            features = features.expand(count, -1, -1, -1)
        inputs = {name: value.to(self._device) for name, value in inputs.items()}
        return {**inputs, "image_embeddings": features}

    # --- between the image and the padded square ------------------------------------------------

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (M, m, m) over the padded input as float32 (M, height, width) over the image."""
        import torch
        from torch.nn.functional import interpolate

        height, width = (int(edge) for edge in embedding.input_size)
        with torch.inference_mode():
            square = interpolate(
                torch.from_numpy(logits)[:, None], (self._side, self._side), mode="bilinear"
            )
            image = interpolate(square[..., :height, :width], size, mode="bilinear")
        return image[:, 0].numpy()

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps float32 (M, h, w) over the whole image as (M, m, m) over the padded input."""
        import torch
        from torch.nn.functional import interpolate, pad

        side = embedding.features.shape[-1] * 4
        height, width = (
            max(1, round(int(edge) * side / self._side)) for edge in embedding.input_size
        )
        with torch.inference_mode():
            grid = interpolate(
                torch.from_numpy(maps)[:, None], (height, width), mode="bilinear", antialias=True
            )
            grid = pad(grid, (0, side - width, 0, side - height), value=fill)
        return grid[:, 0].numpy()

    # --- evidence -----------------------------------------------------------------------------

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """What the mask's pixels attended to in the encoder's last global layer.

        Only the rows of the mask's own cells are computed, from the layer's captured input: the
        same numbers as full attention would give, without its (heads, g², g²) matrix.
        """
        import torch

        if not embedding.attention_input.size:
            raise ModelError("the embedding was made without capture, so it holds no attention")
        attention = _last_global(self._loaded()).attn
        grid = embedding.attention_input.shape[0]
        rows = self._cells(embedding, mask, grid)
        with torch.inference_mode():
            weights = _attention_rows(
                attention, torch.from_numpy(embedding.attention_input).to(self._device), rows
            )
        full = _numpy(weights).mean(axis=(0, 1)).reshape(grid, grid)
        height, width = (-(-int(edge) * grid // self._side) for edge in embedding.input_size)
        inside = full[:height, :width]
        return np.asarray(inside / inside.sum(), dtype=np.float32)

    def _cells(self, embedding: Embedding, mask: Mask, grid: int) -> NDArray[np.intp]:
        """Flat indices of the grid cells that the mask's pixels fall into, at least one."""
        y, x = np.nonzero(mask.bitmap)
        scale = embedding.input_size / embedding.size * (grid / self._side)
        rows = np.minimum(((y + mask.y0 + 0.5) * scale[0]).astype(np.intp), grid - 1)
        columns = np.minimum(((x + mask.x0 + 0.5) * scale[1]).astype(np.intp), grid - 1)
        return np.unique(rows * grid + columns)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()


def _last_global(network: Any) -> Any:
    """The last layer of the vision encoder that attends to the whole image."""
    layers = network.vision_encoder.layers
    return layers[max(index for index, layer in enumerate(layers) if layer.window_size == 0)]


@contextmanager
def _watch_attention(network: Any, *, enabled: bool) -> Iterator[dict[str, NDArray[np.float32]]]:
    """Note the input of the last global attention, for the length of one encoding."""
    seen: dict[str, NDArray[np.float32]] = {}
    if not enabled:
        yield seen
        return

    def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = args[0] if args else kwargs["hidden_states"]
        seen["input"] = _numpy(hidden)

    handle = _last_global(network).attn.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _attention_rows(attention: Any, hidden: torch.Tensor, rows: NDArray[np.intp]) -> torch.Tensor:
    """softmax(q kᵀ / √d + relative position) for some queries: (heads, len(rows), g · g).

    Relative positions are decomposed by axis, as in Li et al., "MViTv2", CVPR 2022, section 4.1.
    """
    import torch

    grid, heads = hidden.shape[0], attention.num_attention_heads
    flat = hidden.reshape(grid * grid, -1)
    width = flat.shape[1]
    weight, bias = attention.qkv.weight, attention.qkv.bias
    biases = [None] * 3 if bias is None else bias.split(width)
    index = torch.from_numpy(rows).to(hidden.device)
    linear = torch.nn.functional.linear
    query = linear(flat[index], weight[:width], biases[0]).reshape(len(rows), heads, -1)
    key = linear(flat, weight[width : 2 * width], biases[1]).reshape(grid * grid, heads, -1)
    logits = torch.einsum("qhc,khc->hqk", query * attention.scale, key)
    if attention.use_rel_pos:
        vertical = attention.get_rel_pos(grid, grid, attention.rel_pos_h)[index // grid]
        horizontal = attention.get_rel_pos(grid, grid, attention.rel_pos_w)[index % grid]
        by_row = torch.einsum("qhc,qkc->hqk", query, vertical)
        by_column = torch.einsum("qhc,qkc->hqk", query, horizontal)
        logits = logits + (by_row[..., :, None] + by_column[..., None, :]).flatten(2)
    return logits.softmax(dim=-1)
