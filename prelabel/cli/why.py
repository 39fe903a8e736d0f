"""The why command: the story of one pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prelabel.cli import console

__all__ = ["why"]


def why(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="An image's id in the run.")],
    x: Annotated[int, typer.Argument(metavar="X", help="Column of the pixel, from 0.")],
    y: Annotated[int, typer.Argument(metavar="Y", help="Row of the pixel, from 0.")],
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, for programs.")
    ] = False,
) -> None:
    """Why a pixel is what it is: who claimed it, who won, and by which rule."""
    from prelabel.job.store import run_ontology
    from prelabel.review.why import read_story

    names = {row.category_id: row.name for row in run_ontology(run)}
    story = read_story(run, image, x, y)
    if as_json:
        console.show_json(story.to_json(names))
        return
    if story.segment is None:
        console.show_line(f"{image} at x {x}, y {y}: void; {story.reason}")
    else:
        segment = story.segment
        console.show_line(
            f"{image} at x {x}, y {y}: {names[segment.category_id]}, segment {segment.segment_id}, "
            f"score {segment.score:.2f}; {story.reason}"
        )
    rows = [
        (
            claim.candidate.candidate_id,
            names[claim.candidate.category_id],
            f"{claim.candidate.score:.2f}",
            "won" if claim.won else claim.rule,
            claim.beaten_by,
        )
        for claim in story.claims
    ]
    if rows:
        columns = ("claimed by", "as", "score", "what became of it", "beaten by")
        console.show_table("Claims, in the order of merge", columns, rows)
