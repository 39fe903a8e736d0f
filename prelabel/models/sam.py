"""SAM as transformers implements it: masks from boxes and points.

Kirillov et al., "Segment Anything", ICCV 2023. The image is encoded once; boxes and points of
things and stuff are decoded from that embedding. Masks leave the padded square as in the paper's
code: enlarge to the network's input, cut the padding off, resize to the image.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from prelabel.data import Frame, ImageRecord, Mask
from prelabel.errors import ModelError
from prelabel.models.batches import Batches
from prelabel.models.mask_grid import (
    attention_rows,
    cells_under,
    inside_image,
    maps_to_square,
    prompt_arrays,
    resized,
)
from prelabel.models.precision import Arithmetic, gate, probe_pixels
from prelabel.models.preprocess import Recipe, fast_pixels, longest_side
from prelabel.models.roles import Embedding, MaskLogits, Prompts
from prelabel.models.sam_on_cpu import arrange_for_cpu, shared_projections
from prelabel.models.weights import NetworkOptions, find_weights, load_network, quiet_transformers

if TYPE_CHECKING:
    import torch

__all__ = ["NetworkInput", "Sam", "SamOptions", "SegmenterOptions"]

_GATE = 0.01
"""Most that a lower precision may change the masks' probabilities, on average."""


class SegmenterOptions(NetworkOptions):
    """What every promptable segmenter has in common."""

    prompts_per_pass: Annotated[int, Field(ge=1)] = 16
    """How many prompts the decoder sees at once on a GPU; bounds its memory, not its result."""

    def at_once(self, device: str) -> int:
        """How many prompts the mask decoder sees at once on `device`.

        One on a CPU: at full size that is a third faster than sixteen, and an answer then depends
        on its own prompt alone, to the last bit.
        """
        return 1 if device == "cpu" else self.prompts_per_pass


class SamOptions(SegmenterOptions):
    """Options of `kind: sam`."""

    kind: Literal["sam"] = "sam"


@dataclass(frozen=True, slots=True, eq=False)
class NetworkInput:
    """A frame as the network reads it.

    Attributes:
        size: (height, width) of the original image.
        input_size: (height, width) of the image within the square.
        pixels: float32 (1, 3, side, side).
    """

    size: tuple[int, int]
    input_size: tuple[int, int]
    pixels: torch.Tensor


class Sam:
    """A `PromptableSegmenter`. Networks exist only after `load`.

    Its successors differ in what `_read_weights`, `_prepare`, `_encode`, `_encoded` and `upscale`
    do, and keep the rest.
    """

    Options: ClassVar[type[SegmenterOptions]] = SamOptions
    network: ClassVar[str] = "SamModel"
    """The class of transformers."""

    def __init__(self, options: SegmenterOptions) -> None:
        self.options = options
        self._network: Any = None
        self._batches = Batches()

    def load(self, device: str) -> None:
        """Load network and image processor onto `device`."""
        import transformers

        kind = str(type(self.options).model_fields["kind"].default)
        folder = find_weights(kind, self.options)
        self._device = device
        self._network = load_network(getattr(transformers, self.network), folder, device)
        self._read_weights(folder)
        asked = Arithmetic.of(device, self.options.precision)
        self._arithmetic = gate(asked, self._probe, _GATE, "the segmenter")
        if self.options.compile:
            # Not the layer that explanations hook into: a compiled one would not call the hook.
            for layer in self._layers:
                if layer is not self._last_global():
                    layer.compile()

    def _read_weights(self, folder: Path) -> None:
        """Note the encoder's layers, the side of its square, and how images come into it."""
        from transformers import SamImageProcessorPil

        with quiet_transformers():
            self._processor = SamImageProcessorPil.from_pretrained(folder, local_files_only=True)
        self._recipe = Recipe.of(self._processor)
        self._layers = self._network.vision_encoder.layers
        config = self._network.config.vision_config
        self._side = int(config.image_size)
        if self._device == "cpu" and config.use_rel_pos and not self.options.compile:
            arrange_for_cpu(self._layers)

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

    def _prepare(self, pixels: NDArray[np.uint8]) -> NetworkInput:
        from torch.nn.functional import pad

        size = (pixels.shape[0], pixels.shape[1])
        if self.options.preprocess == "fast":
            height, width = longest_side(size, self._side)
            resized = fast_pixels(pixels, (height, width), self._recipe, self._device)
            square = pad(resized, (0, self._side - width, 0, self._side - height))
            return NetworkInput(size, (height, width), square)
        inputs = self._processor(
            images=pixels, input_data_format="channels_last", return_tensors="pt"
        )
        height, width = inputs["reshaped_input_sizes"][0].tolist()
        return NetworkInput(size, (int(height), int(width)), inputs["pixel_values"])

    def _embed_group(self, group: Sequence[NetworkInput], capture: bool) -> list[Embedding]:
        import torch

        pixels = torch.cat([item.pixels for item in group]).to(self._device)
        with self._arithmetic(), self._watch_attention(enabled=capture) as seen:
            seen |= {name: _numpy(features) for name, features in self._encode(pixels).items()}
        return [
            Embedding(
                size=np.array(item.size, dtype=np.int32),
                input_size=np.array(item.input_size, dtype=np.int32),
                **{name: array[row] for name, array in seen.items()},
            )
            for row, item in enumerate(group)
        ]

    def _encode(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """The parts of the embeddings of some images, (B, …) each, by `Embedding`'s names."""
        return {"features": self._network.get_image_embeddings(pixels)}

    @contextmanager
    def _watch_attention(self, *, enabled: bool) -> Iterator[dict[str, NDArray[np.float32]]]:
        """Note the input of the last global attention, for the length of one encoding."""
        seen: dict[str, NDArray[np.float32]] = {}
        if not enabled:
            yield seen
            return

        def note(_module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            seen["attention_input"] = _numpy(args[0] if args else kwargs["hidden_states"])

        handle = self._last_global().attn.register_forward_pre_hook(note, with_kwargs=True)
        try:
            yield seen
        finally:
            handle.remove()

    def _last_global(self) -> Any:
        """The last layer of the encoder that attends to the whole image, cell by cell."""
        for layer in reversed(self._layers):
            # Hiera's layers that pool have fewer queries than cells.
            if layer.window_size == 0 and not getattr(layer, "query_stride", None):
                return layer
        raise ModelError("the segmenter's encoder has no global attention to explain masks by")

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
        side = self._logit_side(embedding)
        logits = np.zeros((len(prompts), candidates, side, side), dtype=np.float32)
        ious = np.zeros((len(prompts), candidates), dtype=np.float32)
        at_once = self.options.at_once(self._device)
        # With masks among the prompts, each meets an image of its own.
        alike = at_once == 1 and prompts.masks is None
        with self._arithmetic(), shared_projections(network) if alike else nullcontext():
            encoded = self._encoded(embedding)
            for rows, part in prompts.alike(at_once):
                inputs = {
                    name: torch.from_numpy(array).to(self._device)
                    for name, array in prompt_arrays(embedding, part).items()
                }
                batch = len(next(iter(inputs.values())))
                features = [one.expand(batch, -1, -1, -1) for one in encoded]
                output = network(
                    **inputs,
                    image_embeddings=features if len(features) > 1 else features[0],
                    multimask_output=multimask,
                )
                logits[rows] = _numpy(output.pred_masks.reshape(-1, candidates, side, side))
                ious[rows] = _numpy(output.iou_scores.reshape(-1, candidates))
        return MaskLogits(logits, np.clip(ious, 0, 1))

    def _encoded(self, embedding: Embedding) -> list[torch.Tensor]:
        """What the decoder reads of an embedding, (1, C, h, w) each, on the device."""
        import torch

        return [torch.from_numpy(embedding.features)[None].to(self._device)]

    @staticmethod
    def _logit_side(embedding: Embedding) -> int:
        # The decoder upscales twice by two.
        return int(embedding.features.shape[-1]) * 4

    # --- between the image and the square --------------------------------------------------------

    def upscale(
        self, embedding: Embedding, logits: NDArray[np.float32], size: tuple[int, int]
    ) -> NDArray[np.float32]:
        """Logits (M, m, m) over the padded input as float32 (M, height, width) over the image."""
        height, width = (int(edge) for edge in embedding.input_size)
        square = resized(logits, (embedding.side, embedding.side))
        return resized(square[:, :height, :width], size)

    def to_logit_grid(
        self, embedding: Embedding, maps: NDArray[np.float32], fill: float
    ) -> NDArray[np.float32]:
        """Maps float32 (M, h, w) over the whole image as (M, m, m) over the network's input."""
        side = self._logit_side(embedding)
        height, width = (
            max(1, round(int(edge) * side / embedding.side)) for edge in embedding.input_size
        )
        return maps_to_square(maps, (height, width), side, fill)

    # --- evidence -----------------------------------------------------------------------------

    def attention(self, embedding: Embedding, mask: Mask) -> NDArray[np.float32]:
        """What the mask's pixels attended to in the encoder's last global layer.

        Only the rows of the mask's own cells are computed, from the layer's captured input: the
        same numbers as full attention would give, without its (heads, g², g²) matrix.
        """
        import torch

        self._loaded()
        if not embedding.attention_input.size:
            raise ModelError("the embedding was made without capture, so it holds no attention")
        grid = embedding.attention_input.shape[0]
        rows = cells_under(embedding, mask, grid, self._side)
        with torch.inference_mode():
            hidden = torch.from_numpy(embedding.attention_input).to(self._device)
            weights = attention_rows(self._last_global().attn, hidden, rows)
        full = _numpy(weights).mean(axis=(0, 1)).reshape(grid, grid)
        inside = inside_image(full, embedding, self._side)
        return np.asarray(inside / inside.sum(), dtype=np.float32)


def _numpy(tensor: torch.Tensor) -> NDArray[np.float32]:
    return tensor.float().cpu().numpy()
