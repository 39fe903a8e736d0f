"""The evaluate command."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from prelabel.cli import console
from prelabel.cli.finding import panoptic_file
from prelabel.cli.results import show_evaluation
from prelabel.errors import ConfigError, LabelError
from prelabel.job.store import holds_labels
from prelabel.review.evaluate import EvaluateOptions, evaluate_files
from prelabel.review.pairs import PairedFiles

__all__ = ["EvaluateRequest", "evaluate_command"]


@dataclass(frozen=True, slots=True)
class EvaluateRequest:
    """The arguments of `prelabel evaluate`."""

    prediction: Path
    truth: Path
    options: EvaluateOptions
    html: Path | None = None
    images: Path | None = None


def evaluate_command(request: EvaluateRequest, *, as_json: bool) -> None:
    """Compare, and show what came of it."""
    if request.images is not None and not request.images.is_dir():
        raise ConfigError(f"the folder of images {request.images} does not exist")
    if request.html is not None and not request.html.parent.is_dir():
        raise ConfigError(f"the folder {request.html.parent} does not exist; make it first")
    with panoptic_file(request.prediction) as prediction, panoptic_file(request.truth) as truth:
        _evaluate(request, prediction, truth, as_json=as_json)


def _evaluate(request: EvaluateRequest, prediction: Path, truth: Path, *, as_json: bool) -> None:
    pairs = request.options.pairs
    if holds_labels(request.prediction):
        # Of a run there is usually more than what was reviewed.
        pairs = replace(pairs, extra="ignore")
    try:
        files = PairedFiles(prediction, truth, pairs)
        with _bar("comparing") as progress:
            evaluation = evaluate_files(files, request.options, progress)
    except LabelError as error:
        hint = "prelabel validate names every rule that a file breaks"
        raise LabelError(f"{error}; {hint}") from error
    if request.html is not None:
        from prelabel.review.page import PageSource, write_page

        names = str(request.prediction), str(request.truth)
        source = PageSource(files, request.images, request.options.run, names)
        write_page(request.html, evaluation, source)
        console.note(f"page: {request.html}")
    if as_json:
        console.show_json(evaluation.to_json())
    else:
        show_evaluation(evaluation)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, nothing elsewhere; calls it with how many are done, and of how many."""
    stderr = Console(stderr=True)
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(
        *columns, console=stderr, transient=True, disable=not stderr.is_terminal
    ) as progress:
        task = progress.add_task("")
        yield lambda done, total: progress.update(task, completed=done, total=total)
