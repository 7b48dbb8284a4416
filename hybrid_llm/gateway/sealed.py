"""Sealed bodies, by EHBP: opens what clients sealed to the gateway's key, and seals what it answers to them.

A layer of ASGI around the routes, which see plain HTTP. Errors are sealed too, once the request could be opened.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hybrid_llm.backends.wire.sealing import ehbp
from hybrid_llm.backends.wire.sealing.keys import KeyRing, SealKey
from hybrid_llm.backends.wire.sealing.messages import AnswerKey
from hybrid_llm.backends.wire.sealing.replay import ReplayWindow
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, HybridLLMError, InvalidRequest
from hybrid_llm.gateway.refusals import asking
from hybrid_llm.router.failures import Failure, failure_of

REMEMBERED_S: Final = 600.0
"""For so long the encapsulated key of a request is remembered, and a replay of it refused, seconds."""
_IN_THE_CLEAR: Final = ("/health", "/ping", "/metrics", "/openapi.json", "/v1/models")
"""What is answered unsealed even where sealed requests are required: none of it has a text of a request."""


def open_ring(folder: Path) -> KeyRing:
    """The keys in *folder*.

    Raises:
        ConfigError: it holds none that can be used over HTTP.
    """
    ring = KeyRing(folder)
    if not _usable(ring):
        hint = f"make one with `hybrid-llm certs seal-key {folder} --name NAME --suite {X25519.name}`"
        raise ConfigError(f"{folder} holds no valid {X25519.name} key, the only kind over HTTP; {hint}")
    return ring


def _usable(ring: KeyRing) -> list[SealKey]:
    """The keys of the suite that the protocol has, the one that lasts longest first."""
    now = datetime.now(UTC)
    return [key for key in ring.keys().values() if key.config.suite is X25519 and not key.config.expired(now)]


class SealedBodies:
    """Wraps *app*. The keys are those of *folder*, X25519 as the protocol has it, read again when they change.

    Args:
        app: What answers.
        keys: The keys, see `open_ring`.
        required: Refuse requests that are not sealed.
        body_bytes: Of a request, at most.
        read_timeout_s: Within this time the first frame of a request must come, seconds.
    """

    def __init__(self, app: ASGIApp, *, keys: KeyRing, required: bool, body_bytes: int, read_timeout_s: float) -> None:
        self._app, self._ring, self._required = app, keys, required
        self._most, self._timeout = body_bytes, read_timeout_s
        self._replays = ReplayWindow(window_s=REMEMBERED_S)

    def _keys(self) -> list[SealKey]:
        return _usable(self._ring)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        header = Headers(scope=scope).get(ehbp.ENC_HEADER)
        if scope["path"] == ehbp.KEYS_PATH:
            await self._configuration()(scope, receive, send)
        elif header:
            await self._answer_sealed(header, scope, receive, send)
        else:
            await self._answer_plain(scope, receive, send)

    async def _answer_plain(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._required and not _may_be_plain(scope):
            await _refusal(400, "this gateway takes sealed requests only (EHBP)")(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    def _configuration(self) -> Response:
        """What clients seal to: the key that lasts longest."""
        keys = self._keys()
        if not keys:
            return _refusal(503, "the sealing keys of this gateway have expired")
        content = ehbp.config_of(keys[0].config.public)
        return Response(content, media_type=ehbp.KEYS_TYPE, headers={"cache-control": "no-store"})

    async def _answer_sealed(self, header: str, scope: Scope, receive: Receive, send: Send) -> None:
        request = _SealedRequest(receive, self._most)
        try:
            async with asyncio.timeout(self._timeout):
                if not await request.begin():
                    return  # the client has left
            exchange = None if request.empty else self._exchange(ehbp.encapsulated(header), request)
        except _UnknownKey:
            await _key_problem()(scope, receive, send)
        except (TimeoutError, ehbp.FrameTooLarge, HybridLLMError) as error:
            await _refused(self._failure(error))(scope, receive, send)
        else:
            if exchange is None:  # no body proves whose the key in the header is: nothing is sealed to it (7.4)
                await self._answer_plain(scope, request.receive, send)
                return
            asking().sealed = True
            await self._app(scope, request.receive, _SealedAnswer(send, *exchange.sealer()).send)

    def _failure(self, error: Exception) -> Failure:
        match error:
            case TimeoutError():
                return Failure(408, "invalid_request", "the request did not arrive in time")
            case ehbp.FrameTooLarge():
                return _too_large(self._most)
            case DecryptionFailed():
                return Failure(400, "invalid_request", "the sealed body cannot be opened")
        return failure_of(error)  # the memory of replays is full

    def _exchange(self, enc: bytes, request: _SealedRequest) -> ehbp.ServerExchange:
        """The exchange under the key that opens the first frame; its id does not travel (3.2).

        Raises:
            _UnknownKey: none of the keys does.
            DecryptionFailed: the request was sent before.
        """
        for key in self._keys():
            exchange = ehbp.ServerExchange(key.private, enc)
            if request.opens(exchange):
                self._replays.admit(enc, datetime.now(UTC).timestamp())
                return exchange
        raise _UnknownKey


class _UnknownKey(Exception):
    """What was sealed is not sealed to a key of ours, or was changed: nobody can tell which."""


class _SealedRequest:
    """The body of a request: `begin` waits for its first frame, and `receive` is what the application reads."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._reader, self._most = ehbp.FrameReader(most + 16), most
        self._sealed: list[bytes] = []
        self._plain = b""
        self._open: Callable[[bytes], bytes] = bytes
        self._more, self._begun = True, False
        self.empty = True
        """Whether no byte of a body has come."""

    async def begin(self) -> bool:
        """Wait for the first frame, or for the end of no body; false if the client has left.

        Raises:
            DecryptionFailed: there are bytes, but no frame.
            FrameTooLarge: the frame is larger than any that is accepted.
        """
        while not self._sealed and self._more:
            message = await self._receive()
            if message["type"] != "http.request":
                return False
            self._take(message)
        if not self._sealed and not self.empty:
            raise DecryptionFailed("there is no sealed body")
        return True

    def opens(self, exchange: ehbp.ServerExchange) -> bool:
        """Whether *exchange* opens the first frame; it then opens the others."""
        try:
            self._plain = exchange.open(self._sealed[0])
        except DecryptionFailed:
            return False
        del self._sealed[0]
        self._open = exchange.open
        return True

    async def receive(self) -> Message:
        """The next piece of the body, opened; after its end, what the server reports.

        Raises:
            InvalidRequest: it was changed or cut off.
            Failure: one of its frames is too large.
        """
        message: Message | None = None  # the first call returns what `begin` has read
        if self._begun:
            message = await self._receive()
            if not self._more or message["type"] != "http.request":
                return message
        self._begun = True
        try:
            body = self._opened(message)
        except ehbp.FrameTooLarge:
            raise _too_large(self._most) from None
        except DecryptionFailed:
            raise InvalidRequest("the sealed body cannot be opened", field="body") from None
        return {"type": "http.request", "body": body, "more_body": self._more}

    def _take(self, message: Message) -> None:
        piece = message.get("body", b"")
        self._more = message.get("more_body", False)
        self.empty = self.empty and not piece
        self._sealed += self._reader.feed(piece)

    def _opened(self, message: Message | None) -> bytes:
        if message is not None:
            self._take(message)
        body = b"".join([self._plain, *map(self._open, self._sealed)])
        self._plain, self._sealed = b"", []
        if not self._more:
            self._reader.finish()
        return body


class _SealedAnswer:
    """Sends an answer sealed: a frame for each piece, so that it streams as it did."""

    def __init__(self, send: Send, nonce: str, key: AnswerKey) -> None:
        self._send, self._nonce, self._key = send, nonce, key

    async def send(self, message: Message) -> None:
        """Send *message*, sealed."""
        if message["type"] == "http.response.start":
            headers = MutableHeaders(raw=list(message["headers"]))
            del headers["content-length"]
            headers[ehbp.NONCE_HEADER] = self._nonce
            message = {**message, "headers": headers.raw}
        elif message["type"] == "http.response.body":
            message = {**message, "body": b"".join(ehbp.frames(message.get("body", b""), self._key.seal))}
        await self._send(message)


def _may_be_plain(scope: Scope) -> bool:
    path = scope["path"]
    return scope["method"] in ("GET", "HEAD") and any(
        path == each or path.startswith(f"{each}/") for each in _IN_THE_CLEAR
    )


def _too_large(most: int) -> Failure:
    return Failure(413, "request_too_large", f"the body has more than {most} bytes")


def _refusal(status: int, text: str) -> Response:
    return _refused(Failure(status, "invalid_request", text))


def _refused(failure: Failure) -> Response:
    asking().code = failure.code
    return JSONResponse(failure.as_openai(), failure.status, failure.headers)


def _key_problem() -> Response:
    asking().code = "unknown_sealing_key"
    document = {"type": ehbp.KEY_PROBLEM, "title": "the body is not sealed to a key of this server"}
    return JSONResponse(document, ehbp.KEY_STATUS, media_type=ehbp.PROBLEM_TYPE)
