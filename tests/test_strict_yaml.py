"""YAML read strictly: text stays text, surprises are refused, and everything comes back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prelabel.errors import ConfigError
from prelabel.strict_yaml import MAX_BYTES, MAX_DEPTH, Document, dump_yaml, parse_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("on", "on"),
        ("yes", "yes"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1:30", "1:30"),
        ("1_000", "1_000"),
        ("2024-01-01", "2024-01-01"),
        (".nan", ".nan"),
        (".inf", ".inf"),
        ("<<", "<<"),
        ("=", "="),
        ("true", True),
        ("null", None),
        ("~", None),
        ("", None),
        ("'true'", "true"),
        ("12", 12),
        ("-3", -3),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1e3", 1000.0),
        ("[a, 1]", ["a", 1]),
    ],
)
def test_plain_scalars(text: str, value: Document) -> None:
    assert parse_yaml(f"key: {text}", "t") == {"key": value}


@pytest.mark.parametrize("word", ["no", "010", "true", "null", "7", "1e3", "~"])
def test_names_are_always_text(word: str) -> None:
    parsed = parse_yaml(f"things: [{word}, {{name: {word}, prompts: [{word}], id: 7}}]", "t")
    assert parsed == {"things": [word, {"name": word, "prompts": [word], "id": 7}]}


def test_a_name_that_is_left_out_is_none() -> None:
    assert parse_yaml("name:", "t") == {"name": None}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: 1\na: 2", "f.yaml, line 2: the key 'a' stands twice"),
        ("a: &x 1\nb: *x", "f.yaml, line 1: anchors and aliases"),
        ("a: !!python/object:os.system x", "f.yaml, line 1: tags"),
        ("a: !!str 5", "tags"),
        ("? [1, 2]\n: 3", "a key must be a single word"),
        ("a: [1, 2", "f.yaml, line 1 is not valid YAML"),
        ("a: 1\n---\nb: 2", "f.yaml"),
        ("a: 1e999", "too large"),
        ("a: " + "9" * 5000, "too long"),
        ("a: \x07", "f.yaml is not valid YAML"),
    ],
)
def test_refusals_name_file_and_line(text: str, told: str) -> None:
    with pytest.raises(ConfigError, match=r"f\.yaml") as caught:
        parse_yaml(text, "f.yaml")
    assert told in str(caught.value)


def test_depth_and_size_are_capped() -> None:
    parse_yaml("[" * (MAX_DEPTH - 1) + "]" * (MAX_DEPTH - 1), "t")
    with pytest.raises(ConfigError, match="levels deep"):
        parse_yaml("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "t")
    with pytest.raises(ConfigError, match="longer than"):
        parse_yaml("a" * (MAX_BYTES + 1), "t")


_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=12)
_LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**12), 10**12),
    st.floats(allow_nan=False, allow_infinity=False),
    _TEXT,
    st.sampled_from(
        ["no", "on", "010", "1e3", "true", "null", "~", "12:30", "1_0", "", "-", "0.5"]
    ),
)
_KEYS = _TEXT.filter(lambda key: key not in ("name", "prompts", "things", "stuff"))
_DOCUMENTS = st.dictionaries(
    _KEYS,
    st.recursive(
        _LEAVES,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=3),
        max_leaves=8,
    ),
    max_size=4,
)


@settings(max_examples=60)
@given(_DOCUMENTS)
def test_what_is_dumped_comes_back(document: dict[str, Document]) -> None:
    back = parse_yaml(dump_yaml(document), "t")
    assert back == document
    assert repr(back) == repr(document)  # 1 is not 1.0, and True is not 1
