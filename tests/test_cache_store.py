"""The cache's folder: whole entries or none, a limit, the longest unused go first."""

from __future__ import annotations

import errno
import logging
import math
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from prelabel.cache import KINDS, StageCache, default_folder, open_cache
from prelabel.cache.entries import DamagedEntryError, pack_entry, unpack_entry
from prelabel.errors import LabelError
from prelabel.options import CacheOptions

ROOMY = 2**30


def _key(number: int) -> str:
    return f"{number:064x}"


def _same(first: Mapping[str, Any], second: Mapping[str, Any]) -> bool:
    return first.keys() == second.keys() and all(
        first[name].dtype == second[name].dtype
        and first[name].shape == second[name].shape
        and first[name].tobytes() == second[name].tobytes()
        for name in first
    )


class _Clock:
    """Seconds that pass when they are asked for."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def _never_protecting(folder: Path, max_bytes: int) -> StageCache:
    return StageCache(folder, max_bytes, since=math.inf, clock=_Clock())


# --- one entry --------------------------------------------------------------------------------

_ANY_ARRAY = st.sampled_from(["<f4", "<f8", "<i4", "|u1", "|b1", "<U3", "<i8"]).flatmap(
    lambda dtype: arrays_of.arrays(
        np.dtype(dtype), arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
    )
)


@given(st.dictionaries(st.text(max_size=6), _ANY_ARRAY, max_size=4))
def test_arrays_come_back_as_they_were(arrays: dict[str, Any]) -> None:
    found = unpack_entry("detections", pack_entry("detections", arrays))
    assert _same(found, arrays)
    assert all(array.flags.writeable for array in found.values())


def test_arrays_without_order_in_memory_come_back() -> None:
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = unpack_entry("embeddings", pack_entry("embeddings", {"a": wide.T, "b": wide[:, ::2]}))
    assert found["a"].tolist() == wide.T.tolist()
    assert found["b"].tolist() == wide[:, ::2].tolist()


@given(st.data())
def test_a_changed_or_missing_byte_is_noticed(data: st.DataObject) -> None:
    whole = pack_entry("rough-maps", {"probs": np.arange(6, dtype=np.float32)})
    place = data.draw(st.integers(0, len(whole) - 1))
    changed = bytearray(whole)
    changed[place] ^= data.draw(st.integers(1, 255))
    for damaged in (changed, whole[:place]):
        with pytest.raises(DamagedEntryError):
            unpack_entry("rough-maps", bytearray(damaged))


def test_an_entry_of_another_kind_is_refused() -> None:
    with pytest.raises(DamagedEntryError, match="'detections', where 'rough-maps' was looked for"):
        unpack_entry("rough-maps", pack_entry("detections", {}))


def test_objects_are_never_stored() -> None:
    with pytest.raises(LabelError, match="dtype object, never stored"):
        pack_entry("detections", {"a": np.array([None])})


# --- the folder -------------------------------------------------------------------------------


def test_what_was_put_is_got(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "cache", ROOMY)
    assert cache.get("detections", _key(1)) is None
    assert not cache.has("detections", _key(1))
    cache.put("detections", _key(1), {"a": np.ones((2, 3), np.float32)})
    found = cache.get("detections", _key(1))
    assert found is not None and found["a"].tolist() == [[1, 1, 1], [1, 1, 1]]
    assert cache.has("detections", _key(1))
    assert cache.get("embeddings", _key(1)) is None
    assert (cache.hits.total(), cache.misses.total()) == (1, 2)


def test_entries_are_for_nobody_else(tmp_path: Path) -> None:
    cache = StageCache(tmp_path / "deep" / "cache", ROOMY)
    cache.put("networks", _key(1), {})
    assert cache.folder.stat().st_mode & 0o077 == 0
    assert (cache.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172")


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "other"])
def test_a_damaged_entry_is_none_and_goes(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = StageCache(tmp_path, ROOMY)
    cache.put("detections", _key(7), {"a": np.arange(100)})
    (path,) = (tmp_path / "detections").glob("*/*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    kinds = {"flip": data, "cut": data[:-9], "empty": bytearray(), "other": bytearray(99)}
    path.write_bytes(kinds[damage])
    assert cache.get("detections", _key(7)) is None
    assert not path.exists()
    assert "is made again" in caplog.text
    cache.put("detections", _key(7), {"a": np.arange(100)})
    assert cache.get("detections", _key(7)) is not None


def test_clear_removes_all_or_one_kind(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, ROOMY)
    for number in range(3):
        cache.put("detections", _key(number), {"a": np.zeros(10)})
        cache.put("embeddings", _key(number), {"a": np.zeros(1000)})
    use = cache.use()
    assert dict(use.entries) == {"detections": 3, "embeddings": 3}
    files = [path for path in tmp_path.glob("*/*/*") if path.is_file()]
    assert use.nbytes.total() == sum(path.stat().st_size for path in files) > 24_000
    assert dict(cache.clear("detections").entries) == {"detections": 3}
    assert dict(cache.use().entries) == {"embeddings": 3}
    assert cache.clear().entries.total() == 3
    assert cache.use().entries.total() == 0
    assert StageCache(tmp_path / "none", ROOMY).clear().entries.total() == 0


def test_abandoned_temporary_files_go_and_never_count(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, ROOMY)
    cache.put("detections", _key(1), {})
    (entry,) = (tmp_path / "detections").glob("*/*")
    young, old = entry.with_name(".young.part"), entry.with_name(".old.part")
    for part in (young, old):
        part.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert cache.use().entries.total() == 1
    assert young.exists() and not old.exists()


# --- room -------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(["put", "get"]), st.integers(0, 11), st.integers(0, 400)),
        max_size=60,
    )
)
def test_the_longest_unused_go_first(steps: list[tuple[str, int, int]]) -> None:
    """Against a list in the order of last use."""
    limit = 4000
    with tempfile.TemporaryDirectory() as folder:
        cache = _never_protecting(Path(folder), limit)
        used: list[tuple[int, int]] = []  # key and bytes, the longest unused first
        for what, key, length in steps:
            known = dict(used)
            if what == "get":
                assert (cache.get("detections", _key(key)) is not None) == (key in known)
            elif key not in known:
                arrays = {"a": np.zeros(length, np.uint8)}
                known[key] = len(pack_entry("detections", arrays))
                cache.put("detections", _key(key), arrays)
                if sum(size for _, size in used) + known[key] > limit:
                    while sum(size for _, size in used) + known[key] > 0.9 * limit:
                        used.pop(0)
            if key in known:
                used = [row for row in used if row[0] != key] + [(key, known[key])]
            assert cache.use().nbytes.total() == sum(size for _, size in used) <= limit
        for key in range(12):
            assert (cache.get("detections", _key(key)) is not None) == (key in dict(used))


def test_what_this_job_used_is_not_evicted_for_more_of_it(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ten images where five fit: each run finds five, and none evicts what comes next."""
    arrays = {"a": np.zeros(10_000, np.uint8)}
    limit = 5 * len(pack_entry("embeddings", arrays))
    for run in range(3):
        cache = StageCache(tmp_path, limit)
        for number in range(10):
            if cache.get("embeddings", _key(number)) is None:
                cache.put("embeddings", _key(number), arrays)
        assert cache.hits["embeddings"] == (5 if run else 0)
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 3
    assert "is full of this job's images" in warnings[0].message


def test_a_new_job_evicts_what_an_old_one_used(tmp_path: Path) -> None:
    arrays = {"a": np.zeros(10_000, np.uint8)}
    limit = 5 * len(pack_entry("embeddings", arrays))
    clock = _Clock()
    for start in (0, 100):
        cache = StageCache(tmp_path, limit, clock=clock)
        for number in range(start, start + 5):
            cache.put("embeddings", _key(number), arrays)
    kept = [number for number in range(200) if cache.has("embeddings", _key(number))]
    assert kept == [100, 101, 102, 103, 104]


def test_what_never_fits_is_not_kept_and_stops_nothing(tmp_path: Path) -> None:
    cache = StageCache(tmp_path, 1000)
    cache.put("embeddings", _key(1), {"a": np.zeros(2000, np.uint8)})
    cache.put("detections", _key(1), {"a": np.zeros(20, np.uint8)})
    assert dict(cache.use().entries) == {"detections": 1}


def test_the_folder_is_not_looked_through_at_each_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0
    cache = StageCache(tmp_path, ROOMY)
    evict = cache._evict

    def look(size: int) -> int:
        nonlocal looks
        looks += 1
        return evict(size)

    monkeypatch.setattr(cache, "_evict", look)
    for number in range(100):
        cache.put("detections", _key(number), {"a": np.zeros(100)})
    assert looks == 1


# --- when the disk refuses --------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EACCES])
def test_a_refusing_disk_is_told_once(
    tmp_path: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = StageCache(tmp_path, ROOMY)
    cache.put("detections", _key(1), {"a": np.arange(3)})

    def refuse(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", refuse)
    for number in range(2, 5):
        cache.put("detections", _key(number), {})
    assert [record.message for record in caplog.records] == [
        f"the cache {tmp_path} cannot be written: {os.strerror(code)}"
    ]
    assert cache.get("detections", _key(1)) is not None
    assert cache.get("detections", _key(2)) is None
    assert list(tmp_path.glob("*/*/*.part")) == []


def test_a_file_where_the_folder_should_be(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cache").write_text("")
    cache = StageCache(tmp_path / "cache", ROOMY)
    cache.put("detections", _key(1), {})
    assert cache.get("detections", _key(1)) is None
    assert "cannot be written" in caplog.text


# --- several processes ------------------------------------------------------------------------

_WORKER = """
import sys
from pathlib import Path
import numpy as np
from prelabel.cache import StageCache

folder, seed = Path(sys.argv[1]), int(sys.argv[2])
rng, wrong = np.random.default_rng(seed), 0
cache = StageCache(folder, 40_000, since=float("inf"))
for step in range(400):
    number = int(rng.integers(20))
    found = cache.get("detections", f"{number:064x}")
    if found is None:
        cache.put("detections", f"{number:064x}", {"a": np.full(4000, number, np.uint8)})
    elif found["a"].tolist() != [number] * 4000:
        wrong += 1
print(wrong, cache.hits.total() > 0)
"""


def test_processes_share_a_folder_that_is_too_small_for_them(tmp_path: Path) -> None:
    """They write, read and evict the same entries at once: no error, and never a wrong answer."""
    command = [sys.executable, "-W", "error", "-c", _WORKER, str(tmp_path)]
    workers = [
        subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for seed in range(2)
    ]
    for worker in workers:
        out, err = worker.communicate()
        assert (out.split(), err) == ([b"0", b"True"], b"")
    assert StageCache(tmp_path, 0).use().nbytes.total() <= 40_000 * 1.25


# --- where ------------------------------------------------------------------------------------


def test_the_default_is_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "prelabel" / "stages"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "prelabel" / "stages"
    cache = open_cache(CacheOptions(max_gib=0.5))
    assert cache is not None
    assert (cache.folder, cache.max_bytes) == (default_folder(), 2**29)
    named = open_cache(CacheOptions(folder=str(tmp_path / "named")))
    assert named is not None and named.folder == tmp_path / "named"
    assert open_cache(CacheOptions(enabled=False)) is None


def test_kinds_are_folder_names() -> None:
    assert all(kind.replace("-", "").isalpha() for kind in KINDS)


def test_a_disk_that_is_nearly_full_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What earlier jobs kept makes room; where that is not enough, nothing more is kept."""
    size = len(pack_entry("embeddings", {"a": np.zeros(2**10, np.float32)}))
    disk = {"total": 2**31 + 5 * size}

    def usage(folder: Path) -> Any:
        held = sum(path.stat().st_size for path in tmp_path.glob("cache/*/*/*"))
        return shutil._ntuple_diskusage(0, 0, disk["total"] - held)

    monkeypatch.setattr(shutil, "disk_usage", usage)

    def keep(cache: StageCache, numbers: range) -> None:
        for number in numbers:
            cache.put("embeddings", _key(number), {"a": np.zeros(2**10, np.float32)})

    def kept(cache: StageCache) -> list[int]:
        return [number for number in range(20) if cache.has("embeddings", _key(number))]

    old = StageCache(tmp_path / "cache", ROOMY, since=0.0, clock=_Clock())
    keep(old, range(5))
    assert kept(old) == [0, 1, 2, 3, 4] and not caplog.records
    new = StageCache(tmp_path / "cache", ROOMY, clock=_Clock())
    new._since = old._clock() + 100
    new._clock = lambda: new._since + 1
    keep(new, range(5, 12))
    assert len(kept(new)) <= 5 and kept(new)[-1] >= 8
    assert [record.getMessage() for record in caplog.records] == [
        f"the cache {tmp_path / 'cache'} takes no more: its disk has less than 2 GiB left"
    ]
