"""A queue bounded by bytes."""

from __future__ import annotations

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prelabel.job.queues import ByteQueue, Closed


def test_first_in_first_out() -> None:
    queue: ByteQueue[str] = ByteQueue(10)
    queue.put("a", 3)
    queue.put("b", 7)
    assert [queue.get(), queue.get()] == ["a", "b"]


def test_who_puts_too_much_waits_until_there_is_room() -> None:
    queue: ByteQueue[str] = ByteQueue(10)
    queue.put("a", 6)
    entered = threading.Event()

    def put() -> None:
        queue.put("b", 5)
        entered.set()

    thread = threading.Thread(target=put)
    thread.start()
    assert not entered.wait(0.05)
    assert queue.get() == "a"
    assert entered.wait(10)
    thread.join()
    assert queue.get() == "b"


def test_an_item_larger_than_the_bound_passes_alone() -> None:
    queue: ByteQueue[str] = ByteQueue(10)
    queue.put("huge", 99)
    assert queue.get() == "huge"


def test_a_closed_queue_gives_what_it_holds_and_takes_nothing() -> None:
    queue: ByteQueue[str] = ByteQueue(10)
    queue.put("a", 1)
    queue.close()
    with pytest.raises(Closed):
        queue.put("b", 1)
    assert queue.get() == "a"
    with pytest.raises(Closed):
        queue.get()


@pytest.mark.parametrize("putting", [True, False])
def test_who_waits_at_a_queue_that_is_closed_is_told(putting: bool) -> None:
    queue: ByteQueue[str] = ByteQueue(1)
    told = threading.Event()
    if putting:
        queue.put("full", 1)

    def wait() -> None:
        try:
            queue.put("more", 1) if putting else queue.get()
        except Closed:
            told.set()

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.02)
    queue.close()
    thread.join(10)
    assert told.is_set()


def test_waiting_has_an_end_where_one_is_given() -> None:
    queue: ByteQueue[str] = ByteQueue(1)
    with pytest.raises(TimeoutError):
        queue.get(0.01)


@given(st.lists(st.integers(1, 20), max_size=30))
def test_never_more_bytes_than_allowed_or_one_item(sizes: list[int]) -> None:
    queue: ByteQueue[int] = ByteQueue(15)
    held: list[int] = []
    most = 0

    def put() -> None:
        for size in sizes:
            queue.put(size, size)
        queue.close()

    thread = threading.Thread(target=put)
    thread.start()
    try:
        while True:
            with queue._changed:
                most = max(most, queue._bytes if len(queue._items) > 1 else 0)
            held.append(queue.get(10))
    except Closed:
        pass
    thread.join()
    assert held == sizes
    assert most <= 15
