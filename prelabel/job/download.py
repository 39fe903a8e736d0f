"""Labels of a platform, such as reviewed ones, into a COCO panoptic file."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from prelabel.coco import PanopticWriter, measure_segments
from prelabel.data import Failure, ImageRecord, image_key
from prelabel.errors import ConfigError, ConnectorError, PrelabelError
from prelabel.ports import LabelPlatform, RemoteLabel

__all__ = ["Downloaded", "download_labels"]

JSON_NAME = "panoptic.json"


@dataclass(slots=True)
class Downloaded:
    """What was fetched.

    Attributes:
        labels: in the file.
        failures: labels that could not be read; the file lacks them.
    """

    labels: int = 0
    failures: list[Failure] = field(default_factory=list)


def download_labels(
    platform: LabelPlatform, statuses: Collection[str], out: Path, jobs: int = 8
) -> Downloaded:
    """Write `out`/panoptic.json and its PNGs, with every label of one of the statuses.

    `file_name` of an image is its id on the platform, ids of segments and categories are the
    platform's. The order is that of the listing, whatever thread is first.

    Raises:
        ConfigError: there is no such dataset, or no label of these statuses.
        ConnectorError: the platform cannot be asked, or refuses the key.
        OSError: `out` cannot be written.
    """
    ontology = platform.ontology()
    records = list(platform.listing(statuses))
    if not records:
        raise ConfigError(f"no label is {' or '.join(statuses)} there; choose others with --status")
    found = Downloaded()
    with PanopticWriter(out / JSON_NAME, ontology) as writer:
        for record, outcome in _pull_all(platform, records, jobs):
            if isinstance(outcome, Failure):
                found.failures.append(outcome)
                continue
            try:
                segments = measure_segments(outcome.id_map, outcome.category_ids)
                writer.add_map(
                    record.image_id,
                    outcome.id_map,
                    segments,
                    found.labels + 1,
                    png_name=f"{image_key(record.image_id)}.png",
                )
            except PrelabelError as error:
                found.failures.append(Failure(record.image_id, "download", "label", str(error)))
                continue
            found.labels += 1
    return found


def _pull_all(
    platform: LabelPlatform, records: list[ImageRecord], jobs: int
) -> Iterator[tuple[ImageRecord, RemoteLabel | Failure]]:
    """Each record's label in order, a few of them ahead."""
    with ThreadPoolExecutor(jobs) as threads:
        waiting: list[tuple[ImageRecord, Future[RemoteLabel | Failure]]] = []
        rest = iter(records)
        try:
            while True:
                for record in islice(rest, 2 * jobs - len(waiting)):
                    waiting.append((record, threads.submit(_pull, platform, record)))
                if not waiting:
                    return
                record, future = waiting.pop(0)
                yield record, future.result()
        finally:
            threads.shutdown(cancel_futures=True)


def _pull(platform: LabelPlatform, record: ImageRecord) -> RemoteLabel | Failure:
    try:
        return platform.pull(record)
    except ConnectorError as error:
        if error.retryable or error.kind == "denied":
            raise  # the others would fare no better
        return Failure(record.image_id, "download", error.kind or "refused", str(error))
    except PrelabelError as error:
        return Failure(record.image_id, "download", "label", str(error))
