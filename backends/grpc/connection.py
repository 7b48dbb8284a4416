"""Opens and keeps the channels to one node: one for threads, one for each event loop, none before the first call."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import grpc

from hybrid_llm.backends.grpc.address import Place
from hybrid_llm.backends.grpc.config import GrpcConfig
from hybrid_llm.backends.grpc.exchange import Exchange
from hybrid_llm.backends.grpc.health import Way
from hybrid_llm.backends.wire.certificates import TLSFiles, inspect
from hybrid_llm.backends.wire.channels import aio_channel, client_credentials, client_options, sync_channel
from hybrid_llm.backends.wire.handshake import Address, Lookup, tls_handshake
from hybrid_llm.backends.wire.tls import FileWatch, check_dates, check_files
from hybrid_llm.core.errors import AuthenticationFailed, BackendUnavailable, ConfigError
from hybrid_llm.protos import hybrid_pb2 as pb
from hybrid_llm.protos.hybrid_pb2_grpc import HybridLLMStub

_TICK_S = 0.25
"""How often the calls are asked whether they wait oddly long, seconds."""
_GENERATE = "/hybrid_llm.v1.HybridLLM/Generate"


@dataclass(slots=True, eq=False)
class Link:
    """An open channel. *generate* takes bytes only, as `outgoing` has checked them; *warm*: it has answered before."""

    channel: Any
    stub: HybridLLMStub
    generate: Any
    warm: bool = False

    @classmethod
    def over(cls, channel: Any) -> Link:
        """Make the calls that go over *channel*."""
        generate = channel.unary_stream(_GENERATE, response_deserializer=pb.GenerateChunk.FromString)
        return cls(channel, HybridLLMStub(channel), generate)  # type: ignore[no-untyped-call]


class Connection:
    """The way to one node. A link that failed, or whose certificates were replaced, is dropped and opened anew.

    A dropped channel is not closed: calls that are under way on it end in peace, then it goes. While there are calls, a
    thread sees to it that one which hears nothing for oddly long makes us look whether the node is there.
    """

    def __init__(self, config: GrpcConfig, on_doubt: Callable[[float], object], lookup: Lookup) -> None:
        """*on_doubt* is called while a look at the node drags, with the instant at which it began."""
        self._config = config
        self._on_doubt = on_doubt
        self._endpoint = Address.parse(config.target, config.server_name)
        self._place = Place(self._endpoint, config.name, lookup)
        check_files(config.tls, "client")
        self._watch = FileWatch(config.tls)
        self._lock = threading.Lock()
        self._sync: Link | None = None
        self._aio: WeakKeyDictionary[asyncio.AbstractEventLoop, Link] = WeakKeyDictionary()
        self._calls: dict[Callable[[], object], Exchange] = {}
        self._attended = False
        self._over = threading.Event()
        self.way = Way(
            self._look,
            longest=config.connect_timeout,
            name=config.name,
            on_silence=self._fall_silent,
            has_way=lambda: self.has_way,
        )
        """Whether the node can be reached."""

    @property
    def closed(self) -> bool:
        """No call is opened any more."""
        return self._over.is_set()

    @property
    def has_way(self) -> bool:
        """This machine could send to the node now."""
        return self._place.has_way

    def link(self, timeout: float) -> Link:
        """Return the channel for threads, opened if need be within *timeout* seconds; errors as `_look` has."""
        self._check_open()
        with self._lock:
            if self._sync is not None:
                return self._sync
        self.way.prove(timeout)
        with self._lock:
            if self._sync is None:
                self._sync = Link.over(sync_channel(*self._whither()))
            return self._sync

    async def alink(self, timeout: float) -> Link:
        """Return the channel of the running event loop, as `link` does."""
        self._check_open()
        loop = asyncio.get_running_loop()
        with self._lock:
            if (known := self._aio.get(loop)) is not None:
                return known
        await self.way.aprove(timeout)
        with self._lock:
            if (known := self._aio.get(loop)) is not None:
                return known
            self._aio[loop] = link = Link.over(aio_channel(*self._whither()))
            return link

    def _look(self, timeout: float) -> None:
        """Make sure that the node can be reached and trusted, and trusts us, without sending it anything.

        Raises:
            BackendUnavailable, UntrustedPeer: see `tls_handshake`.
            AuthenticationFailed: the node does not take our certificate, or it is expired or cannot be read.
        """
        name, files = self._config.name, self._config.tls
        try:
            check_dates(inspect(files.cert), files)
            self._place.visit(partial(self._shake, files), timeout)
        except ConfigError as error:
            raise AuthenticationFailed(str(error), backend=name) from error

    def _shake(self, files: TLSFiles, address: str, timeout: float) -> None:
        tls_handshake(self._endpoint, files, timeout=timeout, backend=self._config.name, ip=address)

    def _attend(self) -> None:
        """Ask the calls now and then, as long as there are some, whether something is odd."""
        while not self._over.wait(_TICK_S):
            with self._lock:
                exchanges = list(self._calls.values())
                self._attended = bool(exchanges)
            if not exchanges:
                return
            for exchange in exchanges:
                if (since := exchange.lapse()) is not None:
                    self.way.suspect(since)
            if not self.has_way:
                self.way.suspect(time.monotonic())
            if (since := self.way.drags_since()) is not None:
                self._on_doubt(since)
            if self.way.silent:
                self._end_hopeless()

    def _fall_silent(self) -> None:
        self.drop()
        self._end_hopeless()

    def _end_hopeless(self) -> None:
        """Calls that the node has not answered for a while would wait for nothing."""
        with self._lock:
            hopeless = [cancel for cancel, exchange in self._calls.items() if exchange.give_up()]
        for cancel in hopeless:
            with suppress(RuntimeError):  # its event loop is closed, and the call with it
                cancel()

    def drop(self) -> None:
        """Forget the channels, so that the next call opens a new one."""
        with self._lock:
            self._sync = None
            self._aio.clear()

    def hold(self, cancel: Callable[[], object], exchange: Exchange) -> None:
        """Remember how to cancel a call that begins; once closed, it is cancelled at once."""
        with self._lock:
            self._calls[cancel] = exchange
            begins, self._attended = not self._attended, True
        if begins:
            threading.Thread(target=self._attend, name=f"hybrid-llm-calls-{self._config.name}", daemon=True).start()
        if self.closed:
            cancel()

    def release(self, cancel: Callable[[], object]) -> None:
        """Forget a call that is over."""
        with self._lock:
            self._calls.pop(cancel, None)

    def close(self) -> None:
        """Cancel every call and open none again."""
        self.way.close()
        with self._lock:
            self._over.set()
            cancels, self._calls = list(self._calls), {}
            link, self._sync = self._sync, None
        for cancel in cancels:
            cancel()
        if link is not None:
            link.channel.close()

    async def aclose(self) -> None:
        """Do as `close`, and close the running event loop's channel as well."""
        self.close()
        with self._lock:
            link = self._aio.pop(asyncio.get_running_loop(), None)
        if link is not None:
            await link.channel.close()

    def _check_open(self) -> None:
        """Raise once closed; else see to it that replaced certificates are used, and no link that leads nowhere."""
        if self.closed:
            raise BackendUnavailable(f"{self._config.name} is closed", backend=self._config.name)
        with self._lock:
            changed = self._watch.changed()
        if changed or not self.has_way:
            self.drop()

    def _whither(self) -> tuple[str, grpc.ChannelCredentials, list[tuple[str, str | int]]]:
        """What a channel needs: it goes to the address at which the node was proven, and looks no name up itself."""
        endpoint = replace(self._endpoint, host=self._place.address)
        options = client_options(
            max_message_bytes=self._config.max_message_bytes,
            connect_timeout=self._config.connect_timeout,
            server_name=endpoint.server_name if endpoint.server_name != endpoint.host else None,
        )
        return str(endpoint), client_credentials(self._config.tls), options
