"""An evaluation as one HTML page that needs nothing else: figures, and pictures of the worst."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
from jinja2 import Environment, StrictUndefined
from numpy.typing import NDArray

from prelabel import __version__
from prelabel.coco import category_color
from prelabel.data import ImageRecord, image_key
from prelabel.errors import ConfigError, ImageError, LabelError
from prelabel.files import write_atomically
from prelabel.images import decode
from prelabel.label_files import read_label
from prelabel.review.compare import KINDS, Mistake, compare
from prelabel.review.evaluation import GROUPS, Evaluation, WorstImage
from prelabel.review.pairs import Pair, PairedFiles
from prelabel.review.pictures import (
    draw_image,
    draw_mistakes,
    draw_segments,
    to_data_uri,
    used_colors,
)

__all__ = ["PageSource", "describe_mistake", "write_page"]

_log = logging.getLogger(__name__)

_MOST_CATEGORIES = 30
"""A table of what was taken for what is shown up to here; beyond, only its largest entries are."""
_MOST_CONFUSIONS = 25


@dataclass(frozen=True, slots=True)
class PageSource:
    """Where the pictures on a page come from.

    Attributes:
        files: the pair that was evaluated.
        images: the folder that holds the images by their file_name in the truth, or None.
        run: the run that the prediction was exported from, which knows its images, or None.
        names: what to call prediction and truth; None: by their paths.
    """

    files: PairedFiles
    images: Path | None = None
    run: Path | None = None
    names: tuple[str, str] | None = None


def write_page(path: Path, evaluation: Evaluation, source: PageSource) -> None:
    """Write the page, atomically.

    Raises:
        ConfigError: the page cannot be written, or the folder of images lacks one of the worst.
        LabelError: a PNG is missing or broken.
    """
    text = resources.files("prelabel.review").joinpath("page.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["percent"] = _percent
    files = source.files
    prediction, truth = source.names or (str(files.guess.path), str(files.real.path))
    page = environment.from_string(text).render(
        version=__version__,
        evaluation=evaluation,
        groups=GROUPS,
        kinds=KINDS,
        colors=used_colors(KINDS),
        prediction=prediction,
        truth=truth,
        confusions=[row for row in evaluation.confusion if not row.right][:_MOST_CONFUSIONS],
        matrix=_matrix(evaluation),
        worst=_worst_cards(evaluation, source),
    )
    if not path.parent.is_dir():
        raise ConfigError(f"the folder {path.parent} of the page does not exist; make it first")
    if path.is_dir():
        raise ConfigError(f"{path} is a folder; name a file for the page, such as report.html")
    # A file name may hold what is no Unicode.
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


# --- what was taken for what ------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Matrix:
    """Rows of the truth, columns of the prediction; None is nothing.

    Attributes:
        columns: names.
        rows: (name, [(segments, share of the row in [0, 1], whether it is right), …]).
    """

    columns: Sequence[str | None]
    rows: Sequence[tuple[str | None, Sequence[tuple[int, float, bool]]]]


def _matrix(evaluation: Evaluation) -> _Matrix | None:
    """None where there are too many categories, or nothing to show."""
    counts = {(row.truth, row.predicted): row.segments for row in evaluation.confusion}
    names = [row.name for row in evaluation.per_class if row.occurs]
    if not names or len(names) > _MOST_CATEGORIES:
        return None
    columns: list[str | None] = [*names, None]
    rows = []
    for truth in columns:
        found = [counts.get((truth, predicted), 0) for predicted in columns]
        whole = max(sum(found), 1)
        cells = [
            (count, count / whole, truth == predicted)
            for count, predicted in zip(found, columns, strict=True)
        ]
        rows.append((truth, cells))
    return _Matrix(columns, rows)


# --- the worst images -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Card:
    """One of the worst images.

    Attributes:
        image: name, score and mistakes.
        pictures: (title, data URI).
        mistakes: (kind, text) in the order of their numbers in the last picture.
    """

    image: WorstImage
    pictures: Sequence[tuple[str, str]]
    mistakes: Sequence[tuple[str, str]]


def _worst_cards(evaluation: Evaluation, source: PageSource) -> list[_Card]:
    files = source.files
    by_name = {files.real.images_by_id[pair[0].image_id].file_name: pair for pair in files.images}
    return [
        _card(image, files.open(by_name[image.file_name]), evaluation, source)
        for image in evaluation.worst
    ]


def _card(image: WorstImage, pair: Pair, evaluation: Evaluation, source: PageSource) -> _Card:
    categories = source.files.categories
    colors = {row.category_id: category_color(row) for row in categories}
    things = {row.category_id for row in categories if row.isthing}
    comparison = compare(pair.true_map, pair.true_segments, pair.id_map, pair.predicted, things)
    true_categories = {key: row.category_id for key, row in pair.true_segments.items()}
    pixels = _read_pixels(pair, source)
    pictures = [("image", draw_image(pixels))] if pixels is not None else []
    pictures += [
        ("truth", draw_segments(pair.true_map, true_categories, evaluation.names, colors)),
        ("label", draw_segments(pair.id_map, pair.predicted, evaluation.names, colors)),
        ("mistakes", draw_mistakes(pair, comparison, pixels)),
    ]
    described = []
    for index, mistake in enumerate(image.mistakes):
        text = describe_mistake(mistake, evaluation)
        if image.blames is not None:
            text += f" ({image.blames[index].stage}: {image.blames[index].reason})"
        described.append((mistake.kind, text))
    return _Card(image, [(title, to_data_uri(picture)) for title, picture in pictures], described)


def describe_mistake(mistake: Mistake, evaluation: Evaluation) -> str:
    """A mistake in a few words."""
    name = evaluation.names[mistake.category_id]
    texts: dict[str, Callable[[], str]] = {
        "missed": lambda: f"{name} missed, {mistake.area:,} pixels",
        "wrong-class": lambda: f"{name} taken for {evaluation.predicted_name(mistake)}",
        "bad-mask": lambda: f"{name} badly cut out, IoU {mistake.iou:.2f}",
        "duplicate": lambda: f"{name} a second time, {mistake.area:,} pixels",
        "spurious": lambda: f"{name} where there is none, {mistake.area:,} pixels",
    }
    return texts[mistake.kind]()


def _read_pixels(pair: Pair, source: PageSource) -> NDArray[np.uint8] | None:
    """The image uint8 (H, W, 3), or None where it is not at hand."""
    if source.images is not None:
        path = source.images / pair.file_name
        if not path.is_file():
            raise ConfigError(
                f"{source.images} has no image {pair.file_name!r}; give the folder to which the "
                "file_names of the truth are relative"
            )
    elif source.run is not None and pair.predicted_name:
        path = Path(read_label(source.run, image_key(pair.predicted_name))[1].record.uri)
    else:
        return None
    try:
        pixels = decode(path, ImageRecord(pair.file_name, str(path))).pixels
    except (ImageError, LabelError) as error:
        _log.warning("the page shows no image: %s", error)
        return None
    if pixels.shape[:2] != pair.true_map.shape:
        _log.warning("%s is not of the label's size; the page does not show it", path)
        return None
    return pixels
