"""The backend: sends what is cleared to one server over HTTP, in an event loop of its own, and returns its chunks."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator
from contextlib import aclosing, closing, suppress
from dataclasses import replace
from functools import partial
from typing import Any, Final

from hybrid_llm.backends.http.api import Api, Call, Known
from hybrid_llm.backends.http.description import Description
from hybrid_llm.backends.http.events import EventReader, EventTooLarge
from hybrid_llm.backends.http.failures import CONNECTION_ERRORS, interrupted, is_silence, transport
from hybrid_llm.backends.http.settings import HttpSettings
from hybrid_llm.backends.http.transport import Transport, check_answer, pieces
from hybrid_llm.backends.http.verdict import Verdict
from hybrid_llm.backends.prober import Prober
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded, HybridLLMError
from hybrid_llm.core.generation import Chunk, Timings
from hybrid_llm.core.health import EJECT_FAILURES, EJECT_S, BackendHealth, HealthProbe
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.log import breaker_log
from hybrid_llm.core.loops import LoopThread
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Request, estimate_tokens
from hybrid_llm.core.signals import BackendState, EndpointState

SILENT: Final = "does not respond"
"""Why a server that sends nothing is not ready."""


class HttpBackend:
    """One server. Nothing is connected before the first call. May be used from many threads and event loops.

    Args:
        settings: Where it is, and what is set of it.
        api: What it speaks.

    Raises:
        ConfigError: the key or a file is unusable.
    """

    count_tokens = staticmethod(estimate_tokens)
    """An estimate: the tokenizer is on the server."""

    def __init__(self, settings: HttpSettings, api: Api) -> None:
        self.name: Final = settings.name
        """The name that policies use."""
        self.location: Final = settings.location
        """Where texts go."""
        self.address: Final = settings.endpoint
        """Where it is, for telemetry."""
        self.provider: Final = settings.provider
        """Who serves the model, for telemetry."""
        self.health = HealthProbe(failures=EJECT_FAILURES, open_s=EJECT_S, on_breaker=breaker_log(settings.name))
        """The state of the server."""
        self.endpoint_health = BackendHealth(lambda: (self.health,))
        """The same, as the router sees it."""
        self._settings = settings
        self._api = api
        self._transport = Transport(settings, api)
        self._description = Description(settings, api, self._transport)
        self._loop = LoopThread()
        self._prober = Prober(
            self._description.ask,
            self.health,
            timeout=settings.connect_timeout_s,
            name=settings.name,
            label=f"{settings.name} {settings.address}",
            on_silent=lambda: None,
        )
        self._calls: dict[asyncio.Task[Any], str] = {}
        self._lock = threading.Lock()
        self._closed = False
        self._origin = Origin()
        close_at_exit(self)

    @property
    def capabilities(self) -> Capabilities:
        """What the server can do: by the file, else by what it has reported, else as it is usual."""
        return self._description.capabilities

    def state(self) -> BackendState:
        """What our own calls have shown; no I/O. A lost server is probed for as long as this is called."""
        self._prober.keep_probing()
        reason = "closed" if self._closed else SILENT if self.health.silent else ""
        return BackendState(
            name=self.name,
            location=self.location,
            sealed=self._settings.sealing_keys is not None,
            ready=not reason,
            reason=reason,
            serves=self.health.serves,
            active=len(self._calls),
            context_window=self.capabilities.context_window,
            energy_per_1k_tokens_j=self._settings.energy_per_1k_tokens_j,
        )

    def members(self) -> tuple[EndpointState, ...]:
        """The state of the server, for people and metrics."""
        health = self.health
        state = EndpointState(
            address=self._settings.address,
            health=health.health,
            reason=health.fault,
            breaker=health.breaker,
            active=len(self._calls),
        )
        return (state,)

    def probe(self, *, timeout: float = 5.0) -> Known:
        """Ask the server what it is, within *timeout* seconds: GET requests without a body; for `hybrid-llm doctor`.

        Raises:
            BackendError, SecurityError: it cannot be reached or trusted, or does not accept the key.
        """
        self._check_open()
        self._description.ask(timeout)
        if (error := self._description.rejected) is not None:
            raise error
        return self._description.known

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in chunks; closing the generator closes the connection, at which servers stop generating.

        Raises:
            PrivacyViolation: the clearance does not cover where the server is; nothing was sent.
            BackendError, SecurityError: see `hybrid_llm.core.errors`.
        """
        call = self._call(cleared)
        with closing(self._loop.iterate(partial(self._answer, cleared.request, call))) as chunks:
            yield from chunks

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        call = self._call(cleared)
        async with aclosing(self._loop.aiterate(partial(self._answer, cleared.request, call))) as chunks:
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
            self._prober.close()
            self.health.close()
            self._loop.close()

    async def aclose(self) -> None:
        """Do as `close` does; nothing of it belongs to the running event loop."""
        self.close()

    def _check_open(self) -> None:
        self._origin.check(f"the backend {self.name} was opened")
        if self._closed:
            raise BackendUnavailable(f"{self.name} is closed", backend=self.name, reason="closed")

    def _call(self, cleared: Cleared) -> Call:
        """What leaves for a cleared request, unless the server is known to refuse it."""
        call = self._api.call(cleared, self._description.known)
        self._check_open()
        if self._description.is_due():
            self._prober.look()
        self._description.check_able(cleared.request)
        return replace(call, traceparent=cleared.traceparent) if cleared.traceparent else call

    async def _answer(self, request: Request, call: Call) -> AsyncIterator[Chunk]:
        """Make the call, in the loop of this backend."""
        task = asyncio.current_task()
        assert task is not None
        with self._lock:
            self._calls[task] = request.request_id
        verdict = Verdict(self.health, self._prober, request)
        fault: HybridLLMError
        try:
            async with asyncio.timeout(max(0.0, request.remaining())):
                async with aclosing(self._chunks(request, call, verdict)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            return
        except TimeoutError:
            fault = self._late(request)
        except CONNECTION_ERRORS as error:
            fault = transport(error, call.answer.received, backend=self.name)
            verdict.lost = not is_silence(error)
        except EventTooLarge:
            fault = interrupted(call.answer.received, "it has no end", backend=self.name)
        except HybridLLMError as error:
            fault = error
        finally:
            verdict.over()
            with self._lock:
                self._calls.pop(task, None)
        verdict.failed(fault)
        self._description.note(fault)
        raise fault  # here, where an error that may quote an URL or a body is not its context

    async def _chunks(self, request: Request, call: Call, verdict: Verdict) -> AsyncGenerator[Chunk, None]:
        began = time.perf_counter()
        first = 0.0
        reader, answer = EventReader(request.max_tokens), call.answer
        async with self._transport.call(call.data, request.request_id, call.traceparent) as response:
            verdict.heard()
            await check_answer(response, backend=self.name)
            async for piece in pieces(response):
                for event in reader.feed(piece, last=not piece):
                    for chunk in answer.take(event):
                        first = first or time.perf_counter()
                        yield chunk
                if answer.done:
                    break
        now = time.perf_counter()
        waited, wrote = 1e3 * ((first or now) - began), 1e3 * (now - (first or now))
        per_token = wrote / max(1, answer.received - 1)
        last = list(answer.end(Timings(ttft_ms=waited, tpot_ms=per_token, total_ms=waited + wrote)))
        verdict.succeeded()
        self._description.note(None)
        for chunk in last:
            yield chunk

    def _late(self, request: Request) -> DeadlineExceeded:
        text = f"{self.name} did not finish within the deadline of {request.deadline:g} s"
        return DeadlineExceeded(text, backend=self.name, elapsed=time.monotonic() - request.created)
