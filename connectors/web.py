"""Images from web addresses, fetched so that an address cannot reach what it should not.

Lists of images come from strangers. Therefore: https only; a name is resolved once, every address
it has is checked to be public, and the connection goes to the address that was checked; redirects
pass the same checks; no credentials are sent; bytes and seconds are bounded. Proxies are not used,
since they would resolve the name again.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cache
from typing import TypeAlias
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from prelabel.data import Frame, ImageRecord
from prelabel.errors import ConfigError
from prelabel.images import MAX_BYTES, decode
from prelabel.redaction import redact

from .base import RemoteError, insist

__all__ = ["WebPlace", "fetch", "is_public"]

SILENCE_SECONDS = 20.0
"""Longest wait for a connection, or for the next bytes."""
TOTAL_SECONDS = 60.0
"""Longest time for one image, all redirects together."""
MAX_REDIRECTS = 5
_CHUNK = 1 << 16
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_KINDS = {401: "denied", 403: "denied", 404: "gone", 408: "unavailable", 410: "gone"}
_KINDS |= {425: "unavailable", 429: "unavailable"}

_Address: TypeAlias = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE = ipaddress.IPv6Network("::/96")


@dataclass(frozen=True, slots=True)
class WebPlace:
    """What lies below a web address.

    Attributes:
        root: an https URL.
        allow_private: whether private addresses, and http, are asked as well.
    """

    root: str
    allow_private: bool = False

    def __post_init__(self) -> None:
        try:
            parts = urlsplit(self.root)
            _ = parts.port
        except ValueError as error:
            raise ConfigError(f"{redact(self.root)} is no web address: {error}") from error
        if not parts.hostname:
            raise ConfigError(f"{redact(self.root)} is no web address: it names no host")

    def uri(self, name: str) -> str:
        """The address with its secrets hidden."""
        return str(redact(self._url(name)))

    def read(self, name: str, record: ImageRecord) -> Frame:
        """Fetch and decode, with two more tries where that may help."""
        url = self._url(name)
        return decode(insist(lambda: fetch(url, record, self.allow_private)), record)

    def stamp(self, name: str) -> str:
        """Nothing: a server would have to be asked for each image."""
        return ""

    def _url(self, name: str) -> str:
        if not name:
            return self.root
        return f"{self.root.rstrip('/')}/{quote(name, errors='surrogateescape')}"


def fetch(url: str, record: ImageRecord, allow_private: bool = False) -> bytes:
    """The bytes at a web address, at most one beyond `MAX_BYTES`.

    Raises:
        RemoteError: of a kind that `connectors.base` lists.
    """
    deadline = time.monotonic() + TOTAL_SECONDS
    name = record.image_id
    for _ in range(MAX_REDIRECTS + 1):
        parts = _checked(url, name, allow_private)
        try:
            found = _get(parts, name, allow_private, deadline)
        except TimeoutError as error:
            raise RemoteError(f"{name}: no answer in time", kind="timeout") from error
        except ssl.SSLCertVerificationError as error:
            raise RemoteError(
                f"{name}: the server cannot prove who it is, {error.verify_message}", kind="refused"
            ) from error
        except (OSError, http.client.HTTPException, UnicodeError) as error:
            if time.monotonic() >= deadline:
                raise RemoteError(f"{name}: no answer in time", kind="timeout") from error
            reason = redact(str(error)) or type(error).__name__
            raise RemoteError(f"{name}: cannot be fetched, {reason}", kind="unavailable") from error
        if isinstance(found, bytes):
            return found
        url = urljoin(url, found.target)
    raise RemoteError(f"{name}: redirected more than {MAX_REDIRECTS} times", kind="refused")


@dataclass(frozen=True, slots=True)
class _Redirect:
    target: str


def _checked(url: str, name: str, allow_private: bool) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise RemoteError(f"{name}: is no web address, {error}", kind="refused") from error
    if parts.scheme != "https" and not (parts.scheme == "http" and allow_private):
        raise RemoteError(
            f"{name}: {parts.scheme}:// is not asked for images, only https://", kind="refused"
        )
    if not parts.hostname or parts.username is not None or parts.password is not None:
        raise RemoteError(
            f"{name}: an address must name a host, and no user or password", kind="refused"
        )
    return parts


def _get(parts: SplitResult, name: str, allow_private: bool, deadline: float) -> bytes | _Redirect:
    with _connected(parts, name, allow_private, deadline) as connection:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {
            "Host": parts.netloc,
            "User-Agent": "prelabel",
            "Accept": "image/*,*/*;q=0.5",
            "Accept-Encoding": "identity",
        }
        connection.request("GET", quote(target, safe="%/:=&?~#+!$,;'@()*[]"), headers=headers)
        with connection.getresponse() as answer:
            if answer.status in _REDIRECTS and answer.headers.get("Location"):
                return _Redirect(answer.headers["Location"])
            if answer.status != http.client.OK:
                broken = "unavailable" if answer.status >= 500 else "unreadable"
                raise RemoteError(
                    f"{name}: the server answers {answer.status} {answer.reason}",
                    kind=_KINDS.get(answer.status, broken),
                    retry_after=_retry_after(answer.headers.get("Retry-After")),
                )
            return _body(answer, name, deadline)


@contextmanager
def _connected(
    parts: SplitResult, name: str, allow_private: bool, deadline: float
) -> Iterator[http.client.HTTPConnection]:
    """A connection to an address that was checked; it is cut when the time is over."""
    host, secure = str(parts.hostname), parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    connection = http.client.HTTPConnection(host, port)
    sock = _connect(_resolve(host, port, name, allow_private), port)
    try:
        if secure:
            sock = _tls().wrap_socket(sock, server_hostname=host)
        connection.sock = sock
        # A server that sends one byte at a time never runs into the socket's own timeout.
        guard = threading.Timer(max(0.0, deadline - time.monotonic()), _cut, (sock,))
        guard.daemon = True
        guard.start()
        try:
            yield connection
        finally:
            guard.cancel()
    finally:
        connection.close()
        sock.close()


@cache
def _tls() -> ssl.SSLContext:
    return ssl.create_default_context()


def _cut(sock: socket.socket) -> None:
    with suppress(OSError):  # closed in the meantime
        # The plain socket's way: a TLS socket would drop its state in the other thread's hands.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _resolve(host: str, port: int, name: str, allow_private: bool) -> list[_Address]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        raise RemoteError(
            f"{name}: the name of its server, {host}, is unknown", kind="unavailable"
        ) from error
    addresses = [ipaddress.ip_address(str(entry[4][0]).partition("%")[0]) for entry in found]
    if not allow_private and not all(map(is_public, addresses)):
        raise RemoteError(
            f"{name}: {host} is a private address, which a list may not reach; where that is "
            "meant, add ::allow-private to the source",
            kind="refused",
        )
    return list(dict.fromkeys(addresses))


def _connect(addresses: list[_Address], port: int) -> socket.socket:
    for address in addresses[:-1]:
        try:
            return socket.create_connection((str(address), port), timeout=SILENCE_SECONDS)
        except OSError:
            continue
    return socket.create_connection((str(addresses[-1]), port), timeout=SILENCE_SECONDS)


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public internet, also where it wraps an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address in _COMPATIBLE or address.is_site_local:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


def _body(answer: http.client.HTTPResponse, name: str, deadline: float) -> bytes:
    announced = answer.length
    if announced is not None and announced > MAX_BYTES:
        raise RemoteError(
            f"{name}: {announced} bytes, more than the limit of {MAX_BYTES} bytes", kind="too-large"
        )
    parts, size = [], 0
    while size <= MAX_BYTES:
        part = answer.read(_CHUNK)
        if not part:
            break
        parts.append(part)
        size += len(part)
        if time.monotonic() >= deadline:
            raise TimeoutError
    if announced is not None and size < announced:
        raise http.client.IncompleteRead(b"", announced - size)
    return b"".join(parts)


def _retry_after(value: str | None) -> float:
    """Seconds from a Retry-After header, given in seconds or as a date."""
    if not value:
        return 0.0
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return 0.0
