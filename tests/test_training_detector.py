"""The detector's training: prompts as the pipeline lays them out, targets, losses, attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers.models.grounding_dino.modeling_grounding_dino import (
    MultiScaleDeformableAttention,
)

from prelabel.demo.ontology import ONTOLOGY
from prelabel.demo.tokenizers import build_bert_tokenizer
from prelabel.demo.training.data import DISTRACTORS, world_words
from prelabel.demo.training.deformable import deformable_attention, is_available
from prelabel.demo.training.detector_forward import jitter_boxes
from prelabel.demo.training.detector_losses import (
    Truth,
    assign_positions,
    generalised_iou,
    match,
)
from prelabel.demo.training.prompts import Phrase, all_phrases, draw_phrases, lay_out

BERT = build_bert_tokenizer(world_words())


def test_tokens_are_those_of_the_joined_text() -> None:
    phrases = all_phrases()
    batch = lay_out(BERT, [phrases])
    text = " . ".join(phrase.text for phrase in phrases) + " ."
    assert batch.inputs["input_ids"][0].tolist() == BERT(text)["input_ids"]


def test_owners_name_the_category_of_each_token_and_padding_is_masked() -> None:
    lists = [[Phrase("beach ball", 8), Phrase("zebra", 0)], [Phrase("dog", 4)]]
    batch = lay_out(BERT, lists)
    assert batch.owners.tolist() == [[0, 8, 8, 0, 0, 0, 0], [0, 4, 0, 0, 0, 0, 0]]
    assert batch.phrases.tolist() == [[-1, 0, 0, -1, 1, -1, -1], [-1, 0, -1, -1, -1, -1, -1]]
    assert batch.inputs["attention_mask"].sum(1).tolist() == [7, 4]


def test_drawn_prompts_hold_synonyms_absent_classes_and_strangers() -> None:
    lists = [draw_phrases(np.random.default_rng(seed)) for seed in range(40)]
    drawn = {(phrase.text, phrase.category_id) for phrases in lists for phrase in phrases}
    assert {(phrase.text, phrase.category_id) for phrase in all_phrases()} <= drawn
    strangers = {text for text, category_id in drawn if category_id == 0}
    assert strangers and strangers <= set(DISTRACTORS)
    assert {len({phrase.category_id for phrase in phrases} - {0}) for phrases in lists} >= {2, 10}


def test_no_distractor_is_a_word_of_the_world() -> None:
    words = {
        word for category in ONTOLOGY for prompt in category.prompts for word in prompt.split()
    }
    assert not words & set(DISTRACTORS)


def test_what_the_prompt_does_not_ask_for_is_no_target() -> None:
    batch = lay_out(BERT, [[Phrase("dog", 4), Phrase("hound", 4)]])
    boxes = torch.tensor([[0.5, 0.5, 0.2, 0.2], [0.2, 0.2, 0.1, 0.1]])
    truth = Truth.of([boxes], [torch.tensor([4, 2])], batch)
    assert truth.count == 1
    assert truth.tokens[0].tolist() == [[0, 1, 0, 1, 0, 0]]


def test_generalised_iou_of_drawn_boxes() -> None:
    one = torch.tensor([0.25, 0.25, 0.5, 0.5])  # the upper left quarter
    assert float(generalised_iou(one, one)) == pytest.approx(1.0)
    other = torch.tensor([0.75, 0.75, 0.5, 0.5])  # the lower right quarter: hull 1, union 1/2
    assert float(generalised_iou(one, other)) == pytest.approx(-0.5)
    half = torch.tensor([0.25, 0.5, 0.5, 1.0])  # the left half: IoU 1/2, hull = union
    assert float(generalised_iou(one, half)) == pytest.approx(0.5)


def test_positions_near_the_centre_answer_for_a_box_on_the_level_of_its_size() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.05, 0.05], [0.25, 0.5, 0.5, 1.0]])
    shapes = ((8, 8), (4, 4), (2, 2), (1, 1))
    positions, chosen = assign_positions(boxes, shapes)
    pairs = set(zip(positions.tolist(), chosen.tolist(), strict=True))
    assert {position for position, box in pairs if box == 0} == {27, 28, 35, 36}
    assert {position for position, box in pairs if box == 1} == {84}  # all four cells are coarse
    assert assign_positions(boxes[:0], shapes)[0].tolist() == []


def test_matching_takes_the_cheapest_pairs() -> None:
    logits = torch.tensor([[4.0, -4.0], [-4.0, 4.0], [4.0, -4.0]])
    boxes = torch.tensor([[0.2, 0.2, 0.1, 0.1], [0.8, 0.8, 0.1, 0.1], [0.5, 0.5, 0.9, 0.9]])
    true = torch.tensor([[0.8, 0.8, 0.1, 0.1], [0.2, 0.2, 0.1, 0.1]])
    tokens = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    queries, chosen = match(logits, boxes, true, tokens)
    assert dict(zip(queries.tolist(), chosen.tolist(), strict=True)) == {0: 1, 1: 0}
    assert len(match(logits, boxes, true[:0], tokens[:0])[0]) == 0


def test_jittered_boxes_know_their_truth() -> None:
    boxes = [torch.tensor([[0.5, 0.5, 0.2, 0.4]]), torch.zeros(0, 4)]
    jittered = jitter_boxes(np.random.default_rng(0), boxes, queries=8)
    assert jittered is not None
    assert jittered.truth.tolist() == [[0, -1] * 4, [-2, -2] * 4]
    assert jittered.groups.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    near = generalised_iou(jittered.boxes[0, ::2], boxes[0])
    assert float(near.min()) > 0.2
    assert jitter_boxes(np.random.default_rng(0), [boxes[1]]) is None


@pytest.mark.skipif(not is_available(16), reason="no C compiler")
def test_compiled_attention_equals_the_one_of_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, 7), (3, 4)]
    value = torch.randn(2, 47, 3, 16, generator=generator, requires_grad=True)
    places = torch.rand(2, 6, 3, 2, 2, 2, generator=generator) * 1.4 - 0.2
    weights = torch.rand(2, 6, 3, 2, 2, generator=generator)
    inputs = [value, places.requires_grad_(), weights.requires_grad_()]
    results = []
    for attention in (MultiScaleDeformableAttention(), deformable_attention):
        output = attention(value, torch.tensor(shapes), shapes, None, places, weights, 64)
        results.append([output, *torch.autograd.grad(output.square().sum(), inputs)])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
