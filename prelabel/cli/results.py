"""Results as tables: a run's summary, an evaluation, the segments of one label."""

from __future__ import annotations

from pathlib import Path

from prelabel.cli import console
from prelabel.data import Ontology, PanopticLabel
from prelabel.job.runner import Summary
from prelabel.review.evaluate import Evaluation, Quality

__all__ = ["quality_rows", "show_evaluation", "show_segments", "show_summary", "summary_rows"]


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """What a run did, as name and value."""
    rows = [("images labelled", f"{summary.done} of {summary.total}")]
    for name, count in (
        ("failed", summary.failed),
        ("skipped, labelled before", summary.skipped),
        ("left over", summary.todo),
    ):
        if count:
            rows.append((f"images {name}", str(count)))
    rows.append(("segments", str(summary.segments)))
    rows += [(f"seconds: {stage}", f"{value:.2f}") for stage, value in summary.seconds.items()]
    rows.append(("seconds: all", f"{summary.wall_seconds:.2f}"))
    if summary.peak_memory_mb is not None:
        rows.append(("peak memory, MiB", f"{summary.peak_memory_mb:.0f}"))
    return rows


def show_summary(summary: Summary, out: Path) -> None:
    """A run's summary and where its labels are."""
    console.show_table("Run", ("", ""), summary_rows(summary))
    if summary.failures:
        console.show_line(f"why images failed: {out / 'summary.json'}")
    console.show_line(f"labels: {out / 'labels'}")


def quality_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """Name, PQ, SQ, RQ (×100) and the number of categories, for all, things and stuff."""
    means = (("all", evaluation.all), ("things", evaluation.things), ("stuff", evaluation.stuff))
    return [(name, *_percentages(quality), str(quality.n)) for name, quality in means]


def _percentages(quality: Quality) -> tuple[str, str, str]:
    return f"{100 * quality.pq:.1f}", f"{100 * quality.sq:.1f}", f"{100 * quality.rq:.1f}"


def show_evaluation(evaluation: Evaluation) -> None:
    """Means, then categories; fractions ×100."""
    columns = ("", "PQ", "SQ", "RQ", "categories")
    console.show_table("Panoptic quality ×100", columns, quality_rows(evaluation))
    rows = [
        (
            row.name,
            *(f"{100 * value:.1f}" for value in (row.pq, row.sq, row.rq)),
            *(str(count) for count in (row.tp, row.fp, row.fn)),
        )
        for row in evaluation.per_class
        if row.occurs
    ]
    headings = ("category", "PQ", "SQ", "RQ", "found", "spurious", "missed")
    console.show_table("By category", headings, rows)


def show_segments(label: PanopticLabel, ontology: Ontology) -> None:
    """The segments of one label."""
    names: dict[int | None, str] = {category.category_id: category.name for category in ontology}
    names[None] = ""
    pixels = label.id_map.size
    rows = [
        (
            names[segment.category_id],
            f"{segment.score:.2f}",
            f"{100 * segment.area / pixels:.1f} %",
            names[segment.runner_up],
            f"{segment.margin:.2f}",
        )
        for segment in label.segments
    ]
    title = f"{label.image_id}: {len(rows)} segments, score {label.score:.2f}"
    console.show_table(title, ("category", "score", "area", "runner-up", "margin"), rows)
