"""The values of one JSON object: what each was meant to be, and a fault where it is not that."""

from __future__ import annotations

from collections.abc import Mapping

from prelabel.coco.reading import check_relative
from prelabel.coco.records import ImageId
from prelabel.coco.rules import Problem
from prelabel.errors import LabelError

__all__ = ["MAX_ID", "Fields", "Record", "is_integer", "short_text", "tell_value", "to_integer"]

Record = Mapping[str, object]
MAX_ID = 256**3 - 1
"""The largest id that fits into the three channels of a PNG."""


class Fields:
    """Reads the values of one object and collects what is wrong with them."""

    def __init__(
        self, record: Record, place: str, image: str = "", segment_id: int | None = None
    ) -> None:
        self.record = record
        self.place = place
        self.image = image
        self.segment_id = segment_id
        self.faults: list[Problem] = []

    def fault(self, rule: str, text: str) -> None:
        message = f"{self.place}.{text}"
        self.faults.append(Problem(rule, message, self.image, self.segment_id))

    def wrong(self, key: str, expected: str, rule: str = "field") -> None:
        self.fault(rule, f"{key} is {tell_value(self.record, key)}, not {expected}")

    def integer(self, key: str) -> int | None:
        value = self.record.get(key)
        if not is_integer(value):
            self.wrong(key, "an integer")
        return to_integer(value)

    def size(self, key: str) -> int | None:
        value = self.record.get(key)
        if not is_integer(value) or int(str(value)) < 1:
            self.wrong(key, "an integer of at least 1")
        number = to_integer(value)
        return number if number is not None and number > 0 else None

    def image_id(self, key: str) -> ImageId | None:
        number = self.integer(key)
        value = self.record.get(key)
        return value if number is None and isinstance(value, str) else number

    def text(self, key: str) -> str | None:
        value = self.record.get(key)
        if not isinstance(value, str) or not value.strip():
            self.wrong(key, "a text")
            return None
        return value

    def path(self) -> tuple[str | None, bool]:
        name = self.text("file_name")
        if name is None:
            return None, False
        try:
            check_relative(name, self.place)
        except LabelError:
            self.fault("unsafe-path", f"file_name {name!r} is no relative path inside its folder")
            return name, False
        return name, True

    def flag(self, key: str, rule: str) -> bool | None:
        value = self.record.get(key)
        if not (is_integer(value) and value in (0, 1)):
            self.wrong(key, "0 or 1", rule)
        number = int(value) if isinstance(value, bool) else to_integer(value)
        return bool(number) if number in (0, 1) else None

    def box(self, key: str) -> tuple[int, int, int, int] | None:
        values = self.record.get(key)
        if isinstance(values, list) and len(values) == 4 and all(map(is_integer, values)):
            x, y, width, height = values
            return x, y, width, height
        self.wrong(key, "four integers")
        return None

    def optional_text(self, key: str) -> None:
        if key in self.record and not isinstance(self.record[key], str):
            self.wrong(key, "a text")

    def color(self, key: str) -> None:
        values = self.record.get(key)
        if key in self.record and not (
            isinstance(values, list)
            and len(values) == 3
            and all(is_integer(value) and 0 <= value <= 255 for value in values)
        ):
            self.wrong(key, "three integers from 0 to 255")

    def optional_number(self, key: str) -> None:
        value = self.record.get(key)
        if key in self.record and (isinstance(value, bool) or not isinstance(value, int | float)):
            self.wrong(key, "a number")


def is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def to_integer(value: object) -> int | None:
    """The integer that was meant, or None."""
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, str) and value.strip().isascii() and value.strip().isdigit():
        # Longer ones are no ids, and slow to read.
        return int(value) if len(value) < 19 else None
    return None


def tell_value(record: Record, key: str) -> str:
    return short_text(record[key]) if key in record else "missing"


def short_text(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
