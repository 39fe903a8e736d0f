"""The demo segmenter: shapes, the tied matrix, and the arrangement used in training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from transformers import SamImageProcessorPil, SamModel

from prelabel.demo.segmenter_network import GRID, MASK_SIZE, build_segmenter, whiten_patches
from prelabel.demo.training.segmenter import export
from prelabel.demo.training.segmenter_forward import (
    cells_to_map,
    decode,
    embed_prompts,
    encode,
    map_to_cells,
)
from prelabel.demo.training.segmenter_scenes import id_cells, input_size


@pytest.fixture(scope="module")
def network() -> SamModel:
    torch.set_num_threads(1)
    return build_segmenter(seed=3).eval()


@pytest.fixture(scope="module")
def pixels() -> torch.Tensor:
    return torch.randn(2, 3, 256, 256, generator=torch.Generator().manual_seed(0))


def test_it_is_small_and_ties_its_positions(network: SamModel) -> None:
    assert sum(p.numel() for p in network.parameters()) < 3.5e6
    image = network.shared_image_embedding.positional_embedding
    assert network.prompt_encoder.shared_embedding.positional_embedding is image
    assert not image.requires_grad


def test_one_seed_gives_one_network(network: SamModel) -> None:
    again = build_segmenter(seed=3).state_dict()
    assert all(torch.equal(value, again[name]) for name, value in network.state_dict().items())


def test_signals_survive_initialisation(network: SamModel, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        out = network(pixels[:1], input_boxes=torch.tensor([[[20.0, 20, 90, 90]]]))
    assert out.pred_masks.shape == (1, 1, 3, MASK_SIZE, MASK_SIZE)
    assert out.iou_scores.shape == (1, 1, 3)
    assert out.pred_masks.std() > 0.05


def test_cell_order_round_trip() -> None:
    maps = torch.arange(2.0 * MASK_SIZE**2).view(2, MASK_SIZE, MASK_SIZE)
    cells = map_to_cells(maps)
    assert torch.equal(cells_to_map(cells), maps)
    # The first patch holds the 4 x 4 cells at the top left, quarter by quarter.
    assert cells[0, :6].tolist() == [0, 1, 128, 129, 2, 3]


def test_ids_and_maps_share_the_cell_order() -> None:
    ids = np.zeros((256, 256), np.uint8)
    ids[40:60, 100:180] = 1
    mean = id_cells(ids).mean(1)
    small = torch.from_numpy(ids).float().view(128, 2, 128, 2).mean((1, 3))
    assert torch.equal(cells_to_map(torch.from_numpy(mean).float()), small)


def test_the_embedding_equals_that_of_transformers(network: SamModel, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        expected = network.get_image_embeddings(pixels).flatten(2).transpose(1, 2)
        found = encode(network, pixels, torch.float32)
    assert found.shape == (2, GRID * GRID, 128)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("masked", [False, True])
def test_the_masks_equal_those_of_transformers(network: SamModel, masked: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    embedding = torch.randn(1, 128, GRID, GRID, generator=generator)
    boxes = torch.rand(1, 1, 4, generator=generator) * 256
    points = torch.rand(1, 1, 3, 2, generator=generator) * 256
    labels = torch.tensor([[[1, 0, 1]]])
    rough = torch.randn(1, 1, MASK_SIZE, MASK_SIZE, generator=generator) if masked else None
    padded = torch.cat([points, points], 2), torch.cat([labels, torch.full_like(labels, -10)], 2)
    with torch.no_grad():
        tokens = embed_prompts(network, *padded, boxes, torch.tensor([[True]]))
        rows = embedding.flatten(2).transpose(1, 2)
        logits, ious = decode(network, rows, *tokens, rough)
        for multimask, part in ((False, slice(0, 1)), (True, slice(1, 4))):
            out = network(
                image_embeddings=embedding,
                input_boxes=boxes,
                input_points=points,
                input_labels=labels,
                input_masks=rough,
                multimask_output=multimask,
            )
            found = cells_to_map(logits[:, :, part])
            torch.testing.assert_close(found, out.pred_masks, atol=1e-4, rtol=1e-4)
            torch.testing.assert_close(ious[:, :, part], out.iou_scores, atol=1e-4, rtol=1e-4)


def test_whitened_patches_have_unit_variance(pixels: torch.Tensor) -> None:
    network = build_segmenter()
    smooth = torch.nn.functional.avg_pool2d(pixels, 5, 1, 2) * 4
    whiten_patches(network, smooth)
    with torch.no_grad():
        out = network.vision_encoder.patch_embed(smooth)
    assert 0.3 < out.std() < 1.2
    assert out.mean().abs() < 0.05


def test_the_export_loads_and_keeps_the_masks(
    network: SamModel, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    export(network, tmp_path / "sam")
    with safe_open(tmp_path / "sam" / "model.safetensors", "pt") as stored:
        assert sum(name.endswith("positional_embedding") for name in stored.keys()) == 2  # noqa: SIM118
    loaded, report = SamModel.from_pretrained(tmp_path / "sam", output_loading_info=True)
    assert not any(report.values())
    assert loaded.dtype == torch.float32
    tied = loaded.prompt_encoder.shared_embedding.positional_embedding
    assert tied is loaded.shared_image_embedding.positional_embedding
    processor = SamImageProcessorPil.from_pretrained(tmp_path / "sam")
    image = np.zeros((200, 301, 3), np.uint8)
    batch = processor(image, return_tensors="pt")
    assert batch["pixel_values"].shape == (1, 3, 256, 256)
    assert tuple(batch["reshaped_input_sizes"][0].tolist()) == input_size(200, 301)
    assert not recwarn.list


def test_padding_counts_only_on_request(network: SamModel) -> None:
    labels = torch.tensor([[[1, -10]]])
    points, boxes = torch.zeros(1, 1, 2, 2), torch.zeros(1, 1, 4)
    arguments = network, points, labels, boxes, torch.tensor([[False]])
    assert embed_prompts(*arguments)[1].tolist() == [[[True, False, False, False]]]
    tokens, present = embed_prompts(*arguments, padded=True)
    assert present.tolist() == [[[True, True, False, False]]]
    assert tokens[0, 0, 1].abs().sum() == 0
