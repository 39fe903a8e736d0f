"""What this thread has in hand, image and stage, so that whatever is logged can say so."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["at_stage", "in_hand", "over_image"]


class _Hand(threading.local):
    image_id = ""
    stage = ""


_HAND = _Hand()


def in_hand() -> tuple[str, str]:
    """The image and the stage, each "" where there is none."""
    return _HAND.image_id, _HAND.stage


@contextmanager
def over_image(image_id: str) -> Iterator[None]:
    """In this block, this thread is about that image, or about those of a batch."""
    before, _HAND.image_id = _HAND.image_id, image_id
    try:
        yield
    finally:
        _HAND.image_id = before


@contextmanager
def at_stage(stage: str) -> Iterator[None]:
    """In this block, this thread is in that stage."""
    before, _HAND.stage = _HAND.stage, stage
    try:
        yield
    finally:
        _HAND.stage = before
