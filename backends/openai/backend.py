"""The backend: sends what is cleared to one server over HTTP, in an event loop of its own, and returns its chunks."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, closing, suppress
from functools import partial
from typing import Any, Final

import httpx

from hybrid_llm.backends.openai.decode import Answer
from hybrid_llm.backends.openai.encode import payload
from hybrid_llm.backends.openai.events import EventReader, EventTooLarge
from hybrid_llm.backends.openai.failures import interrupted, refusal, transport
from hybrid_llm.backends.openai.settings import OpenAISettings
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import BackendUnavailable, ConfigError, DeadlineExceeded
from hybrid_llm.core.generation import Chunk, Timings
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Request, estimate_tokens
from hybrid_llm.core.signals import BackendState

_MOST_ERROR_BYTES: Final = 64 << 10
_CONNECTIONS: Final = httpx.Limits(max_connections=256, max_keepalive_connections=32, keepalive_expiry=30.0)


class OpenAIBackend:
    """One server. Nothing is connected before the first call. May be used from many threads and event loops.

    Raises:
        ConfigError: the key or a file is unusable.
    """

    count_tokens = staticmethod(estimate_tokens)
    """An estimate: the tokenizer is on the server."""

    def __init__(self, spec: OpenAISettings) -> None:
        self.name: Final = spec.name
        """The name that policies use."""
        self.location: Final = spec.location
        """Where texts go."""
        self._spec = spec
        self._headers = _headers(spec)
        self._trust = _trust(spec)
        self._client: httpx.AsyncClient | None = None
        self._loop = LoopThread()
        self._calls: dict[asyncio.Task[Any], str] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._origin = Origin()
        close_at_exit(self)

    @property
    def capabilities(self) -> Capabilities:
        """What the file says that the server can do."""
        spec = self._spec
        return Capabilities(
            model=spec.model,
            context_window=spec.context_window,
            output_schema=spec.output_schema,
            tools=spec.tools,
            logprobs=spec.logprobs,
            draws=True,
        )

    def state(self) -> BackendState:
        """Our own calls; no I/O."""
        spec = self._spec
        return BackendState(
            name=self.name,
            location=self.location,
            ready=not self._closed,
            reason="closed" if self._closed else "",
            active=len(self._calls),
            context_window=spec.context_window,
            energy_per_1k_tokens_j=spec.energy_per_1k_tokens_j,
        )

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in chunks; closing the generator closes the connection, at which servers stop generating.

        Raises:
            PrivacyViolation: the clearance does not cover where the server is; nothing was sent.
            BackendError, SecurityError: see `hybrid_llm.core.errors`.
        """
        data = payload(cleared, self._spec)
        self._check_open()
        with closing(self._loop.iterate(partial(self._answer, cleared.request, data))) as chunks:
            yield from chunks

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        data = payload(cleared, self._spec)
        self._check_open()
        async with aclosing(self._loop.aiterate(partial(self._answer, cleared.request, data))) as chunks:
            async for chunk in chunks:
                yield chunk

    def abort(self, request_id: str) -> None:
        """End the calls of this request; from any thread."""
        with self._lock:
            tasks = [task for task, known in self._calls.items() if known == request_id]
        for task in tasks:
            with suppress(RuntimeError):  # the loop is closed, and has ended it
                task.get_loop().call_soon_threadsafe(task.cancel)

    def close(self) -> None:
        """End running calls with `BackendUnavailable`; further ones end the same way. Idempotent."""
        if self._origin.is_here:
            self._closed = True
            self._loop.close()

    async def aclose(self) -> None:
        """Do as `close` does; nothing of it belongs to the running event loop."""
        self.close()

    def _check_open(self) -> None:
        self._origin.check(f"the backend {self.name} was opened")
        if self._closed:
            raise BackendUnavailable(f"{self.name} is closed", backend=self.name, reason="closed")

    async def _answer(self, request: Request, data: bytes) -> AsyncIterator[Chunk]:
        """Make the call, in the loop of this backend."""
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._calls[task] = request.request_id
        answer = Answer(backend=self.name, seam=request.answer_prefix[-_SEAM:] if self._goes_on_by_asking else "")
        try:
            async with asyncio.timeout(max(0.0, request.remaining())):
                async with aclosing(self._chunks(request, data, answer)) as chunks:
                    async for chunk in chunks:
                        yield chunk
        except TimeoutError:
            raise self._late(request) from None
        except (httpx.HTTPError, httpx.StreamError, ssl.SSLError, OSError) as error:
            fault = transport(error, answer.received, backend=self.name)
        except EventTooLarge:
            fault = interrupted(answer.received, "an event has no end", backend=self.name)
        else:
            return
        finally:
            with self._lock:
                self._calls.pop(task, None)
        raise fault  # here, where an error that may quote an URL or a body is not its context

    @property
    def _goes_on_by_asking(self) -> bool:
        return self._spec.understood not in ("vllm", "llama.cpp")

    async def _chunks(self, request: Request, data: bytes, answer: Answer) -> AsyncGenerator[Chunk, None]:
        began = time.perf_counter()
        first = 0.0
        reader = EventReader()
        headers = self._headers | {"x-request-id": request.request_id}
        async with self._http().stream("POST", _completions(self._spec), content=data, headers=headers) as response:
            await self._check(response)
            async for piece in _and_the_end(response):
                for event in reader.feed(piece, last=not piece):
                    for chunk in answer.take(event):
                        first = first or time.perf_counter()
                        yield chunk
                if answer.done:
                    break
        now = time.perf_counter()
        waited, wrote = 1e3 * ((first or now) - began), 1e3 * (now - (first or now))
        per_token = wrote / max(1, answer.received - 1)
        yield answer.end(Timings(ttft_ms=waited, tpot_ms=per_token, total_ms=waited + wrote))

    async def _check(self, response: httpx.Response) -> None:
        """Raise the error of an answer that is none."""
        kind = response.headers.get("content-type", "")
        if response.status_code == httpx.codes.OK and "json" not in kind.partition(";")[0]:
            return
        body = b""
        async for piece in response.aiter_bytes():
            body += piece
            if len(body) > _MOST_ERROR_BYTES:
                break
        document: Any = None
        with suppress(ValueError, RecursionError):
            document = json.loads(body)
        if response.status_code != httpx.codes.OK or (isinstance(document, dict) and document.get("error")):
            status = response.status_code if response.status_code != httpx.codes.OK else 500
            raise refusal(status, response.headers, document, backend=self.name)
        raise BackendUnavailable(f"{self.name} does not stream", backend=self.name, reason="failed")

    def _http(self) -> httpx.AsyncClient:
        """The client; its connections belong to the loop of this backend."""
        if self._client is None:
            spec = self._spec
            timeout = httpx.Timeout(spec.idle_timeout_s, connect=spec.connect_timeout_s)
            self._client = httpx.AsyncClient(
                verify=self._trust,
                http2=_has_http2(),
                proxy=spec.proxy,
                trust_env=False,
                follow_redirects=False,
                timeout=timeout,
                limits=_CONNECTIONS,
            )
        return self._client

    def _late(self, request: Request) -> DeadlineExceeded:
        text = f"{self.name} did not finish within the deadline of {request.deadline:g} s"
        return DeadlineExceeded(text, backend=self.name, elapsed=time.monotonic() - request.created)


_SEAM: Final = 200
"""Characters at the end of a partial answer in which a repetition is looked for."""


async def _and_the_end(response: httpx.Response) -> AsyncIterator[bytes]:
    """The pieces of the body, and an empty one at its end."""
    async for piece in response.aiter_bytes():
        if piece:
            yield piece
    yield b""


def _completions(spec: OpenAISettings) -> str:
    """The URL of the route; a query, as Azure has it, stays at the end."""
    return spec.url._replace(path=f"{spec.url.path.rstrip('/')}/chat/completions").geturl()


def _headers(spec: OpenAISettings) -> dict[str, str]:
    headers = {"content-type": "application/json", "accept": "text/event-stream"}
    if spec.api_key is None:
        return headers
    secret = spec.api_key.read()
    return headers | {spec.key_header: f"Bearer {secret}" if spec.key_header == "authorization" else secret}


def _trust(spec: OpenAISettings) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=None if spec.ca is None else str(spec.ca))
    except (OSError, ssl.SSLError):
        fault = f"{spec.name}: ca: {spec.ca} has no certificates in PEM form"
    raise ConfigError(fault, path=str(spec.ca))


def _has_http2() -> bool:
    from importlib.util import find_spec

    return find_spec("h2") is not None
