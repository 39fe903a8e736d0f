"""Vocabularies: nothing is unknown, separators keep their ids, the world's words are one token."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer, CLIPTokenizer

from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.tokenizers import SEPARATORS, build_bert_tokenizer, build_clip_tokenizer

WORLD = tuple(prompt for category in ONTOLOGY for prompt in category.prompts)
BERT = build_bert_tokenizer(WORLD)
CLIP = build_clip_tokenizer(WORLD)
WORDS = st.lists(st.text(string.ascii_letters + string.digits + "-'", min_size=1, max_size=20))


def test_separators_keep_the_ids_that_grounding_dino_expects() -> None:
    assert BERT("person . car ?")["input_ids"][::2] == [
        SEPARATORS["[CLS]"],
        SEPARATORS["."],
        SEPARATORS["?"],
    ]
    assert BERT("")["input_ids"] == [101, 102]
    assert BERT.pad_token_id == 0
    assert BERT.convert_tokens_to_ids([".", "?"]) == [1012, 1029]


@settings(max_examples=60, deadline=None)
@given(WORDS)
def test_no_english_prompt_is_unknown_to_the_detector(words: list[str]) -> None:
    tokens = BERT.tokenize(" ".join(words))
    assert BERT.unk_token not in tokens
    letters = "".join(token.removeprefix("##") for token in tokens)
    assert letters == "".join(words).lower()


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=40))
def test_any_text_whatever_is_known_to_the_stuff_scorer(text: str) -> None:
    ids = CLIP(text)["input_ids"]
    assert ids[0] == CLIP.bos_token_id
    assert ids[-1] == CLIP.eos_token_id
    assert CLIP.eos_token_id not in ids[1:-1]


@pytest.mark.parametrize("word", ["person", "automobile", "sky", "pavement", "zebra"])
def test_common_words_are_one_token(word: str) -> None:
    assert BERT.tokenize(word) == [word]
    assert CLIP.tokenize(word) == [word + "</w>"]


def test_a_new_word_becomes_one_token_and_leaves_the_others_alone() -> None:
    more = build_clip_tokenizer([*WORLD, "zorp"])
    assert more.tokenize("zorp") == ["zorp</w>"]
    assert len(CLIP.tokenize("zorp")) > 1
    assert more.tokenize("sea sand sidewalk") == CLIP.tokenize("sea sand sidewalk")


@pytest.mark.parametrize("tokenizer", [BERT, CLIP])
def test_a_saved_vocabulary_loads_as_it_was(
    tokenizer: BertTokenizer | CLIPTokenizer, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "a photo of an antelope, 3 T-shirts and a beach ball"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
