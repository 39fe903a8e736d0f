"""Where weights are found, what is refused, and what a fingerprint sees of them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import errors as hub_errors

from prelabel.errors import ConfigError, ModelError
from prelabel.models import hub as hub_module
from prelabel.models import weights as weights_module
from prelabel.models.catalogue import Original
from prelabel.models.hub import cached_on_hub, find_on_hub
from prelabel.models.loading import KeyReport
from prelabel.models.weights import (
    CHECKPOINT_FILES,
    EMBEDDED,
    NetworkOptions,
    find_weights,
    is_complete,
    load_network,
    locate_weights,
    model_type,
    weights_sha256,
)

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Caches of this test's own, and no network."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    return tmp_path


def _cached(root: Path, hub_id: str, source: Path, *, commit: str = COMMIT) -> Path:
    """Put a checkpoint where huggingface_hub keeps what it fetched."""
    repository = root / "hub" / f"models--{hub_id.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs" / "main").write_text(commit)
    snapshot = repository / "snapshots" / commit
    shutil.copytree(source, snapshot)
    return snapshot


# --- four ways ---------------------------------------------------------------------------------


def test_the_embedded_ones_are_found_for_each_kind() -> None:
    for kind in ("grounding-dino", "sam", "clipseg"):
        folder = find_weights(kind, NetworkOptions(weights=EMBEDDED))
        assert is_complete(folder) and model_type(folder) == kind


def test_a_folder_is_taken_as_it_is(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints / "sam"
    assert find_weights("sam", NetworkOptions(weights=str(folder))) == folder
    monkeypatch.chdir(checkpoints)
    assert find_weights("sam", NetworkOptions(weights="sam")) == Path("sam")
    monkeypatch.setenv("HOME", str(checkpoints))
    assert find_weights("sam", NetworkOptions(weights="~/sam")) == folder


def test_a_hub_id_is_found_in_the_cache_by_branch_and_by_commit(
    checkpoints: Path, cache: Path
) -> None:
    snapshot = _cached(cache, "someone/sam", checkpoints / "sam")
    assert find_weights("sam", NetworkOptions(weights="someone/sam")) == snapshot
    pinned = NetworkOptions(weights="someone/sam", revision=COMMIT)
    assert find_weights("sam", pinned) == snapshot
    other = NetworkOptions(weights="someone/sam", revision="f" * 40)
    with pytest.raises(ConfigError, match=rf"hf download someone/sam --revision {'f' * 40}"):
        find_weights("sam", other)


def test_looking_imports_no_torch(checkpoints: Path, cache: Path) -> None:
    """Fingerprints look: of a folder, of the embedded ones, and of an original by its bytes."""
    original = cache / "x.pth"
    original.write_bytes(b"\x80\x02 an original")
    script = (
        "import sys\n"
        "from prelabel.models.weights import NetworkOptions, locate_weights, weights_sha256\n"
        "for name in sys.argv[1:]:\n"
        "    print(weights_sha256(locate_weights('sam', NetworkOptions(weights=name))))\n"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))\n"
    )
    names = ["embedded", str(checkpoints / "sam"), str(original)]
    done = subprocess.run(
        [sys.executable, "-c", script, *names],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    digests = done.stdout.split()
    assert len(set(digests)) == 3
    assert digests[2] == hashlib.sha256(b"\x80\x02 an original").hexdigest()


# --- digests -----------------------------------------------------------------------------------


def test_the_same_bytes_have_the_same_digest_wherever_they_are(
    checkpoints: Path, cache: Path
) -> None:
    shutil.copytree(checkpoints / "sam", cache / "copy")
    (cache / "copy" / "README.md").write_text("not counted")
    assert weights_sha256(cache / "copy") == weights_sha256(checkpoints / "sam")
    shutil.copytree(checkpoints / "sam", cache / "other")
    (cache / "other" / "config.json").write_text("{}")
    assert weights_sha256(cache / "other") != weights_sha256(checkpoints / "sam")


def test_a_changed_file_has_another_digest(cache: Path) -> None:
    file = cache / "x.pth"
    file.write_bytes(b"one")
    first = weights_sha256(file)
    file.write_bytes(b"two, longer")
    assert weights_sha256(file) != first


# --- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ((), "lacks config.json"),
        (("x.pth",), r"lacks config.json.*give the file itself: .*x\.pth"),
        (("config.json",), "holds no .safetensors file; save the model"),
        (("config.json", "pytorch_model.bin"), "only a .bin file, which may hold code"),
    ],
)
def test_a_folder_that_is_no_checkpoint_is_told(
    cache: Path, files: tuple[str, ...], told: str
) -> None:
    for name in files:
        (cache / name).write_text("{}")
    with pytest.raises(ConfigError, match=told):
        find_weights("sam", NetworkOptions(weights=str(cache)))


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("./gone", "the weights folder ./gone does not exist"),
        ("gone/sam_vit_b_01ec64.pth", "the weights file gone/sam_vit_b_01ec64.pth does not exist"),
        ("model.safetensors", "the weights file model.safetensors does not exist"),
        ("a b", "neither an existing folder nor a hub id"),
    ],
)
def test_what_does_not_exist_is_told(name: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        find_weights("sam", NetworkOptions(weights=name))


def test_half_a_checkpoint_is_told(checkpoints: Path) -> None:
    half = checkpoints / "sam" / "model.safetensors"
    with pytest.raises(ConfigError, match="give the folder that holds both"):
        find_weights("sam", NetworkOptions(weights=str(half)))


def test_a_network_of_another_kind_is_told_before_it_is_loaded(checkpoints: Path) -> None:
    options = NetworkOptions(weights=str(checkpoints / "sam"))
    with pytest.raises(ConfigError, match="of kind sam, where kind clipseg is asked for"):
        locate_weights("clipseg", options)


def test_damaged_files_of_a_folder_are_told(checkpoints: Path, cache: Path) -> None:
    from transformers import SamModel

    shutil.copytree(checkpoints / "sam", cache / "sam")
    weights = cache / "sam" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ModelError, match="cannot be loaded as SamModel"):
        load_network(SamModel, cache / "sam", "cpu")
    (cache / "sam" / "config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"config\.json is damaged"):
        find_weights("sam", NetworkOptions(weights=str(cache / "sam")))


def test_missing_tensors_are_counted_and_named(checkpoints: Path, cache: Path) -> None:
    from safetensors.torch import load_file, save_file
    from transformers import SamModel

    shutil.copytree(checkpoints / "sam", cache / "sam")
    tensors = load_file(cache / "sam" / "model.safetensors")
    for name in [name for name in tensors if name.startswith("mask_decoder.iou")]:
        tensors[f"old.{name}"] = tensors.pop(name)
    save_file(tensors, cache / "sam" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        load_network(SamModel, cache / "sam", "cpu")
    told = str(caught.value)
    assert "7 keys are missing (mask_decoder.iou_prediction_head.layers.0.bias, " in told
    assert "7 keys are unexpected (old.mask_decoder.iou_prediction_head.layers.0.bias, " in told
    assert told.count("…") == 2


def test_what_a_network_does_not_take_is_told_to_who_asks(checkpoints: Path) -> None:
    from transformers import SamModel

    reports: list[KeyReport] = []
    load_network(SamModel, checkpoints / "sam", "cpu", reports.append)
    assert reports == [KeyReport((), (), ())]
    assert reports[0].fits and reports[0].sentence() == ""


# --- published files ---------------------------------------------------------------------------


def test_a_file_that_is_not_what_its_name_says_is_refused(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = cache / "sam_vit_b_01ec64.pth"
    file.write_bytes(b"\x80\x02 something else")
    with pytest.raises(ModelError, match=r"its sha256 begins \w{8}, not ec2df627") as caught:
        locate_weights("sam", NetworkOptions(weights=str(file)))
    assert "give it a name of its own" in str(caught.value)
    own = file.rename(cache / "my_sam.pth")
    assert locate_weights("sam", NetworkOptions(weights=str(own))) == own
    known = Original("my_sam.pth", 1, weights_sha256(own))
    monkeypatch.setattr(weights_module, "published_file", {"my_sam.pth": known}.get)
    assert locate_weights("sam", NetworkOptions(weights=str(own))) == own


# --- the hub -----------------------------------------------------------------------------------


HTTPX: Any = import_module(hub_errors.HfHubHTTPError.__bases__[0].__module__)
"""The package by which huggingface_hub speaks HTTP; its name changes from version to version."""


def _refusal(kind: type[hub_errors.HfHubHTTPError], status: int) -> Exception:
    request = HTTPX.Request("GET", "https://hub.invalid/x")
    return kind("refused", response=HTTPX.Response(status, request=request))


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            _refusal(hub_errors.RepositoryNotFoundError, 404),
            "the hub knows no a/b, or it is private",
        ),
        (_refusal(hub_errors.GatedRepoError, 403), "accepted its terms: .* `hf auth login`"),
        (_refusal(hub_errors.RevisionNotFoundError, 404), "a/b has no revision 'v9'"),
        (_refusal(hub_errors.HfHubHTTPError, 503), "the hub cannot be reached"),
        (hub_errors.LocalEntryNotFoundError("no connection"), "the hub cannot be reached"),
        (HTTPX.ReadError("reset in the middle of a file"), "the hub cannot be reached"),
        (ConnectionError("reset"), "the hub cannot be reached"),
        (TimeoutError("slow"), "the hub cannot be reached"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_answer_of_the_hub_has_its_own_sentence(
    monkeypatch: pytest.MonkeyPatch, error: Exception, told: str
) -> None:
    def refuse(*_arguments: object, local_files_only: bool = False, **_named: object) -> str:
        raise hub_errors.LocalEntryNotFoundError("") if local_files_only else error

    monkeypatch.setattr("huggingface_hub.snapshot_download", refuse)
    with pytest.raises(ConfigError, match=told):
        find_on_hub("a/b", "v9", CHECKPOINT_FILES, complete=is_complete)


def test_half_a_snapshot_is_fetched_again(
    checkpoints: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An interrupted download leaves a config without weights."""
    snapshot = _cached(cache, "someone/sam", checkpoints / "sam")
    (snapshot / "model.safetensors").unlink()
    asked: list[str] = []

    def fetch(hub_id: str, _revision: object, _files: object, _key: str) -> Path:
        asked.append(hub_id)
        return checkpoints / "sam"

    monkeypatch.setattr(hub_module, "_fetch", fetch)
    found = find_weights("sam", NetworkOptions(weights="someone/sam"))
    assert (found, asked) == (checkpoints / "sam", ["someone/sam"])


def test_the_cache_is_looked_at_without_a_network(checkpoints: Path, cache: Path) -> None:
    assert cached_on_hub("someone/sam", None, CHECKPOINT_FILES) is None
    snapshot = _cached(cache, "someone/sam", checkpoints / "sam")
    assert cached_on_hub("someone/sam", None, CHECKPOINT_FILES) == snapshot
    assert cached_on_hub("no/hub/id", None, CHECKPOINT_FILES) is None


def test_a_config_names_an_original_file(cache: Path) -> None:
    from prelabel.config import load_config

    (cache / "c.yaml").write_text(
        f"ontology: {{things: [car]}}\nsegment: {{kind: sam, weights: {cache}/my_sam.pth}}\n"
    )
    options: Any = load_config(cache / "c.yaml").segment
    with pytest.raises(ConfigError, match=r"weights file .*my_sam\.pth does not exist"):
        find_weights("sam", options)
    os.mkfifo(cache / "my_sam.pth")
    with pytest.raises(ConfigError, match="does not exist"):
        find_weights("sam", options)


def test_a_config_without_a_model_type_passes(cache: Path) -> None:
    (cache / "config.json").write_text(json.dumps([1]))
    assert model_type(cache) == ""
