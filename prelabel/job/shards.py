"""A part of a source for one of several machines, without any of them talking to another."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from prelabel.errors import ConfigError

__all__ = ["Shard"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Part `index` of `count`, from 0: an image belongs to the part that its id hashes to.

    So a new image in the source moves no other, and every machine decides alike.
    """

    index: int
    count: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """From `0/8` to `7/8`. Raises ConfigError."""
        match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
        if not match or not int(match[1]) < int(match[2]):
            raise ConfigError(
                f"shard {text!r} is not k/N; with 8 machines they are 0/8 to 7/8 "
                "(an array job's own index, from 0)"
            )
        return cls(int(match[1]), int(match[2]))

    def holds(self, image_id: str) -> bool:
        """Whether this part is responsible for the image."""
        digest = hashlib.sha256(image_id.encode("utf-8", "surrogateescape")).digest()
        return int.from_bytes(digest[:8], "big") % self.count == self.index

    @property
    def folder(self) -> str:
        """The name of the part's own run folder, inside the run's."""
        return f"shard-{self.index}-of-{self.count}"
