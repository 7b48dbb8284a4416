"""The cloud as a backend: sends what is cleared for it to one node over mutual TLS, and nothing else to anyone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc

from hybrid_llm.backends.grpc.config import GrpcConfig, NodeDescription
from hybrid_llm.backends.grpc.connection import Connection, Link
from hybrid_llm.backends.grpc.exchange import METADATA, Exchange, Observed
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.backends.wire.messages import PROTOCOL
from hybrid_llm.backends.wire.status import Metadata, has_detail
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import HybridLLMError, ProtocolMismatch
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.protos import hybrid_pb2 as pb

SILENT = "does not answer"
NO_WAY = "no network leads there"
"""Why a backend is not ready from which nothing comes."""
_DIAGNOSIS_S = 1.0
"""Longest that finding out why a node is gone may take, seconds."""


class GrpcBackend:
    """One cloud node. Nothing is opened before the first call or `probe`.

    Args:
        config: Where it is, and who we are to it.
        on_doubt: Called, from another thread, when it seems to answer no more, with the instant since which it does.
        lookup: How a name becomes an address.

    Raises:
        ConfigError: the target is not HOST:PORT, or the certificate files do not fit together.
    """

    def __init__(
        self,
        config: GrpcConfig,
        *,
        on_doubt: Callable[[float], object] = lambda _: None,
        lookup: Lookup | None = None,
    ) -> None:
        self._config = config
        self._connection = Connection(config, on_doubt, lookup or Lookup())
        self._observed = Observed(context_window=config.context_window)
        self._capabilities = Capabilities(model="", context_window=config.context_window, output_schema=True)

    @property
    def name(self) -> str:
        """The name that policies use."""
        return self._config.name

    @property
    def location(self) -> Location:
        """Always the cloud."""
        return Location.CLOUD

    @property
    def capabilities(self) -> Capabilities:
        """What the node can do; *model* is empty before `probe`, *context_window* 0 before any call."""
        known = self._capabilities
        window = self._config.context_window or self._observed.context_window
        return Capabilities(
            model=known.model, context_window=window, output_schema=known.output_schema, tools=known.tools
        )

    def state(self) -> BackendState:
        """What the calls so far have shown; no I/O."""
        active, queue, load = self._observed.load()
        reason = self._why_not()
        return BackendState(
            name=self.name,
            location=Location.CLOUD,
            ready=not reason,
            reason=reason,
            active=active,
            queue=queue,
            load=load,
            context_window=self._config.context_window or self._observed.context_window,
            rtt_ms=self._observed.rtt_ms,
            energy_per_1k_tokens_j=self._config.energy_per_1k_tokens_j,
        )

    def _why_not(self) -> str:
        if self._connection.closed:
            return "closed"
        if self._connection.way.silent:
            return SILENT if self._connection.has_way else NO_WAY
        return "stopping" if self._observed.stopping else ""

    @property
    def in_doubt(self) -> bool:
        """The node could not be reached or trusted when it was last looked at; it is looked at again."""
        return self._connection.way.in_doubt

    @property
    def fault(self) -> str:
        """The name of the error's class where it is in doubt; else empty."""
        return self._connection.way.fault

    def suspect(self, since: float | None = None) -> None:
        """Look, beside the calls, whether the node is there; not where it was heard *since*, or just looked at."""
        self._connection.way.suspect(time.monotonic() if since is None else since)

    def count_tokens(self, request: Request) -> int:
        """Estimate the tokens of the prompt: the tokenizer is on the node."""
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer in pieces; closing the generator stops the generation on the node.

        Raises:
            PrivacyViolation: the clearance does not cover the cloud; nothing was sent.
            BackendError, SecurityError: see `hybrid_llm.core.errors`.
        """
        request = require_clearance(cleared, Location.CLOUD)
        exchange = self._exchange(request)
        payload = exchange.payload(cleared)
        link = self._connection.link(exchange.remaining())
        exchange.start(warm=link.warm)
        call = link.generate(payload, timeout=exchange.remaining(), metadata=METADATA)
        with self._running(exchange, call.cancel):
            try:
                for piece in call:
                    chunk = exchange.take(piece)
                    if not exchange.ended:
                        yield chunk
                self._complete(exchange, link, _pairs(call.trailing_metadata()))
                yield exchange.latest
            except grpc.RpcError:
                facts = (call.code(), call.details(), _pairs(call.trailing_metadata()))
                raise self._failed(exchange, *facts) from None

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Do as `stream` does, without blocking the event loop."""
        request = require_clearance(cleared, Location.CLOUD)
        exchange = self._exchange(request)
        payload = exchange.payload(cleared)
        link = await self._connection.alink(exchange.remaining())
        exchange.start(warm=link.warm)
        call = link.generate(payload, timeout=exchange.remaining(), metadata=METADATA)
        with self._running(exchange, call.cancel, asyncio.get_running_loop()):
            try:
                async for piece in call:
                    chunk = exchange.take(piece)
                    if not exchange.ended:
                        yield chunk
                self._complete(exchange, link, await _trailing(call))
                yield exchange.latest
            except (grpc.RpcError, asyncio.CancelledError) as error:
                if isinstance(error, asyncio.CancelledError) and _is_cancelled():
                    raise
                # gRPC raises CancelledError for the status CANCELLED too: the node ended the call, or `close` did.
                facts = (await call.code(), await call.details(), await _trailing(call))
                raise await self._afailed(exchange, *facts) from None

    def probe(self, *, timeout: float = 5.0) -> NodeDescription:
        """Ask the node what it is, within *timeout* seconds; for `hybrid-llm doctor` and eager starts.

        Raises:
            ProtocolMismatch: it speaks another version of the protocol.
            BackendError, SecurityError: it cannot be reached, or is not to be trusted.
        """
        link = self._connection.link(timeout)
        try:
            # The first connects, so that the second measures the way alone.
            link.stub.Describe(pb.DescribeRequest(), timeout=timeout)
            started, wall = time.perf_counter(), time.time()
            told = link.stub.Describe(pb.DescribeRequest(), timeout=timeout)
        except grpc.RpcError as error:
            raise self._failed(
                self._exchange(), error.code(), error.details(), _pairs(error.trailing_metadata())
            ) from None
        rtt_ms = (time.perf_counter() - started) * 1000
        link.warm = True
        self._learn(told, rtt_ms)
        return describe(told, rtt_ms=rtt_ms, asked=wall)

    def close(self) -> None:
        """End running calls with `BackendUnavailable`; further ones end the same way."""
        self._connection.close()

    async def aclose(self) -> None:
        """Do as `close` does, and close the running event loop's channel."""
        await self._connection.aclose()

    def _exchange(self, request: Request | None = None) -> Exchange:
        limit = self._config.max_message_bytes
        heard = self._connection.way.heard
        request = request or Request(messages=())
        return Exchange(request, backend=self.name, observed=self._observed, limit=limit, heard=heard)

    @contextmanager
    def _running(
        self, exchange: Exchange, cancel: Callable[[], object], loop: asyncio.AbstractEventLoop | None = None
    ) -> Generator[None, None, None]:
        """Cancel the call when its consumer leaves: gRPC alone would let the node go on generating."""
        elsewhere = cancel if loop is None else partial(loop.call_soon_threadsafe, cancel)
        self._observed.begin()
        self._connection.hold(elsewhere, exchange)
        try:
            yield
        finally:
            cancel()
            self._connection.release(elsewhere)
            self._observed.end()
            if exchange.unheard:
                self._connection.way.suspect(exchange.began)

    def _complete(self, exchange: Exchange, link: Link, trailing: Metadata) -> None:
        """Take what follows the last piece. That piece is held back until then: whoever has it asks for no more."""
        link.warm = True
        exchange.settle(trailing)
        exchange.finish()

    def _failed(self, exchange: Exchange, code: grpc.StatusCode, message: str | None, trailing: Metadata) -> Exception:
        """Return the error of a call that failed; a node that is not there is looked at once, to say why."""
        error, patience = self._judge(exchange, code, message, trailing)
        try:
            if patience:
                self._connection.way.prove(patience)
        except HybridLLMError as better:
            return better
        return error

    async def _afailed(
        self, exchange: Exchange, code: grpc.StatusCode, message: str | None, trailing: Metadata
    ) -> Exception:
        """Do as `_failed` does, without blocking the event loop."""
        error, patience = self._judge(exchange, code, message, trailing)
        try:
            if patience:
                await self._connection.way.aprove(patience)
        except HybridLLMError as better:
            return better
        return error

    def _judge(
        self, exchange: Exchange, code: grpc.StatusCode, message: str | None, trailing: Metadata
    ) -> tuple[Exception, float]:
        """What a status means, and for how many seconds it is worth looking for a better reason."""
        if self._connection.closed:
            return exchange.closed(), 0.0
        exchange.settle(trailing)
        if has_detail(trailing):
            self._connection.way.heard()
        error = exchange.failure(code, message or "", trailing)
        if code is not grpc.StatusCode.UNAVAILABLE or has_detail(trailing):
            return error, 0.0
        self._connection.drop()
        self.suspect()
        return error, 0.0 if exchange.received_tokens else max(0.0, min(exchange.left(), _DIAGNOSIS_S))

    def _learn(self, told: pb.NodeDescription, rtt_ms: float) -> None:
        if told.protocol != PROTOCOL:
            text = (
                f"{self.name} speaks version {told.protocol} of the protocol, we speak {PROTOCOL}: update the older one"
            )
            raise ProtocolMismatch(text, backend=self.name, ours=PROTOCOL, theirs=told.protocol)
        self._observed.take_load(told.load)
        self._observed.take_rtt(rtt_ms, warm=True)
        self._observed.context_window = told.context_window
        self._capabilities = Capabilities(
            model=told.model,
            context_window=told.context_window,
            output_schema=told.output_schema,
            tools=told.tools,
        )


async def _trailing(call: Any) -> Metadata:
    return _pairs(await call.trailing_metadata())


def _pairs(metadata: Any) -> Metadata:
    """Metadata as pairs; gRPC's sync and asyncio calls have types of their own for it."""
    return tuple((key, value) for key, value in metadata or ())


def _is_cancelled() -> bool:
    """Whether somebody cancelled the task that is running, rather than the call that it waits for."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def describe(told: pb.NodeDescription, *, rtt_ms: float, asked: float) -> NodeDescription:
    """Return what a node told as a record; *asked* is the wall clock when the question went out, in seconds."""
    return NodeDescription(
        protocol=told.protocol,
        version=told.version,
        model=told.model,
        engine=told.engine,
        device=told.device,
        context_window=told.context_window,
        output_schema=told.output_schema,
        tools=told.tools,
        ready=told.ready,
        reason=told.reason,
        active=told.load.active,
        queue=told.load.queue,
        slots=told.load.slots,
        clock_skew_s=told.server_time_ms / 1000 - (asked + rtt_ms / 2000),
        rtt_ms=rtt_ms,
        tls_version=told.tls_version,
        tls_group=told.tls_group,
        identity=told.identity,
    )
