"""A node as one object, from start to a graceful end. Imports no gRPC before it is started: TLS 1.3 is set up first."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hybrid_llm.backends.node.engine import AsyncEngine, EngineConfig
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.backends.wire.tls import require_tls13

if TYPE_CHECKING:
    from hybrid_llm.backends.node.answer import Tokenizer
    from hybrid_llm.backends.node.listening import Listener


_log = logging.getLogger(__name__)
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node serves, where, and to how many."""

    engine: EngineConfig
    """The model and what it may use; `engine.max_slots` requests are answered at once."""
    tls: TLSFiles
    """The node's certificate, and the authority whose clients may call."""
    listen: str = "127.0.0.1:7443"
    """`HOST:PORT`; port 0 takes a free one. The default is reached from this machine alone."""
    max_queue: int = 64
    """Most requests that wait for a slot; more are refused with a time to try again. Fewer may wait while they do so
    for longer than an answer takes."""
    max_deadline: float = 600.0
    """Seconds after which a call ends that names no deadline, or a later one."""
    max_message_bytes: int = 4 * 1024 * 1024
    max_connection_age: float = 3600.0
    """Seconds after which a connection is renewed, so that replaced certificates come to count."""


class NodeServer:
    """Serves one model. Without *engine* it runs `EngineProcess`, without *tokenizer* the model folder's own."""

    def __init__(
        self, config: NodeConfig, engine: AsyncEngine | None = None, *, tokenizer: Tokenizer | None = None
    ) -> None:
        self._config = config
        self._engine = engine
        self._tokenizer = tokenizer
        self._listener: Listener | None = None

    async def start(self) -> int:
        """Listen, then load the model; returns the port. Until the model is there, calls are told so, typed.

        Raises:
            ConfigError: the certificates, the address, the port or the model folder; the message has the remedy.
            EngineDied: the engine went away while it loaded.
        """
        if not require_tls13():
            _log.warning("gRPC was imported before the node: TLS 1.2 is refused per call, not in the handshake")
        from hybrid_llm.backends.node.listening import Listener

        if (tokenizer := self._tokenizer) is None:
            tokenizer = await asyncio.to_thread(_load_tokenizer, self._config)
        engine = self._engine = self._engine or _make_engine(self._config)
        try:
            self._listener = Listener(self._config, engine, tokenizer)
            await self._listener.open()
            await engine.start()
            await self._listener.tell_health()
        except BaseException:
            await self.stop(0.0)
            raise
        _log.info("serving on port %d", self._listener.port)
        return self._listener.port

    async def stop(self, grace: float = 10.0) -> None:
        """Refuse new calls, let running ones end within *grace* seconds, then close the engine. Twice is once."""
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                await listener.close(grace)
        finally:
            if self._engine is not None:
                await self._engine.close()

    async def serve_forever(self, *, grace: float = 10.0, on_ready: Callable[[int], None] | None = None) -> None:
        """Start, and serve until SIGTERM or SIGINT; a second signal ends the grace. *on_ready* is told the port."""
        loop = asyncio.get_running_loop()
        signals: asyncio.Queue[None] = asyncio.Queue()
        for number in _SIGNALS:
            loop.add_signal_handler(number, signals.put_nowait, None)
        try:
            await self._serve_until(signals, on_ready or (lambda _: None))
            await self._stop_or_hurry(signals, grace)
        finally:
            for number in _SIGNALS:
                loop.remove_signal_handler(number)
            await self.stop(0.0)

    async def _serve_until(self, signals: asyncio.Queue[None], on_ready: Callable[[int], None]) -> None:
        starting, signalled = asyncio.create_task(self.start()), asyncio.create_task(signals.get())
        try:
            await asyncio.wait({starting, signalled}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                on_ready(starting.result())
                await signalled
        finally:
            starting.cancel()
            signalled.cancel()
            await asyncio.wait({starting, signalled})

    async def _stop_or_hurry(self, signals: asyncio.Queue[None], grace: float) -> None:
        listener = self._listener
        stopping, hurry = asyncio.create_task(self.stop(grace)), asyncio.create_task(signals.get())
        await asyncio.wait({stopping, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if listener is not None and not stopping.done():
            await listener.close(0.0)
        hurry.cancel()
        await stopping


def _load_tokenizer(config: NodeConfig) -> Tokenizer:
    from hybrid_llm.backends.text import ChatTokenizer

    return ChatTokenizer.load(config.engine.model)


def _make_engine(config: NodeConfig) -> AsyncEngine:
    from hybrid_llm.backends.node.supervisor import EngineProcess

    return EngineProcess(config.engine)
