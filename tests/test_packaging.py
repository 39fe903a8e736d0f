"""What ships: configs that load, connectors that are found, types, and a version."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

import prelabel
from prelabel.config import default_config, dump_config, load_config
from prelabel.demo.ontology import ONTOLOGY
from prelabel.models.registry import ROLES
from prelabel.strict_yaml import parse_yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_there_are_configs() -> None:
    assert {path.stem for path in CONFIGS} >= {"demo", "base", "best"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_a_config_loads_and_writes_out_every_key(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    resolved = tmp_path / "resolved.yaml"
    resolved.write_text(dump_config(config))
    assert load_config(resolved) == config
    written, full = parse_yaml(path.read_text(), "w"), parse_yaml(resolved.read_text(), "f")
    assert isinstance(written, dict) and isinstance(full, dict)
    for key, value in full.items():
        if isinstance(value, dict) and key != "ontology":
            assert written[key] == value, f"{path.name}: {key} leaves something to the defaults"


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_number_stands_with_its_range(path: Path) -> None:
    for line in path.read_text().splitlines():
        text, _, comment = line.partition("#")
        value = text.partition(":")[2].strip()
        if value.replace(".", "", 1).isdigit():
            assert " to " in comment or "or more" in comment, f"{path.name}: {line}"


@pytest.mark.parametrize(
    "path", sorted((ROOT / "configs/ontologies").glob("*.yaml")), ids=lambda path: path.stem
)
def test_an_ontology_loads(path: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(f"ontology: {path}\n")
    ontology = load_config(config).ontology
    assert ontology.things and ontology.stuff
    assert all(category.color for category in ontology)
    assert len({category.color for category in ontology}) == len(ontology)


def test_the_demo_config_is_the_default() -> None:
    config = load_config(ROOT / "configs" / "demo.yaml")
    assert config.ontology == ONTOLOGY
    default = default_config(ONTOLOGY).model_copy(
        update={"source": config.source, "out": config.out}
    )
    assert config == default


def test_connectors_are_found_by_name() -> None:
    found = {entry.name: entry.value for entry in entry_points(group="prelabel.connectors")}
    assert found.items() >= PROJECT["project"]["entry-points"]["prelabel.connectors"].items()
    for entry in entry_points(group="prelabel.connectors"):
        assert callable(entry.load())


def test_both_packages_are_typed_and_the_weights_ship() -> None:
    for name in ("prelabel", "connectors"):
        assert (ROOT / name / "py.typed").is_file()
    data = PROJECT["tool"]["setuptools"]["package-data"]
    assert data["prelabel.demo"] == ["weights/**/*", "MODEL_CARD.md"]


def test_the_pins_cover_what_is_declared() -> None:
    pins = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    extras = PROJECT["project"]["optional-dependencies"]
    for requirement in PROJECT["project"]["dependencies"] + extras["test"]:
        name = requirement.split(">")[0].split("<")[0].split("=")[0].strip().lower()
        assert name in pins, f"{name} has no pin in constraints.txt"


def test_kinds_of_networks_are_listed_without_torch() -> None:
    assert set(ROLES) == {"detect", "segment", "stuff"}
    script = "import sys, prelabel.config; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, timeout=60)


def test_the_front_door() -> None:
    from prelabel.pipeline import Pipeline

    assert prelabel.Pipeline is Pipeline
    assert all(hasattr(prelabel, name) for name in prelabel.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        prelabel.Nothing  # noqa: B018


@pytest.mark.parametrize("name", ["demo", "test", "check", "venv"])
def test_scripts_are_strict_bash(name: str) -> None:
    path = ROOT / "scripts" / name
    text = path.read_text()
    assert text.startswith("#!/usr/bin/env bash\n") and "set -euo pipefail" in text
    assert path.stat().st_mode & 0o111
    subprocess.run(["bash", "-n", str(path)], check=True, timeout=30)
