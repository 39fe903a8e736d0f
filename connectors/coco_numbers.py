"""The ids that images have in a COCO file."""

from __future__ import annotations

import re

from prelabel.data import ImageRecord

__all__ = ["ImageNumbers"]

_PLAIN = re.compile(r"0|[1-9][0-9]{0,17}")


class ImageNumbers:
    """Hands out COCO's integer ids, each once.

    An image whose source has a whole number for it keeps that: labels of images that a COCO file
    lists fit to that file's annotations. The others are counted from 1 in the order in which they
    are asked for.
    """

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._last = 0

    def number(self, record: ImageRecord) -> int:
        """The id of an image that was not asked for before."""
        own = int(record.ref) if _PLAIN.fullmatch(record.ref) else None
        if own is None or own in self._taken:
            own = self._count()
        self._taken.add(own)
        return own

    def _count(self) -> int:
        self._last += 1
        while self._last in self._taken:
            self._last += 1
        return self._last
