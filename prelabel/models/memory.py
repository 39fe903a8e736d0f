"""Parts of a network that answer the same question once.

A prompt list is the same for every image of a job, and an image is the same for every prompt list
that is put to it. The part that depends only on the one or the other is computed once and its
answer kept; the network around it is transformers' own and notices nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["answer_once", "remember"]


def remember(module: Any, key: Callable[..., Any]) -> dict[Any, Any]:
    """Keep the answers of `module.forward` by `key` of its arguments, for as long as it lives.

    Returns:
        The answers, to be cleared or looked at.
    """
    answers: dict[Any, Any] = {}
    forward = module.forward

    def recall(*args: Any, **kwargs: Any) -> Any:
        question = key(*args, **kwargs)
        if question not in answers:
            answers[question] = forward(*args, **kwargs)
        return answers[question]

    module.forward = recall
    return answers


@contextmanager
def answer_once(module: Any, copy: Callable[[Any], Any]) -> Iterator[None]:
    """For one block, `module.forward` runs at its first call only; later ones get its answer.

    `copy` shields the kept answer from a caller that changes it.
    """
    forward = module.forward
    answers: list[Any] = []

    def repeat(*args: Any, **kwargs: Any) -> Any:
        if not answers:
            answers.append(forward(*args, **kwargs))
        return copy(answers[0])

    module.forward = repeat
    try:
        yield
    finally:
        module.forward = forward
