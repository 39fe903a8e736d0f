"""Folders for output: what they are on, and whose fault it is where they cannot be made."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from prelabel.errors import ConfigError

__all__ = ["DISK_ERRORS", "file_system", "make_folder", "refuse_network"]

DISK_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO})
"""The disk's own troubles; other errors mean that a folder is the wrong one."""

_TABLE = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {
        *("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "lustre", "gpfs", "beegfs"),
        *("orangefs", "pvfs2", "glusterfs", "wekafs", "panfs", "gfs2", "ocfs2", "ncpfs", "coda"),
        *("sshfs", "s3fs", "gcsfuse", "rclone", "juicefs", "mount-s3", "goofys", "blobfuse"),
        *(
            "blobfuse2",
            "davfs",
            "curlftpfs",
            "mfs",
            "moosefs",
            "seaweedfs",
            "google-drive-ocamlfuse",
        ),
    }
)
"""Types of file systems that another machine serves; for those in user space the part after
`fuse.`."""


def file_system(path: Path, table: Path | None = None) -> str:
    """The type of the file system that `path` is on, or will be, "" where no system tells.

    Args:
        path: need not exist.
        table: of the mounts, in the form of Linux's `/proc/self/mountinfo`.
    """
    try:
        lines = (table or _TABLE).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return ""
    whole, best, kind = os.path.realpath(path), "", ""
    for line in lines.splitlines():
        before, dash, after = line.partition(" - ")
        fields = before.split(" ")
        if not dash or len(fields) < 5:
            continue
        point = _unescaped(fields[4])
        # Of two mounts on one point the later hides the earlier.
        if len(point) >= len(best) and _is_below(whole, point):
            best, kind = point, after.split(" ")[0]
    return kind


def refuse_network(folder: Path) -> None:
    """Raise ConfigError where `folder` is on a network file system."""
    kind = file_system(folder)
    if kind.removeprefix("fuse.") in _NETWORK:
        raise ConfigError(
            f"{folder} is on a network file system ({kind}), where the ledger would be damaged; "
            "give --state DIR, a folder on this machine, to keep it there"
        )


def make_folder(folder: Path) -> None:
    """Make a folder that may be there already.

    Raises:
        ConfigError: it cannot be made.
        OSError: the disk is full, read-only or broken.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}") from error


def _is_below(path: str, point: str) -> bool:
    return path == point or path.startswith(point.rstrip("/") + "/")


def _unescaped(text: str) -> str:
    """Blanks stand in the table as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)
