"""What there is to do, decided image by image."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.data import Failure, ImageRecord, image_key
from prelabel.job.ledger import Row
from prelabel.job.planning import Plan, label_keys, make_plan, reap
from prelabel.job.protocol import Task


def _plan(row: Row | None, *, stamp: str = "1", label: bool = True, **options: object) -> str:
    """The list that the one image is put into."""
    task = Task(ImageRecord("a.jpg", ""), stamp)
    rows = {} if row is None else {"a.jpg": row}
    keys = {image_key("a.jpg")} if label else set()
    asked = {"explain": False, "retry": ()} | options
    plan = make_plan([task], rows, keys, **asked)  # type: ignore[arg-type]
    (name,) = (name for name in ("todo", "skipped", "failed", "quarantined") if getattr(plan, name))
    assert plan.total == 1
    return name


@pytest.mark.parametrize(
    ("row", "options", "expected"),
    [
        (None, {}, "todo"),
        (Row("done", "1"), {}, "skipped"),
        (Row("done", "0"), {}, "todo"),
        (Row("done", "1"), {"label": False}, "todo"),
        (Row("done", "1"), {"explain": True}, "todo"),
        (Row("done", "1", explained=True), {"explain": True}, "skipped"),
        (Row("done", "1", explained=True), {}, "skipped"),
        (Row("skipped", "1"), {"label": False}, "skipped"),
        (Row("failed", "1"), {"label": False}, "failed"),
        (Row("failed", "0"), {}, "todo"),
        (Row("failed", "1"), {"retry": ("failed",)}, "todo"),
        (Row("failed", "1"), {"retry": ("quarantined",)}, "failed"),
        (Row("quarantined", "1"), {}, "quarantined"),
        (Row("quarantined", "1"), {"retry": ("quarantined",)}, "todo"),
    ],
)
def test_where_an_image_goes(row: Row | None, options: dict[str, object], expected: str) -> None:
    assert _plan(row, **options) == expected


def test_a_failure_is_told_again_in_its_own_words() -> None:
    row = Row("failed", "", stage="decode", kind="truncated", message="a.jpg: damaged")
    plan = make_plan([Task(ImageRecord("a.jpg", ""))], {"a.jpg": row}, (), explain=False, retry=())
    assert plan.failed == [Failure("a.jpg", "decode", "truncated", "a.jpg: damaged")]


def test_the_order_is_that_of_the_source_and_nothing_is_dropped() -> None:
    tasks = [Task(ImageRecord(name, "")) for name in ("c", "a", "b")]
    rows = {"a": Row("done"), "gone": Row("done")}
    plan = make_plan(tasks, rows, {image_key("a")}, explain=False, retry=())
    assert [task.record.image_id for task in plan.todo] == ["c", "b"]
    assert [record.image_id for record in plan.skipped] == ["a"]
    assert Plan().total == 0


def test_a_pair_has_two_parts(tmp_path: Path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("a.png", "a.json", "b.png", "c.json", ".d.png", ".d.json", "e.txt", "f.g.png"):
        (labels / name).touch()
    (labels / "f.g.json").touch()
    assert label_keys(tmp_path) == {"a", "f.g"}


def test_only_unfinished_files_are_reaped(tmp_path: Path) -> None:
    kept = [tmp_path / "x.part", tmp_path / "labels" / "a.png", tmp_path / "other" / ".a-1.part"]
    parts = [tmp_path / name / ".a-1.part" for name in ("", "labels", "traces", "explanations")]
    for path in (*kept, *parts):
        path.parent.mkdir(exist_ok=True)
        path.touch()
    assert reap(tmp_path) == 4
    assert all(path.exists() for path in kept) and not any(path.exists() for path in parts)
    assert reap(tmp_path / "gone") == 0
