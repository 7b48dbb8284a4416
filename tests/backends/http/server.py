"""A server of scripted bytes: what servers in the field send, and what none should."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

CUT = object()
"""In a script: the connection is reset here."""
HANG = object()
"""In a script: nothing more is sent, and the connection stays open."""
Step = bytes | float | object


@dataclass
class Scripted:
    """Answers each request with the next script, the last one for ever: bytes are sent, a number waits seconds."""

    scripts: list[Sequence[Step]]
    make: Callable[[Any], Sequence[Step]] | None = None
    """Makes the script of a request from its body, in place of *scripts*."""
    port: int = 0
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    described: dict[str, Any] = field(default_factory=dict)
    """Path -> the document that a GET returns; another path is not found. A status stands for itself."""
    asked: list[str] = field(default_factory=list)
    """The paths of GET requests."""
    protocols: list[str | None] = field(default_factory=list)
    """What each connection over TLS was agreed to speak."""
    asked_headers: list[dict[str, str]] = field(default_factory=list)
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a client closed its connection before its answer was whole."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (secure := writer.get_extra_info("ssl_object")) is not None:
            self.protocols.append(secure.selected_alpn_protocol())
        try:
            while head := (await reader.readuntil(b"\r\n\r\n")).decode():
                named = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                if head.startswith("GET "):
                    self.asked_headers.append(named)
                    await self._describe(head.split(" ")[1], writer)
                    return
                self.headers.append(named)
                self.bodies.append(json.loads(await reader.readexactly(int(named["content-length"]))))
                await self._play(self._script(), reader, writer)
                return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _describe(self, path: str, writer: asyncio.StreamWriter) -> None:
        self.asked.append(path)
        document = self.described.get(path, 404)
        status = document if isinstance(document, int) else 200
        writer.write(b"".join(failed(status, {} if isinstance(document, int) else document)))
        await writer.drain()

    def _script(self) -> Sequence[Step]:
        if self.make is not None:
            return self.make(self.bodies[-1])
        return self.scripts.pop(0) if len(self.scripts) > 1 else self.scripts[0]

    async def _play(self, script: Sequence[Step], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for step in script:
            if step is CUT:
                writer.transport.abort()
                return
            if step is HANG:
                await reader.read(1)
                self.left.set()
                return
            if isinstance(step, float):
                await asyncio.sleep(step)
                continue
            assert isinstance(step, bytes)
            writer.write(step)
            await writer.drain()


@contextmanager
def scripted(
    *scripts: Sequence[Step], port: int = 0, path: str = "", tls: ssl.SSLContext | None = None
) -> Iterator[Scripted]:
    """Serve *scripts* on loopback, or at the socket *path*."""
    server = Scripted(list(scripts))
    loop = asyncio.new_event_loop()
    ready = threading.Event()

    async def run() -> None:
        if path:
            listening = await asyncio.start_unix_server(server.answer, path)
        else:
            listening = await asyncio.start_server(server.answer, "127.0.0.1", port, ssl=tls)
            server.port = listening.sockets[0].getsockname()[1]
        ready.set()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        listening.close()
        calls = asyncio.all_tasks() - {asyncio.current_task()}
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    main = loop.create_task(run())
    thread = threading.Thread(target=lambda: loop.run_until_complete(main))
    thread.start()
    assert ready.wait(10)
    try:
        yield server
    finally:
        loop.call_soon_threadsafe(main.cancel)
        thread.join(10)
        loop.close()


def eventually(holds: Callable[[], object], seconds: float = 10.0) -> None:
    """Wait until *holds*."""
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.01)


def head(status: int = 200, kind: str = "text/event-stream", **headers: str) -> bytes:
    """The head of an answer whose body ends with the connection."""
    named = {"content-type": kind, "connection": "close", **{name.replace("_", "-"): v for name, v in headers.items()}}
    lines = [f"HTTP/1.1 {status} X", *(f"{name}: {value}" for name, value in named.items())]
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def delta(reason: str | None = None, /, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": reason}]}


def events(*documents: Any, newline: str = "\n", space: str = " ") -> bytes:
    """Events of JSON documents; a text stands as it is."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in documents]
    return "".join(f"data:{space}{text}{newline}{newline}" for text in texts).encode()


USAGE = {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
WHOLE = (delta(role="assistant", content=""), delta(content="one "), delta(content="two"), delta("stop"), USAGE)


def failed(status: int, document: Any, **headers: str) -> list[bytes]:
    return [head(status, "application/json", **headers), json.dumps(document).encode()]
