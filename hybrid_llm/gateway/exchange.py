"""One request over HTTP: its body is read, a client answers it, and the answer is written, whole or as it comes.

A client that leaves ends the work behind its request; one that does not read is left after a while. The status is sent
with the first piece of an answer, so that whatever fails before it is an error with its own status.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from starlette.types import Message, Receive, Scope, Send

from hybrid_llm.core.errors import ContentRefused, InvalidRequest
from hybrid_llm.core.jsonable import Json
from hybrid_llm.core.log_lines import FIELDS
from hybrid_llm.core.protocols import Direction
from hybrid_llm.core.tracing import CALLER, TRACEPARENT
from hybrid_llm.gateway.asked import Answering, Asked, Dialect, dumped
from hybrid_llm.gateway.extensions import answer_headers, id_headers, options_of
from hybrid_llm.gateway.gateway import stopped
from hybrid_llm.gateway.refusals import asking
from hybrid_llm.gateway.rights import Booked, Booking
from hybrid_llm.router.failures import Failure, failure_of

if TYPE_CHECKING:
    from hybrid_llm.gateway.gateway import Gateway
    from hybrid_llm.router.execution.stream import AsyncStream

_log = logging.getLogger("hybrid_llm.gateway")
T = TypeVar("T")
_LONG: Final = 64 << 10
"""Bytes of a body that takes a millisecond or more to read."""
_JSON: Final = {"content-type": "application/json"}
_EVENTS: Final = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-store",
    "x-accel-buffering": "no",
}


class Exchange:
    """An ASGI application: one route of one API."""

    def __init__(self, gateway: Gateway, dialect: Dialect) -> None:
        self._gateway = gateway
        self._dialect = dialect

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        reply = Reply(at_its_end(send) if scope["http_version"] == "1.0" else send, self._gateway)
        request_id = asking().request_id = secrets.token_hex(16)
        begun = time.perf_counter()
        try:
            headers = headers_of(scope)
            CALLER.set(headers.get(TRACEPARENT, ""))  # each request has a task of its own
            client = self._gateway.admit(headers)
            limits = self._gateway.config
            body, asked = await read_json(
                headers,
                receive,
                limits.body_bytes,
                limits.read_timeout_s,
                lambda body: (body, self._dialect.read(body)),
            )
            extensions = options_of(headers, body, client)
            asking().tenant = extensions["tenant"] or ""
            asked = self._gateway.adapt(asked, extensions["tenant"])
            options = asked.options | extensions | {"request_id": request_id}
            options["privacy"] |= asked.privacy
            async with Booked(self._gateway, asked, options) as booking, ended_by_disconnect(receive):
                await self._answer(asked, options, reply, booking)
        except TimeoutError:  # the connection is closed in mid-answer: its end would wait for the client too
            reply.give_up()
        except asyncio.CancelledError:  # the grace is over
            if reply.status or not self._gateway.stopping:
                raise
            await self._fail(stopped(), reply, request_id)
        except Exception as error:  # noqa: BLE001  # whatever fails has a status
            await self._fail(error, reply, request_id)
        await reply.finish()
        took = 1e3 * (time.perf_counter() - begun)
        fields = {"path": scope["path"], "status": reply.status, "request": request_id, "outcome": reply.outcome}
        words = ("%s %s %s %s %.0f ms", *fields.values(), took)
        who = {"identity": asking().identity, "tenant": asking().tenant, "sealed": asking().sealed}
        _log.info(*words, extra={FIELDS: {**fields, **who, "total_ms": round(took, 1)}})

    async def _answer(self, asked: Asked, options: Json, reply: Reply, booking: Booking) -> None:
        answering = Answering(
            asked=asked,
            request_id=options["request_id"],
            model=asked.model,
            created=int(time.time()),
            tenant=options["tenant"],
            privacy=options["privacy"],
            details=options.pop("details"),
        )
        reply.asked = True
        stream = self._gateway.client.astream([*asked.instructions, *asked.prompt], **options)
        try:
            if asked.stream:
                async with stream:
                    await self._stream(answering, stream, reply, booking)
                return
            generation = await stream.collect()
            booking.finish(generation)
        except ContentRefused as refusal:
            if refusal.direction == Direction.INPUT and not self._dialect.answers_refused:
                raise
            await self._refuse(answering, self._note(refusal, reply), reply)
            return
        answering = replace(answering, model=self._gateway.model_of(stream.backend))
        document = self._dialect.whole(answering, generation)
        self._gateway.stored.add(answering, generation, document)
        reply.outcome = generation.backend
        await reply.whole(200, self._headers(stream, answering, map(str, generation.warnings)), document)

    async def _stream(self, answering: Answering, stream: AsyncStream, reply: Reply, booking: Booking) -> None:
        chunk = await anext(stream)
        answering = replace(answering, model=self._gateway.model_of(stream.backend))
        writer = self._dialect.writer(answering)
        await reply.begin(200, _EVENTS | self._headers(stream, answering))
        reply.outcome = stream.backend
        try:
            await reply.write(writer.begin())
            while True:
                booking.take(chunk)
                if events := b"".join(writer.chunk(chunk)):
                    await reply.write((events,))
                if chunk.finish_reason is not None:
                    break
                chunk = await anext(stream)
            generation = await stream.collect()
            booking.finish(generation)
            if answering.asked.store:
                self._gateway.stored.add(answering, generation, self._dialect.whole(answering, generation))
            await reply.write(writer.end(generation))
        except TimeoutError:
            raise
        except ContentRefused as refusal:
            await reply.write(writer.refuse(self._note(refusal, reply)))
        except Exception as error:  # noqa: BLE001  # the status is sent: what fails now is an event
            failure = self._note(error, reply)
            await reply.write(writer.fail(failure))

    async def _refuse(self, answering: Answering, failure: Failure, reply: Reply) -> None:
        """Answer with a refusal where nothing of an answer was sent."""
        headers = id_headers(answering.request_id)
        if not answering.asked.stream:
            await reply.whole(200, headers, self._dialect.refused(answering, failure))
            return
        writer = self._dialect.writer(answering)
        await reply.begin(200, _EVENTS | headers)
        await reply.write([*writer.begin(), *writer.refuse(failure)])

    @staticmethod
    def _headers(stream: AsyncStream, answering: Answering, warnings: Iterable[str] = ()) -> dict[str, str]:
        found = (*answering.asked.warnings, *warnings)
        return answer_headers(stream.decision, stream.request_id, stream.backend, answering.model, found)

    async def _fail(self, error: Exception, reply: Reply, request_id: str) -> None:
        failure = self._note(error, reply)
        headers = failure.headers | id_headers(request_id)
        await reply.whole(failure.status, headers, self._dialect.failure(failure))

    @staticmethod
    def _note(error: Exception, reply: Reply) -> Failure:
        failure = told(error, "a request")
        asking().recorded = reply.asked and not isinstance(error, InvalidRequest)
        reply.outcome = failure.code
        return failure


class Reply:
    """The answer of one exchange on its way to the client."""

    def __init__(self, send: Send, gateway: Gateway) -> None:
        self._send, self._gateway = send, gateway
        self._timeout_s = gateway.config.write_timeout_s
        self.status = 0
        self.outcome = "client left"
        self.asked = False
        """Whether the client had the request."""
        self._last: Message | None = None

    async def begin(self, status: int, headers: Mapping[str, str]) -> None:
        """Send the status and *headers*."""
        self.status = status
        if self._gateway.draining:
            headers = {**self._gateway.farewell, **headers}
        listed = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": listed})
        self._last = {"type": "http.response.body", "body": b"", "more_body": False}

    async def write(self, pieces: Iterable[bytes]) -> None:
        """Send a part of the body; raises TimeoutError if the client does not take it in time."""
        async with asyncio.timeout(self._timeout_s):
            await self._send({"type": "http.response.body", "body": b"".join(pieces), "more_body": True})

    async def whole(self, status: int, headers: Mapping[str, str], document: Json) -> None:
        """Send status, *headers* and the whole body; the end is left to `finish`."""
        body = dumped(document).encode()
        await self.begin(status, _JSON | {"content-length": str(len(body))} | dict(headers))
        self._last = {"type": "http.response.body", "body": body, "more_body": False}

    def give_up(self) -> None:
        """The client does not take what is sent: send nothing more."""
        self.outcome, self._last = "client too slow", None

    async def finish(self) -> None:
        """Send the end of the body, if there is anything to end."""
        if self._last is not None:
            await self._send(self._last)


def at_its_end(send: Send) -> Send:
    """*send* for a client of HTTP/1.0, which knows no chunks: an answer is sent when it is whole, with its length."""
    start: Message = {}
    pieces: list[bytes] = []

    async def hold(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
            return
        pieces.append(message["body"])
        if not message["more_body"]:
            body = b"".join(pieces)
            headers = [header for header in start["headers"] if header[0] != b"content-length"]
            length = (b"content-length", str(len(body)).encode())
            await send({**start, "headers": [*headers, length]})
            await send({"type": "http.response.body", "body": body})

    return hold


@asynccontextmanager
async def ended_by_disconnect(receive: Receive) -> AsyncIterator[None]:
    """Cancel what runs inside, and leave it quietly, when the client closes its connection."""
    task = asyncio.current_task()
    assert task is not None
    left = False

    async def watch() -> None:
        nonlocal left
        while (await receive())["type"] != "http.disconnect":
            pass
        left = True
        task.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
        watcher.cancel()
        if left:
            await asyncio.sleep(0)  # the cancellation that is on its way arrives here
    except asyncio.CancelledError:
        if not left or task.uncancel():
            raise
    finally:
        watcher.cancel()


def told(error: Exception, what: str) -> Failure:
    """What a client is told of *error*, with which *what* failed; of one that nobody expects the log has the class."""
    failure = failure_of(error)
    asking().code = failure.code
    if failure.code == "internal_error":
        _log.error("%s failed with %s", what, type(error).__name__)
    return failure


def headers_of(scope: Scope) -> dict[str, str]:
    """The headers of a request; the values of one that is there twice are joined (RFC 9110, 5.3), as its tags are."""
    headers: dict[str, str] = {}
    for raw, value in scope["headers"]:
        name, text = raw.decode("latin-1"), value.decode("latin-1")
        headers[name] = f"{headers[name]}, {text}" if name in headers else text
    return headers


async def read_json(
    headers: Mapping[str, str], receive: Receive, limit: int, timeout_s: float, read: Callable[[Json], T]
) -> T:
    """What *read* makes of the body of a request, a JSON object; of a long one in a thread, so that no other waits.

    A browser sends this content type to another site only after it has asked that site, which does not agree.

    Raises:
        Failure: it is none, larger than *limit* bytes, or not there within *timeout_s*; or what *read* raises.
    """
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Failure(415, "unsupported_media_type", "the body must be JSON: send `content-type: application/json`")
    if headers.get("content-encoding", "identity") != "identity":
        raise Failure(415, "unsupported_media_type", "the body must not be compressed")
    try:
        async with asyncio.timeout(timeout_s):
            raw = await _body(receive, limit)
    except TimeoutError:
        raise Failure(408, "request_timeout", f"the body was not there within {timeout_s:g} s") from None
    if len(raw) > _LONG:
        return await asyncio.to_thread(lambda: read(_parsed(raw)))
    return read(_parsed(raw))


async def _body(receive: Receive, limit: int) -> bytes:
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Failure(400, "client_left", "the client left before the body was there")
        piece: bytes = message.get("body", b"")
        size += len(piece)
        if size > limit:
            raise Failure(413, "request_too_large", f"the body has more than {limit} bytes")
        pieces.append(piece)
        if not message.get("more_body"):
            return b"".join(pieces)


def _parsed(raw: bytes) -> Json:
    body: Any = None
    with suppress(ValueError, RecursionError):
        body = json.loads(raw, parse_constant=_refuse_constant)
    if isinstance(body, dict):
        return body
    raise Failure(400, "invalid_json", "the body is not a JSON object")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")
