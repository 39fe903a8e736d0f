"""What people see: tables and bars on a terminal, plain lines elsewhere, JSON for programs.

Names come from files and are never read as markup. Secrets in addresses are hidden here, whatever
shows them.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

from prelabel.redaction import redact

__all__ = [
    "make_console",
    "note",
    "printable",
    "set_up_logging",
    "show_event",
    "show_json",
    "show_line",
    "show_table",
]


def make_console(*, stderr: bool = False) -> Console:
    """One that reads nothing as markup, and breaks no lines."""
    # Made anew, so that it writes to what sys.stdout is now.
    return Console(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def show_line(text: str) -> None:
    """A line on stdout."""
    make_console().print(printable(text))


def note(text: str) -> None:
    """A line on stderr: errors, and what is going on."""
    make_console(stderr=True).print(printable(text))


def show_json(document: Mapping[str, object]) -> None:
    """A document on stdout, for programs."""
    text = json.dumps(redact(document), ensure_ascii=True, allow_nan=False, indent=2)
    sys.stdout.write(text + "\n")


def show_event(name: str, document: Mapping[str, object]) -> None:
    """A line of JSON on stdout, at once, for programs that watch."""
    told = redact({"event": name, **document})
    line = json.dumps(told, ensure_ascii=True, allow_nan=False)
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def show_table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[str]], words: Collection[str] = ()
) -> None:
    """A table on stdout; all columns but the first, and those that `words` names, are numbers."""
    table = Table(
        title=Text(title),
        title_justify="left",
        title_style="bold",
        show_header=any(columns),
    )
    for index, column in enumerate(columns):
        left = index == 0 or column in words
        table.add_column(Text(column), justify="left" if left else "right")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    Console(markup=False, highlight=False, emoji=False).print(table)


def printable(text: str) -> str:
    """`text` without secrets, and without what a terminal would obey or cannot encode."""
    return "".join(
        letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1]
        for letter in redact(text)
    )


class _Redacted(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = redact(record.getMessage()), ()
        return True


def set_up_logging() -> None:
    """Warnings of the package to stderr."""
    handler = RichHandler(
        console=make_console(stderr=True), markup=False, show_path=False, show_time=False
    )
    handler.addFilter(_Redacted())
    for name in ("prelabel", "connectors"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.setLevel(logging.WARNING)
