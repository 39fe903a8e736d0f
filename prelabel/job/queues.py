"""A queue between threads that is bounded by bytes, not by count: images differ a thousandfold."""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

__all__ = ["ByteQueue", "Closed"]

Item = TypeVar("Item")


class Closed(Exception):  # noqa: N818 – an end, not an error
    """The queue was closed, and holds nothing more."""


class ByteQueue(Generic[Item]):
    """First in, first out; whoever puts waits while too many bytes are inside.

    An item larger than the bound passes when the queue is empty, so that nothing waits for ever.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: deque[tuple[Item, int]] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()

    def put(self, item: Item, size: int) -> None:
        """Add an item of `size` bytes. Raises Closed where nobody will take it."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._fits(size))
            if self._closed:
                raise Closed
            self._items.append((item, size))
            self._bytes += size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return not self._items or self._bytes + size <= self._max_bytes

    def get(self, timeout: float | None = None) -> Item:
        """Take the oldest item.

        Raises:
            Closed: there is none and there will be none.
            TimeoutError: none came within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self._items or self._closed, timeout):
                raise TimeoutError
            if not self._items:
                raise Closed
            item, size = self._items.popleft()
            self._bytes -= size
            self._changed.notify_all()
            return item

    def close(self) -> None:
        """Let nothing more in; what is inside can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
