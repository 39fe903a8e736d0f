"""`prelabel doctor`: each fault that would end a run, or spoil it, is told before it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import pytest
from PIL import Image

from prelabel.cli import doctor_device, doctor_places, main
from prelabel.cli.examination import examine
from prelabel.cli.findings import Finding
from prelabel.cli.running import RunRequest
from prelabel.job.lock import locked
from prelabel.models.weights import embedded_folder

PAINT = """
source: {folder}/photos
out: {folder}/run
cache: {{folder: {folder}/cache, max_gib: 0.01}}
ontology:
  things: [{{name: car, color: [200, 0, 0]}}]
  stuff: [{{name: sky, color: [0, 0, 200]}}]
detect: {{kind: paint}}
segment: {{kind: paint}}
stuff: {{kind: paint}}
"""
EMBEDDED = """
source: {folder}/photos
out: {folder}/run
cache: {{folder: {folder}/cache, max_gib: 0.01}}
ontology:
  things: [car]
  stuff: [sky]
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "photos").mkdir()
    for name in "abc":
        Image.new("RGB", (64, 48), (0, 0, 200)).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


def _config(folder: Path, text: str = PAINT) -> Path:
    path = folder / "c.yaml"
    path.write_text(text.format(folder=folder))
    return path


def _examine(folder: Path, *overrides: str, text: str = PAINT, deep: bool = False) -> list[Finding]:
    return [*examine(RunRequest(_config(folder, text), overrides=overrides), deep=deep)]


def _told(findings: list[Finding], subject: str, status: str) -> str:
    """The texts of one subject, all of which have this status."""
    chosen = [finding for finding in findings if finding.subject == subject]
    assert {finding.status for finding in chosen} == {status}, chosen
    return "\n".join(finding.text for finding in chosen)


def _of_status(findings: list[Finding], status: str) -> list[str]:
    return [finding.subject for finding in findings if finding.status == status]


# --- the command ------------------------------------------------------------------------------


def _call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as caught:
        main([str(argument) for argument in arguments])
    return int(caught.value.code or 0)


def test_a_healthy_config(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("doctor", _config(folder)) == 0
    out = capsys.readouterr().out
    assert "ok    source: 3 images listed" in out
    assert out.endswith("0 to mend, 0 to look at: a run can start\n")
    assert not (folder / "run").exists() and not (folder / "cache").exists()


def test_json_and_the_exit_code(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _call("doctor", _config(folder), "--json", "--source", folder / "gone") == 2
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    (bad,) = (each for each in document["findings"] if each["status"] == "fail")
    assert bad["subject"] == "source" and "gone does not exist" in bad["text"]
    assert _call("doctor", _config(folder), "--json") == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_torch_is_not_loaded(folder: Path) -> None:
    script = (
        "import sys; from prelabel.cli.examination import examine; "
        "from prelabel.cli.running import RunRequest; from pathlib import Path; "
        "found = list(examine(RunRequest(Path(sys.argv[1])))); "
        "sys.exit('torch' in sys.modules or len(found) < 9)"
    )
    config = _config(folder, EMBEDDED)
    subprocess.run([sys.executable, "-c", script, str(config)], check=True, timeout=120)


def test_a_wrong_config_is_all_there_is_to_say(folder: Path) -> None:
    (finding,) = _examine(folder, "merge.min_scor=0.2")
    assert (finding.subject, finding.status) == ("config", "fail")
    assert "did you mean merge.min_score?" in finding.text


# --- networks and prompts ---------------------------------------------------------------------


def test_embedded_weights_are_named_with_their_digest(folder: Path) -> None:
    found = _examine(folder, text=EMBEDDED)
    for role, kind in (("detect", "grounding-dino"), ("segment", "sam"), ("stuff", "clipseg")):
        text = _told(found, f"weights of {role}", "ok")
        assert text.startswith(f"{kind}, embedded") and "digest" in text
    assert "take 4 of 256 tokens" in _told(found, "prompts", "ok")
    assert _of_status(found, "fail") == []


def test_weights_that_are_missing_or_of_another_kind(folder: Path) -> None:
    found = _examine(
        folder,
        "detect.weights=/no/such/folder",
        f"segment.weights={embedded_folder('clipseg')}",
        "stuff.weights=nobody/has-this",
        text=EMBEDDED,
    )
    assert "does not exist" in _told(found, "weights of detect", "fail")
    assert "holds a network of kind clipseg" in _told(found, "weights of segment", "fail")
    assert "prelabel models pull nobody/has-this" in _told(found, "weights of stuff", "warn")


def test_prompts_that_the_detector_does_not_know(folder: Path) -> None:
    found = _examine(folder, 'ontology.things=["日本", "car 日本", "car"]', text=EMBEDDED)
    texts = [each.text for each in found if each.subject == "prompts" and each.status == "warn"]
    assert len(texts) == 2
    assert "knows nothing of '日本'" in texts[0]
    assert "knows only a part of 'car 日本'" in texts[1]


def test_more_prompts_than_fit_one_list(folder: Path) -> None:
    names = ", ".join(f"car {'car ' * (number % 7)}x{number}" for number in range(40))
    found = _examine(folder, f"ontology.things=[{names}]", text=EMBEDDED)
    texts = "\n".join(each.text for each in found if each.subject == "prompts")
    assert "lists of at most 256" in texts


def test_a_prompt_of_stuff_that_is_too_long(folder: Path) -> None:
    found = _examine(folder, f"ontology.stuff=[{'sky ' * 80}]", text=EMBEDDED)
    assert "takes 82 tokens, more than 77; shorten it" in "\n".join(
        each.text for each in found if each.status == "fail"
    )


def test_a_damaged_tokenizer(folder: Path) -> None:
    shutil.copytree(embedded_folder("grounding-dino"), folder / "dino")
    (folder / "dino" / "tokenizer.json").write_text("{}")
    found = _examine(folder, f"detect.weights={folder}/dino", text=EMBEDDED)
    assert "tokenizer.json is no tokenizer" in _told(found, "prompts", "fail")


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["ontology.stuff=[]"], "it has no stuff"),
        (["ontology.things=[]"], "it has no things"),
        (["ontology.things=[{name: car, prompts: [sky]}]"], "'sky' is a prompt of car and sky"),
        (["ontology.things=[car, Car]"], "car and Car differ only in case"),
        (
            ["ontology.things=[{name: car, color: [0, 0, 200]}]"],
            "car and sky have the same color (0, 0, 200)",
        ),
    ],
)
def test_an_ontology_that_is_hardly_meant(folder: Path, overrides: list[str], told: str) -> None:
    assert told in _told(_examine(folder, *overrides), "ontology", "warn")


# --- the device -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("device", "gpus", "cuda", "status", "told"),
    [
        ("auto", [], None, "ok", "cpu, 9.0 GB of memory free"),
        ("auto", [8 * 10**9] * 2, "12.8", "ok", "2 GPU, 8 GB each, torch for CUDA 12.8"),
        ("cuda", [], "12.8", "fail", "the system shows no GPU"),
        ("cuda", [8 * 10**9], None, "fail", "torch is built without CUDA"),
        ("cuda", [10**6], "12.8", "fail", "the networks alone need about"),
    ],
)
def test_devices(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    device: str,
    gpus: list[int],
    cuda: str | None,
    status: str,
    told: str,
) -> None:
    monkeypatch.setattr(doctor_device, "_gpu_memory", lambda: gpus)
    monkeypatch.setattr(doctor_device, "_torch_cuda", lambda: cuda)
    monkeypatch.setattr(doctor_device, "_free_memory", lambda: 9 * 10**9)
    found = _examine(folder, f"device={device}", text=EMBEDDED)
    assert told in _told(found, "device", status)


def test_the_probes_agree_with_torch() -> None:
    import torch

    assert doctor_device._torch_cuda() == torch.version.cuda
    if not torch.cuda.is_available():
        assert torch.version.cuda is None or doctor_device._gpu_memory() == []
    free = doctor_device._free_memory()
    assert sys.platform != "linux" or (free is not None and free > 10**6)


# --- source and output ------------------------------------------------------------------------


def test_images_that_cannot_be_read(folder: Path) -> None:
    (folder / "photos" / "b.png").write_bytes(b"<html>")
    text = _told(_examine(folder), "images", "warn")
    assert "2 of 3 that were tried can be read" in text and "(decode) b.png" in text
    for name in "ac":
        (folder / "photos" / f"{name}.png").write_bytes(b"")
    assert "none of 3" in _told(_examine(folder), "images", "fail")


def test_ids_that_coco_cannot_hold(folder: Path) -> None:
    (folder / "images.txt").write_text(f"photos/a.png\n{folder}/photos/b.png\n")
    found = _examine(folder, f"source=list:{folder}/images.txt")
    text = next(each.text for each in found if each.status == "warn")
    assert "b.png' leads out of its folder" in text and "COCO" in text


def test_no_source_at_all(folder: Path) -> None:
    found = _examine(folder, "source=null")
    assert "names none; add `source:`" in _told(found, "source", "fail")


def test_output_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    text = _told(_examine(folder, f"out={folder}/file/run"), "output", "fail")
    assert "is a file" in text or "Not a directory" in text
    if sys.platform == "linux":
        assert "/proc" in _told(_examine(folder, "out=/proc/run"), "output", "fail")


def test_output_and_source_in_each_other(folder: Path) -> None:
    found = _examine(folder, f"out={folder}/photos")
    assert "is the source itself" in next(e.text for e in found if e.status == "fail")
    found = _examine(folder, f"out={folder}/photos/run")
    assert "lies inside the source" in next(e.text for e in found if e.status == "warn")


_Usage = namedtuple("_Usage", "total used free")


@pytest.mark.parametrize(
    ("free", "status", "told"),
    [(10**9, "ok", "1.0 GB free"), (60_000, "warn", "scarce"), (1000, "fail", "make room")],
)
def test_disk_space(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, status: str, told: str
) -> None:
    monkeypatch.setattr(doctor_places.shutil, "disk_usage", lambda path: _Usage(10**12, 0, free))
    # Three images of 64 x 48: 3 x (16,000 + 0.1 x 3072) bytes.
    text = _told(_examine(folder, "cache.enabled=false"), "disk", status)
    assert "about 49 kB needed for 3 images" in text and told in text


def test_a_network_file_system(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor_places, "_system_of", lambda path: "nfs4")
    assert "--state DIR" in _told(_examine(folder), "ledger", "warn")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_file_system_of_a_folder_is_known() -> None:
    assert doctor_places._system_of(Path("/proc/self")) == "proc"


def test_an_earlier_run_is_told(folder: Path) -> None:
    assert _call("run", _config(folder), "--engine", "inline") == 0
    assert "holds 3 labels made in this way" in _told(_examine(folder), "resume", "ok")
    found = _examine(folder, "merge.min_score=0.9")
    assert "made in another way" in _told(found, "resume", "warn")


def test_a_run_that_is_going_on(folder: Path) -> None:
    (folder / "run").mkdir()
    with locked(folder / "run"):
        found = _examine(folder)
    assert "is in use by" in next(each.text for each in found if each.status == "fail")
    assert _of_status(_examine(folder), "fail") == []


def test_a_cache_that_cannot_be_written(folder: Path) -> None:
    (folder / "file").write_text("")
    found = _examine(folder, f"cache.folder={folder}/file/cache")
    assert "set cache.folder" in _told(found, "cache", "warn")
    assert _told(_examine(folder, "cache.enabled=false"), "cache", "ok") == "switched off"
    large = _told(_examine(folder, "cache.max_gib=900000"), "cache", "warn")
    assert "lower cache.max_gib" in large


# --- deep -------------------------------------------------------------------------------------


def test_deep_labels_one_image_and_writes_nothing(folder: Path) -> None:
    found = _examine(folder, deep=True)
    assert _told(found, "networks", "ok").startswith("loaded in")
    text = _told(found, "label", "ok")
    assert "a.png has 1 segments" in text and "3 images take about" in text
    assert not (folder / "run").exists() and not (folder / "cache").exists()


def test_deep_tells_where_nothing_is_found(folder: Path) -> None:
    found = _examine(folder, "ontology.stuff=[]", deep=True)
    assert "Nothing was found on it" in _told(found, "label", "warn")


def test_deep_waits_until_the_rest_is_mended(folder: Path) -> None:
    found = _examine(folder, f"source={folder}/gone", deep=True)
    assert "not loaded" in _told(found, "networks", "warn")
