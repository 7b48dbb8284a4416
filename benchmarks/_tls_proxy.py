"""A proxy that ends TLS between an app and a node, in a thread of its own, and records every byte that passes."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from typing import Any, Self

from hybrid_llm.backends.wire import TLSFiles


class InThread:
    """An event loop in a thread, in which `opened` and `shut` run."""

    port = 0

    def __enter__(self) -> Self:
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()
        self._do(self.opened())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self.shut())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.loop.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self.loop).result(10)

    async def opened(self) -> None:
        raise NotImplementedError

    async def shut(self) -> None:
        raise NotImplementedError

    @property
    def target(self) -> str:
        return f"127.0.0.1:{self.port}"


class RecordingProxy(InThread):
    """Presents *server*, a certificate that the app trusts, calls the node at *port* as *client*, and records."""

    def __init__(self, server: TLSFiles, client: TLSFiles, port: int) -> None:
        self._server_files, self._client_files, self._upstream = server, client, port
        self.up, self.down = bytearray(), bytearray()
        self._tasks: set[Any] = set()
        self._writers: list[asyncio.StreamWriter] = []

    async def opened(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self._server_files.cert, self._server_files.key)
        context.set_alpn_protocols(["h2"])
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        context = ssl.create_default_context(cafile=str(self._client_files.ca))
        context.load_cert_chain(self._client_files.cert, self._client_files.key)
        context.set_alpn_protocols(["h2"])
        source, sink = await asyncio.open_connection("127.0.0.1", self._upstream, ssl=context)
        self._writers += [writer, sink]
        pumps = [self._pump(reader, sink, self.up), self._pump(source, writer, self.down)]
        await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, record: bytearray) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65_536):
                record += data
                writer.write(data)
                await writer.drain()
        writer.close()

    async def shut(self) -> None:
        self._server.close()
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)
