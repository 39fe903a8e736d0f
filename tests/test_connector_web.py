"""Images from web addresses: what is fetched, what is refused, and which failure is which."""

from __future__ import annotations

import io
import ipaddress
import pickle
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from PIL import Image

from connectors import base, web
from connectors.base import open_place
from connectors.web import WebPlace, is_public
from prelabel.data import ImageRecord
from prelabel.errors import ConfigError, ImageError

RECORD = ImageRecord("a.png", "")


def _png() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (3, 2), "red").save(stream, format="PNG")
    return stream.getvalue()


class _Handler(BaseHTTPRequestHandler):
    """Answers by path; `/twice-busy.png` succeeds at the third request."""

    def do_GET(self) -> None:
        server: _Server = self.server  # type: ignore[assignment]
        server.seen.append((self.path, self.headers["Host"]))
        answer = getattr(self, "answer_" + self.path.strip("/").partition(".")[0], None)
        if answer is None:
            self._send(404, b"")
        else:
            answer()

    def _send(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", headers.get("length", str(len(body))))
        self.end_headers()
        self.wfile.write(body)

    def answer_good(self) -> None:
        self._send(200, _png())

    def answer_denied(self) -> None:
        self._send(403, b"")

    def answer_teapot(self) -> None:
        self._send(418, b"")

    def answer_busy(self) -> None:
        if len(self.server.seen) < 3:  # type: ignore[attr-defined]
            self._send(503, b"", Retry_After="0")
        else:
            self._send(200, _png())

    def answer_broken(self) -> None:
        self._send(500, b"")

    def answer_half(self) -> None:
        body = _png()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:20])

    def answer_page(self) -> None:
        self._send(200, b"<html>please log in</html>")

    def answer_moved(self) -> None:
        self._send(302, b"", Location="/good.png")

    def answer_loop(self) -> None:
        self._send(302, b"", Location="/loop.png")

    def answer_file(self) -> None:
        self._send(302, b"", Location="file:///etc/passwd")

    def answer_inward(self) -> None:
        self._send(302, b"", Location=f"https://127.0.0.2:{self.server.server_port}/good.png")

    def answer_large(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(2**40))
        self.end_headers()

    def answer_endless(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x" * 65536)

    def answer_drip(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(100):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.05)

    def answer_headers(self) -> None:
        for _ in range(100):
            self.wfile.write(b"H")
            self.wfile.flush()
            time.sleep(0.05)

    def answer_silent(self) -> None:
        time.sleep(1.0)

    def log_message(self, *_: object) -> None: ...


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    seen: list[tuple[str, str]]

    def handle_error(self, *_: object) -> None:
        """A client that hangs up is what some of these tests are about."""


@pytest.fixture
def server() -> Iterator[_Server]:
    with _Server(("127.0.0.1", 0), _Handler) as running:
        running.seen = []
        thread = threading.Thread(target=running.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "_PAUSES", (0.0, 0.0))
    monkeypatch.setattr(web, "SILENCE_SECONDS", 0.4)
    monkeypatch.setattr(web, "TOTAL_SECONDS", 0.6)


def _place(server: _Server) -> WebPlace:
    return WebPlace(f"http://127.0.0.1:{server.server_port}", allow_private=True)


def _kind(read: Callable[[], object]) -> str:
    with pytest.raises(ImageError, match=r"^a\.png: ") as caught:
        read()
    return caught.value.kind


def test_an_image_is_fetched_and_the_host_is_told(server: _Server) -> None:
    place = pickle.loads(pickle.dumps(_place(server)))
    assert place.read("good.png", RECORD).size == (2, 3)
    assert server.seen == [("/good.png", f"127.0.0.1:{server.server_port}")]
    assert place.stamp("good.png") == ""


def test_names_are_quoted_and_addresses_kept(server: _Server) -> None:
    assert _kind(lambda: _place(server).read("a b/ü#?.png", RECORD)) == "gone"
    whole = WebPlace(f"http://127.0.0.1:{server.server_port}/x%20y.png?id=5", allow_private=True)
    assert _kind(lambda: whole.read("", RECORD)) == "gone"
    assert [path for path, _ in server.seen] == ["/a%20b/%C3%BC%23%3F.png", "/x%20y.png?id=5"]


def test_a_redirect_is_followed(server: _Server) -> None:
    assert _place(server).read("moved.png", RECORD).size == (2, 3)


def test_a_busy_server_is_asked_again(server: _Server) -> None:
    assert _place(server).read("busy.png", RECORD).size == (2, 3)
    assert len(server.seen) == 3


@pytest.mark.parametrize(
    ("name", "kind", "requests"),
    [
        ("missing", "gone", 1),
        ("denied", "denied", 1),
        ("teapot", "unreadable", 1),
        ("page", "decode", 1),
        ("large", "too-large", 1),
        ("loop", "refused", 6),
        ("file", "refused", 1),
        ("broken", "unavailable", 3),
        ("half", "unavailable", 3),
        ("silent", "timeout", 3),
        ("drip", "timeout", 3),
        ("headers", "timeout", 3),
    ],
)
def test_every_failure_has_its_kind(server: _Server, name: str, kind: str, requests: int) -> None:
    start = time.monotonic()
    assert _kind(lambda: _place(server).read(f"{name}.png", RECORD)) == kind
    assert time.monotonic() - start < 3 * 0.6 + 2
    assert len(server.seen) == requests


def test_a_body_without_end_is_cut_at_the_limit(
    server: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "MAX_BYTES", 100_000)
    monkeypatch.setattr("prelabel.images.MAX_BYTES", 100_000)
    assert _kind(lambda: _place(server).read("endless.png", RECORD)) == "too-large"


def test_a_server_that_is_not_there() -> None:
    place = WebPlace("http://127.0.0.1:1/", allow_private=True)
    assert _kind(lambda: place.read("x.png", RECORD)) == "unavailable"


@pytest.mark.parametrize(
    "root",
    [
        "https://127.0.0.1/",
        "https://localhost/",
        "https://[::1]/",
        "https://10.1.2.3/",
        "https://169.254.169.254/latest/meta-data",
        "https://0x7f.1/",
        "http://93.184.216.34/",
        "https://user:secret@93.184.216.34/",
    ],
)
def test_what_a_list_may_not_reach(root: str) -> None:
    place = WebPlace(root)
    with pytest.raises(ImageError) as caught:
        place.read("x.png", RECORD)
    assert caught.value.kind == "refused"
    assert "secret" not in str(caught.value) + place.uri("x.png")


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:4700::1111", True),
        ("64:ff9b::5db8:d822", True),  # 93.184.216.34 behind NAT64
        ("10.0.0.1", False),
        ("100.64.0.1", False),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::7f00:1", False),
        ("::ffff:127.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fe80::1", False),
        ("fec0::1", False),
        ("fc00::1", False),
        ("ff02::1", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(address)) is public


@pytest.mark.parametrize("root", ["https://", "https:///x", "https://host:99999", "https://[::1"])
def test_what_is_no_address(root: str) -> None:
    with pytest.raises(ConfigError, match="is no web address"):
        open_place(root)


# --- with TLS ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A key and its certificate for 127.0.0.1."""
    openssl, folder = shutil.which("openssl"), tmp_path_factory.mktemp("tls")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, certificate = folder / "key.pem", folder / "cert.pem"
    subprocess.run(
        [
            *(openssl, "req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=server"),
            *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(key), "-out", str(certificate)),
        ],
        check=True,
        capture_output=True,
        timeout=60,
    )
    return key, certificate


@pytest.fixture
def secure(
    server: _Server, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> _Server:
    """The server behind TLS, trusted by the client, and 127.0.0.1 passed off as public."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    server.socket = context.wrap_socket(server.socket, server_side=True)
    trusting = ssl.create_default_context(cafile=str(certificate[1]))
    monkeypatch.setattr(web, "_tls", lambda: trusting)
    monkeypatch.setattr(web, "is_public", lambda address: str(address) == "127.0.0.1")
    monkeypatch.setattr(web, "TOTAL_SECONDS", 5.0)
    return server


def test_tls_is_spoken_with_the_address_that_was_checked(secure: _Server) -> None:
    place = WebPlace(f"https://127.0.0.1:{secure.server_port}")
    assert place.read("good.png", RECORD).size == (2, 3)


def test_a_redirect_is_checked_like_an_address(secure: _Server) -> None:
    place = WebPlace(f"https://127.0.0.1:{secure.server_port}")
    assert _kind(lambda: place.read("inward.png", RECORD)) == "refused"
    assert len(secure.seen) == 1


def test_a_name_that_the_certificate_does_not_have(
    secure: _Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = WebPlace(f"https://localhost:{secure.server_port}")
    monkeypatch.setattr(web, "is_public", lambda address: True)
    assert _kind(lambda: place.read("good.png", RECORD)) == "refused"
