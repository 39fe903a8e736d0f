"""The catalogue's numbers against the architectures, and its names against the configs."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

import pytest
import torch

from prelabel.config import load_config
from prelabel.errors import ConfigError
from prelabel.models.architectures import ARCHITECTURES, build_untrained
from prelabel.models.catalogue import CATALOGUE, Entry, find_entry, published_file
from prelabel.models.registry import ROLES, option_types

CONFIGS = sorted((Path(__file__).parent.parent / "configs").glob("*.yaml"))
PUBLISHED = [entry for entry in CATALOGUE if not entry.embedded]


def test_every_architecture_has_an_entry_and_the_other_way_round() -> None:
    assert {entry.name for entry in PUBLISHED} == set(ARCHITECTURES)
    assert len({entry.name for entry in CATALOGUE}) == len(CATALOGUE)


@cache
def _count(architecture: str) -> int:
    """Parameters; networks of one architecture are built once."""
    name = next(name for name in ARCHITECTURES if str(ARCHITECTURES[name]) == architecture)
    return sum(parameter.numel() for parameter in build_untrained(name).parameters())


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_parameters_are_counted(entry: Entry) -> None:
    assert entry.parameters == _count(str(ARCHITECTURES[entry.name]))
    # A file is the parameters and a header of some kilobytes.
    if entry.kind in ("sam", "grounding-dino") and entry.original is not None:
        assert entry.bytes == pytest.approx(entry.original.bytes, rel=0.011)


@pytest.mark.parametrize(
    ("name", "millions"),
    # As Meta's table of SAM 2.1 has them, with what follows objects through a video.
    [("tiny", 38.9), ("small", 46.0), ("base-plus", 80.8), ("large", 224.4)],
)
def test_files_of_sam2_hold_more_than_is_used(name: str, millions: float) -> None:
    from transformers import Sam2VideoConfig, Sam2VideoModel

    entry = find_entry(f"facebook/sam2.1-hiera-{name}")
    config = Sam2VideoConfig(
        vision_config=ARCHITECTURES[entry.name][1]().vision_config,
        enable_temporal_pos_encoding_for_object_pointers=True,
        enable_occlusion_spatial_embedding=True,
    )
    with torch.device("meta"):
        network = Sam2VideoModel(config)
    assert entry.stored == sum(parameter.numel() for parameter in network.parameters())
    assert entry.stored is not None and entry.stored / 1e6 == pytest.approx(millions, abs=0.1)
    assert entry.bytes == 4 * entry.stored


def test_kinds_and_roles_are_those_of_the_registry() -> None:
    for entry in CATALOGUE:
        assert entry.kind in ROLES[entry.role]  # type: ignore[index]
        kinds = [options.model_fields["kind"].default for options in option_types(entry.role)]  # type: ignore[arg-type]
        assert entry.kind in kinds


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_what_the_configs_name_is_in_the_catalogue(path: Path) -> None:
    config = load_config(path)
    known = {(entry.role, entry.kind, entry.weights) for entry in CATALOGUE}
    files = {entry.original.file for entry in CATALOGUE if entry.original is not None}
    for role in ROLES:
        options = getattr(config, role)
        if hasattr(options, "weights"):
            if options.kind.endswith("-original"):
                assert Path(options.weights).name in files
            else:
                assert (role, options.kind, options.weights) in known


def test_original_files_are_known_by_name_and_digest() -> None:
    originals = {entry.original.file: entry.original for entry in PUBLISHED if entry.original}
    assert set(originals) == {
        "sam_vit_b_01ec64.pth",
        "sam_vit_l_0b3195.pth",
        "sam_vit_h_4b8939.pth",
        "groundingdino_swint_ogc.pth",
        "groundingdino_swinb_cogcoor.pth",
    }
    assert all(re.fullmatch(r"[0-9a-f]{64}", original.sha256) for original in originals.values())
    assert published_file("sam_vit_b_01ec64.pth") == originals["sam_vit_b_01ec64.pth"]
    assert published_file("my_sam.pth") is None


def test_licences_are_stated_or_said_to_be_unstated() -> None:
    licences = {entry.kind: entry.licence for entry in PUBLISHED}
    assert licences == {
        "grounding-dino": "Apache-2.0",
        "mm-grounding-dino": "see its page",
        "sam": "Apache-2.0",
        "sam2": "Apache-2.0",
        "clipseg": "see its page",
    }
    assert "does not cover the weights" in find_entry("CIDAS/clipseg-rd64-refined").note
    assert all(entry.note for entry in CATALOGUE if entry.licence == "see its page")


def test_no_revision_is_made_up() -> None:
    for entry in CATALOGUE:
        assert entry.revision is None or re.fullmatch(r"[0-9a-f]{40}", entry.revision)


def test_an_unknown_name_is_told_with_the_nearest() -> None:
    assert find_entry("facebook/sam-vit-base").kind == "sam"
    with pytest.raises(ConfigError, match=r"did you mean facebook/sam-vit-base\?"):
        find_entry("facebook/sam-vit-bas")
    with pytest.raises(ConfigError, match=r"`prelabel models list` shows all$"):
        find_entry("?")
