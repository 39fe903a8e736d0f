"""The commands. Each reads its arguments, refuses what is wrong, and hands on."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from prelabel import __version__
from prelabel.cli import console
from prelabel.errors import ConnectorError, PrelabelError

__all__ = ["app", "main"]

app = typer.Typer(
    name="prelabel",
    help="Turn images into panoptic pre-labels: every pixel in one segment, each with its reason.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

_Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, for programs.")]
_Device = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the networks run.")
]


def _version(asked: bool) -> None:
    if asked:
        console.show_line(f"prelabel {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version.", callback=_version, is_eager=True),
    ] = False,
) -> None:
    console.set_up_logging()


@app.command()
def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/demo.yaml.")
    ],
    source: Annotated[
        str | None, typer.Option(metavar="URI", help="A folder of images, or scheme:rest.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="The run's folder.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="At most so many images.")
    ] = None,
    device: _Device = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key: detect.box_threshold=0.4"),
    ] = None,
    explain: Annotated[
        bool, typer.Option("--explain", help="Also store why each segment is there.")
    ] = False,
    as_json: _Json = False,
) -> None:
    """Label every image of a source into a run folder.

    Images that the folder already holds, labelled in the same way, are skipped: an interrupted run
    goes on where it stopped.

    Exit codes: 0 all done; 1 a bug; 2 a wrong argument or config; 3 some images failed, the others
    are done; 7 the output cannot be written; 130 interrupted.
    """
    from prelabel.cli.running import RunRequest, run_command

    request = RunRequest(config, source, out, limit, device, tuple(overrides or ()), explain)
    raise typer.Exit(run_command(request, as_json=as_json))


@app.command()
def image(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="An image file.")],
    things: Annotated[
        str, typer.Option(metavar="NAMES", help='Countable things, such as "car, person".')
    ] = "",
    stuff: Annotated[
        str, typer.Option(metavar="NAMES", help='Surroundings, such as "road, sky".')
    ] = "",
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="A folder for the label; none: only a table.")
    ] = None,
    device: _Device = None,
    as_json: _Json = False,
) -> None:
    """Label one image without any config, with the embedded networks."""
    from prelabel.cli.single import image_command

    raise typer.Exit(image_command(file, (things, stuff), out, device=device, as_json=as_json))


@app.command("demo-scenes")
def demo_scenes(
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder.")],
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many scenes.")] = 24,
    seed: Annotated[int, typer.Option(min=0, metavar="S", help="Another seed, other scenes.")] = 1,
) -> None:
    """Draw scenes with exact truth: images/, panoptic.json, panoptic/."""
    from prelabel.cli.demo import draw_scenes

    draw_scenes(out, count=count, seed=seed)
    console.show_line(f"{count} scenes in {out / 'images'}, their truth in {out / 'panoptic.json'}")


@app.command()
def evaluate(
    prediction: Annotated[Path, typer.Argument(metavar="PRED", help="A COCO panoptic JSON.")],
    truth: Annotated[Path, typer.Argument(metavar="TRUTH", help="The JSON to compare with.")],
    as_json: _Json = False,
) -> None:
    """Panoptic quality of labels against the truth, by category."""
    from prelabel.cli.results import show_evaluation
    from prelabel.review.evaluate import evaluate as measure

    result = measure(prediction, truth)
    if as_json:
        console.show_json(result.to_json())
    else:
        show_evaluation(result)


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[str, typer.Option(metavar="NAME", help="The target, such as coco-panoptic.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
) -> None:
    """Write a run's labels in another format."""
    from prelabel.cli.running import export_run

    count = export_run(run, to, out)
    console.show_line(f"{count} labels in {out}")


@app.command(hidden=True)
def demo(
    out: Annotated[Path, typer.Option(help="The run's folder; new.")] = Path("runs/demo"),
    config: Annotated[Path, typer.Option(help="The config.")] = Path("configs/demo.yaml"),
    count: Annotated[int, typer.Option(min=1, metavar="N", help="How many scenes.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenes.")] = 1,
) -> None:
    """Draw scenes, label them, compare with the truth, and sum up."""
    from prelabel.cli.demo import DemoRequest, run_demo

    raise typer.Exit(run_demo(DemoRequest(out, config, count, seed)))


# --- exit codes -------------------------------------------------------------------------------

_USAGE, _RETRYABLE, _DISK, _INTERRUPTED = 2, 5, 7, 130
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG}
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    0 all done, 2 usage or config, 3 some images failed, 5 try again later, 7 the disk refuses, 130
    interrupted. What nobody foresaw passes through: Python shows it and exits 1.
    """
    # Threads that spin while they wait slow a run tenfold on a machine that does other work too;
    # the setting counts only before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=arguments, prog_name="prelabel")
    except PrelabelError as error:
        retryable = isinstance(error, ConnectorError) and error.retryable
        _leave(f"error: {error}", _RETRYABLE if retryable else _USAGE)
    except SystemExit as ending:
        # Typer turns an interrupt into this code without a word; a run that stopped has it too.
        if ending.code == _INTERRUPTED:
            console.note("interrupted; the same command goes on where it stopped")
        raise
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        what = f" {error.filename}" if error.filename else ""
        _leave(
            f"error: cannot write{what}: {error.strerror}; what is done stays done, and the same "
            "command goes on from there",
            _DISK,
        )


def _leave(text: str, code: int) -> None:
    console.note(text)
    sys.exit(code)
