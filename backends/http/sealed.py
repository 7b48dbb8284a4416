"""Seals the bodies of calls by EHBP, as a transport of httpx around another: what is above it sees plain HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

import httpx

from hybrid_llm.backends.http.document import bytes_of
from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.keys import KeyConfig
from hybrid_llm.backends.wire.sealing.messages import AnswerKey
from hybrid_llm.backends.wire.sealing.pins import FRESH_S, Pins
from hybrid_llm.core.errors import BackendUnavailable, DecryptionFailed

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_REPLACED: Final = _FRAMING | {b"accept-encoding", ehbp.ENC_HEADER.encode()}


class SealedTransport(httpx.AsyncBaseTransport):
    """Sends by *inner* what is sealed to the server's key, which *pins* accept; a request without a body as it is.

    An answer of success that is not sealed is refused. An error may come from a proxy: it passes, and is only an error.
    Where the server has replaced its key, the request is sealed to the new one and sent once more (5.4.3).
    """

    def __init__(
        self,
        inner: httpx.AsyncBaseTransport,
        pins: Pins,
        *,
        backend: str,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._inner, self._pins, self._backend = inner, pins, backend
        self._clock, self._wall = clock, wall
        self._key: KeyConfig | None = None
        self._fetched = 0.0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request*, and return the answer, opened.

        Raises:
            DecryptionFailed: the server's key is not accepted, or the answer was changed or is not sealed.
            httpx.HTTPError: as *inner* does.
        """
        body = await request.aread()
        if not body:
            return await self._inner.handle_async_request(request)
        key = await self._accepted(request)
        response = await self._exchanged(request, key, body)
        if response is None and (newer := await self._accepted(request)) != key:
            response = await self._exchanged(request, newer, body)
        if response is None:
            raise DecryptionFailed(f"{self._backend} cannot open what is sealed to the key that it offers")
        return response

    async def aclose(self) -> None:
        """Close *inner*."""
        await self._inner.aclose()

    async def _exchanged(self, request: httpx.Request, key: KeyConfig, body: bytes) -> httpx.Response | None:
        """The answer, opened; None where the server has another key, which is fetched next time."""
        exchange = ehbp.ClientExchange(key.public)
        response = await self._inner.handle_async_request(_sealed(request, exchange, body))
        try:
            if not _is_problem(response):
                return self._opened(response, exchange)
            document = await bytes_of(_pieces(response))
        except BaseException:
            await response.aclose()
            raise
        await response.aclose()
        if not ehbp.is_key_problem(document):
            return httpx.Response(response.status_code, headers=response.headers, stream=httpx.ByteStream(document))
        if self._key is key:
            self._key = None
        return None

    def _opened(self, response: httpx.Response, exchange: ehbp.ClientExchange) -> httpx.Response:
        nonce = response.headers.get(ehbp.NONCE_HEADER)
        if nonce is not None:
            headers = [(name, value) for name, value in response.headers.raw if name.lower() not in _FRAMING]
            stream = _Opened(response, exchange.opener(nonce))
            return httpx.Response(response.status_code, headers=headers, stream=stream, extensions=response.extensions)
        if response.is_success:
            raise DecryptionFailed(f"the answer of {self._backend} is not sealed")
        return response

    async def _accepted(self, request: httpx.Request) -> KeyConfig:
        """The key to seal to, fetched where there is none, or it is old or expired."""
        now = datetime.fromtimestamp(self._wall(), UTC)
        if self._key is None or self._clock() - self._fetched > FRESH_S or self._key.expired(now):
            self._key = None
            self._key = self._pins.accepted_public(ehbp.public_of(await self._fetch(request)), now)
            self._fetched = self._clock()
        return self._key

    async def _fetch(self, request: httpx.Request) -> bytes:
        """The server's key configuration; without the app's key, which only the calls need."""
        url = request.url.copy_with(raw_path=ehbp.KEYS_PATH.encode())
        asking = httpx.Request("GET", url, extensions=request.extensions)
        response = await self._inner.handle_async_request(asking)
        try:
            body = await bytes_of(_pieces(response))
        finally:
            await response.aclose()
        if response.status_code == httpx.codes.NOT_FOUND:
            raise DecryptionFailed(f"{self._backend} offers no sealing key at {ehbp.KEYS_PATH}")
        if response.status_code != httpx.codes.OK:
            text = f"{self._backend} answered {response.status_code} when asked for its sealing key"
            raise BackendUnavailable(text, backend=self._backend, reason="failed")
        return body


async def _pieces(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    assert isinstance(response.stream, httpx.AsyncByteStream)
    async for piece in response.stream:
        yield piece


def _is_problem(response: httpx.Response) -> bool:
    """Whether *response*, in the clear, may report that the server has another key (5.4.2)."""
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    unsealed = ehbp.NONCE_HEADER not in response.headers
    return unsealed and response.status_code == ehbp.KEY_STATUS and kind == ehbp.PROBLEM_TYPE


def _sealed(request: httpx.Request, exchange: ehbp.ClientExchange, body: bytes) -> httpx.Request:
    """*request* with a sealed body, which is sent without its length (4.1).

    It accepts no compression: a proxy that compressed the sealed answer could not be told from a server that
    compressed the plain one.
    """
    headers = [(name, value) for name, value in request.headers.raw if name.lower() not in _REPLACED]
    headers.append((ehbp.ENC_HEADER.encode(), exchange.enc.hex().encode()))
    headers.append((b"accept-encoding", b"identity"))

    async def content() -> AsyncIterator[bytes]:
        yield exchange.seal(body)

    return httpx.Request(request.method, request.url, headers=headers, content=content(), extensions=request.extensions)


class _Opened(httpx.AsyncByteStream):
    """The body of an answer, opened frame by frame."""

    def __init__(self, response: httpx.Response, key: AnswerKey) -> None:
        self._response, self._key = response, key

    async def __aiter__(self) -> AsyncIterator[bytes]:
        reader = ehbp.FrameReader()
        try:
            async with aclosing(_pieces(self._response)) as pieces:
                async for piece in pieces:
                    for frame in reader.feed(piece):
                        yield self._key.open(frame)
        except ehbp.FrameTooLarge as error:
            raise DecryptionFailed(str(error)) from None
        reader.finish()

    async def aclose(self) -> None:
        await self._response.aclose()
