"""What workers log, with the image and the stage that it was said over, as events.

A process elsewhere has no terminal: what is logged there travels to the coordinator, which shows it
and keeps it in the run's log.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from prelabel.hand import in_hand
from prelabel.job.protocol import Remark
from prelabel.redaction import redact

__all__ = ["LOG_NAME", "RunLog", "remarks"]

LOG_NAME = "run.log"
_LOGGERS = ("prelabel", "connectors")


class _Handler(logging.Handler):
    def __init__(self, tell: Callable[[Remark], None]) -> None:
        super().__init__(logging.WARNING)
        self._tell = tell

    def emit(self, record: logging.LogRecord) -> None:
        """Hand on a record."""
        text = str(redact(record.getMessage()))
        self._tell(Remark(*in_hand(), record.levelname.lower(), text))


@contextmanager
def remarks(tell: Callable[[Remark], None]) -> Iterator[None]:
    """Warnings of the package go to `tell` in this block, rather than to a terminal."""
    handler = _Handler(tell)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.handlers[:] for logger in loggers]
    for logger in loggers:
        logger.handlers[:] = [handler]
    try:
        yield
    finally:
        for logger, handlers in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers


class RunLog:
    """`run.log`: a line per start, failure, remark and end, each with the time.

    A disk that refuses is told by the labels, which matter more; here it is passed over.
    """

    def __init__(self, root: Path) -> None:
        self._path = root / LOG_NAME

    def write(self, level: str, text: str) -> None:
        """Append a line."""
        words = " ".join(text.split())
        shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in words)
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {level} {shown}\n"
        with suppress(OSError):
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                os.write(file, line.encode("utf-8", "backslashreplace"))
            finally:
                os.close(file)
