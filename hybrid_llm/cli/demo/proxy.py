"""A TCP proxy that holds every packet for a while and counts the bytes: a far-away node, a witness, and a bad line."""

from __future__ import annotations

import asyncio
import threading
from typing import Final, Self

__all__ = ["RecordingProxy"]

_LOOK_S: Final = 0.02


class RecordingProxy:
    """Stands between an app and a node on loopback. It sees what any observer of the network would see.

    Args:
        delay_s: seconds that each packet is held, in each direction.
    """

    def __init__(self, *, delay_s: float) -> None:
        self.target_port = 0
        self.bytes_to_node = 0
        """Bytes that the app has sent so far."""
        self.silent = False
        """While this is set, nothing that the node says reaches the app."""
        self._is_cut = False
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 that the app connects to."""
        assert self._server is not None, "the proxy is not running"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        return self

    def cut(self) -> None:
        """Break every connection, and refuse new ones; what is under way is lost."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, node_writer}
        await asyncio.gather(self._pump(reader, node_writer, counted=True), self._pump(node_reader, writer))
        self._open -= {writer, node_writer}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool = False) -> None:
        try:
            while data := await source.read(65536):
                self.bytes_to_node += len(data) if counted else 0
                while self.silent and not counted:
                    await asyncio.sleep(_LOOK_S)
                self._loop.call_later(self._delay_s, self._forward, sink, data)
        except OSError:
            pass  # the other side was cut; what was under way is lost, as on a real line
        self._loop.call_later(self._delay_s, sink.close)

    @staticmethod
    def _forward(sink: asyncio.StreamWriter, data: bytes) -> None:
        if not sink.is_closing():
            sink.write(data)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
