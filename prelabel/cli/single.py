"""The image command: one file, no config."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from prelabel.cli import console
from prelabel.cli.results import show_segments
from prelabel.cli.running import JobRequest, exit_code, label_source
from prelabel.config import Config, build_config
from prelabel.data import Frame, ImageRecord, PanopticLabel, image_key
from prelabel.errors import ConfigError, ImageError
from prelabel.images import decode
from prelabel.label_files import read_label
from prelabel.ontology import split_names
from prelabel.review.overlay import write_overlays

__all__ = ["image_command"]

_FAILED = 3


class _OneFrame:
    """An `ImageSource` of one image that is already decoded."""

    def __init__(self, frame: Frame) -> None:
        self._frame = frame

    def records(self) -> Iterator[ImageRecord]:
        yield self._frame.record

    def read(self, record: ImageRecord) -> Frame:
        return self._frame

    def stamp(self, record: ImageRecord) -> str:
        return ""


def image_command(
    file: Path, names: tuple[str, str], out: Path | None, *, device: str | None, as_json: bool
) -> int:
    """Label one file; returns the exit code.

    Args:
        file: the image.
        names: comma-separated things, and stuff.
        out: a run folder to write to, or None.
        device: None for the best there is.
        as_json: whether stdout is for a program.
    """
    config = _config(names, out, device)
    if not file.is_file():
        raise ConfigError(f"the image {file} does not exist")
    try:
        frame = decode(file, ImageRecord(file.name, str(file)))
    except ImageError as error:
        console.note(f"error: {error}")
        return _FAILED
    label, code = _label(frame, config, out)
    if label is None:
        return code
    if as_json:
        console.show_json(_document(label, config))
    else:
        show_segments(label, config.ontology)
    if out is not None:
        write_overlays(out, config.ontology)
        console.note(f"label and picture: {out / 'labels'}, {out / 'overlays'}")
    return code


def _config(names: tuple[str, str], out: Path | None, device: str | None) -> Config:
    things, stuff = (split_names(text) for text in names)
    if not things and not stuff:
        raise ConfigError('nothing to look for; give --things "car, person" or --stuff "road, sky"')
    config = build_config({"ontology": {"things": things, "stuff": stuff}}, "--things, --stuff")
    return config.model_copy(
        update={"out": str(out or config.out), "device": device or config.device}
    )


def _label(frame: Frame, config: Config, out: Path | None) -> tuple[PanopticLabel | None, int]:
    if out is not None:
        job = JobRequest(engine="inline", again=True)
        summary = label_source(config, _OneFrame(frame), job)
        if not summary.done:
            return None, exit_code(summary)
        return read_label(out, image_key(frame.record.image_id))[0], exit_code(summary)
    config.fingerprint("merge")  # finds the weights, or says how to get them, before torch loads

    from prelabel.pipeline import Pipeline

    return Pipeline.from_config(config).run([frame])[0].label, 0


def _document(label: PanopticLabel, config: Config) -> dict[str, object]:
    segments = []
    for segment in label.segments:
        name = config.ontology.by_id[segment.category_id].name
        segments.append(dataclasses.asdict(segment) | {"category": name})
    return {
        "image_id": label.image_id,
        "size": [*label.size],
        "score": label.score,
        "segments": segments,
    }
