"""Images in S3, against moto's server on this machine."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from urllib.request import Request, urlopen

import boto3
import fsspec
import pytest
from moto.server import ThreadedMotoServer
from PIL import Image

from connectors import base, stores
from connectors.coco_images import CocoImagesSource
from connectors.fsspec_images import FsspecSource
from connectors.list_file import ListSource
from connectors.stores import StorePlace
from prelabel.data import ImageRecord
from prelabel.errors import ConfigError, ImageError

BUCKET = "photos"
RECORD = ImageRecord("a.png", "")


def _png(color: str = "red") -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), color).save(stream, format="PNG")
    return stream.getvalue()


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    # Five objects at a time, so that a listing takes several answers.
    os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = "5"
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def bucket(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An empty bucket, and the environment in which everybody finds it."""
    monkeypatch.setattr(base, "_PAUSES", (0.0, 0.0))
    for name, value in (
        ("AWS_ENDPOINT_URL", endpoint),
        ("AWS_ACCESS_KEY_ID", "testing"),
        ("AWS_SECRET_ACCESS_KEY", "testing"),
        ("AWS_DEFAULT_REGION", "us-east-1"),
    ):
        monkeypatch.setenv(name, value)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    client = boto3.client("s3")
    client.create_bucket(Bucket=BUCKET)
    yield client
    urlopen(Request(f"{endpoint}/moto-api/reset", method="POST"), timeout=30).close()


def _put(bucket: object, *keys: str, data: bytes | None = None) -> None:
    for key in keys:
        body = _png() if data is None else data
        bucket.put_object(Bucket=BUCKET, Key=key, Body=body)  # type: ignore[attr-defined]


def test_a_prefix_is_a_source(bucket: object) -> None:
    _put(bucket, "set/b.JPG", "set/a/x y.png", "set/[/foo].jpg", "set2/no.png", "set/notes.txt")
    _put(bucket, "set/.hidden.png")
    source = FsspecSource(f"s3://{BUCKET}/set")
    records = list(source.records())
    assert [record.image_id for record in records] == ["[/foo].jpg", "a/x y.png", "b.JPG"]
    assert records[1].uri == f"s3://{BUCKET}/set/a/x y.png"
    copy = pickle.loads(pickle.dumps(source))
    assert [copy.read(record).size for record in records] == [(2, 3)] * 3
    assert [copy.stamp(record) for record in records] == [source.stamp(each) for each in records]


def test_a_stamp_changes_with_the_object(bucket: object) -> None:
    _put(bucket, "set/a.png")
    place = StorePlace(f"s3://{BUCKET}/set")
    before = place.listing()["a.png"]
    assert len(before) == 32  # the ETag
    _put(bucket, "set/a.png", data=_png("blue"))
    assert place.listing()["a.png"] != before
    assert place.stamp("gone.png") == ""


def test_more_objects_than_one_answer_lists(bucket: object) -> None:
    names = [f"{number:02}.png" for number in range(12)]
    _put(bucket, *(f"many/{name}" for name in names), data=b"")
    answer = bucket.list_objects_v2(Bucket=BUCKET)  # type: ignore[attr-defined]
    assert answer["IsTruncated"]
    records = FsspecSource(f"s3://{BUCKET}/many").records()
    assert [record.image_id for record in records] == names


def _kind(place: StorePlace, name: str) -> str:
    with pytest.raises(ImageError, match=r"^a\.png: ") as caught:
        place.read(name, RECORD)
    return caught.value.kind


def test_failures_have_their_kinds(bucket: object) -> None:
    _put(bucket, "empty.png", data=b"")
    _put(bucket, "page.png", data=b"<html>")
    place = StorePlace(f"s3://{BUCKET}")
    assert _kind(place, "empty.png") == "decode"
    assert _kind(place, "page.png") == "decode"
    assert _kind(place, "gone.png") == "gone"
    assert _kind(StorePlace("s3://no-such-bucket"), "x.png") == "gone"


def test_never_more_bytes_than_the_limit(bucket: object, monkeypatch: pytest.MonkeyPatch) -> None:
    _put(bucket, "a.png")
    monkeypatch.setattr(stores, "MAX_BYTES", 10)
    monkeypatch.setattr("prelabel.images.MAX_BYTES", 10)
    assert _kind(StorePlace(f"s3://{BUCKET}"), "a.png") == "too-large"


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr(stores, "TOTAL_SECONDS", 5.0)
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    place = StorePlace(f"s3://{BUCKET}")
    assert _kind(place, "a.png") in ("unavailable", "timeout")
    with pytest.raises(ConfigError, match="cannot be listed"):
        place.listing()


def test_no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    place = StorePlace(f"s3://{BUCKET}")
    assert _kind(place, "a.png") == "denied"


def test_lists_and_coco_files_reach_into_a_bucket(bucket: object, tmp_path: Path) -> None:
    _put(bucket, "set/a.png")
    (tmp_path / "images.txt").write_text(f"s3://{BUCKET}/set/a.png\n")
    (tmp_path / "coco.json").write_text('{"images": [{"id": 1, "file_name": "a.png"}]}')
    for source in (
        ListSource(str(tmp_path / "images.txt")),
        CocoImagesSource(f"{tmp_path / 'coco.json'}::s3://{BUCKET}/set"),
    ):
        (record,) = source.records()
        assert source.read(record).size == (2, 3)
