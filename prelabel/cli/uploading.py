"""The upload, download and init commands."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from prelabel.cli import console
from prelabel.cli.connect import open_platform
from prelabel.config import load_config
from prelabel.data import Ontology
from prelabel.errors import ConfigError, ConnectorError
from prelabel.job.download import download_labels
from prelabel.job.outbox import OutboxRow
from prelabel.job.planning import label_keys
from prelabel.job.store import run_ontology
from prelabel.job.upload import preview_upload, upload_run
from prelabel.job.upload_terms import UploadOptions, UploadSummary
from prelabel.ontology import ontology_document
from prelabel.ports import LabelPlatform
from prelabel.redaction import redact
from prelabel.strict_yaml import Document, dump_yaml

__all__ = ["UploadRequest", "download_command", "init_command", "upload_command"]

_DENIED, _RETRYABLE, _INTERRUPTED = 7, 5, 130
_EVERY = 50
"""A line is written after so many labels."""
_MOST_NAMES = 10
_NETWORKS: Mapping[str, Mapping[str, str]] = {
    "detect": {"kind": "grounding-dino", "weights": "IDEA-Research/grounding-dino-tiny"},
    "segment": {"kind": "sam", "weights": "facebook/sam-vit-base"},
    "stuff": {"kind": "clipseg", "weights": "CIDAS/clipseg-rd64-refined"},
}
"""As in configs/base.yaml."""


@dataclass(frozen=True, slots=True)
class UploadRequest:
    """The arguments of `prelabel upload`."""

    run: Path
    to: str
    labelset: str | None
    options: UploadOptions
    dry_run: bool = False


def upload_command(request: UploadRequest, *, as_json: bool) -> int:
    """Send a run's labels; returns the exit code."""
    target = _with_labelset(request.to, request.labelset)
    platform = open_platform(target)
    ontology = _ontology(request.run)
    try:
        if request.dry_run:
            return _preview(request, platform, ontology, as_json=as_json)
        watcher = _Events() if as_json else _Lines()
        summary = upload_run(
            request.run, platform, ontology, str(redact(target)), request.options, watcher
        )
    except ConnectorError as error:
        return _denied(error)
    _show_summary(summary, as_json=as_json)
    return _exit_code(summary)


def _preview(
    request: UploadRequest, platform: LabelPlatform, ontology: Ontology, *, as_json: bool
) -> int:
    for remark in platform.check(ontology):
        console.note(remark)
    is_run = (request.run / "labels").is_dir()
    counts = preview_upload(request.run, platform, request.options) if is_run else {}
    if as_json:
        console.show_json(dict(counts))
        return 0
    console.show_line("credentials, dataset and categories are fine; nothing was sent")
    if is_run:
        console.show_line(
            f"of {len(label_keys(request.run))} labels {counts['send']} would be sent, "
            f"{counts['human']} would give way to a person's work, {counts['missing']} have no "
            "image there"
        )
    return 0


def _ontology(run: Path) -> Ontology:
    """Of a run's folder; a config is enough for a dry run."""
    if run.is_file():
        return load_config(run).ontology
    return run_ontology(run)


def _with_labelset(location: str, labelset: str | None) -> str:
    return location if labelset is None else f"{location}::labelset={labelset}"


def _exit_code(summary: UploadSummary) -> int:
    """0 all there, 3 some failed, 5 try again later, 7 no rights, 130 interrupted."""
    if summary.interrupted:
        return _INTERRUPTED
    if summary.denied:
        return _DENIED
    if summary.left:
        return _RETRYABLE
    return 3 if summary.failures else 0


def _show_summary(summary: UploadSummary, *, as_json: bool) -> None:
    document = dataclasses.asdict(summary) | {"left": summary.left}
    if as_json:
        console.show_event("summary", document)
        return
    rows = [
        ("labels", summary.total),
        ("sent and read back", summary.verified),
        ("sent", summary.sent),
        ("there before", summary.before),
        ("a person's work, left alone", summary.human),
        ("failed", len(summary.failures)),
        ("left for the next time", summary.left),
    ]
    shown = [(name, str(count)) for name, count in rows if count]
    console.show_table("Upload", ("", ""), [*shown, ("seconds", f"{summary.seconds:.1f}")])
    for failure in summary.failures[:_MOST_NAMES]:
        console.show_line(f"failed ({failure.kind}): {failure.message}")
    if len(summary.failures) > _MOST_NAMES:
        console.show_line(f"and {len(summary.failures) - _MOST_NAMES} more; --json lists all")
    if summary.stopped:
        console.show_line(f"stopped: {summary.stopped}")
    if summary.left:
        console.show_line("the same command sends what is left")


class _Lines:
    """An `UploadObserver` that writes lines on stderr."""

    def __init__(self) -> None:
        self._settled = 0

    def remark(self, text: str) -> None:
        console.note(text)

    def settled(self, image_id: str, row: OutboxRow) -> None:
        self._settled += 1
        if row.state == "failed":
            console.note(f"failed ({row.kind}): {row.message}")
        if self._settled % _EVERY == 0:
            console.note(f"{self._settled} labels")

    def waiting(self, seconds: float) -> None:
        console.note(f"the platform fails; next try in {seconds:.0f} s")

    def stopping(self) -> None:
        console.note("interrupted: finishing the labels in hand; once more stops at once")


class _Events:
    """An `UploadObserver` that writes one JSON object per line on stdout."""

    def remark(self, text: str) -> None:
        console.show_event("remark", {"text": text})

    def settled(self, image_id: str, row: OutboxRow) -> None:
        told = {"image_id": image_id, "state": row.state}
        if row.state == "failed":
            told |= {"kind": row.kind, "message": row.message}
        console.show_event("settled", told)

    def waiting(self, seconds: float) -> None:
        console.show_event("waiting", {"seconds": seconds})

    def stopping(self) -> None:
        console.show_event("stopping", {})


def download_command(location: str, labelset: str | None, out: Path, statuses: str) -> int:
    """Fetch labels as COCO panoptic; returns the exit code."""
    wanted = tuple(part.strip().upper() for part in statuses.split(",") if part.strip())
    if not wanted:
        raise ConfigError("--status names no status; give some, such as REVIEWED,LABELED")
    platform = open_platform(_with_labelset(location, labelset))
    try:
        found = download_labels(platform, wanted, out)
    except ConnectorError as error:
        return _denied(error)
    for failure in found.failures:
        console.note(f"failed ({failure.kind}): {failure.message}")
    console.show_line(f"{found.labels} labels in {out / 'panoptic.json'}")
    return 3 if found.failures else 0


def init_command(location: str) -> int:
    """Print a config for a platform's dataset, with its categories; returns the exit code."""
    try:
        ontology = open_platform(location).ontology()
    except ConnectorError as error:
        return _denied(error)
    document: dict[str, Document] = {
        "source": str(redact(location)),
        "out": f"runs/{location.partition('::')[0].rpartition('/')[2]}",
        "ontology": ontology_document(ontology),
    }
    for role, options in _NETWORKS.items():
        document[role] = dict(options)
    console.show_line(_INIT_HEAD.format(location=redact(location)) + dump_yaml(document).rstrip())
    return 0


def _denied(error: ConnectorError) -> int:
    """The exit code where a key is refused. Raises any other error as it is."""
    if error.kind != "denied":
        raise error
    console.note(f"error: {error}")
    return _DENIED


_INIT_HEAD = """\
# Written by: prelabel init {location}
# Ids and names are the platform's; keep both. Prompts are what the networks are asked for: make
# them words that a caption would use, with synonyms. A category is under things if its objects are
# counted (has_instances on the platform) or if the platform does not say; move it if that is wrong.
# Keys that are not here have the defaults of configs/base.yaml.
"""
