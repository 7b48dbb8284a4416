"""One cloud node as a backend: sends what is cleared for the cloud to that node over mutual TLS.

Alone it is a backend, in a `GrpcPool` one endpoint of several. Either way it reports its own calls to its health.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

import grpc

from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.grpc.connection import Connection, Link
from hybrid_llm.backends.grpc.exchange import Exchange, NodeDescription, NodeStats, described
from hybrid_llm.backends.grpc.sealing import Sealer
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.backends.wire.reading import EOF, read
from hybrid_llm.backends.wire.sealing.keys import KeyConfig
from hybrid_llm.backends.wire.status import Metadata, has_detail
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    DecryptionFailed,
    ProtocolMismatch,
    StreamInterrupted,
)
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.health import EJECT_FAILURES, EJECT_S, BackendHealth, HealthProbe
from hybrid_llm.core.latency import FirstTokenTimes
from hybrid_llm.core.log import breaker_log
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState, EndpointHealth, EndpointState
from hybrid_llm.core.tracebacks import is_fault
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub

SILENT: Final = "does not respond"
NO_ROUTE: Final = "no route to host"
"""Why an endpoint that sends nothing is not ready."""

_FAILURES: Final = (BackendUnavailable, StreamInterrupted, ProtocolMismatch)
"""Errors that count against the endpoint's health."""
_DIAGNOSIS_S: Final = 1.0
"""The longest that finding out why a node is unavailable may take, seconds."""


class GrpcBackend:
    """One cloud node. Nothing is opened before the first call or `probe`.

    Args:
        config: Where it is, and the files that authenticate this app.
        on_unreachable: Called, maybe from another thread, when the node seems to be unreachable, with the instant
            since which it is.
        lookup: Resolves names.
        clock: Seconds, never backwards.

    Raises:
        ConfigError: the target is not HOST:PORT, or the certificate files do not fit together.
    """

    location: Final = Location.CLOUD
    provider: Final = "hybrid_llm"
    """Who serves the model, for telemetry."""
    count_tokens = staticmethod(estimate_tokens)
    """An estimate: the tokenizer is on the node."""

    def __init__(
        self,
        config: GrpcConfig,
        *,
        on_unreachable: Callable[[float], object] = lambda _: None,
        lookup: Lookup | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name: Final = config.name
        """The name that policies use."""
        self.address: Final = config.target
        """`HOST:PORT`, unique among the endpoints of a pool."""
        self.energy_per_1k_tokens_j: Final = config.energy_per_1k_tokens_j
        self.expiries: Final = config.expiries
        self._config = config
        self._clock = clock
        self._on_unreachable = on_unreachable
        self.health = HealthProbe(
            failures=EJECT_FAILURES, open_s=EJECT_S, clock=clock, on_breaker=breaker_log(config.label)
        )
        """The state of this one endpoint."""
        self.endpoint_health = BackendHealth(lambda: (self.health,))
        """The same, as the router sees it."""
        self._connection = Connection(config, self.health, on_unreachable, lookup or Lookup())
        self._sealer = Sealer(config.sealed, config.verifier) if config.sealed is not None else None
        self._stats = NodeStats(
            health=self.health, first_tokens=FirstTokenTimes(clock), context_window=config.context_window
        )
        self._capabilities = Capabilities(
            model=config.model, context_window=config.context_window, output_schema=True, tools=True
        )

    @property
    def seals(self) -> bool:
        """Whether it seals what it sends."""
        return self._sealer is not None

    @property
    def capabilities(self) -> Capabilities:
        """What the node can do; a *model* not configured is empty before `probe`, *context_window* 0 before calls."""
        window = self._config.context_window or self._stats.context_window
        return self._stats.completed(replace(self._capabilities, context_window=window))

    @property
    def busy(self) -> float:
        """Its load as it reported it, else the number of our own calls."""
        state = self.endpoint_state()
        return state.load or float(state.active)

    @property
    def expected_ttft_ms(self) -> float:
        """Its usual time to first token, for each request that is there already, ms; 0 where it is unknown."""
        state = self.endpoint_state()
        return self._stats.first_tokens.expected_ms * (1 + state.active + state.queue)

    def state(self) -> BackendState:
        """What the calls so far have shown; no I/O. An unreachable node is probed for as long as this is called."""
        return state_of([self], name=self.name, reason=self.why_not_ready())

    def why_not_ready(self) -> str:
        """Why it gets no calls now, else empty; an unreachable node is probed for as long as this is called."""
        self._connection.prober.keep_probing()
        if self._connection.closed:
            return "closed"
        if self.health.silent:
            return SILENT if self._connection.has_route() else NO_ROUTE
        return "stopping" if self.health.is_stopping else ""

    def endpoint_state(self) -> EndpointState:
        """What its calls have shown, for people and metrics."""
        active, queue, load = self._stats.load(self._connection.calls)
        return EndpointState(
            address=self.address,
            health=self.health.health,
            reason=self.health.fault,
            breaker=self.health.breaker,
            active=active,
            queue=queue,
            load=load,
            rtt_ms=self._stats.rtt_ms,
            ttft_ms=self._stats.first_tokens.average_ms,
        )

    def suspect(self, since: float) -> None:
        """Probe the node beside the calls, unless it sent something after the instant *since* or was just probed."""
        self._connection.prober.suspect(since)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in chunks; closing the generator stops the generation on the node.

        Raises:
            PrivacyViolation: the clearance does not cover the cloud; nothing was sent.
            BackendError, SecurityError: see `hybrid_llm.core.errors`.
        """
        exchange = self._exchange(require_clearance(cleared, Location.CLOUD, seals=self.seals))
        with self._judged(exchange):
            payload = exchange.payload(cleared)
            link = self._connection.link(exchange.remaining())
            key = self._key(exchange, link)
            with self._call(exchange, link, payload, key=key) as call:
                try:
                    for message in call:
                        chunk = exchange.receive(message)
                        if not exchange.ended:
                            yield chunk
                    self._complete(exchange, link, call.trailing_metadata())
                    yield exchange.latest
                except grpc.RpcError:
                    raise self._failure(exchange, call) from None

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        exchange = self._exchange(require_clearance(cleared, Location.CLOUD, seals=self.seals))
        with self._judged(exchange):
            payload = exchange.payload(cleared)
            link = await self._connection.alink(exchange.remaining())
            key = await self._akey(exchange, link)
            with self._call(exchange, link, payload, asyncio.get_running_loop(), key=key) as call:
                try:
                    while (message := await read(call)) is not EOF:
                        chunk = exchange.receive(message)
                        if not exchange.ended:
                            yield chunk
                    self._complete(exchange, link, await call.trailing_metadata())
                    yield exchange.latest
                except (grpc.RpcError, asyncio.CancelledError) as failure:
                    # gRPC raises CancelledError for the status CANCELLED too: the node ended the call, or `close` did.
                    if not is_fault(failure):
                        raise
                    status = (await call.code(), await call.details(), await call.trailing_metadata())
                    error, patience = self._diagnose(exchange, *status)
                    raise (await self._connection.prober.afault(patience) or error) from None
                finally:
                    link.calls.end(call)  # if the consumer leaves
                    await call.code()

    def _key(self, exchange: Exchange, link: Link) -> KeyConfig | None:
        """The key to seal to, None where nothing is sealed; raises the errors of a call."""
        try:
            return self._sealer.key(link, exchange.remaining()) if self._sealer is not None else None
        except grpc.RpcError as failure:
            raise self._failure(exchange, failure) from None

    async def _akey(self, exchange: Exchange, link: Link) -> KeyConfig | None:
        """Do as `_key` does, without blocking the event loop."""
        try:
            return await self._sealer.akey(link, exchange.remaining()) if self._sealer is not None else None
        except grpc.RpcError as failure:
            status: Any = failure
            error, patience = self._diagnose(exchange, status.code(), status.details(), status.trailing_metadata())
            raise (await self._connection.prober.afault(patience) or error) from None

    def probe(self, *, timeout: float = 5.0) -> NodeDescription:
        """Ask the node for its description, within *timeout* seconds; for `hybrid-llm doctor` and eager starts.

        Raises:
            ProtocolMismatch: it speaks another version of the protocol.
            BackendError, SecurityError: it cannot be reached or trusted.
        """
        link = self._connection.link(timeout)
        describe = HybridLLMStub(link.channel).Describe  # type: ignore[no-untyped-call]
        try:
            # The first call connects, so that the second measures the round trip alone.
            metadata = self._connection.token.metadata()
            describe(pb.DescribeRequest(), timeout=timeout, metadata=metadata)
            started, sent = time.perf_counter(), time.time()
            reply = describe(pb.DescribeRequest(), timeout=timeout, metadata=metadata)
        except grpc.RpcError as failure:
            raise self._failure(self._exchange(), failure) from None
        rtt_ms = (time.perf_counter() - started) * 1000
        link.warm = True
        description = described(reply, backend=self.name, sent=sent, rtt_ms=rtt_ms)
        if self._sealer is not None:
            self._sealer.check(reply)
        self._stats.report(reply.load)
        self._stats.parent = description.model if self._config.model in reply.adapters else ""
        self._stats.add_rtt(rtt_ms, warm=True)
        self._capabilities = Capabilities(
            model=self._config.model or reply.model,
            context_window=reply.context_window,
            output_schema=reply.output_schema,
            tools=reply.tools,
        )
        return description

    def abort(self, request_id: str) -> None:
        """Cancel the calls of this request; from any thread."""
        self._connection.abort(request_id)

    def close(self) -> None:
        """End running calls with `BackendUnavailable`; further ones end the same way. Idempotent."""
        self._connection.close()

    async def aclose(self) -> None:
        """Do as `close` does, and close the running event loop's channel."""
        await self._connection.aclose()

    def __del__(self) -> None:
        if (connection := getattr(self, "_connection", None)) is not None:
            connection.prober.close()  # its thread would probe for nobody

    def _exchange(self, request: Request | None = None) -> Exchange:
        return Exchange(request or Request(messages=()), self._config, self._stats, self._connection.prober.heard)

    @contextmanager
    def _judged(self, exchange: Exchange) -> Generator[None, None, None]:
        """Report how a call ends to the endpoint's health; `_complete` reports success."""
        # An endpoint that is not admitted may get the call all the same: the pool's last resort.
        self.health.admit()
        began = self._clock()
        try:
            yield
        except BaseException as error:
            if isinstance(error, BackendOverloaded | BackendUnavailable) and error.retry_after:
                self.health.overloaded(error.retry_after)
            if self._sealer is not None and isinstance(error, DecryptionFailed):
                self._sealer.forget()
            self._judge(exchange, error, began)
            failed = isinstance(error, BackendError)
            if exchange.unanswered and (not failed or isinstance(error, DeadlineExceeded)):
                self._stats.first_tokens.add_missed((time.monotonic() - exchange.began) * 1e3)
            if failed and self.health.health is EndpointHealth.UNREACHABLE:
                self._on_unreachable(time.monotonic())
            raise

    def _judge(self, exchange: Exchange, error: BaseException, began: float) -> None:
        """Report a call that ended with *error*; what may mean that the node cannot be used is probed at once."""
        failed, hung = isinstance(error, _FAILURES) and not exchange.aborted, exchange.hung(error)
        if hung or (failed and exchange.was_answered_wrongly):
            self.health.failed(began, hung=hung)
        elif failed and exchange.cancelled:
            self.health.cancelled(began)
        elif failed and exchange.lost:
            self.health.lost()
        else:
            self.health.abandoned()
        if hung or failed:
            self._connection.prober.doubt()

    @contextmanager
    def _call(
        self,
        exchange: Exchange,
        link: Link,
        payload: bytes,
        loop: asyncio.AbstractEventLoop | None = None,
        *,
        key: KeyConfig | None,
    ) -> Generator[Any, None, None]:
        """Start the call. Cancel it when its consumer leaves: gRPC alone would let the node go on generating."""
        metadata = (*exchange.metadata, *self._connection.token.metadata(exchange.request.priority))
        if key is not None:
            payload = exchange.seal(payload, key)
        exchange.start(warm=link.warm)
        try:
            call = link.generate(payload, timeout=exchange.remaining(), metadata=metadata)
            link.calls.running.add(call)
        except ValueError:  # another thread has closed the channel since `link` returned it
            raise self._connection.closed_error() from None
        from_any_thread = call.cancel if loop is None else partial(loop.call_soon_threadsafe, call.cancel)
        try:
            with self._connection.watched(exchange, from_any_thread):
                yield call
        finally:
            link.calls.end(call)
            if exchange.unanswered:
                self.suspect(exchange.began)

    def _complete(self, exchange: Exchange, link: Link, trailing: Any) -> None:
        """Record what follows the last chunk, before that is yielded, since the consumer may stop there."""
        link.warm = True
        exchange.finish(_pairs(trailing))
        self.health.succeeded()

    def _failure(self, exchange: Exchange, call: Any) -> Exception:
        error, patience = self._diagnose(exchange, call.code(), call.details(), call.trailing_metadata())
        return self._connection.prober.fault(patience) or error

    def _diagnose(
        self, exchange: Exchange, code: grpc.StatusCode, message: str | None, metadata: Any
    ) -> tuple[Exception, float]:
        """Return what a status means, and for how many seconds to probe for a better reason: gRPC gives none."""
        if self._connection.closed:
            return self._connection.closed_error(), 0.0
        trailing = _pairs(metadata)
        exchange.settle(trailing)
        if has_detail(trailing):
            self._connection.prober.heard()
        error = exchange.failure(code, message or "", trailing)
        if code is not grpc.StatusCode.UNAVAILABLE or has_detail(trailing):
            return error, 0.0
        self._connection.drop()
        self._connection.prober.doubt()
        return error, 0.0 if exchange.received_tokens else max(0.0, min(exchange.left(), _DIAGNOSIS_S))


def state_of(endpoints: Collection[GrpcBackend], *, name: str, reason: str) -> BackendState:
    """The state of *endpoints* together: their work is added up, the nearest gives the round-trip time."""
    states = [endpoint.endpoint_state() for endpoint in endpoints]
    windows = [endpoint.capabilities.context_window for endpoint in endpoints]
    return BackendState(
        name=name,
        location=Location.CLOUD,
        sealed=all(endpoint.seals for endpoint in endpoints) and bool(endpoints),
        ready=not reason,
        reason=reason,
        serves=any(endpoint.health.serves for endpoint in endpoints),
        nodes=max(1, sum(state.health.is_usable for state in states)),
        active=sum(state.active for state in states),
        queue=sum(state.queue for state in states),
        load=min((state.load for state in states), default=0.0),
        context_window=min(filter(None, windows), default=0),
        rtt_ms=min((state.rtt_ms for state in states if state.rtt_ms is not None), default=None),
        energy_per_1k_tokens_j=max((each.energy_per_1k_tokens_j for each in endpoints), default=0.0),
    )


def _pairs(metadata: Any) -> Metadata:
    """Metadata as pairs; gRPC's sync and asyncio calls have types of their own for it."""
    return tuple((key, value) for key, value in metadata or ())
