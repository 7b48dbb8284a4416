"""The channels to one node: one for threads, one for each event loop, none before the first call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any, Final
from weakref import WeakKeyDictionary

from hybrid_llm.backends.grpc.address import EndpointAddress, GrpcConfig
from hybrid_llm.backends.grpc.exchange import Exchange
from hybrid_llm.backends.grpc.token import CallToken
from hybrid_llm.backends.prober import Prober
from hybrid_llm.backends.wire import channels
from hybrid_llm.backends.wire.handshake import Lookup
from hybrid_llm.backends.wire.tls import FileWatch, check_files
from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.health import HealthProbe
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.threads import started
from hybrid_llm.protos import hybrid_pb2 as pb

_INTERVAL_S: Final = 0.25
"""How often running calls are checked for silence, seconds."""
_REPORT_S: Final = 0.01
_REPORTS: Final = 20
"""How often an event loop that ends waits *_REPORT_S* seconds for gRPC, whose threads may get no processor at first."""
_ENDING_S: Final = 0.5
"""How long it waits for calls that run, seconds; calls that were cancelled before that are over."""
_GENERATE: Final = "/hybrid_llm.v1.HybridLLM/Generate"
_DESCRIBE: Final = "/hybrid_llm.v1.HybridLLM/Describe"


@dataclass(slots=True, eq=False)
class LinkCalls:
    """The calls on one channel that gRPC has not reported to be over."""

    running: set[Any] = field(default_factory=set)
    cancelled: float = 0.0
    """When the last one was cancelled, on `time.monotonic()`."""

    def end(self, call: Any) -> None:
        """Cancel *call* unless it is over."""
        if call.cancel() or call.cancelled():  # gRPC itself cancels the call of a cancelled task
            self.cancelled = time.monotonic()
        self.running.discard(call)
        _take_last_events(call)

    async def reported(self) -> None:
        """Wait until gRPC has reported that all are over, in the event loop to which it does so.

        One queue of gRPC serves all loops: what belongs to a closed one, the next one logs as an error.
        """
        began = time.monotonic()
        while self.running and time.monotonic() < began + _ENDING_S:
            await asyncio.sleep(_REPORT_S)
        for _ in range(_REPORTS if self.cancelled > began - _ENDING_S else 0):
            await asyncio.sleep(_REPORT_S)


def _take_last_events(call: Any) -> None:
    """Take what gRPC still reports of a cancelled call that has no event loop: else its channel holds it for ever.

    It is the reader who takes the events of such a call, and gRPC lets nobody read after the cancellation.
    """
    take = getattr(call, "_consume_next_event", None)
    while take is not None and call._state.due:
        take()


@dataclass(slots=True, eq=False)
class Link:
    """An open channel. *generate* takes bytes only, as `outgoing` has checked them; *warm*: it answered a call."""

    channel: Any
    generate: Any
    describe: Any
    warm: bool = False
    calls: LinkCalls = field(default_factory=LinkCalls)
    closing: AsyncGenerator[None, None] | None = None
    """Closes the channel of an event loop when the loop shuts down its async generators, or with the last call."""

    def close(self) -> Coroutine[Any, Any, None]:
        """Close the channel of an event loop."""
        return _close(self.channel, self.calls)


async def _close(channel: Any, calls: LinkCalls) -> None:
    await channel.close()
    await calls.reported()


async def _until_the_end(channel: Any, calls: LinkCalls) -> AsyncGenerator[None, None]:
    try:
        yield
    finally:
        await _close(channel, calls)


class Connection:
    """The channels to one node, and the calls that run on them.

    A channel that failed, or whose certificates were replaced, is dropped and opened anew. It is not closed, so that
    running calls can finish on it. While there are calls, a thread has the node probed as soon as one of them receives
    nothing for suspiciously long.

    *health* receives what probes find; *on_unreachable* is called while one is overdue, with the instant it began.
    """

    def __init__(
        self, config: GrpcConfig, health: HealthProbe, on_unreachable: Callable[[float], object], lookup: Lookup
    ) -> None:
        self._origin = Origin()
        self._config = config
        self._health = health
        self._on_unreachable = on_unreachable
        self._endpoint = EndpointAddress(config, lookup)
        self.has_route = self._endpoint.has_route
        check_files(config.tls, "client")
        self._files = FileWatch(config.tls)
        self.token: Final = CallToken(config.token, config.name, config.priority)
        self._lock = threading.Lock()
        self._links: WeakKeyDictionary[object, Link] = WeakKeyDictionary()
        """By event loop; that for threads under this object itself."""
        self._calls: dict[Callable[[], object], Exchange] = {}
        self._watching = False
        self._closed = threading.Event()
        self.prober = Prober(
            self._endpoint.handshake,
            health,
            timeout=config.connect_timeout,
            name=config.name,
            label=config.label,
            on_silent=self._on_silent,
            check=self._check,
            has_route=self.has_route,
        )
        close_at_exit(self)

    @property
    def closed(self) -> bool:
        """Start no further calls."""
        return self._closed.is_set()

    @property
    def calls(self) -> int:
        """How many calls are running."""
        return len(self._calls)

    def link(self, timeout: float) -> Link:
        """Return the channel for threads, opened if need be within *timeout* seconds; raises as a handshake does."""
        if (link := self._open_link(self)) is not None:
            return link
        if (error := self.prober.fault(timeout)) is not None:
            raise error
        return self._make_link(self, channels.sync_channel)

    async def alink(self, timeout: float) -> Link:
        """Return the channel of the running event loop, as `link` does."""
        loop = asyncio.get_running_loop()
        if (link := self._open_link(loop)) is not None:
            return link
        if (error := await self.prober.afault(timeout)) is not None:
            raise error
        link = self._make_link(loop, channels.aio_channel)
        if link.closing is None:
            link.closing = _until_the_end(link.channel, link.calls)
            await anext(link.closing)  # from here on the loop knows it
        return link

    def _open_link(self, owner: object) -> Link | None:
        """The open channel of *owner*, unless certificates were replaced or there is no route; raise once closed."""
        self._origin.check(f"{self._config.name} was opened")
        if self.closed:
            raise self.closed_error()
        with self._lock:
            if self._files.changed() or not self.has_route():
                self._links.clear()
            for ended in [each for each in self._links if isinstance(each, asyncio.BaseEventLoop) and each.is_closed()]:
                del self._links[ended]
            return self._links.get(owner)

    def _open(self, open_channel: Callable[..., Any]) -> Any:
        """A channel to the probed IP address, so that gRPC resolves no name itself."""
        address = replace(self._endpoint.address, host=self._endpoint.ip)
        options = channels.client_options(
            max_message_bytes=self._config.max_message_bytes,
            connect_timeout=self._config.connect_timeout,
            server_name=address.server_name if address.server_name != address.host else None,
        )
        return open_channel(str(address), channels.client_credentials(self._config.tls), options)

    def _make_link(self, owner: object, open_channel: Callable[..., Any]) -> Link:
        """Open the channel of *owner*."""
        with self._lock:
            if owner not in self._links:  # another thread may have opened it meanwhile
                channel = self._open(open_channel)
                # No request serialiser: a message object could no longer be compared with its clearance.
                generate = channel.unary_stream(_GENERATE, response_deserializer=pb.GenerateChunk.FromString)
                describe = channel.unary_unary(_DESCRIBE, response_deserializer=pb.NodeDescription.FromString)
                self._links[owner] = Link(channel, generate, describe)
            return self._links[owner]

    def _check(self, timeout: float) -> None:
        """Ask the node whether it serves, over a new connection, as a call would make it."""
        channel = self._open(channels.sync_channel)
        try:
            channels.check_serving(channel, timeout, backend=self._config.name, metadata=self.token.metadata())
        finally:
            channel.close()

    def _watch(self) -> None:
        """Check the running calls for silence, for as long as there are some."""
        while not self._closed.wait(_INTERVAL_S):
            with self._lock:
                exchanges = list(self._calls.values())
                self._watching = bool(exchanges)
            if not exchanges:
                return
            for exchange in exchanges:
                if (since := exchange.suspect_since()) is not None:
                    self.prober.suspect(since)
            if not self.has_route():
                self.prober.suspect(time.monotonic())
            if (since := self.prober.overdue_since()) is not None:
                self._on_unreachable(since)
            self._end_calls()

    def _end_calls(self) -> None:
        """End the calls of a node that is silent, or whose certificate is revoked."""
        if self._endpoint.was_revoked():
            self.drop()
            self._cancel(Exchange.distrust)
        elif self._health.silent:
            self._cancel(Exchange.give_up)

    def _on_silent(self) -> None:
        """End the calls that received nothing for a while: the node is silent, and they would wait in vain."""
        self.drop()
        self._cancel(Exchange.give_up)

    def _cancel(self, chosen: Callable[[Exchange], bool]) -> None:
        with self._lock:
            cancels = [cancel for cancel, exchange in self._calls.items() if chosen(exchange)]
        for cancel in cancels:
            with suppress(RuntimeError):  # its event loop is closed, and the call with it
                cancel()

    def abort(self, request_id: str) -> None:
        """Cancel the calls of one request."""
        self._cancel(lambda exchange: exchange.abort(request_id))

    def drop(self) -> None:
        """Forget the channels, so that the next call opens a new one."""
        with self._lock:
            self._links.clear()  # not closed: running calls hold them, and end on them

    @contextmanager
    def watched(self, exchange: Exchange, cancel: Callable[[], object]) -> Generator[None, None, None]:
        """Watch a call while it runs, and remember how to cancel it; once closed, it is cancelled at once."""
        with self._lock:
            self._calls[cancel] = exchange
            if not self._watching:
                self._watching = self._start_watch()
        if self.closed:  # meanwhile, after `close` has read the list of calls
            cancel()
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(cancel, None)

    def _start_watch(self) -> bool:
        """Start the thread that looks for silence; where none can be started, the next call tries again."""
        try:
            started(self._watch, name=f"hybrid-llm-calls-{self._config.name}")
        except RuntimeError:
            return False
        return True

    def close(self) -> None:
        """Cancel every call and open none again."""
        if not self._origin.is_here:
            return
        self.prober.close()
        self._health.close()
        with self._lock:
            self._closed.set()
            link = self._links.pop(self, None)
        self._cancel(lambda _: True)
        if link is not None:
            link.channel.close()

    async def aclose(self) -> None:
        """Do as `close`, and close the running event loop's channel as well."""
        self.close()
        with self._lock:
            link = self._links.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.close()

    def closed_error(self) -> BackendUnavailable:
        """The error of a call that was closed, or that comes too late."""
        return BackendUnavailable(f"{self._config.name} is closed", backend=self._config.name, reason="closed")
