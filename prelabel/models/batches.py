"""Images through a network together: those of one input size, fewer at a time once memory ran out.

A batch never pads one image to another's size, so what an image gets does not depend on its
neighbours, but for the rounding of larger matrix products.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

__all__ = ["Batches"]

Item = TypeVar("Item")
Result = TypeVar("Result")

_LOGGER = logging.getLogger(__name__)


class Batches:
    """Runs a function over groups of equal items, and remembers how many memory holds."""

    def __init__(self) -> None:
        self._most: dict[Hashable, int] = {}

    def run(
        self,
        items: Sequence[Item],
        key: Callable[[Item], Hashable],
        function: Callable[[Sequence[Item]], Sequence[Result]],
    ) -> list[Result]:
        """`function` over all items of each key at once; one result per item, in order.

        Where the device runs out of memory, half as many are tried, now and from then on.

        Raises:
            torch.OutOfMemoryError: a single item is too much.
        """
        groups: defaultdict[Hashable, list[int]] = defaultdict(list)
        for index, item in enumerate(items):
            groups[key(item)].append(index)
        results: dict[int, Result] = {}
        for shape, indices in groups.items():
            done = self._run_group(shape, [items[index] for index in indices], function)
            results.update(zip(indices, done, strict=True))
        return [results[index] for index in range(len(items))]

    def _run_group(
        self,
        shape: Hashable,
        items: Sequence[Item],
        function: Callable[[Sequence[Item]], Sequence[Result]],
    ) -> list[Result]:
        import torch

        done: list[Result] = []
        while len(done) < len(items):
            count = min(self._most.get(shape, len(items)), len(items) - len(done))
            try:
                done += function(items[len(done) : len(done) + count])
                continue
            except torch.OutOfMemoryError:
                if count == 1:
                    raise
            # Out of the handler, so that the error's frames no longer hold on to tensors.
            torch.cuda.empty_cache()
            self._most[shape] = count // 2
            _LOGGER.warning("%d images at once exceed the memory; trying %d", count, count // 2)
        return done
