"""Repairs a COCO panoptic file into a new folder; the old one is only read.

What a value was meant to be is taken from the rest of the file and from the pixels, never guessed.
What cannot be told so is left out, or kept as it is where leaving it out would lose more; either
way it is named. Keys that COCO does not define, and whatever is right, stay as they are.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from prelabel.coco.assigning import AssignedImage, assign_annotations, safe_path
from prelabel.coco.checking import check_panoptic
from prelabel.coco.codec import write_id_map
from prelabel.coco.loose import LooseCategory, LooseFile, read_loose
from prelabel.coco.pixel_repair import CategoryTable, RepairedImage, fits_exactly, repair_image
from prelabel.coco.repairs import RepairLog, RepairReport
from prelabel.errors import ConfigError, LabelError
from prelabel.files import replacing

__all__ = ["repair_panoptic"]

_LISTS = ("categories", "images", "annotations")


def repair_panoptic(path: Path, out: Path) -> RepairReport:
    """Write a repaired copy of the file at `path`, with all its PNGs, into the folder `out`.

    Args:
        path: of the broken JSON.
        out: a folder that is new or empty.

    Raises:
        ConfigError: there is no such file, or `out` holds something or cannot be made.
        LabelError: the file is no JSON, or lacks a list, so that there is nothing to repair.
    """
    file = read_loose(Path(path))
    for key in _LISTS:
        if not isinstance(file.document.get(key), list):
            raise LabelError(f"{path} has no list of {key}, so there is nothing to repair")
    json_path = Path(out) / f"{file.path.stem}.json"
    _make_folder(json_path)
    log = RepairLog()
    log.add_faults(file.faults, "left out", "left-out")
    categories, table = _repair_categories(file.categories, log)
    writer = _Copy(file, json_path, table, log)
    for assigned in assign_annotations(file, log):
        writer.add(assigned)
    writer.finish(categories)
    remaining = tuple(check_panoptic(json_path))
    for problem in remaining:
        log.add(problem.rule, "kept", problem.message, problem.image, problem.segment_id)
    return RepairReport(json_path, len(writer.images), tuple(log.repairs), remaining)


def _make_folder(json_path: Path) -> None:
    out = json_path.parent
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is not empty; name a new folder, so that nothing is overwritten")
    try:
        json_path.with_suffix("").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{out} cannot be made: {error.strerror or error}") from error


# --- categories -------------------------------------------------------------------------------


def _repair_categories(
    categories: Sequence[LooseCategory], log: RepairLog
) -> tuple[list[Mapping[str, object]], CategoryTable]:
    """The new file's records, and which old id became which."""
    records: list[Mapping[str, object]] = []
    ids: dict[int, int] = {}
    by_name: dict[str, LooseCategory] = {}
    stuff: set[int] = set()
    fresh = max((row.category_id or 0 for row in categories), default=0)
    for row in categories:
        if row.category_id is None:
            log.add_faults(row.faults, "the category is left out", "left-out")
            continue
        if row.category_id in ids or row.name in by_name:
            kept = _log_twin(row, ids, by_name, log)
            if not kept:
                continue
        number = row.category_id
        if number < 1:
            fresh = number = max(fresh, 0) + 1
        ids.setdefault(row.category_id, number)
        if row.name is not None:
            by_name.setdefault(row.name, row)
        if _sort(row) is False:
            stuff.add(number)
        records.append(_category_record(row, number, log))
    return records, CategoryTable(ids, frozenset(stuff))


def _log_twin(
    row: LooseCategory, ids: dict[int, int], by_name: Mapping[str, LooseCategory], log: RepairLog
) -> bool:
    """Deal with a category whose id or name another one has; returns whether it stays."""
    namesake = by_name.get(row.name or "")
    category_id = row.category_id or 0
    if category_id in ids:
        same = namesake is not None and namesake.category_id == category_id
        message = f"{row.place} has the id {category_id} of another category"
        if same:
            log.add("duplicate-category", "repaired", f"{message} and its name; now once")
        else:
            message += ", to which all segments of that id go; it is left out"
            log.add("duplicate-category", "left-out", message)
        return False
    if namesake is not None and _sort(namesake) == _sort(row):
        ids[category_id] = ids[namesake.category_id or 0]
        message = f"{row.place} has the name {row.name!r} of category {namesake.category_id}"
        log.add("duplicate-category", "repaired", f"{message}; its segments are now of that one")
        return False
    # One name for a thing and for stuff: only a person can say which; the check tells it.
    return True


def _sort(row: LooseCategory) -> bool | None:
    """Whether it is a thing, also by a supercategory that says just that; None: nobody says."""
    if row.isthing is not None:
        return row.isthing
    return {"thing": True, "stuff": False}.get(str(row.record.get("supercategory")))


def _category_record(row: LooseCategory, number: int, log: RepairLog) -> Mapping[str, object]:
    record = {**row.record, "id": number}
    isthing = _sort(row)
    if isthing is not None:
        record["isthing"] = int(isthing)
    for fault in row.faults:
        key = fault.message.removeprefix(f"{row.place}.").split(" ", 1)[0]
        if key in ("color", "supercategory"):
            del record[key]
            log.add_faults([fault], "taken out")
        elif key == "id" or (key == "isthing" and isthing is not None):
            log.add_faults([fault], f"now {record[key]}")
    return record


# --- images -----------------------------------------------------------------------------------


class _Copy:
    """Writes the new file image by image; the JSON comes last.

    Args:
        file: the old one.
        json_path: of the new one, whose folder of PNGs is there.
        table: the new categories.
        log: what is done is added to it.
    """

    def __init__(
        self, file: LooseFile, json_path: Path, table: CategoryTable, log: RepairLog
    ) -> None:
        self.images: list[str] = []
        self._annotations: list[str] = []
        self._file = file
        self._path = json_path
        self._table = table
        self._log = log
        self._sources: dict[str, str] = {}

    def add(self, assigned: AssignedImage) -> None:
        """Repair one image and write its PNG, or leave it out."""
        source = self._find_png(assigned)
        if source is None or not self._may_use(source, assigned):
            return
        repaired = repair_image(
            source, assigned.annotation, self._table, assigned.file_name, self._log
        )
        if repaired is None:
            return
        name = self._png_name(assigned, source)
        target = self._path.with_suffix("") / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if repaired.changed:
            write_id_map(target, repaired.id_map)
        else:
            with replacing(target) as part:
                shutil.copyfile(source, part)
        self._add_records(assigned, name, repaired)

    def _find_png(self, assigned: AssignedImage) -> Path | None:
        """The PNG of an image, looked for only inside the folder of PNGs."""
        annotation, image = assigned.annotation, assigned.file_name
        name = annotation.file_name
        wrong = [fault for fault in annotation.faults if ".file_name" in fault.message]
        if name is not None and annotation.safe:
            return self._file.folder / name
        for candidate in (safe_path(name or ""), PurePosixPath(image).stem + ".png"):
            path = self._file.folder / PurePosixPath(candidate).name
            if candidate and path.is_file():
                self._log.add_faults(wrong, f"now {path.name!r}, which is there")
                return path
        self._log.add_faults(wrong, "no PNG is there for it, so the image is left out", "left-out")
        return None

    def _may_use(self, source: Path, assigned: AssignedImage) -> bool:
        """A PNG that another image has already must fit this one as well."""
        old = source.relative_to(self._file.folder).as_posix()
        if old not in self._sources.values() or fits_exactly(source, assigned.annotation):
            return True
        message = f"{old!r} is the PNG of another image; this one is left out"
        self._log.add("duplicate-png", "left-out", message, assigned.file_name)
        return False

    def _png_name(self, assigned: AssignedImage, source: Path) -> str:
        """A name of its own for the new PNG; the old one where that is safe, right and free."""
        old = source.relative_to(self._file.folder).as_posix()
        image = assigned.file_name
        name = old
        if not old.lower().endswith(".png"):
            name = str(PurePosixPath(old).with_suffix(".png"))
            self._log.add("png-name", "repaired", f"{old!r} became {name!r}", image)
        pure, number = PurePosixPath(name), 2
        while name.lower() in self._sources:
            name = str(pure.with_name(f"{pure.stem}-{number}.png"))
            number += 1
        if old in self._sources.values():
            message = f"{old!r} is named by two annotations; this one's copy is {name!r}"
            self._log.add("duplicate-png", "repaired", message, image)
        self._sources[name.lower()] = old
        return name

    def _add_records(self, assigned: AssignedImage, name: str, repaired: RepairedImage) -> None:
        height, width = repaired.id_map.shape
        image = assigned.image
        sizes = [fault for fault in image.faults if _names_size(fault.message)]
        self._log.add_faults(sizes, f"now {width} x {height}, as the PNG")
        if not sizes and (image.height, image.width) != (height, width):
            message = f"images[] said {image.width} x {image.height}; now {width} x {height}, as "
            self._log.add("png-size", "repaired", f"{message}the PNG", assigned.file_name)
        changes = {"id": assigned.image_id, "file_name": assigned.file_name}
        record = {**image.record, **changes, "height": height, "width": width}
        self.images.append(_dump(record))
        entry = {"image_id": assigned.image_id, "file_name": name}
        segments = {"segments_info": list(repaired.segments)}
        self._annotations.append(_dump({**assigned.annotation.record, **entry, **segments}))

    def finish(self, categories: Sequence[Mapping[str, object]]) -> None:
        """Write the JSON, atomically."""
        rest = {key: value for key, value in self._file.document.items() if key not in _LISTS}
        lists = {
            "categories": [_dump(record) for record in categories],
            "images": self.images,
            "annotations": self._annotations,
        }
        with (
            replacing(self._path) as part,
            part.open("w", encoding="utf-8", newline="\n") as stream,
        ):
            stream.write("{")
            stream.writelines(f"{_dump(key)}:{_dump(value)},\n" for key, value in rest.items())
            for index, (key, rows) in enumerate(lists.items()):
                stream.write(f'"{key}":[\n' + ",\n".join(rows))
                stream.write("\n]" if index == len(lists) - 1 else "\n],\n")
            stream.write("}\n")


def _names_size(message: str) -> bool:
    return ".height is" in message or ".width is" in message


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
