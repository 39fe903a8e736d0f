"""Parts of a source for several machines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelabel.errors import ConfigError
from prelabel.job.shards import Shard


def test_a_shard_is_named_from_0() -> None:
    assert Shard.parse("0/8") == Shard(0, 8)
    assert Shard.parse(" 7/8 ") == Shard(7, 8)
    assert Shard.parse("7/8").folder == "shard-7-of-8"


@pytest.mark.parametrize("text", ["", "8/8", "1", "-1/8", "0/0", "1/2/3", "a/b", "1.0/2", "0 / 8"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="0/8 to 7/8"):
        Shard.parse(text)


@given(st.text(), st.integers(1, 9))
def test_an_image_belongs_to_one_part(image_id: str, count: int) -> None:
    assert sum(Shard(index, count).holds(image_id) for index in range(count)) == 1


def test_every_machine_decides_alike() -> None:
    """Pinned: were it to change, shards of an interrupted job would overlap."""
    held = [name for name in ("a", "b", "c", "d", "é", "\udcff") if Shard(0, 2).holds(name)]
    # The parity of the eighth byte of each sha256.
    assert held == ["a", "b", "c", "\udcff"]
