"""Which annotation of a broken COCO panoptic file belongs to which image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from prelabel.coco.loose import LooseAnnotation, LooseFile, LooseImage
from prelabel.coco.repairs import RepairLog

__all__ = ["AssignedImage", "assign_annotations", "safe_path"]


@dataclass(frozen=True, slots=True)
class AssignedImage:
    """An image of the new file: its id and file_name there, and its annotation in the old one."""

    image: LooseImage
    image_id: int
    file_name: str
    annotation: LooseAnnotation


def assign_annotations(file: LooseFile, log: RepairLog) -> list[AssignedImage]:
    """Images with their annotations, in the order of `images[]`; ids are unique integers.

    An annotation goes to the image of its image_id. Where there is none, or more than one, an
    image and a PNG of the same stem belong together.
    """
    named = _name_images(file.images, log)
    owners = _by_id([image for image, _ in named], file.annotations)
    _by_stem(named, file.annotations, owners)
    _log_orphans(file.annotations, owners, log)
    ids = _number_images([image for image, _ in named if image.place in owners], log)
    assigned = []
    for image, name in named:
        if image.place in owners:
            annotation = owners[image.place]
            assigned.append(AssignedImage(image, ids[image.place], name, annotation))
        else:
            rivals = [row for row, _ in named if row.image_id == image.image_id]
            rule = "no-annotation" if len(rivals) == 1 else "duplicate-image-id"
            message = f"{image.place} has no annotation of its own; the image is left out"
            log.add(rule, "left-out", message, name)
    return assigned


def safe_path(name: str) -> str:
    """What is left of a path without drive, root and `..`; "" where nothing is."""
    parts = name.replace("\0", "").replace("\\", "/").split("/")
    if parts and parts[0].endswith(":"):
        parts = parts[1:]
    return "/".join(part for part in parts if part.strip(". ") and not part.endswith(":"))


# --- images -----------------------------------------------------------------------------------


def _name_images(images: Sequence[LooseImage], log: RepairLog) -> list[tuple[LooseImage, str]]:
    """Images with file_names that are safe and unique; the others are left out."""
    named: list[tuple[LooseImage, str]] = []
    records: dict[str, Mapping[str, object]] = {}
    for image in images:
        name = image.file_name or ""
        if name and not image.safe:
            name = safe_path(name)
            if name:
                log.add("unsafe-path", "repaired", f"{image.file_name!r} became {name!r}", name)
        if not name:
            done = "the image is left out"
            log.add_faults(
                [fault for fault in image.faults if "file_name" in fault.message], done, "left-out"
            )
        elif name not in records:
            records[name] = image.record
            named.append((image, name))
        elif image.record == records[name]:
            message = f"{image.place} stood there twice; now once"
            rule = "duplicate-file-name" if image.image_id is None else "duplicate-image-id"
            log.add(rule, "repaired", message, name)
        else:
            message = f"{image.place} has the file_name of another image and is left out"
            log.add("duplicate-file-name", "left-out", message, name)
    return named


def _number_images(images: Sequence[LooseImage], log: RepairLog) -> Mapping[str, int]:
    """A unique id for each image, by its place; its own where that is an integer and free."""
    ids: dict[str, int] = {}
    taken = {image.image_id for image in images if isinstance(image.image_id, int)}
    fresh = max((key for key in taken if isinstance(key, int)), default=0)
    used: set[int] = set()
    for image in images:
        number = image.image_id
        if isinstance(number, int) and number not in used:
            ids[image.place] = number
        else:
            fresh += 1
            ids[image.place] = fresh
            if isinstance(number, int):
                message = f"{image.place}.id was {number}, as another's; now {fresh}"
                log.add("duplicate-image-id", "repaired", message, image.file_name or "")
        used.add(ids[image.place])
        wrong = [fault for fault in image.faults if ".id is" in fault.message]
        log.add_faults(wrong, f"now {ids[image.place]}")
    return ids


# --- annotations ------------------------------------------------------------------------------


def _by_id(
    images: Sequence[LooseImage], annotations: Sequence[LooseAnnotation]
) -> dict[str, LooseAnnotation]:
    """The first annotation of each image's id, by the image's place, where the id is unique."""
    counts = Counter(image.image_id for image in images)
    firsts: dict[object, LooseAnnotation] = {}
    for annotation in annotations:
        firsts.setdefault(annotation.image_id, annotation)
    return {
        image.place: firsts[image.image_id]
        for image in images
        if image.image_id is not None and counts[image.image_id] == 1 and image.image_id in firsts
    }


def _by_stem(
    named: Iterable[tuple[LooseImage, str]],
    annotations: Sequence[LooseAnnotation],
    owners: dict[str, LooseAnnotation],
) -> None:
    """Add to `owners` what is left over on both sides and has the same, unique stem."""
    assigned = {annotation.place for annotation in owners.values()}
    images: dict[str, list[LooseImage]] = {}
    for image, name in named:
        if image.place not in owners:
            images.setdefault(PurePosixPath(name).stem, []).append(image)
    pngs: dict[str, list[LooseAnnotation]] = {}
    for annotation in annotations:
        if annotation.place not in assigned and annotation.file_name is not None:
            stem = PurePosixPath(safe_path(annotation.file_name)).stem
            pngs.setdefault(stem, []).append(annotation)
    for stem, found in images.items():
        if len(found) == 1 and len(pngs.get(stem, [])) == 1:
            owners[found[0].place] = pngs[stem][0]


def _log_orphans(
    annotations: Sequence[LooseAnnotation],
    owners: Mapping[str, LooseAnnotation],
    log: RepairLog,
) -> None:
    """Say what became of annotations that no image owns, and of those that another id had."""
    places = {annotation.place for annotation in owners.values()}
    records = [annotation.record for annotation in owners.values()]
    for annotation in annotations:
        name = annotation.file_name or ""
        wrong = [fault for fault in annotation.faults if ".image_id is" in fault.message]
        if annotation.place in places:
            log.add_faults(wrong, "set to that of its image")
        elif annotation.record in records:
            message = f"{annotation.place} stood there twice; now once"
            log.add("duplicate-annotation", "repaired", message, name)
        elif wrong:
            log.add_faults(wrong, "no image is its own, so it is left out", "left-out")
        else:
            taken = any(row.image_id == annotation.image_id for row in owners.values())
            rule = "duplicate-annotation" if taken else "unknown-image"
            message = f"{annotation.place} belongs to no image that has no other; left out"
            log.add(rule, "left-out", message, name)
