"""`prelabel cache`: what is kept of the networks' answers, and removing it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from prelabel.cache import KINDS, CacheUse, Kind, StageCache, default_folder
from prelabel.cli import console

__all__ = ["cache_app"]

cache_app = typer.Typer(
    name="cache",
    help="What the networks answered, kept for later runs: look, and clear.",
    no_args_is_help=True,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
_Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="As `cache.folder` of the config; none: the user's cache."),
]


@cache_app.command()
def info(folder: _Folder = None, as_json: _Json = False) -> None:
    """Where the cache is, and what it holds by kind."""
    cache = _open(folder)
    use = cache.use()
    if as_json:
        console.show_json({"folder": str(cache.folder), **_document(use)})
        return
    console.show_line(str(cache.folder))
    rows = [(kind, f"{use.entries[kind]}", _size(use.nbytes[kind])) for kind in KINDS]
    total = ("all", f"{use.entries.total()}", _size(use.nbytes.total()))
    console.show_table("", ("kind", "entries", "size"), [*rows, total])


@cache_app.command()
def clear(
    kind: Annotated[Kind | None, typer.Option(help="Only entries of this kind.")] = None,
    folder: _Folder = None,
    as_json: _Json = False,
) -> None:
    """Remove what the cache holds. Runs that go on meanwhile ask their networks again."""
    cache = _open(folder)
    removed = cache.clear(kind)
    if as_json:
        console.show_json({"folder": str(cache.folder), **_document(removed)})
        return
    count, size = removed.entries.total(), _size(removed.nbytes.total())
    entries = "entry" if count == 1 else "entries"
    console.show_line(f"{count} {entries} removed, {size}, from {cache.folder}")


def _open(folder: Path | None) -> StageCache:
    # To look at and to clear; with no room for more.
    return StageCache(folder or default_folder(), 0)


def _document(use: CacheUse) -> dict[str, object]:
    kinds = {
        kind: {"entries": use.entries[kind], "bytes": use.nbytes[kind]}
        for kind in KINDS
        if use.entries[kind]
    }
    return {"entries": use.entries.total(), "bytes": use.nbytes.total(), "kinds": kinds}


def _size(nbytes: int) -> str:
    return f"{nbytes / 2**20:.1f} MiB" if nbytes < 2**30 else f"{nbytes / 2**30:.2f} GiB"
