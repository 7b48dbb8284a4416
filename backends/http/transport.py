"""The connections to one server: trust, key, proxy and timeouts, for calls and for questions about the server."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import Any, Final, TypeVar

import httpx

from hybrid_llm.backends.http.api import Api, Get, Reply
from hybrid_llm.backends.http.document import bytes_of, object_of
from hybrid_llm.backends.http.failures import refusal
from hybrid_llm.backends.http.inflate import ACCEPTED, Inflater
from hybrid_llm.backends.http.sealed import SealedTransport
from hybrid_llm.backends.http.settings import HttpSettings
from hybrid_llm.backends.wire.sealing.pins import Pins, SealedSpec
from hybrid_llm.core.errors import BackendUnavailable, ConfigError
from hybrid_llm.core.tracing import trace_headers

_MOST_REPLY_BYTES: Final = 4 << 20
"""A list of models has no more."""
_TIMES_LIMIT: Final = 4.0
"""A server may take so many times the time for a connection to describe itself."""
_CONNECTIONS: Final = httpx.Limits(max_connections=256, max_keepalive_connections=32, keepalive_expiry=30.0)


_Wires = TypeVar("_Wires", httpx.HTTPTransport, httpx.AsyncHTTPTransport)


class Transport:
    """Opens what the settings name and nothing else; redirects are not followed, the environment is not read.

    Raises:
        ConfigError: the key or a file is unusable.
    """

    def __init__(self, settings: HttpSettings, api: Api) -> None:
        self._settings = settings
        self._headers = {"accept-encoding": ACCEPTED, **api.headers, **settings.key_headers()}
        self._route = api.route
        self._trust = _trust(settings)
        self._pins = None if settings.sealing_keys is None else Pins(SealedSpec(keys=settings.sealing_keys))
        self._calls: httpx.AsyncClient | None = None

    @asynccontextmanager
    async def call(self, data: bytes, request_id: str, traceparent: str = "") -> AsyncGenerator[httpx.Response, None]:
        """Send *data*, and yield the response once its head has come. Connections belong to one event loop."""
        if self._calls is None:
            idle, connect = self._settings.idle_timeout_s, self._settings.connect_timeout_s
            timeout = httpx.Timeout(idle, connect=connect)
            wires: httpx.AsyncBaseTransport = self._wires(httpx.AsyncHTTPTransport)
            if self._pins is not None:
                wires = SealedTransport(wires, self._pins, backend=self._settings.name)
            self._calls = httpx.AsyncClient(transport=wires, trust_env=False, timeout=timeout)
        said = {"content-type": "application/json", "accept": "text/event-stream", "x-request-id": request_id}
        said |= dict(trace_headers(traceparent))
        url = self._url(self._route)
        async with self._calls.stream("POST", url, content=data, headers=self._headers | said) as response:
            yield response

    @contextmanager
    def questions(self, limit: float) -> Generator[Get, None, None]:
        """Ask the server about itself, over a connection of its own that must be there within *limit* seconds.

        From any thread, which waits.
        """
        wires = self._wires(httpx.HTTPTransport)
        with httpx.Client(transport=wires, trust_env=False, timeout=limit) as client:
            yield partial(self._get, client, _TIMES_LIMIT * limit)

    def _get(self, client: httpx.Client, limit: float, path: str) -> Reply:
        body, until = bytearray(), time.monotonic() + limit
        with client.stream("GET", self._url(path), headers=self._headers) as response:
            inflater = Inflater(response.headers)
            for raw in response.iter_raw():
                for piece in inflater.feed(raw):
                    body += piece
                    if len(body) > _MOST_REPLY_BYTES or time.monotonic() > until:
                        raise httpx.ReadTimeout("the description has no end")
        return Reply(status=response.status_code, headers=response.headers, document=_json(body))

    def _wires(self, kind: type[_Wires]) -> _Wires:
        """How a transport of httpx connects. It reads no proxies and certificates of the environment.

        HTTP/1.1, where a call that is left closes its connection: over HTTP/2 httpcore resets no stream (seen with
        1.0.9), so that the server would go on generating for nobody.
        """
        settings = self._settings
        return kind(
            verify=self._trust,
            proxy=None if settings.proxy is None else httpx.Proxy(settings.proxy),
            uds=None if settings.socket is None else str(settings.socket),
            limits=_CONNECTIONS,
            trust_env=False,
        )

    def _url(self, path: str) -> str:
        """The URL of *path* below `base_url`, or from `/` below the host; a query, as of Azure, stays."""
        url = self._settings.url
        whole = path if path.startswith("/") else f"{url.path.rstrip('/')}/{path}"
        return url._replace(path=whole).geturl()


async def check_answer(response: httpx.Response, *, backend: str) -> None:
    """Raise the error of an answer that is none."""
    kind = response.headers.get("content-type", "").partition(";")[0]
    if response.status_code == httpx.codes.OK and "json" not in kind:
        return
    document = _json(await bytes_of(pieces(response)))
    if response.status_code != httpx.codes.OK or object_of(document).get("error"):
        status = response.status_code if response.status_code != httpx.codes.OK else 500
        raise refusal(status, response.headers, document, backend=backend)
    raise BackendUnavailable(f"{backend} does not stream", backend=backend, reason="failed")


async def pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    """The pieces of the body, and an empty one at its end; a deadline can end it between any two."""
    inflater = Inflater(response.headers)
    async for raw in response.aiter_raw():
        for piece in inflater.feed(raw):
            if piece:
                yield piece
                await asyncio.sleep(0)
    yield b""


def _json(body: bytes | bytearray) -> Any:
    with suppress(ValueError, RecursionError):
        return json.loads(body)
    return None


def _trust(settings: HttpSettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if settings.ca is None else str(settings.ca))
    except (OSError, ssl.SSLError):
        fault = f"{settings.name}: ca: {settings.ca} has no certificates in PEM form"
    raise ConfigError(fault, path=str(settings.ca))
