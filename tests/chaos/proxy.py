"""A TCP proxy between app and node that can be as bad as a network can: slow, silent, one-sided, lossy, untrue."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
from dataclasses import dataclass

_RESET = struct.pack("ii", 1, 0)


@dataclass(slots=True)
class Weather:
    """What befalls each segment of a connection. Chances are per segment, times in seconds."""

    delay: tuple[float, float] = (0.0, 0.0)
    silent_up: bool = False
    """Nothing reaches the node; what was under way waits, as TCP would send it again."""
    silent_down: bool = False
    garbled: float = 0.0
    swapped: float = 0.0
    """A segment changes its place with the next one."""
    cut: float = 0.0
    """The connection is reset, at this segment."""
    cut_after: int = 0
    """The connection is reset once so many bytes have come down on it: equally often on any machine."""
    refuse: bool = False


@dataclass(slots=True, eq=False)
class _Pair:
    app: asyncio.StreamWriter
    node: asyncio.StreamWriter


class Proxy:
    """Runs in a thread; the weather may be changed at any time, from any thread."""

    def __init__(self, node_port: int, *, seed: int = 0) -> None:
        self.node_port = node_port
        self.weather = Weather()
        self.connections = 0
        """Accepted so far."""
        self.port = 0
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=f"proxy-{node_port}", daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def _do(self, coroutine):
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.weather.refuse:
            _reset(writer)
            return
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.node_port)
        except OSError:
            _reset(writer)
            return
        pair = _Pair(writer, node_writer)
        self._pairs.add(pair)
        try:
            await asyncio.gather(self._pump(reader, node_writer, pair, up=True), self._pump(node_reader, writer, pair))
        except asyncio.CancelledError:
            pass  # the proxy shuts, and asyncio's streams would print it
        finally:
            self._pairs.discard(pair)

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, pair: _Pair, *, up: bool = False
    ) -> None:
        due, held, passed = 0.0, b"", 0
        try:
            while True:
                data = await source.read(4096)
                if not data:
                    self._loop.call_at(due + 1e-6, sink.close)  # in order: what is under way arrives
                    return
                while self.weather.silent_up if up else self.weather.silent_down:
                    await asyncio.sleep(0.02)
                weather = self.weather
                passed += len(data)
                if self._falls(weather.cut) or (not up and 0 < weather.cut_after < passed):
                    break
                if self._falls(weather.garbled):
                    place = self._random.randrange(len(data))
                    data = data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :]
                if self._falls(weather.swapped) and not held:
                    held = data
                    continue
                # A microsecond more than the last one: the loop does not keep the order of what is due together.
                due = max(due + 1e-6, self._loop.time() + self._random.uniform(*weather.delay))
                self._loop.call_at(due, _write, sink, data + held)
                held = b""
        except OSError:
            pass
        _reset(pair.app)
        _reset(pair.node)

    def _falls(self, chance: float) -> bool:
        return chance > 0.0 and self._random.random() < chance

    def cut(self) -> None:
        """Reset every connection, now."""
        self._do(self._cut())

    async def _cut(self) -> None:
        for pair in list(self._pairs):
            _reset(pair.app)
            _reset(pair.node)

    def __exit__(self, *_: object) -> None:
        self._do(self._shut())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _shut(self) -> None:
        self._server.close()
        await self._cut()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _write(sink: asyncio.StreamWriter, data: bytes) -> None:
    if not sink.is_closing():
        sink.write(data)


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close with a reset, as a router that has forgotten the connection does."""
    sock = writer.get_extra_info("socket")
    if sock is not None and not writer.is_closing():
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()
