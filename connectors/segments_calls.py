"""The official SDK of Segments.ai, unmodified, on sessions that give up.

The SDK waits for ever, sleeps silently for as long as a server says, and tells errors by their
wording. Here its two sessions get an adapter that bounds every request, keeps the pace of all
threads, and raises a `CallError` by status; each step is then tried again by `retrying`. The SDK
is imported when the first call is made.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import get_environ_proxies
from urllib3.exceptions import HTTPError

from prelabel.errors import ConfigError
from prelabel.redaction import redact

from .retrying import CallError, Insistence, Pace, Patience, seconds_to_wait, status_kind

__all__ = ["API_KEY", "API_URL", "Calls", "read_credentials"]

API_KEY = "SEGMENTS_API_KEY"
"""The environment variable with the key; nothing else is asked for it."""
API_URL = "SEGMENTS_API_URL"
"""The environment variable with the address of another server than Segments.ai's own."""
_DEFAULT_URL = "https://api.segments.ai/"
_INSTALL = 'the connector segments-ai needs its SDK: pip install "prelabel[segments]"'
_CONNECTIONS = 64
"""Kept open at most; more threads than that are slower."""
_MOST_BODY = 256 * 2**20
_CHUNK = 1 << 16
_SHOWN = 200

T = TypeVar("T")


def read_credentials(environment: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """The key and the server's address.

    Raises:
        ConfigError: there is no key, or the address is none.
    """
    key = environment.get(API_KEY, "").strip()
    if not key:
        raise ConfigError(
            f"{API_KEY} is not set; make a key on your account page at Segments.ai and export it "
            "in the environment, the only place it is read from"
        )
    url = environment.get(API_URL, "").strip() or _DEFAULT_URL
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise ConfigError(
            f"{API_URL} is {redact(url)!r}; expected https://host, without a path behind it"
        )
    return key, url


class Calls:
    """Calls of the SDK; for many threads."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._pace = Pace()
        self._insist = Insistence(self._pace, patience)
        self._lock = threading.Lock()
        self._client: Any = None

    def __call__(self, step: Callable[[Any], T]) -> T:
        """What `step` returns when it is given the SDK's client; tried again as a whole.

        Raises:
            ConfigError: the SDK or the key is missing.
            CallError: the step failed for good, or for too long.
        """
        return self._insist(lambda: self._once(step))

    def _once(self, step: Callable[[Any], T]) -> T:
        client = self._connected()
        from segments.exceptions import APILimitError, SegmentsError

        try:
            return step(client)
        except APILimitError:
            raise CallError("Segments.ai asks to slow down", kind="busy") from None
        except (SegmentsError, requests.exceptions.RequestException) as error:
            # Not chained: what requests raises shows signed addresses.
            raise CallError(
                f"Segments.ai answered what the SDK does not understand: {_shown(str(error))}",
                kind="broken",
            ) from None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                self._client = self._connect()
            return self._client

    def _connect(self) -> Any:
        try:
            from segments import SegmentsClient
        except ImportError as error:
            raise ConfigError(_INSTALL) from error
        # It logs whole addresses, and what it logs is raised as well.
        logging.getLogger("segments").setLevel(logging.CRITICAL)
        pace, patience = self._pace, self._patience

        class Client(SegmentsClient):  # type: ignore[misc]
            """The SDK's, with its sessions bounded before its constructor makes the first call."""

            def _get(self, *args: Any, **kwargs: Any) -> Any:
                if not isinstance(self.api_session.get_adapter(self.api_url), Wire):
                    _bound(self.api_session, Wire(pace, patience))
                    _bound(self.s3_session, Storage(pace, patience))
                return super()._get(*args, **kwargs)

        key, url = read_credentials()
        return Client(key, url)


def _bound(session: requests.Session, wire: Wire) -> None:
    """Let all of a session's requests go through `wire`."""
    for scheme in ("http://", "https://"):
        session.mount(scheme, wire)
    # Left to itself a session reads the whole environment for each request, a fifth of the time
    # that an upload takes, and lets a .netrc file replace the key.
    session.trust_env = False
    session.verify = os.environ.get("REQUESTS_CA_BUNDLE") or True


class Wire(HTTPAdapter):
    """Requests that end: with a whole answer of status 2xx or 3xx, or with a CallError."""

    server = "Segments.ai"

    def __init__(self, pace: Pace, patience: Patience) -> None:
        super().__init__(pool_maxsize=_CONNECTIONS, max_retries=0)
        self._pace = pace
        self._patience = patience
        self._proxies = lru_cache(maxsize=64)(get_environ_proxies)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: Any = True,
        cert: Any = None,
        proxies: Any = None,
    ) -> requests.Response:
        seconds = self._patience.answer
        self._pace.wait(self._patience.step)
        parts = urlsplit(request.url or "")
        proxies = self._proxies(f"{parts.scheme}://{parts.netloc}/")
        try:
            response = super().send(request, True, (seconds, seconds), verify, cert, proxies)
            self._read(response, time.monotonic() + seconds)
        except (requests.exceptions.Timeout, TimeoutError):
            raise CallError(f"{self.server} does not answer in time", kind="timeout") from None
        except (requests.exceptions.RequestException, HTTPError, OSError) as error:
            raise CallError(
                f"{self.server} cannot be reached, or hung up: {type(error).__name__}", kind="lost"
            ) from None
        if response.status_code >= 400:
            raise self._fault(response)
        return response

    def _read(self, response: requests.Response, deadline: float) -> None:
        """The body, as `requests` would have read it, but bounded in bytes and seconds."""
        parts: list[bytes] = []
        size = 0
        while part := response.raw.read1(_CHUNK, decode_content=True):
            parts.append(part)
            size += len(part)
            if time.monotonic() > deadline:
                response.close()
                raise TimeoutError
            if size > _MOST_BODY:
                response.close()
                raise OSError
        response._content = b"".join(parts)
        response._content_consumed = True

    def _fault(self, response: requests.Response) -> CallError:
        status = response.status_code
        said = _shown(response.text)
        kind = self._kind(status)
        message = f"{self.server} answers {status}{': ' if said else ''}{said}"
        if kind == "denied":
            message = (
                f"{self.server} does not accept the key in {API_KEY} for this ({status}); check "
                "that it is valid and that its user may do this with the dataset"
            )
        asked = seconds_to_wait(response.headers.get("Retry-After"))
        return CallError(message, kind=kind, retry_after=asked)

    def _kind(self, status: int) -> str:
        return status_kind(status)


class Storage(Wire):
    """The store behind the platform, which takes files at addresses that were signed for it."""

    server = "the store of Segments.ai"

    def _kind(self, status: int) -> str:
        # Its 400 and 403 are about the signature and its time, not about the user's key.
        return "expired" if status in (400, 401, 403) else status_kind(status)


def _shown(text: str) -> str:
    """What a server said, on one short line, without secrets."""
    key = os.environ.get(API_KEY, "").strip()
    line = " ".join(str(redact(text)).split())
    if key:
        line = line.replace(key, "***")
    return line if len(line) <= _SHOWN else f"{line[:_SHOWN]}…"
