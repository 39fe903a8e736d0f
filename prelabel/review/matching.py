"""Which image and category of a prediction belongs to which of the truth."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Literal, TypeAlias

from prelabel.coco import CocoAnnotation, CocoCategory, PanopticFile
from prelabel.errors import ConfigError, LabelError

__all__ = ["ImagePair", "match_categories", "match_images", "name_some", "refuse_missing"]

_log = logging.getLogger(__name__)

_SORTS = {"things": "a thing", "stuff": "stuff"}
_NAMED = 5
"""How many names an error lists before it only counts them."""

ImagePair: TypeAlias = tuple[CocoAnnotation, CocoAnnotation | None]
"""The truth's annotation of an image, and the prediction's or None."""


def match_categories(
    guess: PanopticFile,
    real: PanopticFile,
    missing: Literal["error", "miss"],
    only: Literal["things", "stuff"] | None = None,
) -> Mapping[int, int]:
    """The truth's category_id for each of the prediction's, matched by name.

    With `only`, categories of the other sort are left out on both sides; the truth says which they
    are, and the prediction where the truth does not know the name.

    Raises:
        ConfigError: a name stands on one side only; with `missing="miss"` the truth may have more.
    """
    names, true_names = _category_names(guess), _category_names(real)
    for name in names.keys() & true_names.keys():
        if names[name].isthing != true_names[name].isthing:
            _log.warning("%s: isthing of %r is not the truth's, which counts", guess.path, name)
    if only is not None:
        wanted = only == "things"
        names = {
            name: row for name, row in names.items() if true_names.get(name, row).isthing == wanted
        }
        true_names = {name: row for name, row in true_names.items() if row.isthing == wanted}
        if not true_names:
            raise ConfigError(f"{real.path} lists no category that is {_SORTS[only]}")
    unknown, absent = names.keys() - true_names.keys(), true_names.keys() - names.keys()
    if unknown or (absent and missing == "error"):
        raise ConfigError(
            f"categories do not match: only {guess.path} lists {name_some(unknown)}, "
            f"only {real.path} lists {name_some(absent)}; give them the same names"
            + ("" if unknown else ", or count those as misses (--missing miss)")
        )
    return {names[name].category_id: true_names[name].category_id for name in names}


def _category_names(file: PanopticFile) -> Mapping[str, CocoCategory]:
    _refuse_twice(file, "category id", [row.category_id for row in file.categories])
    _refuse_twice(file, "category", [row.name for row in file.categories])
    if not file.categories:
        raise ConfigError(f"{file.path} lists no categories; they are matched by name")
    return {row.name: row for row in file.categories}


def match_images(
    guess: PanopticFile, real: PanopticFile, extra: Literal["error", "ignore"]
) -> list[ImagePair]:
    """The truth's annotations in their order, each with the prediction's of the same file_name.

    What finds no partner so is matched without extension, and then, where one of the two names has
    no folder, by its last part; each only where that is unambiguous.

    Raises:
        ConfigError: the truth is empty or, unless `extra` is ignored, lacks a predicted image.
    """
    truths, guesses = _annotations_by_name(real), _annotations_by_name(guess)
    if not truths:
        raise ConfigError(f"{real.path} has no annotations, so there is nothing to compare with")
    partners = {name: name for name in truths.keys() & guesses.keys()}
    partners |= _alike(truths.keys(), guesses.keys(), partners, _bare_name)
    for name, other in _alike(truths.keys(), guesses.keys(), partners, _last_part).items():
        if "/" not in name or "/" not in other:
            partners[name] = other
    spare = guesses.keys() - set(partners.values())
    if spare and extra == "error":
        raise ConfigError(
            f"images do not match: {guess.path} has {name_some(spare)}, which {real.path} lacks "
            f"(it has {name_some(truths.keys() - partners.keys() or truths.keys())}); leave them "
            "out (--extra ignore), or compare with the truth they belong to"
        )
    return [
        (annotation, guesses[partners[name]] if name in partners else None)
        for name, annotation in truths.items()
    ]


def refuse_missing(pairs: Sequence[ImagePair], guess: PanopticFile, real: PanopticFile) -> None:
    """Raise ConfigError, naming both files, if an image has no prediction."""
    names = [real.images_by_id[row.image_id].file_name for row, other in pairs if other is None]
    if names:
        raise ConfigError(
            f"images do not match: {real.path} has {name_some(names)}, {guess.path} has no "
            "prediction for them; label them, or count them as misses (--missing miss)"
        )


def _annotations_by_name(file: PanopticFile) -> Mapping[str, CocoAnnotation]:
    _refuse_twice(file, "image id", [image.image_id for image in file.images])
    _refuse_twice(file, "image", [image.file_name for image in file.images])
    _refuse_twice(file, "annotation of image", [row.image_id for row in file.annotations])
    named = {}
    for annotation in file.annotations:
        image = file.images_by_id.get(annotation.image_id)
        if image is None:
            raise LabelError(
                f"{file.path} has an annotation of image {annotation.image_id!r}, but images[] "
                "does not list it; images are matched by their file_name"
            )
        named[image.file_name] = annotation
    return named


def _alike(
    truths: Iterable[str],
    guesses: Iterable[str],
    partners: Mapping[str, str],
    form: Callable[[str], str],
) -> Mapping[str, str]:
    """Partners among the names that have none yet: those whose form one has on either side."""
    taken = set(partners.values())
    theirs = _by_form((name for name in truths if name not in partners), form)
    ours = _by_form((name for name in guesses if name not in taken), form)
    return {
        names[0]: ours[key][0]
        for key, names in theirs.items()
        if len(names) == 1 and len(ours.get(key, [])) == 1
    }


def _by_form(names: Iterable[str], form: Callable[[str], str]) -> Mapping[str, list[str]]:
    found: defaultdict[str, list[str]] = defaultdict(list)
    for name in names:
        found[form(name)].append(name)
    return found


def _bare_name(name: str) -> str:
    return str(PurePosixPath(name).with_suffix(""))


def _last_part(name: str) -> str:
    return PurePosixPath(name).stem


def _refuse_twice(file: PanopticFile, what: str, values: Sequence[int | str]) -> None:
    twice = [value for value, count in Counter(values).items() if count > 1]
    if twice:
        raise LabelError(f"{file.path} lists the {what} {twice[0]!r} twice; each needs its own")


def name_some(values: Iterable[int | str]) -> str:
    """The first few values in order, and how many more there are."""
    known = sorted(values, key=str)
    text = ", ".join(repr(value) for value in known[:_NAMED]) or "none"
    more = len(known) - _NAMED
    return f"{text} and {more} more" if more > 0 else text
