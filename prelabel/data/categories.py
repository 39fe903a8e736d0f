"""What is looked for: categories and their ontology."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TypeAlias

from prelabel.errors import ConfigError

__all__ = ["Category", "Color", "Ontology"]

Color: TypeAlias = tuple[int, int, int]
"""RGB, 0 to 255 each."""


@dataclass(frozen=True, slots=True)
class Category:
    """One class of the ontology.

    Attributes:
        category_id: at least 1; the platform's own id where there is one.
        name: as shown to people; unique in its ontology.
        isthing: True for countable things, False for stuff.
        prompts: what the networks are asked for; several synonyms mean this one category.
            Empty means the name itself.
        color: RGB, 0 to 255 each, or None for a colour derived from the id.
        box_threshold: least detector score in [0, 1] for this category; None: the stage's own.
        mask_threshold: least rough-map probability in [0, 1]; None: the stage's own.
        min_area: least area of a segment as a share of the image, in [0, 1]; None: the merge's own.
    """

    category_id: int
    name: str
    isthing: bool
    prompts: tuple[str, ...] = ()
    color: Color | None = None
    box_threshold: float | None = None
    mask_threshold: float | None = None
    min_area: float | None = None

    def __post_init__(self) -> None:
        if self.category_id < 1:
            raise ConfigError(
                f"category {self.name!r} has id {self.category_id}; ids start at 1, since 0 is void"
            )
        if not self.name.strip():
            raise ConfigError(f"category {self.category_id} has an empty name")
        if not self.prompts:
            object.__setattr__(self, "prompts", (self.name,))
        for prompt in self.prompts:
            if not prompt.strip():
                raise ConfigError(f"category {self.name!r} has an empty prompt")
            if "." in prompt or "?" in prompt:
                raise ConfigError(
                    f"prompt {prompt!r} of category {self.name!r} holds '.' or '?', which separate "
                    "prompts; spell it without"
                )


@dataclass(frozen=True)
class Ontology:
    """Categories with unique ids and names, in a fixed order."""

    categories: tuple[Category, ...]

    def __post_init__(self) -> None:
        if not self.categories:
            raise ConfigError("the ontology is empty; name at least one thing or stuff category")
        _check_unique("id", (category.category_id for category in self.categories))
        _check_unique("name", (category.name for category in self.categories))

    def __iter__(self) -> Iterator[Category]:
        return iter(self.categories)

    def __len__(self) -> int:
        return len(self.categories)

    @cached_property
    def things(self) -> tuple[Category, ...]:
        return tuple(category for category in self.categories if category.isthing)

    @cached_property
    def stuff(self) -> tuple[Category, ...]:
        return tuple(category for category in self.categories if not category.isthing)

    @cached_property
    def by_name(self) -> Mapping[str, Category]:
        return {category.name: category for category in self.categories}

    @cached_property
    def by_id(self) -> Mapping[int, Category]:
        return {category.category_id: category for category in self.categories}


def _check_unique(what: str, values: Iterable[object]) -> None:
    seen = set()
    for value in values:
        if value in seen:
            raise ConfigError(f"two categories have the {what} {value!r}; each needs its own")
        seen.add(value)
