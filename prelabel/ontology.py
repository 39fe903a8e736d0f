"""Ontologies as documents: what a config says about categories, and back."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from prelabel.data import Category, Ontology
from prelabel.errors import ConfigError
from prelabel.options import Fraction
from prelabel.strict_yaml import Document

__all__ = [
    "CategoryEntry",
    "OntologyEntries",
    "build_ontology",
    "entries_document",
    "ontology_document",
    "split_names",
]

_Channel = Annotated[int, Field(ge=0, le=255)]


class CategoryEntry(BaseModel):
    """One category as written in a config."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    id: int | None = None
    """At least 1; None: the lowest id that no other category has."""
    prompts: tuple[str, ...] = ()
    """Synonyms that the networks are asked for; none: the name."""
    color: tuple[_Channel, _Channel, _Channel] | None = None
    """RGB, 0 to 255 each."""
    box_threshold: Fraction | None = None
    """Least detector score in [0, 1], for a thing."""
    mask_threshold: Fraction | None = None
    """Least probability of the rough map in [0, 1], for stuff."""
    min_area: Fraction | None = None
    """Least area of a segment as a share of the image, 0 to 1."""


class OntologyEntries(BaseModel):
    """The categories as written, in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    things: tuple[CategoryEntry, ...] = ()
    stuff: tuple[CategoryEntry, ...] = ()


def build_ontology(entries: OntologyEntries, where: str = "ontology") -> Ontology:
    """The ontology that `entries` describe.

    Raises:
        ConfigError: empty, an id below 1, an id or name twice, a prompt with `.` or `?`.
    """
    listed = [(entry, True) for entry in entries.things]
    listed += [(entry, False) for entry in entries.stuff]
    taken = {entry.id for entry, _ in listed if entry.id is not None}
    categories, following = [], 1
    try:
        for entry, isthing in listed:
            category_id = entry.id
            if category_id is None:
                while following in taken:
                    following += 1
                taken.add(following)
                category_id = following
            categories.append(_category(entry, category_id, isthing))
        return Ontology(tuple(categories))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def entries_document(document: Document) -> Document:
    """`document` with bare names as entries, and `things:` without anything behind it as none."""
    if not isinstance(document, dict):
        return document
    return {
        key: [{"name": entry} if isinstance(entry, str) else entry for entry in value]
        if isinstance(value, list)
        else value
        for key, value in document.items()
        if value is not None
    }


def _category(entry: CategoryEntry, category_id: int, isthing: bool) -> Category:
    return Category(
        category_id,
        entry.name.strip(),
        isthing,
        tuple(prompt.strip() for prompt in entry.prompts),
        entry.color,
        entry.box_threshold,
        entry.mask_threshold,
        entry.min_area,
    )


def ontology_document(ontology: Ontology) -> dict[str, Document]:
    """The full document of an ontology: every id and prompt written out."""
    document: dict[str, Document] = {}
    for key, categories in (("things", ontology.things), ("stuff", ontology.stuff)):
        document[key] = [_document(category) for category in categories]
    return document


def _document(category: Category) -> dict[str, Document]:
    record: dict[str, Document] = {"id": category.category_id, "name": category.name}
    record["prompts"] = [*category.prompts]
    if category.color is not None:
        record["color"] = [*category.color]
    if category.box_threshold is not None:
        record["box_threshold"] = category.box_threshold
    if category.mask_threshold is not None:
        record["mask_threshold"] = category.mask_threshold
    if category.min_area is not None:
        record["min_area"] = category.min_area
    return record


def split_names(text: str) -> list[Document]:
    """A comma-separated list as entries of a document; blanks are dropped."""
    return [name.strip() for name in text.split(",") if name.strip()]
