"""Where images come from and labels go, examined before a run."""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from prelabel.cache import default_folder
from prelabel.cli.connect import lacking_there, open_source
from prelabel.cli.findings import Finding, fail, ok, warn
from prelabel.coco import check_relative
from prelabel.config import Config, load_config
from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError, ImageError, LabelError
from prelabel.job.ledger import LEDGER_NAME
from prelabel.job.lock import locked

__all__ = ["SourceSample", "examine_cache", "examine_output", "examine_source"]

_SAMPLES = 5
"""Images that are decoded, spread over the source."""
_BYTES_PER_IMAGE, _BYTES_PER_PIXEL, _BYTES_OF_REASONS = 16_000, 0.1, 60_000
"""Of a label with its trace, and of explanations; measured on drawn scenes, and rounded up."""
_FILES_PER_IMAGE, _FILES_OF_REASONS = 3, 2
_SCARCE = 1.5
"""Free space below the estimate times this is a warning."""
_REMOTE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "gpfs"}
    | {"beegfs", "fuse.sshfs", "fuse.s3fs", "fuse.gcsfuse", "fuse.rclone", "fuse.glusterfs"}
)
"""File systems over a network, where SQLite's locks and log cannot be trusted."""


class SourceSample:
    """What examining the source tells the other examinations."""

    def __init__(self) -> None:
        self.count = 0
        self.pixels = 0.0
        self.frame: Frame | None = None


def examine_source(config: Config, sample: SourceSample) -> Iterator[Finding]:
    """Whether it lists images and some of them decode; fills `sample`."""
    if config.source is None:
        yield fail("source", "the config names none; add `source:`, or give --source")
        return
    source = open_source(config.source)
    start = time.perf_counter()
    records = list(source.records())
    sample.count = len(records)
    seconds = time.perf_counter() - start
    yield ok("source", f"{len(records)} images listed in {seconds:.1f} s")
    yield from _exportable(records)
    if remark := lacking_there(source, config.ontology, config.source):
        yield warn("source", remark)
    step = max(1, len(records) // _SAMPLES)
    chosen = records[::step][:_SAMPLES]
    sizes, errors = [], []
    for record in chosen:
        try:
            frame = source.read(record)
        except ImageError as error:
            errors.append(f"({error.kind}) {error}")
            continue
        sizes.append(frame.size[0] * frame.size[1])
        sample.frame = sample.frame or frame
    if sizes:
        sample.pixels = statistics.fmean(sizes)
    yield from _judge_sample(len(chosen), sizes, errors)


def _exportable(records: list[ImageRecord]) -> Iterator[Finding]:
    """COCO names images by relative paths; a list may hold others."""
    for record in records:
        try:
            check_relative(record.image_id, "source")
        except LabelError:
            yield warn(
                "source",
                f"{record.image_id!a} leads out of its folder, so its label cannot be exported to "
                "COCO files; list paths relative to a folder that holds all images",
            )
            return


def _judge_sample(count: int, sizes: list[int], errors: list[str]) -> Iterator[Finding]:
    if not sizes:
        yield fail("images", f"none of {count} that were tried can be read: {errors[0]}")
        return
    megapixels = statistics.fmean(sizes) / 1e6
    text = f"{len(sizes)} of {count} that were tried can be read, {megapixels:.2f} MP on average"
    yield warn("images", f"{text}; {errors[0]}") if errors else ok("images", text)


def examine_output(config: Config, sample: SourceSample) -> Iterator[Finding]:
    """Whether the run's folder can be written and holds what a run needs."""
    out = Path(config.out).expanduser()
    existing = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not existing.is_dir():
        yield fail("output", f"{existing} is a file; give another out")
        return
    _try_writing(existing)
    yield ok("output", f"{out} can be written")
    yield from _apart_from_source(config, out)
    yield from _file_system(existing)
    yield from _room(config, existing, sample)
    if (out / ".lock").is_file():
        with locked(out):  # raises where a run is in it
            pass
    if (out / "config.yaml").is_file():
        yield from _earlier_run(config, out)


def _try_writing(folder: Path) -> None:
    """Do what the job does with each label. Raises OSError."""
    with tempfile.TemporaryDirectory(prefix=".prelabel-doctor-", dir=folder) as trial:
        part, whole = Path(trial) / "part", Path(trial) / "whole"
        with part.open("wb") as stream:
            stream.write(b"x")
            os.fsync(stream.fileno())
        part.replace(whole)


def _apart_from_source(config: Config, out: Path) -> Iterator[Finding]:
    source = Path((config.source or "").removeprefix("folder:")).expanduser()
    if not source.is_dir():
        return
    if source.resolve() == out.resolve():
        yield fail("output", f"{out} is the source itself; give labels a folder of their own")
    elif source.resolve() in out.resolve().parents:
        yield warn(
            "output", f"{out} lies inside the source; it is left out there, but keep them apart"
        )


def _file_system(folder: Path) -> Iterator[Finding]:
    kind = _system_of(folder)
    if kind in _REMOTE_SYSTEMS:
        yield warn(
            "ledger",
            f"{folder} is on {kind}, a network file system, where {LEDGER_NAME} may be damaged; "
            "keep it on this machine with --state DIR",
        )


def _system_of(folder: Path) -> str:
    """The type of the file system, as Linux tells it; "" elsewhere."""
    try:
        mounts = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    best, kind = "", ""
    path = str(folder.resolve()) + "/"
    for line in mounts.splitlines():
        _, point, system, *_ = line.split(" ")
        point = point.replace("\\040", " ").rstrip("/") + "/"
        if path.startswith(point) and len(point) >= len(best):
            best, kind = point, system
    return kind


def _room(config: Config, folder: Path, sample: SourceSample) -> Iterator[Finding]:
    if not sample.count or not sample.pixels:
        return
    reasons = config.explain.enabled
    each = _BYTES_PER_IMAGE + _BYTES_PER_PIXEL * sample.pixels + reasons * _BYTES_OF_REASONS
    needed, free = each * sample.count, shutil.disk_usage(folder).free
    text = f"about {_size(needed)} needed for {sample.count} images, {_size(free)} free"
    if free < needed:
        yield fail("disk", f"{text}; make room, or choose another out")
    elif free < needed * _SCARCE:
        yield warn("disk", f"{text}, which is scarce; the estimate is rough")
    else:
        yield ok("disk", text)
    if sys.platform == "win32":
        return
    files = sample.count * (_FILES_PER_IMAGE + reasons * _FILES_OF_REASONS)
    system = os.statvfs(folder)
    if system.f_files and system.f_favail < files:
        yield fail(
            "disk", f"{files} files needed, {system.f_favail} more are possible on this file system"
        )


def _earlier_run(config: Config, out: Path) -> Iterator[Finding]:
    done = sum(1 for _ in (out / "labels").glob("[!.]*.json"))
    try:
        same = load_config(out / "config.yaml").fingerprint("merge") == config.fingerprint("merge")
    except ConfigError:
        same = False
    if same:
        yield ok("resume", f"{out} holds {done} labels made in this way; they are kept")
    else:
        yield warn(
            "resume",
            f"{out} holds {done} labels made in another way; the run will ask for --accept-change, "
            "--fresh or another out",
        )


def examine_cache(config: Config) -> Iterator[Finding]:
    """Whether the stage cache can be written and has the room it may take."""
    options = config.cache
    if not options.enabled:
        yield ok("cache", "switched off")
        return
    try:
        folder = Path(options.folder).expanduser() if options.folder else default_folder()
    except (ConfigError, RuntimeError) as error:  # the latter: ~ of nobody
        yield warn("cache", f"nothing is kept: {error}")
        return
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        _try_writing(existing)
    except OSError as error:
        yield warn(
            "cache",
            f"{folder} cannot be written ({error.strerror}), so nothing is kept; set cache.folder",
        )
        return
    free, most = shutil.disk_usage(existing).free, options.max_gib * 2**30
    text = f"{folder}, up to {_size(most)}, {_size(free)} free"
    if free < most:
        yield warn("cache", f"{text}; lower cache.max_gib, or set cache.folder")
    else:
        yield ok("cache", text)


def _size(count: float) -> str:
    for unit, scale in (("GB", 1e9), ("MB", 1e6)):
        if count >= scale:
            return f"{count / scale:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"
