"""Images in a store, on fsspec's own store in memory; S3 is tested in tests/s3."""

from __future__ import annotations

import io
import pickle
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from PIL import Image

from connectors import base, stores
from connectors.fsspec_images import FsspecSource
from connectors.stores import StorePlace, stamp_of
from prelabel.cli.connect import open_source
from prelabel.data import ImageRecord
from prelabel.errors import ConfigError, ImageError
from prelabel.ports import ImageSource

ROOT = "memory://bucket/photos"
RECORD = ImageRecord("a.png", "")


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, format="PNG")
    return stream.getvalue()


def _put(*names: str, data: bytes = b"") -> None:
    for name in names:
        fsspec.filesystem("memory").pipe_file(f"/bucket/{name}", data)


@pytest.fixture(autouse=True)
def _empty_store(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(base, "_PAUSES", (0.0, 0.0))
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    yield
    MemoryFileSystem.store.clear()


def _ids(location: str = ROOT) -> list[str]:
    return [record.image_id for record in FsspecSource(location).records()]


def test_names_below_the_url_are_ids(caplog: pytest.LogCaptureFixture) -> None:
    _put("photos/b.JPG", "photos/a/x.png", "photos/a.png", "photos2/no.png", "no.png")
    _put("photos/.hidden.png", "photos/.git/y.png", "photos/notes.txt", "photos/[/foo].jpg")
    assert _ids() == ["[/foo].jpg", "a.png", "a/x.png", "b.JPG"]
    assert _ids(ROOT + "/") == _ids()
    assert caplog.text == ""


def test_records_open_nothing_and_read_fetches() -> None:
    _put("photos/bad.png")
    _put("photos/good.png", data=_png())
    source = open_source(ROOT)
    assert isinstance(source, FsspecSource) and isinstance(source, ImageSource)
    bad, good = source.records()
    assert good.uri == f"{ROOT}/good.png"
    assert source.read(good).size == (2, 3)
    with pytest.raises(ImageError, match=r"bad\.png: the file is empty") as caught:
        source.read(bad)
    assert caught.value.kind == "decode"
    fsspec.filesystem("memory").rm("/bucket/photos/good.png")
    with pytest.raises(ImageError) as caught:
        source.read(good)
    assert caught.value.kind == "gone"


def test_stamps_come_with_the_listing_or_from_the_store() -> None:
    _put("photos/a.png", data=_png())
    source = FsspecSource(ROOT)
    (record,) = source.records()
    copy = pickle.loads(pickle.dumps(source))
    assert copy._stamps == {}
    stamp = source.stamp(record)
    assert stamp.startswith(f"{len(_png())}-") and copy.stamp(record) == stamp
    time.sleep(0.002)
    _put("photos/a.png", data=_png())
    assert copy.stamp(record) != stamp
    assert source.stamp(record) == stamp
    list(source.records())
    assert source.stamp(record) == copy.stamp(record)
    assert copy.stamp(ImageRecord("gone.png", "")) == ""


@pytest.mark.parametrize(
    ("info", "stamp"),
    [
        ({"ETag": '"abc"', "size": 5}, "abc"),
        ({"size": 5, "mtime": 12.5}, "5-12.500000"),
        ({"size": 5, "created": datetime(2024, 1, 2, tzinfo=UTC)}, "5-1704153600.000000"),
        ({"size": 5, "updated": "2024-01-02T00:00:00Z"}, "5-2024-01-02T00:00:00Z"),
        ({"size": 5}, ""),
    ],
)
def test_stamps_of_any_store(info: dict[str, object], stamp: str) -> None:
    assert stamp_of(info) == stamp


@pytest.mark.parametrize("fault", ["empty", "file", "gone"])
def test_a_url_that_gives_nothing(fault: str) -> None:
    _put("empty/notes.txt", "file.png")
    with pytest.raises(ConfigError, match=f"memory://bucket/{fault}"):
        _ids(f"memory://bucket/{fault}{'.png' if fault == 'file' else ''}")


@pytest.mark.parametrize(
    ("location", "told"),
    [
        ("nosuch://bucket", "nosuch"),
        ("https://host/photos", "list:FILE"),
        ("s3://bucket/photos", r'pip install "prelabel\[s3\]"'),
        ("sftp://host/photos", "needs a package that is not installed"),
    ],
)
def test_urls_that_nothing_can_list(location: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        open_source(location)
    assert (
        "connectors are coco, coco-instances, coco-panoptic, folder, fsspec, label-folder, list"
        in str(caught.value)
    )


def test_the_output_of_a_run_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    _put("photos/a.png", "photos/set/labels/b.png", "photos/set/config.yaml")
    run = [f"photos/run/{name}" for name in ("config.yaml", "labels/c.png", "traces/c.npz")]
    _put(*run, "photos/run/overlays/c.png")
    assert _ids() == ["a.png", "set/labels/b.png"]
    assert caplog.text.count("run is the output of a run and is left out") == 1
    with pytest.raises(ConfigError, match="holds no image"):
        _ids(f"{ROOT}/run")


def test_names_that_lead_out_are_left_out(caplog: pytest.LogCaptureFixture) -> None:
    _put("photos/a.png", "photos/x/../../b.png", "photos/x\\..\\c.png")
    assert _ids() == ["a.png"]
    assert caplog.text.count("leads out of its folder") == 2


def test_twins_are_refused() -> None:
    _put("photos/\u00e9.png", "photos/e\u0301.png")
    with pytest.raises(ConfigError, match=r"the objects .* differ only in their Unicode form"):
        _ids()


def test_secrets_in_a_url_are_not_shown() -> None:
    place = StorePlace("memory://user:geheim@bucket/photos")
    assert "geheim" not in place.uri("a.png")


class _NoCredentialsError(Exception):
    pass


class _ReadTimeoutError(Exception):
    pass


@pytest.mark.parametrize(
    ("error", "kind", "tries"),
    [
        (FileNotFoundError("x"), "gone", 1),
        (PermissionError("x"), "denied", 1),
        (_NoCredentialsError("x"), "denied", 1),
        (_ReadTimeoutError("x"), "timeout", 3),
        (ConnectionResetError("x"), "unavailable", 3),
        (ValueError("https://k:geheim@host/?token=geheim"), "unavailable", 3),
    ],
)
def test_any_error_of_a_store_has_its_kind(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str, tries: int
) -> None:
    asked = []

    def fail(self: MemoryFileSystem, path: str, **_: object) -> bytes:
        asked.append(path)
        raise error

    _put("photos/a.png", data=_png())
    monkeypatch.setattr(MemoryFileSystem, "cat_file", fail)
    with pytest.raises(ImageError, match=r"^a\.png: cannot be fetched") as caught:
        StorePlace(ROOT).read("a.png", RECORD)
    assert (caught.value.kind, len(asked)) == (kind, tries)
    assert "geheim" not in str(caught.value)


def test_a_store_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "TOTAL_SECONDS", 0.05)
    monkeypatch.setattr(MemoryFileSystem, "cat_file", lambda *_, **__: time.sleep(0.5))
    with pytest.raises(ImageError, match="no answer within") as caught:
        StorePlace(ROOT).read("a.png", RECORD)
    assert caught.value.kind == "timeout"


def test_never_more_bytes_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (stores, "prelabel.images"):
        monkeypatch.setattr(f"{getattr(module, '__name__', module)}.MAX_BYTES", 10)
    _put("photos/a.png", data=_png())
    with pytest.raises(ImageError, match="11 bytes, more than the limit") as caught:
        StorePlace(ROOT).read("a.png", RECORD)
    assert caught.value.kind == "too-large"
