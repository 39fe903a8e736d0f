"""`prelabel models`: which weights there are, bringing them, looking at them, converting them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from prelabel.cli import console

if TYPE_CHECKING:
    from prelabel.models.catalogue import Entry
    from prelabel.models.inspection import Inspection

__all__ = ["models_app"]

models_app = typer.Typer(
    name="models",
    help="The networks' weights: list, fetch, check, convert.",
    no_args_is_help=True,
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]


@models_app.command("list")
def list_models(as_json: _Json = False) -> None:
    """Every checkpoint that a config can name: kind, size, licence, and whether it is here."""
    from prelabel.models.catalogue import CATALOGUE
    from prelabel.models.inspection import present

    here = {entry.name: present(entry.name) for entry in CATALOGUE}
    if as_json:
        console.show_json({"models": [_document(entry, here[entry.name]) for entry in CATALOGUE]})
        return
    for kind in dict.fromkeys(entry.kind for entry in CATALOGUE):
        _show_kind([entry for entry in CATALOGUE if entry.kind == kind], here)
    console.show_line("In a config, embedded ones are named `weights: embedded`.")


def _show_kind(entries: Sequence[Entry], here: Mapping[str, str | None]) -> None:
    """The checkpoints of one kind, as lines: a table would cut names that are to be copied."""
    console.show_line(f"kind: {entries[0].kind} ({entries[0].role})")
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        where = here[entry.name] or "not here"
        size = _size(_bytes(entry))
        console.show_line(f"  {entry.name:{width}}  {size:>7}  {where:<9}  {entry.licence}")
        if (file := entry.original) is not None:
            console.show_line(f"    or the authors' own file {file.file}, {_size(file.bytes)}")
    for note, embedded in dict.fromkeys((entry.note, entry.embedded) for entry in entries):
        if note:
            console.show_line(f"  {'embedded: ' if embedded else ''}{note}")
    console.show_line("")


def _document(entry: Entry, here: str | None) -> dict[str, object]:
    original = entry.original
    return {
        "name": entry.name,
        "weights": entry.weights,
        "role": entry.role,
        "kind": entry.kind,
        "parameters": entry.parameters,
        "bytes": _bytes(entry),
        "licence": entry.licence,
        "note": entry.note,
        "revision": entry.revision,
        "here": here,
        "original": None
        if original is None
        else {"file": original.file, "bytes": original.bytes, "sha256": original.sha256},
    }


def _bytes(entry: Entry) -> int:
    from prelabel.models.weights import embedded_folder

    if entry.bytes is not None:
        return entry.bytes
    return sum(path.stat().st_size for path in embedded_folder(entry.kind).glob("*.safetensors"))


def _size(count: int) -> str:
    for unit, name, digits in ((1e9, "GB", 1), (1e6, "MB", 0)):
        if count >= unit:
            return f"{count / unit:.{digits}f} {name}"
    return f"{count / 1e3:.0f} kB"


@models_app.command("pull")
def pull_models(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="Hub ids.")],
    revision: Annotated[
        str | None, typer.Option(metavar="REV", help="Branch, tag or commit; none: main.")
    ] = None,
) -> None:
    """Fetch checkpoints from the hub into its cache, where runs find them."""
    from prelabel.models.catalogue import CATALOGUE

    licences = {entry.name: entry for entry in CATALOGUE}
    for name in names:
        folder = _pull(name, revision)
        console.show_line(f"{name}: {folder}")
        if name in licences:
            entry = licences[name]
            console.show_line(
                f"  licence: {entry.licence}{f'; {entry.note}' if entry.note else ''}"
            )


def _pull(name: str, revision: str | None) -> Path:
    from prelabel.errors import ConfigError
    from prelabel.models.catalogue import find_entry, published_file
    from prelabel.models.conversion import locate_tokenizer
    from prelabel.models.hub import find_on_hub
    from prelabel.models.inspection import find_checkpoint
    from prelabel.models.weights import CHECKPOINT_FILES, DEFAULT_TOKENIZER, is_complete

    if published_file(name) is not None:
        raise ConfigError(
            f"{name} is a file that its authors publish, not on the hub: download it from their "
            f"page and set `weights: path/to/{name}`; `prelabel models check {name}` compares it"
        )
    if name == DEFAULT_TOKENIZER:
        return locate_tokenizer(name)
    if name.startswith("embedded/") or "/" not in name:
        return find_checkpoint(find_entry(name).name)
    return find_on_hub(name, revision, CHECKPOINT_FILES, complete=is_complete)


@models_app.command("check")
def check_model(
    target: Annotated[
        str, typer.Argument(metavar="FILE|FOLDER|NAME", help="A .pth, a folder, or a hub id.")
    ],
    as_json: _Json = False,
) -> None:
    """Load a checkpoint on the CPU, compare its tensors with the network's, and run it once."""
    from prelabel.models.inspection import find_checkpoint, inspect

    path = find_checkpoint(target)
    console.note(f"loading {path}, and running it once on the CPU: seconds, or minutes if large")
    found = inspect(path)
    if as_json:
        console.show_json(
            {
                "path": str(found.path),
                "layout": found.layout,
                "kind": found.kind,
                "sha256": found.sha256,
                "bytes": found.bytes,
                "tensors": found.tensors,
                "parameters": found.parameters,
                "missing": 0,
                "unused": list(found.unused),
                "seconds": round(found.seconds, 3),
            }
        )
        return
    for name, value in _rows(found):
        console.show_line(f"{name:<11} {value}")
    console.show_line(f"It loads, fits and runs. In a config: `kind: {found.kind}`.")


def _rows(found: Inspection) -> list[tuple[str, str]]:
    unused = f"{len(found.unused)}{': ' if found.unused else ''}{', '.join(found.unused[:5])}"
    return [
        ("path", str(found.path)),
        ("layout", found.layout),
        ("size", _size(found.bytes)),
        ("sha256", found.sha256),
        ("parameters", f"{found.parameters:,}"),
        ("tensors", f"{found.tensors}; missing: 0; not used: {unused}"),
        ("forward", f"{found.seconds:.1f} s on the CPU, once"),
    ]


@models_app.command("convert")
def convert_model(
    file: Annotated[Path, typer.Argument(metavar="IN.pth", help="A file of the authors'.")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="A new folder.")],
    tokenizer: Annotated[
        str | None,
        typer.Option(metavar="T", help="Of a detector: a folder or a hub id; none: BERT's."),
    ] = None,
) -> None:
    """Write an original checkpoint in transformers' layout, with its config.

    `weights: IN.pth` in a config does the same once, into the cache; this is for keeping it.
    """
    from prelabel.errors import ConfigError
    from prelabel.models.conversion import convert_checkpoint
    from prelabel.models.weights import DEFAULT_TOKENIZER, check_original

    if not file.is_file():
        raise ConfigError(
            f"{file} {'is no file' if file.exists() else 'does not exist'}; give a "
            ".pth that the authors of SAM or GroundingDINO published"
        )
    check_original(file)
    opened = convert_checkpoint(file, out, tokenizer or DEFAULT_TOKENIZER)
    console.show_line(
        f"{opened.layout.name}, {len(opened.tensors)} tensors, in {out}; use it with `kind: "
        f"{opened.layout.kind}` and `weights: {out}`"
    )
