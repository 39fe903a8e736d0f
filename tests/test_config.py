"""The config: strict, told in sentences, overridden, fingerprinted and written back."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from prelabel.config import (
    STAGE_KEYS,
    Config,
    apply_override,
    build_config,
    default_config,
    dump_config,
    load_config,
)
from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError
from prelabel.models import weights as weights_module
from prelabel.ontology import split_names
from prelabel.strict_yaml import Document

PAINT = """
source: photos
out: runs/x
ontology:
  things: [car, {id: 7, name: dog, prompts: [dog, puppy], color: [1, 2, 3], box_threshold: 0.4}]
  stuff: [sky]
detect: {kind: paint}
segment: {kind: paint}
stuff: {kind: paint}
"""


def _write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def _load(tmp_path: Path, *overrides: str, text: str = PAINT) -> Config:
    return load_config(_write(tmp_path, text), overrides)


def test_bare_names_get_the_next_free_id(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert config.ontology == Ontology(
        (
            Category(1, "car", True),
            Category(7, "dog", True, ("dog", "puppy"), (1, 2, 3), 0.4),
            Category(2, "sky", False),
        )
    )


def test_stages_that_are_left_out_have_their_defaults(tmp_path: Path) -> None:
    config = _load(tmp_path, text="ontology: {things: [car]}")
    assert config == default_config(Ontology((Category(1, "car", True),)))
    assert (config.source, config.explain.enabled) == (None, False)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("detec.kind=paint", "unknown key detec; did you mean detect?"),
        ("merge.min_scor=0.2", "unknown key merge.min_scor; did you mean merge.min_score?"),
        ("merge.wwwww=0.2", "unknown key merge.wwwww; known keys are: "),
        ("ontology.things.1.colour=[1, 2, 3]", "did you mean ontology.things.1.color?"),
        ("ontology.thing=[car]", "unknown key ontology.thing; did you mean ontology.things?"),
        ("merge.min_score=high", 'merge.min_score is "high"; expected a number'),
        ("merge.min_score=true", "merge.min_score is true; expected a number"),
        ("merge.min_score=1.5", "merge.min_score is 1.5; expected at most 1"),
        ("refine.positives=0.5", "refine.positives is 0.5; expected a whole number"),
        ("merge=5", "merge is 5; expected a group of keys"),
        ("explain.enabled=on", 'explain.enabled is "on"; expected true or false'),
        ("source=5", "source is 5; expected text"),
        ("device=tpu", "device is \"tpu\"; expected 'auto', 'cpu' or 'cuda'"),
        ("detect.kind=paint2", 'detect.kind is "paint2"; did you mean paint?; known kinds are: '),
        ("detect=paint", 'detect is "paint"; expected keys such as detect.kind'),
        ("ontology={}", "the ontology is empty"),
        ("ontology=", "ontology is missing"),
        ("ontology.things.1.id=0", "category 'dog' has id 0; ids start at 1"),
        ("ontology.things.1.id=-3", "category 'dog' has id -3"),
        ("ontology.things=[car, car]", "two categories have the name 'car'"),
        ("ontology.stuff=[car]", "two categories have the name 'car'"),
        ("ontology.things=['', car]", "category 1 has an empty name"),
        ("ontology.things=[U.S. flag]", "prompt 'U.S. flag'"),
        ("ontology.things.1.color=[1, 2]", "ontology.things.1.color.2 is missing"),
        ("ontology.things.1.color=[1, 2, 256]", "expected at most 255"),
        ("ontology.things.9=car", "'9' is no position in a list of 2"),
        ("ontology.things=car", 'ontology.things is "car"; expected a list'),
        ("ontology=nowhere.yaml", "the ontology file nowhere.yaml does not exist"),
        ("novalue", "expected a dotted key and a value"),
        ("a..b=1", "expected a dotted key and a value"),
        ("source.deep=1", "--set source.deep: source is"),
    ],
)
def test_wrong_values_are_told_in_a_sentence(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, override)
    assert told in str(caught.value)
    assert "--set" in str(caught.value) or "c.yaml" in str(caught.value)


def test_two_ids_alike_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="two categories have the id 7"):
        _load(tmp_path, text="ontology: {things: [{id: 7, name: a}, {id: 7, name: b}]}")


def test_several_complaints_are_counted(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"merge.a; .* \(and 1 more\)"):
        _load(tmp_path, "merge.a=1", "merge.b=2")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "holds no keys"),
        ("- 1", "holds no keys"),
        ("a: 1\na: 2", "line 2: the key 'a' stands twice"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        _load(tmp_path, text=text)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope.yaml does not exist"):
        load_config(tmp_path / "nope.yaml")
    with pytest.raises(ConfigError, match="is a folder"):
        load_config(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"source: caf\xe9")
    with pytest.raises(ConfigError, match="is not UTF-8"):
        load_config(tmp_path / "latin.yaml")


def test_an_ontology_file_is_relative_to_its_config(tmp_path: Path) -> None:
    (tmp_path / "o").mkdir()
    (tmp_path / "o" / "street.yaml").write_text("things: [no, 010]\nstuff:\n")
    config = _load(tmp_path, "ontology.stuff=[on]", text="ontology: o/street.yaml")
    assert [category.name for category in config.ontology] == ["no", "010", "on"]
    with pytest.raises(ConfigError, match=r"c.yaml: the ontology file .*park.yaml does not exist"):
        _load(tmp_path, text="ontology: o/park.yaml")


def test_overrides_reach_into_groups_and_lists(tmp_path: Path) -> None:
    config = _load(
        tmp_path,
        "refine.threshold=0.25",
        "ontology.things.0.name=true",
        text=PAINT.replace("[car,", "[{name: car},"),
    )
    assert config.refine.threshold == 0.25
    assert config.ontology.things[0].name == "true"
    assert _load(tmp_path, "source=a=b").source == "a=b"


def test_a_later_override_reaches_into_an_ontology_file(tmp_path: Path) -> None:
    (tmp_path / "world.yaml").write_text("things: [{name: cat}]\nstuff: [sky]\n")
    config = _load(
        tmp_path,
        f"ontology={tmp_path / 'world.yaml'}",
        "ontology.things.0.box_threshold=0.4",
    )
    assert config.ontology.things[0].name == "cat"
    assert config.ontology.things[0].box_threshold == 0.4


def test_an_override_makes_the_groups_it_needs() -> None:
    document: dict[str, Document] = {"merge": None}
    apply_override(document, "merge.min_score=0.5")
    apply_override(document, "refine.positives=3")
    assert document == {"merge": {"min_score": 0.5}, "refine": {"positives": 3}}


def test_a_config_is_frozen_and_travels(tmp_path: Path) -> None:
    config = _load(tmp_path)
    assert pickle.loads(pickle.dumps(config)) == config
    with pytest.raises(ValueError, match="frozen"):
        config.device = "cpu"  # type: ignore[misc]


def test_the_resolved_config_comes_back(tmp_path: Path) -> None:
    config = _load(tmp_path, "ontology.stuff=[no, on, 010, 'null', x: y]".replace(", x: y", ""))
    text = dump_config(config)
    assert load_config(_write(tmp_path, text)) == config
    assert "prompts: [dog, puppy]" in text
    assert dump_config(load_config(_write(tmp_path, text))) == text


def test_secrets_in_addresses_are_redacted(tmp_path: Path) -> None:
    config = _load(tmp_path).model_copy(
        update={"source": "https://me:pw@host/x?X-Amz-Signature=abc&size=3&api_key=k"}
    )
    text = dump_config(config)
    assert "https://***@host/x?X-Amz-Signature=***&size=3&api_key=***" in text


# --- fingerprints -----------------------------------------------------------------------------


@pytest.mark.parametrize("stage", STAGE_KEYS)
@pytest.mark.parametrize(
    "override", ["device=cpu", "out=y", "source=y", "ontology.things.1.color="]
)
def test_what_does_not_affect_the_result_does_not_count(
    tmp_path: Path, stage: str, override: str
) -> None:
    assert _load(tmp_path).fingerprint(stage) == _load(tmp_path, override).fingerprint(stage)


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("detect.score=0.5", {"detect", "segment", "refine", "merge", "explain"}),
        ("segment.score=0.5", {"segment", "refine", "merge", "explain"}),
        ("stuff.score=0.5", {"score", "refine", "merge", "explain"}),
        ("refine.positives=5", {"refine", "merge", "explain"}),
        ("merge.min_area=0.5", {"merge", "explain"}),
        ("explain.heatmap_side=9", {"explain"}),
        ("ontology.stuff=[sea]", {"score", "refine", "merge", "explain"}),
        ("ontology.things.1.prompts=[hound]", {"detect", "segment", "refine", "merge", "explain"}),
        ("ontology.things.1.box_threshold=", {"detect", "segment", "refine", "merge", "explain"}),
    ],
)
def test_a_change_counts_for_its_stage_and_all_after(
    tmp_path: Path, override: str, stages: set[str]
) -> None:
    before, after = _load(tmp_path), _load(tmp_path, override)
    changed = {
        stage for stage in STAGE_KEYS if before.fingerprint(stage) != after.fingerprint(stage)
    }
    assert changed == stages


def test_an_unknown_stage_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no stage is called 'blur'; they are detect, "):
        _load(tmp_path).fingerprint("blur")


def test_weights_count_by_their_bytes(tmp_path: Path) -> None:
    digests = []
    for name, data in (("a", b"1"), ("b", b"1"), ("c", b"2")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        (folder / "model.safetensors").write_bytes(data)
        text = f"ontology: {{things: [car]}}\ndetect: {{weights: {folder}}}"
        digests.append(_load(tmp_path, text=text).fingerprint("detect"))
    assert digests[0] == digests[1] != digests[2]


def test_weights_that_are_nowhere_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights_module, "embedded_folder", lambda kind: tmp_path / "none" / kind)
    config = build_config({"ontology": {"things": ["car"]}}, "t")
    with pytest.raises(ConfigError, match="the embedded weights for 'grounding-dino'"):
        config.fingerprint("detect")


def test_names_on_the_command_line_may_hold_blanks() -> None:
    assert split_names(" car,, traffic light ,") == ["car", "traffic light"]
    assert split_names("") == []
