"""Starlette, FastAPI and other ASGI applications: answers as responses, which end when the client leaves.

    app = FastAPI(lifespan=client_lifespan("hybrid.yaml"), exception_handlers=ERROR_HANDLERS)

    @app.post("/stream")
    async def stream(question: Question, request: Request) -> StreamingAnswer:
        return StreamingAnswer(request.state.llm.astream(question.prompt, privacy=question.privacy))

A streaming response of a framework's own notices that its client has left when it next sends something; these watch the
connection, so that a model that is silent for long is stopped too.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, Final, TypeVar

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.generation import Chunk, Generation
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.execution.stream import AsyncStream
from hybrid_llm.router.failures import failure_of

try:
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.types import Receive, Scope, Send

    from hybrid_llm.gateway.asked import dumped, event
    from hybrid_llm.gateway.exchange import ended_by_disconnect
    from hybrid_llm.gateway.extensions import answer_headers
except ImportError as error:
    raise ImportError(f"ASGI applications need starlette: {install_hint('gateway')}") from error

T = TypeVar("T")
_TAKEN_S: Final = 30.0
_LEFT: Final = 499
"""The status of a request whose client has left, in nginx's terms; nobody sees it."""
_TEXTS: Final = frozenset({"text", "reasoning", "tool_calls", "logprobs", "parsed"})


class StreamingAnswer(Response):
    """An answer on its way, as server-sent events or as plain text.

    The events are `data: {"text": "..."}` (and `reasoning`, `tool_calls`, where there are such pieces), then `event:
    done` with how the answer was made, or `event: error` with what ended it. What fails before the first piece is a
    response with its own status, as `error_response` makes it. Of plain text that breaks off the connection is closed
    without its end, so that no client takes it for whole.

    Args:
        stream: What `llm.astream` returned, not entered yet.
        events: False for plain text.
        headers: Further headers.
        timeout: Seconds that the client may take for each piece; one that does not read is left.
    """

    def __init__(
        self,
        stream: AsyncStream,
        *,
        events: bool = True,
        headers: Mapping[str, str] | None = None,
        timeout: float = _TAKEN_S,
    ) -> None:
        self.media_type = "text/event-stream" if events else "text/plain"
        super().__init__(headers={"cache-control": "no-store", "x-accel-buffering": "no", **(headers or {})})
        del self.headers["content-length"]
        self._stream, self._events, self._timeout = stream, events, timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the answer; the work of the backend ends with the connection."""
        async with ended_by_disconnect(receive):
            try:
                async with self._stream as stream:
                    first = await anext(stream)
                    await self._begin(stream, send)
                    await self._send_all(first, stream, send)
            except TimeoutError:  # the client does not read: the server closes a connection that has no end
                return
            except HybridLLMError as error:
                failed = error_response(None, error)
            else:
                return
            await failed(scope, receive, send)

    async def _begin(self, stream: AsyncStream, send: Send) -> None:
        self.headers.update(answer_headers(stream.decision, stream.request_id, stream.backend, stream.backend))
        del self.headers["x-hybrid-model"]  # only the client knows it
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})

    async def _send_all(self, first: Chunk, stream: AsyncStream, send: Send) -> None:
        """Send what follows the status; a failure is an event from now on, or breaks the connection."""
        try:
            await self._piece(first, send)
            async for chunk in stream:
                await self._piece(chunk, send)
            last = event(dumped(_made(stream.generation)), "done") if self._events else b""
        except HybridLLMError as error:
            if not self._events:
                return  # the server closes the connection: a text that is not whole has no end
            last = event(dumped(failure_of(error).as_openai()), "error")
        await send({"type": "http.response.body", "body": last, "more_body": False})

    async def _piece(self, chunk: Chunk, send: Send) -> None:
        body = _pieces(chunk) if self._events else chunk.text.encode()
        if body:
            async with asyncio.timeout(self._timeout):
                await send({"type": "http.response.body", "body": body, "more_body": True})


def _pieces(chunk: Chunk) -> bytes:
    pieces = {"text": chunk.text, "reasoning": chunk.reasoning, "tool_calls": jsonable(chunk.tool_calls)}
    found = {name: piece for name, piece in pieces.items() if piece}
    return event(dumped(found)) if found else b""


def _made(generation: Generation) -> dict[str, Any]:
    """How an answer was made, without its texts."""
    return {name: value for name, value in generation.to_dict().items() if name not in _TEXTS}


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of *work*, such as `llm.agenerate(...)`, which is cancelled when the client of *request* leaves.

    The body of the request must have been read.

    Raises:
        ClientDisconnect: the client has left; `ERROR_HANDLERS` end such a request quietly. Else what *work* raises.
    """
    async with ended_by_disconnect(request.receive):
        return await work
    raise ClientDisconnect


def error_response(_: Request | None, error: Exception) -> Response:
    """The response of an error of ours, with status, `retry-after` and a document like that of OpenAI's API."""
    failure = failure_of(error)
    return JSONResponse(failure.as_openai(), failure.status, failure.headers)


def _left(_: Request, __: Exception) -> Response:
    return Response(status_code=_LEFT)


ERROR_HANDLERS: Final[dict[Any, Callable[[Request, Exception], Response]]] = {
    HybridLLMError: error_response,
    ClientDisconnect: _left,
}
"""What `exception_handlers` of an application takes."""


def client_lifespan(
    client: HybridLLM | str | os.PathLike[str] | Mapping[str, Any], **options: Any
) -> Callable[[Any], AbstractAsyncContextManager[dict[str, HybridLLM]]]:
    """What `lifespan` of an application takes: its requests have the client as `request.state.llm`.

    *client* is closed with the application. In its place stand a file or a mapping for `HybridLLM.from_config`, with
    its *options*; they are read when the application starts, which fails if they are invalid.
    """

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[dict[str, HybridLLM]]:
        made = client if isinstance(client, HybridLLM) else HybridLLM.from_config(client, **options)
        async with made as llm:
            yield {"llm": llm}

    return lifespan
