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


def _is_no_cancellation(record: logging.LogRecord) -> bool:
    """What is stopped at the end is no error: uvicorn logs the traceback of each answer, and of the application."""
    cancelled = record.exc_info is not None and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cancelled and not record.getMessage().rstrip().endswith("CancelledError")
