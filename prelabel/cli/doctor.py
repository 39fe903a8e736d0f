"""`prelabel doctor`: what would go wrong in a run, told before it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from prelabel.cli import console

__all__ = ["doctor"]

_FAILED = 2


def doctor(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="A YAML file, such as configs/demo.yaml.")
    ],
    source: Annotated[str | None, typer.Option(metavar="URI", help="As in `prelabel run`.")] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="As in `prelabel run`.")] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the networks run.")
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as in `prelabel run`."),
    ] = None,
    deep: Annotated[
        bool, typer.Option("--deep", help="Also load the networks and label one image.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON on stdout, for programs.")
    ] = False,
) -> None:
    """Examine everything that a run depends on, in seconds, and say what to mend.

    Exit codes: 0 a run can start, perhaps with warnings; 2 it cannot, or would be of no use.
    """
    from prelabel.cli.examination import examine
    from prelabel.cli.running import RunRequest

    request = RunRequest(config, source, out, device, tuple(overrides or ()))
    findings = []
    for finding in examine(request, deep=deep):
        findings.append(finding)
        if not as_json:
            console.show_line(f"{finding.status:<5} {finding.subject}: {finding.text}")
    failed = sum(finding.status == "fail" for finding in findings)
    warned = sum(finding.status == "warn" for finding in findings)
    if as_json:
        console.show_json(
            {
                "ok": not failed,
                "findings": [
                    {"subject": each.subject, "status": each.status, "text": each.text}
                    for each in findings
                ],
            }
        )
    else:
        verdict = "a run cannot start like this" if failed else "a run can start"
        console.show_line(f"{failed} to mend, {warned} to look at: {verdict}")
    raise typer.Exit(_FAILED if failed else 0)
