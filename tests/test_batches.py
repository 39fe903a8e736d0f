"""Batches of one size each, and fewer at a time once memory ran out."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prelabel.models.batches import Batches


@given(st.lists(st.sampled_from("abc")))
def test_items_of_one_key_go_together_and_come_back_in_order(items: list[str]) -> None:
    groups: list[list[str]] = []

    def shout(group: Sequence[str]) -> list[str]:
        groups.append(list(group))
        return [item.upper() for item in group]

    assert Batches().run(items, lambda item: item, shout) == [item.upper() for item in items]
    assert sorted(groups) == sorted([key] * items.count(key) for key in set(items))


def test_half_as_many_are_tried_when_memory_runs_out_and_from_then_on() -> None:
    tried: list[int] = []

    def holds_two(group: Sequence[int]) -> list[int]:
        tried.append(len(group))
        if len(group) > 2:
            raise torch.OutOfMemoryError("too much")
        return [10 * item for item in group]

    batches = Batches()
    assert batches.run(range(7), lambda _: "size", holds_two) == [10 * item for item in range(7)]
    assert tried == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    tried.clear()
    assert batches.run([1, 2], lambda _: "size", holds_two) == [10, 20]
    assert tried == [1, 1]
    tried.clear()
    assert batches.run([1, 2], lambda _: "another size", holds_two) == [10, 20]
    assert tried == [2]


def test_one_image_too_large_for_the_memory_is_an_error() -> None:
    def holds_none(group: Sequence[int]) -> list[int]:
        raise torch.OutOfMemoryError("too much")

    with pytest.raises(torch.OutOfMemoryError):
        Batches().run([1, 2, 3], lambda _: "size", holds_none)
