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
from prelabel.cli.caching import cache_app
from prelabel.cli.doctor import doctor
from prelabel.cli.models import models_app
from prelabel.cli.why import why
from prelabel.errors import (
    ChangedError,
    ConfigError,
    ConnectorError,
    LockedError,
    PrelabelError,
)

__all__ = ["app", "main"]

app = typer.Typer(
    name="prelabel",
    help="Turn images into panoptic pre-labels: every pixel in one segment, each with its reason.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

app.add_typer(models_app)
app.command()(doctor)
app.command()(why)
app.add_typer(cache_app)

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
    retry: Annotated[
        Literal["failed", "quarantined", "all"] | None,
        typer.Option(help="Try again what failed, or killed its worker, before; or both."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Remove the folder's labels first, and start over.")
    ] = False,
    accept_change: Annotated[
        bool,
        typer.Option("--accept-change", help="Make labels of another config or weights again."),
    ] = False,
    shard: Annotated[
        str | None,
        typer.Option(metavar="k/N", help="Only part k, from 0, of N; see docs/reliability.md."),
    ] = None,
    engine: Annotated[
        Literal["local", "inline", "ray"],
        typer.Option(help="Supervised worker processes, this process, or a Ray cluster."),
    ] = "local",
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="How many; none: one per device, of engine ray 1."),
    ] = None,
    ray_address: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Of engine ray: the cluster's.")
    ] = "auto",
    gpus_per_worker: Annotated[
        float, typer.Option(min=0.0, metavar="N", help="Of engine ray: what an actor reserves.")
    ] = 0.0,
    image_timeout: Annotated[
        float,
        typer.Option(min=1.0, metavar="SECONDS", help="A worker that is silent so long is killed."),
    ] = 600.0,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The ledger's folder, if RUN is on a network drive."),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Events as lines of JSON on stdout, for programs.")
    ] = False,
) -> None:
    """Label every image of a source into a run folder.

    What the folder already holds is kept: an interrupted run goes on where it stopped, and new
    images of the source are added.

    Exit codes: 0 all done; 1 a bug; 2 a wrong argument or config; 3 some images failed, the others
    are done; 7 the output cannot be written; 11 another run is in the folder; 12 its labels were
    made with another config or weights; 130 interrupted.
    """
    from prelabel.cli.running import JobRequest, RunRequest, run_command

    job = JobRequest(
        engine=engine,
        image_timeout=image_timeout,
        workers=workers,
        ray_address=ray_address,
        gpus_per_worker=gpus_per_worker,
        limit=limit,
        shard=shard,
        retry=() if retry is None else ("failed", "quarantined") if retry == "all" else (retry,),
        fresh=fresh,
        accept_change=accept_change,
        state=state,
    )
    request = RunRequest(config, source, out, device, tuple(overrides or ()), explain, job)
    raise typer.Exit(run_command(request, as_json=as_json))


@app.command()
def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    state: Annotated[Path | None, typer.Option(metavar="DIR", help="As given to `run`.")] = None,
    as_json: _Json = False,
) -> None:
    """How far a run is, also while it goes on, and its commonest errors."""
    from prelabel.cli.jobs import status_command

    status_command(run, state, as_json=as_json)


@app.command()
def repair(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    state: Annotated[Path | None, typer.Option(metavar="DIR", help="As given to `run`.")] = None,
) -> None:
    """Make a run's ledger anew from its labels; damaged labels are named and made again."""
    from prelabel.cli.jobs import repair_command

    repair_command(run, state)


@app.command()
def join(
    shards: Annotated[list[Path], typer.Argument(metavar="SHARD…", help="Shards' run folders.")],
    out: Annotated[Path, typer.Option(metavar="RUN", help="The folder of the whole run.")],
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The ledger's folder, if RUN is on a network drive."),
    ] = None,
) -> None:
    """Put the shards of one run together."""
    from prelabel.cli.jobs import join_command

    raise typer.Exit(join_command(shards, out, state))


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
    prediction: Annotated[
        Path, typer.Argument(metavar="PRED", help="A COCO panoptic JSON, or a run's folder.")
    ],
    truth: Annotated[
        Path, typer.Argument(metavar="TRUTH", help="The JSON to compare with, or its folder.")
    ],
    run: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="The run that PRED was exported from: name the stages."),
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Also write a page with pictures.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where the page finds the images.")
    ] = None,
    things_only: Annotated[bool, typer.Option("--things-only", help="Leave stuff out.")] = False,
    stuff_only: Annotated[bool, typer.Option("--stuff-only", help="Leave things out.")] = False,
    limit: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first images of TRUTH.")
    ] = None,
    missing: Annotated[
        Literal["error", "miss"],
        typer.Option(help="What an image or category is that only TRUTH lists."),
    ] = "error",
    extra: Annotated[
        Literal["error", "ignore"], typer.Option(help="What an image is that only PRED lists.")
    ] = "error",
    worst: Annotated[
        int, typer.Option(min=0, metavar="N", help="How many of the worst images are shown.")
    ] = 12,
    as_json: _Json = False,
) -> None:
    """How good labels are against the truth, and what there is to correct.

    Any two COCO panoptic files will do. Images are matched by file_name, categories by name.
    """
    from prelabel.cli.measuring import EvaluateRequest, evaluate_command
    from prelabel.review.evaluate import EvaluateOptions
    from prelabel.review.pairs import PairOptions

    if things_only and stuff_only:
        raise ConfigError("--things-only and --stuff-only leave nothing over; give one of them")
    only: Literal["things", "stuff"] | None = None
    if things_only or stuff_only:
        only = "things" if things_only else "stuff"
    options = EvaluateOptions(PairOptions(limit, missing, extra, only), run, worst)
    evaluate_command(EvaluateRequest(prediction, truth, options, html, images), as_json=as_json)


@app.command()
def validate(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A COCO panoptic JSON.")],
    as_json: _Json = False,
) -> None:
    """Name every rule that a COCO panoptic file breaks, with image and segment.

    Exit codes: 0 clean; 2 the file cannot be read; 3 rules are broken.
    """
    from prelabel.cli.checking import validate_command

    raise typer.Exit(validate_command(file, as_json=as_json))


@app.command()
def fix(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A COCO panoptic JSON.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder for the repaired copy.")],
    as_json: _Json = False,
) -> None:
    """Repair a COCO panoptic file into a new folder, and say what was done.

    Exit codes: 0 all repaired; 2 the file cannot be read; 3 something was left out or is still
    broken.
    """
    from prelabel.cli.checking import fix_command

    raise typer.Exit(fix_command(file, out, as_json=as_json))


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[
        str,
        typer.Option(metavar="NAME", help="coco-panoptic, coco-instances, label-folder, or yours."),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
) -> None:
    """Write a run's labels in another format."""
    from prelabel.cli.running import export_run

    count = export_run(run, to, out)
    console.show_line(f"{count} labels in {out}")


@app.command()
def upload(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder.")],
    to: Annotated[str, typer.Option(metavar="URI", help="A platform: segments-ai:owner/dataset.")],
    labelset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another labelset than the ground truth.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and count; send nothing.")
    ] = False,
    overwrite_human: Annotated[
        bool, typer.Option("--overwrite-human", help="Replace what people labelled, too.")
    ] = False,
    pin_doubts: Annotated[
        bool, typer.Option("--pin-doubts", help="Pin an issue at each most doubtful spot.")
    ] = False,
    verify: Annotated[
        Literal["all", "sample", "none"],
        typer.Option(help="Which labels are read back and compared; sample is one in twenty."),
    ] = "all",
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on while the run goes on in another process.")
    ] = False,
    retry: Annotated[
        bool, typer.Option("--retry", help="Send again what failed for good before.")
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, max=64, metavar="N", help="At a time.")] = 8,
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="The outbox's folder, if RUN is on a network drive."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Send a run's labels to a platform, where people correct them.

    What is there already is not sent again, and a person's work is left alone. With --dry-run, RUN
    may be a config.

    Exit codes: 0 all there; 2 a wrong argument, dataset or category; 3 some failed, the others are
    there; 5 the platform fails, try again later; 7 it refuses the key; 11 another upload of this
    run goes on; 130 interrupted.
    """
    from prelabel.cli.uploading import UploadRequest, upload_command
    from prelabel.job.upload_terms import UploadOptions
    from prelabel.ports import PushRules

    rules = PushRules(overwrite_human, pin_doubts)
    options = UploadOptions(rules, verify, jobs, follow, retry, state=state)
    request = UploadRequest(run, to, labelset, options, dry_run)
    raise typer.Exit(upload_command(request, as_json=as_json))


@app.command()
def download(
    source: Annotated[
        str, typer.Argument(metavar="URI", help="A platform: segments-ai:owner/dataset.")
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Where to write.")],
    labelset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another labelset than the ground truth.")
    ] = None,
    status: Annotated[str, typer.Option(metavar="A,B", help="Which labels.")] = "REVIEWED,LABELED",
) -> None:
    """Fetch labels from a platform as a COCO panoptic file."""
    from prelabel.cli.uploading import download_command

    raise typer.Exit(download_command(source, labelset, out, status))


@app.command()
def init(
    source: Annotated[
        str, typer.Argument(metavar="URI", help="A platform: segments-ai:owner/dataset.")
    ],
) -> None:
    """Print a config with the categories of a platform's dataset."""
    from prelabel.cli.uploading import init_command

    raise typer.Exit(init_command(source))


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

_USAGE, _RETRYABLE, _DISK, _LOCKED, _CHANGED, _INTERRUPTED = 2, 5, 7, 11, 12, 130
_DENIED = 7
_DISK_ERRORS = frozenset(
    {errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EFBIG}
)


def main(arguments: list[str] | None = None) -> None:
    """Run a command and exit.

    0 all done, 2 usage or config, 3 some images failed, 5 try again later, 7 the disk or a platform
    refuses, 11 in use, 12 another config than before, 130 interrupted. What nobody foresaw passes
    through: Python shows it and exits 1.
    """
    # Threads that spin while they wait slow a run tenfold on a machine that does other work too;
    # the setting counts only before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        app(args=arguments, prog_name="prelabel")
    except LockedError as error:
        _leave(f"error: {error}", _LOCKED)
    except ChangedError as error:
        _leave(f"error: {error}", _CHANGED)
    except ConnectorError as error:
        code = _RETRYABLE if error.retryable else _DENIED if error.kind == "denied" else _USAGE
        _leave(f"error: {error}", code)
    except PrelabelError as error:
        _leave(f"error: {error}", _USAGE)
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
