"""Which file system a folder is on, by a table of mounts that is made up."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.errors import ConfigError
from prelabel.job import mounts
from prelabel.job.ledger import Ledger
from prelabel.job.mounts import file_system, refuse_network

TABLE = """\
21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw
30 21 0:40 / /data rw,relatime shared:7 master:2 - nfs4 server:/export rw,vers=4.2
31 30 8:17 / /data/local rw - xfs /dev/sdb1 rw
32 21 0:41 / /my\\040photos rw - fuse.sshfs me@there: rw
33 21 0:42 / /twice rw - ext4 /dev/sdc1 rw
34 21 0:43 / /twice rw - cifs //server/share rw
35 21 0:44 / /fuse rw - fuse.mergerfs a:b rw
broken line
"""


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "mountinfo"
    path.write_text(TABLE)
    monkeypatch.setattr(mounts, "_TABLE", path)
    return path


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/home/me/run", "ext4"),
        ("/data", "nfs4"),
        ("/data/runs/one", "nfs4"),
        ("/database", "ext4"),
        ("/data/local/run", "xfs"),
        ("/my photos/run", "fuse.sshfs"),
        ("/twice/run", "cifs"),
        ("/", "ext4"),
    ],
)
def test_the_deepest_and_latest_mount_counts(table: Path, path: str, kind: str) -> None:
    assert file_system(Path(path), table) == kind


def test_links_are_followed(table: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/data/runs")
    assert file_system(tmp_path / "link" / "one", table) == "nfs4"


def test_where_no_table_is_nothing_is_known(tmp_path: Path) -> None:
    assert file_system(tmp_path, tmp_path / "gone") == ""


@pytest.mark.parametrize("path", ["/data/run", "/my photos/run", "/twice"])
def test_a_ledger_on_a_network_is_refused_with_the_way_out(table: Path, path: str) -> None:
    with pytest.raises(ConfigError, match=r"network file system .* give --state DIR"):
        Ledger(Path(path) / "job.db")


@pytest.mark.parametrize("path", ["/home", "/data/local/run", "/fuse/run"])
def test_a_disk_of_this_machine_is_taken(table: Path, path: str) -> None:
    refuse_network(Path(path))
    assert mounts.file_system(Path(path)) in ("ext4", "xfs", "fuse.mergerfs")
