"""Maps from one network's names of tensors to another's."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["SPLIT", "Group", "count", "rename", "rename_all"]

SPLIT = "{}"
"""In a new name: the tensor is query, key and value on top of each other, and becomes three."""

_PARTS = ("query", "key", "value")


@dataclass(frozen=True, slots=True)
class Group:
    """Names that begin alike.

    `pattern` matches the beginning and `template` replaces it; `parts` maps what follows, up to a
    dot or the end. Without `parts` what follows stays as it is.
    """

    pattern: re.Pattern[str]
    template: str
    parts: Mapping[str, str] = field(default_factory=dict)

    def rename(self, name: str) -> str | None:
        """The new name, or None where the group does not know this one."""
        match = self.pattern.match(name)
        if match is None:
            return None
        rest = name[match.end() :]
        beginning = match.expand(self.template)
        if not self.parts:
            return beginning + rest
        for old, new in self.parts.items():
            if rest == old or rest.startswith(f"{old}."):
                return beginning + new + rest[len(old) :]
        return None


def rename(name: str, groups: Sequence[Group]) -> str | None:
    """The new name by the first group that knows `name`; None where none does."""
    return next((new for group in groups if (new := group.rename(name)) is not None), None)


def rename_all(
    tensors: Mapping[str, torch.Tensor], groups: Sequence[Group]
) -> tuple[dict[str, torch.Tensor], list[str]]:
    """Tensors under their new names, and the names that no group knows."""
    renamed: dict[str, torch.Tensor] = {}
    unknown: list[str] = []
    for name, tensor in tensors.items():
        new = rename(name, groups)
        if new is None:
            unknown.append(name)
        elif SPLIT in new:
            thirds = tensor.chunk(3) if tensor.shape[0] % 3 == 0 else ()
            renamed.update(
                (new.replace(SPLIT, part), third.clone())
                for part, third in zip(_PARTS, thirds, strict=False)
            )
        else:
            renamed[new] = tensor.contiguous()
    return renamed, unknown


def count(names: Mapping[str, object], pattern: str) -> int:
    """How many numbers stand at the group of `pattern` in `names`: layers, blocks, heads."""
    matcher = re.compile(pattern)
    return len({match[1] for name in names if (match := matcher.match(name))})
