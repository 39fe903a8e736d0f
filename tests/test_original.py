"""The authors' packages as backends, as far as it shows without them: see tests/original."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from prelabel.config import load_config
from prelabel.errors import ConfigError, ModelError
from prelabel.models.original.checkpoint import load_original, read_original
from prelabel.models.original.groundingdino import (
    GroundingDinoOriginal,
    GroundingDinoOriginalOptions,
)
from prelabel.models.original.segment_anything import (
    SegmentAnythingOriginal,
    SegmentAnythingOriginalOptions,
)
from prelabel.models.original.shims import _bert, _extended_mask, import_segment_anything
from prelabel.models.original.stand_ins import missing_packages

INSTALL = r'pip install "prelabel\[original\]"'

AUTHORS = """
import torchvision
from timm.models.layers import DropPath, to_2tuple
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops.boxes import batched_nms, box_area, nms
from torchvision.transforms.functional import resize, to_pil_image

print("a banner of the authors")
NEW = float(torchvision.__version__.split(".")[1]) >= 7
"""
"""What the two packages import, in a package that a test makes."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty `segment_anything` at the head of the path."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "segment_anything", raising=False)
    (tmp_path / "segment_anything").mkdir()
    return tmp_path / "segment_anything" / "__init__.py"


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both packages hidden, where they are installed."""
    find = importlib.util.find_spec

    def find_others(name: str, package: str | None = None) -> object:
        hidden = name in ("groundingdino", "segment_anything")
        return None if hidden else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)


# --- told at start ------------------------------------------------------------------------------


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize(
    ("kind", "network"),
    [
        (
            "groundingdino-original",
            GroundingDinoOriginal(GroundingDinoOriginalOptions(weights="a.pth")),
        ),
        (
            "segment-anything-original",
            SegmentAnythingOriginal(SegmentAnythingOriginalOptions(weights="a.pth")),
        ),
    ],
)
def test_an_absent_package_is_named_with_what_brings_it(kind: str, network: Any) -> None:
    with pytest.raises(ConfigError, match=f"kind: {kind} .* not installed; {INSTALL}"):
        network.load("cpu")


def test_a_package_that_lacks_another_names_it(package: Path) -> None:
    package.write_text("import addict_that_is_not_there\n")
    with pytest.raises(ConfigError, match=f"addict_that_is_not_there.*{INSTALL}"):
        import_segment_anything()


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("detect={kind: groundingdino-original}", "detect.weights is missing"),
        ("segment={kind: segment-anything-original}", "segment.weights is missing"),
        ("detect.precision=fp16", "detect.precision is \"fp16\"; expected 'fp32'"),
        ("segment.preprocess=fast", "segment.preprocess is \"fast\"; expected 'exact'"),
        ("detect.compile=true", "detect.compile is true; expected False"),
    ],
)
def test_what_the_packages_cannot_do_is_refused_in_the_config(override: str, told: str) -> None:
    config = Path(__file__).parent.parent / "configs" / "original.yaml"
    with pytest.raises(ConfigError) as caught:
        load_config(config, [override])
    assert told in str(caught.value)


def test_weights_that_are_no_file_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"one .pth file.*facebook/sam-vit-base is none"):
        read_original("facebook/sam-vit-base", "segment-anything-original")
    with pytest.raises(ConfigError, match="take the kind without -original"):
        read_original(str(tmp_path), "segment-anything-original")


# --- stand-ins ----------------------------------------------------------------------------------


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None, reason="the true torchvision is there"
)
def test_stand_ins_are_there_for_the_import_only(
    package: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers.utils import is_torchvision_available

    package.write_text(AUTHORS)
    module = import_segment_anything()
    assert module.NEW
    assert module.to_2tuple(7) == (7, 7)
    assert module.to_2tuple((7, 3)) == (7, 3)
    assert torch.equal(module.DropPath(0.1)(torch.ones(2)), torch.ones(2))
    assert not {name for name in sys.modules if name.startswith(("torchvision", "timm"))}
    assert not is_torchvision_available()
    assert capsys.readouterr().out == ""
    with pytest.raises(NotImplementedError, match=r"torchvision.ops.boxes.nms needs torchvision"):
        module.nms(None, None, 0.5)


def test_the_stand_in_resizes_as_pillow_does() -> None:
    functional = missing_packages()["torchvision.transforms.functional"]
    pixels = np.array([[[0, 10, 20], [100, 110, 120]]], dtype=np.uint8)
    wide = functional.resize(functional.to_pil_image(pixels), (1, 4))
    # Centres of the four lie at −¼, ¼, ¾ and 1¼ of the two: 0, 25, 75, 100 more than the first.
    assert np.asarray(wide).tolist() == [[[0, 10, 20], [25, 35, 45], [75, 85, 95], [100, 110, 120]]]


# --- BERT ---------------------------------------------------------------------------------------


def test_the_mask_that_is_added_to_logits() -> None:
    lowest = torch.finfo(torch.float32).min
    flat = _extended_mask(torch.tensor([[1, 1, 0]]), (1, 3), "cpu")
    assert flat.tolist() == [[[[0.0, 0.0, lowest]]]]
    square = _extended_mask(torch.tensor([[[True, False], [True, True]]]), (1, 2), "cpu")
    assert square.tolist() == [[[[0.0, lowest], [0.0, 0.0]]]]


def test_bert_by_the_authors_calls_is_transformers_bert() -> None:
    from transformers import BertConfig

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 16}
    bert = _bert(BertConfig(**sizes, vocab_size=20, num_hidden_layers=2)).eval()
    ids = torch.tensor([[3, 4, 5, 6]])
    mask = torch.tensor([[1, 1, 1, 0]])
    with torch.inference_mode():
        expected = bert(ids, attention_mask=mask).last_hidden_state
        added = bert.get_extended_attention_mask(mask, ids.shape, ids.device)
        found = bert.encoder(
            bert.embeddings(input_ids=ids, past_key_values_length=0),
            attention_mask=added,
            head_mask=bert.get_head_mask(None, 2),
        )[0]
    assert torch.allclose(found[:, :3], expected[:, :3], atol=1e-6)
    assert not hasattr(type(bert), "get_head_mask")


# --- checkpoints --------------------------------------------------------------------------------


def test_tensors_must_fit_but_for_those_that_are_known_to_be_unused() -> None:
    network = torch.nn.Linear(2, 1)
    tensors = {"weight": torch.ones(1, 2), "bias": torch.zeros(1), "pixel_mean": torch.ones(3)}
    loaded = load_original(network, tensors, ("pixel_mean",), "a.pth", "cpu")
    assert loaded(torch.ones(2)).item() == 2
    assert not loaded.training
    with pytest.raises(ModelError, match=r"a.pth .* 0 tensors are missing and 1 are unknown"):
        load_original(network, tensors, (), "a.pth", "cpu")
    del tensors["bias"]
    with pytest.raises(ModelError, match="1 tensors are missing and 0 are unknown, such as bias"):
        load_original(network, tensors, ("pixel_mean",), "a.pth", "cpu")
    with pytest.raises(ModelError, match=r"authors' network: Error.* size mismatch for weight"):
        load_original(network, {"weight": torch.ones(5, 2)}, (), "a.pth", "cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is there")
def test_a_missing_device_is_told() -> None:
    with pytest.raises(ModelError, match="use device cpu"):
        load_original(torch.nn.Linear(1, 1), {}, (), "a.pth", "cuda")
