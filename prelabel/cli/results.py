"""Results as tables: a run's summary, an evaluation, the segments of one label."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from prelabel.cli import console
from prelabel.data import Ontology, PanopticLabel
from prelabel.job.summary import Summary
from prelabel.review.compare import KINDS
from prelabel.review.evaluation import GROUPS, Evaluation

__all__ = [
    "quality_rows",
    "show_errors",
    "show_evaluation",
    "show_segments",
    "show_summary",
    "summary_rows",
]

_MOST_ROWS = 10
"""Of lists that go on: the page and --json hold all."""


def summary_rows(summary: Summary) -> list[tuple[str, str]]:
    """What a run did, as name and value."""
    rows = [("images labelled", f"{summary.done} of {summary.total}")]
    for name, count in (
        ("failed", summary.failed),
        ("quarantined", summary.quarantined),
        ("skipped, labelled before", summary.skipped),
        ("left over", summary.todo),
    ):
        if count:
            rows.append((f"images {name}", str(count)))
    rows.append(("segments", str(summary.segments)))
    if summary.done:
        rows.append(("images per second", f"{summary.images_per_second:.2f}"))
        rows.append(("seconds: loading", f"{summary.loading_seconds:.2f}"))
    rows += [(f"seconds: {stage}", f"{value:.2f}") for stage, value in summary.seconds.items()]
    rows.append(("seconds: all", f"{summary.wall_seconds:.2f}"))
    if summary.peak_memory_mb is not None:
        rows.append(("peak memory, MiB", f"{summary.peak_memory_mb:.0f}"))
    return rows


def show_summary(summary: Summary, out: Path) -> None:
    """A run's summary and where its labels are."""
    console.show_table("Run", ("", ""), summary_rows(summary))
    show_errors(summary.errors)
    if summary.failures:
        console.show_line(f"each failure: {out / 'summary.json'}; again: --retry failed")
    console.show_line(f"labels: {out / 'labels'}")


def show_errors(errors: Sequence[Mapping[str, object]]) -> None:
    """The commonest errors, if there are any."""
    if errors:
        rows = [
            (f"{error['stage']}, {error['kind']}", str(error["count"]), str(error["example"]))
            for error in errors
        ]
        columns = ("stage, kind", "images", "one of them")
        console.show_table("Commonest errors", columns, rows, words=columns[2:])


def quality_rows(evaluation: Evaluation) -> list[tuple[str, str, str, str, str]]:
    """Name, PQ, SQ, RQ (×100) and the number of categories, for all, things and stuff."""
    rows = []
    for group in GROUPS:
        quality = evaluation.quality(group)
        pq, sq, rq = _percent(quality.pq), _percent(quality.sq), _percent(quality.rq)
        rows.append((group, pq, sq, rq, str(quality.n)))
    return rows


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def show_evaluation(evaluation: Evaluation) -> None:
    """Means, masks, categories, mistakes, stages to blame and the worst images; shares ×100."""
    columns = ("", "PQ", "SQ", "RQ", "categories")
    console.show_table("Panoptic quality ×100", columns, quality_rows(evaluation))
    _show_figures(evaluation)
    rows = [
        (
            row.name,
            *(_percent(value) for value in (row.pq, row.sq, row.rq, figures.accepted)),
            *(str(count) for count in (row.tp, row.fp, row.fn)),
        )
        for row, figures in zip(evaluation.per_class, evaluation.category_figures, strict=True)
        if row.occurs
    ]
    headings = ("category", "PQ", "SQ", "RQ", "accepted", "found", "false", "missed")
    console.show_table("By category", headings, rows)
    _show_mistakes(evaluation)
    _show_blames(evaluation)
    _show_worst(evaluation)


def _show_figures(evaluation: Evaluation) -> None:
    rows = []
    for group in GROUPS:
        figures = evaluation.figures[group]
        shares = (
            figures.accepted,
            figures.accepted_of_predicted,
            figures.kept_of_predicted,
            figures.miss_rate,
            figures.mean_iou,
            figures.boundary_iou,
        )
        rows.append((group, str(figures.segments), *(_percent(share) for share in shares)))
    headings = (
        "",
        "truth",
        "accepted",
        "of predicted",
        "kept of these",
        "missed",
        "mean IoU",
        "boundary IoU",
    )
    console.show_table("Segments ×100", headings, rows)
    bins = evaluation.figures["all"].histogram
    names = [f"{index / len(bins):.1f}" for index in range(len(bins))]
    kinds = evaluation.figures["all"].mistakes
    absent = str(kinds["missed"] + kinds["wrong-class"])
    console.show_table(
        "Segments of the truth by IoU, from … on",
        ("missed", *names),
        [(absent, *(str(count) for count in bins))],
    )


def _show_mistakes(evaluation: Evaluation) -> None:
    rows = []
    for row, figures in zip(evaluation.per_class, evaluation.category_figures, strict=True):
        counts = (figures.kept, figures.adjusted, *(figures.mistakes[kind] for kind in KINDS))
        if any(counts):
            rows.append((row.name, *(str(count or "") for count in counts)))
    if rows:
        headings = ("category", "kept", "adjusted", *KINDS)
        console.show_table("From the prediction to the truth", headings, rows)
    taken = [
        (row.truth, row.predicted or "nothing", str(row.segments), f"{row.pixels:,}")
        for row in evaluation.confusion
        if row.truth is not None and row.predicted is not None and not row.right and row.segments
    ]
    if taken:
        headings = ("truth", "taken for", "segments", "pixels")
        console.show_table("Confusions", headings, taken[:_MOST_ROWS])


def _show_blames(evaluation: Evaluation) -> None:
    if evaluation.blames is None:
        return
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in evaluation.blames:
        counts[row.blame.stage, row.blame.reason, row.kind] += row.count
    rows = [(stage, reason, kind, str(n)) for (stage, reason, kind), n in counts.most_common()]
    headings = ("stage", "reason", "mistake", "count")
    console.show_table("Which stage made the mistakes", headings, rows)


def _show_worst(evaluation: Evaluation) -> None:
    rows = [
        (row.file_name, _percent(row.score), str(len(row.mistakes)))
        for row in evaluation.worst[:_MOST_ROWS]
    ]
    if rows:
        console.show_table("Worst images", ("image", "PQ of it", "mistakes"), rows)


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
