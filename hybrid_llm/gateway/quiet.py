"""uvicorn's server as a part of a program: it tells when it is ready, and a signal ends it without an error."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn

from hybrid_llm.core.errors import ConfigError


class QuietServer(uvicorn.Server):
    """Tells when it is ready; a signal ends it, and is no error."""

    on_ready: Callable[[], None]

    def __init__(self, config: uvicorn.Config) -> None:
        logging.getLogger("uvicorn.error").addFilter(_is_no_cancellation)
        super().__init__(config)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002  # the signature of the base class
        """Let running answers finish; a second signal, of either kind, stops them."""
        self.force_exit = self.should_exit
        self.should_exit = True

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End at SIGTERM and SIGINT; the method of the base class raises the signal again at the end."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {each: signal.signal(each, self.handle_exit) for each in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self.started:
            self.on_ready()


def listener(host: str, port: int, option: str) -> socket.socket:
    """A socket that is bound there; ConfigError, which names the *option* for the address, if it cannot be."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
    except OSError as error:
        raise ConfigError(f"{host}: {error.strerror}; choose another address with {option}") from None
    try:
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(address)
    except OSError as error:
        found.close()
        raise ConfigError(f"{host}:{port}: {error.strerror}; choose another port with {option}") from None
    return found


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """What is stopped at the end is no error: uvicorn logs the traceback of each answer, and of the application."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not record.getMessage().rstrip().endswith("CancelledError")
