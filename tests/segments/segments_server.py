"""A server that speaks the contract of Segments.ai on 127.0.0.1, and fails when it is told to.

Written from segments-ai 1.33.0 and its public documentation; it was never compared with the live
service. It stands in for both the API and the store of files.
"""

from __future__ import annotations

import email.policy
import gzip
import json
import random
import re
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

from segments_platform import Platform

KEY = "canary-key-7f3a"
SIGNATURE = "canary-signature-91bc"
FIELDS = (
    *("acl", "Content-Type", "key", "x-amz-algorithm", "x-amz-credential", "x-amz-date"),
    *("policy", "x-amz-signature"),
)
FAULTS = (
    *("hang", "429-seconds", "429-date", "503-seconds", "503-date", "500", "burst"),
    *("reset", "reset-mid", "500-after", "expired"),
)


@dataclass
class Faults:
    """Which requests go wrong.

    Attributes:
        rate: share of requests, at random.
        kinds: of `FAULTS`, with equal chances.
        only: a regular expression on "METHOD /path" that random faults are limited to.
        planned: "METHOD /path" pattern, kind: the next request that fits fails so, once each.
        hang_seconds: how long a hanging request is held.
        counts: what was done, by kind.
    """

    rate: float = 0.0
    kinds: tuple[str, ...] = FAULTS
    only: str = ""
    planned: list[tuple[str, str]] = field(default_factory=list)
    hang_seconds: float = 3.0
    counts: Counter[str] = field(default_factory=Counter)
    random: random.Random = field(default_factory=lambda: random.Random(7))
    _burst: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def draw(self, what: str) -> str:
        """The fault of one request, or ""."""
        with self._lock:
            kind = self._draw(what)
            if kind:
                self.counts[kind] += 1
            return kind

    def _draw(self, what: str) -> str:
        for index, (pattern, kind) in enumerate(self.planned):
            if re.search(pattern, what):
                del self.planned[index]
                return kind
        if self._burst:
            self._burst -= 1
            return "500"
        if not self.rate or not re.search(self.only, what) or self.random.random() >= self.rate:
            return ""
        kind = self.random.choice(self.kinds)
        if kind == "burst":
            self._burst = 5
        return kind


class Server(ThreadingHTTPServer):
    """The server; `platform` is what it holds."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, platform: Platform, faults: Faults | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.platform = platform
        self.faults = faults or Faults()
        self.latency = 0.0
        self.denied = False
        self.busy_seconds = 0.0
        self.requests: Counter[str] = Counter()
        self.on_listed: Callable[[], None] = lambda: None
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_: object) -> None:
        """A client that hangs up, or is killed, is what these tests are about."""


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _GoneError(Exception):
    """The connection was cut on purpose."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: Server

    def log_message(self, *_: object) -> None: ...

    def do_GET(self) -> None:
        self._handle()

    do_POST = do_PUT = do_PATCH = do_DELETE = do_GET  # noqa: N815

    # --- faults -------------------------------------------------------------------------------

    def _handle(self) -> None:
        start = time.perf_counter()
        parts = urlsplit(self.path)
        what = f"{self.command} {parts.path}"
        with self.server.lock:  # before the answer, so that whoever has it finds it counted
            self.server.requests[re.sub(r"[0-9a-f-]{36}", "…", what)] += 1
        fault = self.server.faults.draw(what)
        if self.server.latency:
            time.sleep(self.server.latency)
        try:
            self._answer(parts.path, parse_qs(parts.query), fault)
        except _GoneError:
            self.close_connection = True
        finally:
            with self.server.lock:
                self.server.busy_seconds += time.perf_counter() - start

    def _answer(self, path: str, query: dict[str, list[str]], fault: str) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        if fault == "reset-mid":
            self.rfile.read(length // 2)
            self._cut()
        if fault == "reset":
            self._cut()
        body = self.rfile.read(length)
        if len(body) < length:
            self._cut()  # the client was killed; no server takes half a request
        if fault == "hang":
            time.sleep(self.server.faults.hang_seconds)
            self._cut()
        if fault.startswith(("429", "503")):
            seconds = 1 if fault.endswith("seconds") else 2
            wait = (
                str(seconds)
                if fault.endswith("seconds")
                else formatdate(time.time() + seconds, usegmt=True)
            )
            self._send(int(fault[:3]), {"detail": "slow down"}, {"Retry-After": wait})
            return
        if fault == "expired":
            if path.startswith(("/store", "/files", "/images")):
                self._send_raw(403, b"<Error><Code>AccessDenied</Code>expired</Error>")
                return
            fault = "500"
        if fault == "401" or (self.server.denied and not path.startswith(("/files", "/images"))):
            self._send(401, {"detail": f"Invalid token {KEY}."})
            return
        if fault in ("500", "burst"):
            self._send_raw(500, b"<html>Internal Server Error</html>")
            return
        status, answer = self._route(path, query, body)
        if fault == "500-after":
            self._send_raw(500, b"<html>Internal Server Error</html>")
        elif isinstance(answer, bytes):
            self._send_raw(status, answer)
        else:
            self._send(status, answer)

    def _cut(self) -> None:
        """End the connection with a reset."""
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise _GoneError

    def _send(self, status: int, document: Any, headers: dict[str, str] | None = None) -> None:
        self._send_raw(status, json.dumps(document).encode(), headers)

    def _send_raw(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with suppress(OSError):
            self.wfile.write(body)
            self.wfile.flush()

    # --- routes -------------------------------------------------------------------------------

    def _route(self, path: str, query: dict[str, list[str]], body: bytes) -> tuple[int, Any]:
        signed = path.startswith(("/store", "/files", "/images"))
        if not signed and self.headers.get("Authorization") != f"APIKey {KEY}":
            return 401, {"detail": f"Invalid token {self.headers.get('Authorization')}."}
        if signed and self.headers.get("Authorization"):
            self.server.platform.violations.append("the key was sent to the store")
        for method, pattern, name in _ROUTES:
            match = re.fullmatch(pattern, path)
            if match and method == self.command:
                return getattr(self, name)(*match.groups(), query=query, body=body)
        return 404, {"detail": "Not found."}

    def _json(self, body: bytes) -> Any:
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        return json.loads(body)

    def status(self, **_: Any) -> tuple[int, Any]:
        return 200, b""

    def dataset(self, name: str, **_: Any) -> tuple[int, Any]:
        found = self.server.platform.datasets.get(name)
        return (200, found.to_json()) if found else (404, {"detail": "Not found."})

    def labelsets(self, name: str, **_: Any) -> tuple[int, Any]:
        names = self.server.platform.datasets[name].labelsets
        return 200, [{"name": one, "description": ""} for one in names]

    def issues(self, name: str, **_: Any) -> tuple[int, Any]:
        return 200, self.server.platform.issues

    def samples(self, name: str, query: dict[str, list[str]], **_: Any) -> tuple[int, Any]:
        platform = self.server.platform
        page, per_page = int(query["page"][0]), int(query["per_page"][0])
        labelset = query.get("labelset", ["ground-truth"])[0]
        wanted = query["label_status"][0].split(",") if "label_status" in query else None
        with platform.lock:
            found = []
            for sample in platform.samples.values():
                label = platform.labels.get((sample["uuid"], labelset))
                status = label["label_status"] if label else "UNLABELED"
                if sample["dataset"] == name and (wanted is None or status in wanted):
                    summary = {"label_status": status, "score": label["score"]} if label else None
                    found.append(self._sample(sample) | {"label": summary})
        found.sort(key=lambda sample: sample["name"])
        rows = found[(page - 1) * per_page : page * per_page]
        if not rows and page > 1:
            return 404, {"detail": "Invalid page."}
        if len(rows) < per_page:
            self.server.on_listed()
        return 200, rows

    def _sample(self, sample: dict[str, Any]) -> dict[str, Any]:
        epoch = self.server.platform.epoch
        url = f"{self.server.url}/images/{sample['uuid']}?epoch={epoch}&X-Amz-Signature={SIGNATURE}"
        return {key: value for key, value in sample.items() if key != "dataset"} | {
            "attributes": {"image": {"url": url}}
        }

    def sample(self, key: str, **_: Any) -> tuple[int, Any]:
        found = self.server.platform.samples.get(key)
        return (200, self._sample(found)) if found else (404, {"detail": "Not found."})

    def update_sample(self, key: str, body: bytes, **_: Any) -> tuple[int, Any]:
        platform = self.server.platform
        with platform.lock:
            platform.samples[key] |= self._json(body)
            return 200, self._sample(platform.samples[key])

    def label(self, key: str, labelset: str, **_: Any) -> tuple[int, Any]:
        found = self.server.platform.labels.get((key, labelset))
        if found is None:
            return 404, {"detail": "Not found."}
        attributes = dict(found["attributes"])
        url = attributes["segmentation_bitmap"]["url"]
        if url.startswith("asset:"):
            url = f"{self.server.url}/files/{url.removeprefix('asset:')}/label.png"
            attributes["segmentation_bitmap"] = {"url": url}
        return 200, found | {"attributes": attributes}

    def put_label(self, key: str, labelset: str, body: bytes, **_: Any) -> tuple[int, Any]:
        if key not in self.server.platform.samples:
            return 404, {"detail": "Not found."}
        return 200, self.server.platform.put_label(key, labelset, self._json(body))

    def add_issue(self, key: str, body: bytes, **_: Any) -> tuple[int, Any]:
        return 200, self.server.platform.add_issue(key, self._json(body))

    def add_asset(self, body: bytes, **_: Any) -> tuple[int, Any]:
        asset = self.server.platform.add_asset(self._json(body)["filename"])
        fields = {name: f"{name}-{SIGNATURE}" for name in FIELDS} | {"key": asset.uuid}
        return 200, {
            **{"uuid": asset.uuid, "filename": asset.filename, "created_at": "2026-01-01"},
            "url": f"{self.server.url}/files/{asset.uuid}/{asset.filename}",
            "presignedPostFields": {"url": f"{self.server.url}/store/", "fields": fields},
        }

    def store(self, body: bytes, **_: Any) -> tuple[int, Any]:
        head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
        message = BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
        names, values = [], {}
        for part in message.iter_parts():
            name = part.get_param("name", header="content-disposition")
            names.append(name)
            values[name] = part.get_payload(decode=True)
        if tuple(names) != (*FIELDS, "file"):
            self.server.platform.violations.append(f"fields of the store: {names}")
        if not values.get("file"):
            self.server.platform.violations.append("an empty file was stored")
        self.server.platform.assets[values["key"].decode()].data = values["file"]
        return 204, b""

    def file(self, key: str, **_: Any) -> tuple[int, Any]:
        asset = self.server.platform.assets.get(key)
        return (200, asset.data) if asset and asset.data else (404, b"no such key")

    def image(self, key: str, query: dict[str, list[str]], **_: Any) -> tuple[int, Any]:
        platform = self.server.platform
        if query.get("X-Amz-Signature") != [SIGNATURE] or query["epoch"] != [str(platform.epoch)]:
            return 403, b"<Error><Code>AccessDenied</Code>Request has expired</Error>"
        return 200, platform.images[key]


_UUID = r"([0-9a-f-]{36})"
_DATASET = r"/datasets/([^/]+/[^/]+)"
_ROUTES = (
    ("GET", r"/api_status/", "status"),
    ("GET", rf"{_DATASET}/", "dataset"),
    ("GET", rf"{_DATASET}/samples/", "samples"),
    ("GET", rf"{_DATASET}/labelsets/", "labelsets"),
    ("GET", rf"{_DATASET}/issues/", "issues"),
    ("GET", rf"/samples/{_UUID}/", "sample"),
    ("PATCH", rf"/samples/{_UUID}/", "update_sample"),
    ("POST", rf"/samples/{_UUID}/issues/", "add_issue"),
    ("GET", rf"/labels/{_UUID}/([^/]+)/", "label"),
    ("PUT", rf"/labels/{_UUID}/([^/]+)/", "put_label"),
    ("POST", r"/assets/", "add_asset"),
    ("POST", r"/store/", "store"),
    ("GET", rf"/files/{_UUID}/[^/]+", "file"),
    ("GET", rf"/images/{_UUID}", "image"),
)
