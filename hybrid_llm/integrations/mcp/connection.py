"""A connection to one MCP server, in an event loop of its own: any thread and any event loop may call through it."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, suppress
from typing import Any, Final, TypeVar

import mcp_types as types
from mcp import Client, StdioServerParameters
from mcp.client.stdio import stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from hybrid_llm.core.errors import ConfigError, HybridLLMError
from hybrid_llm.core.lifetime import Origin, close_at_exit
from hybrid_llm.core.threads import started
from hybrid_llm.integrations.mcp.logs import keep_texts_out

T = TypeVar("T")
_CLOSE_S: Final = 10.0
"""How long closing waits for the server to end; the package stops it before that."""
MOST_TOOLS: Final = 1000
"""A server lists no more; with a page that has none, it would list them for ever."""
Transport = AbstractAsyncContextManager[Any]


class _TooMany(Exception):
    """A server lists more tools than it may."""


class Connection:
    """One MCP server, from `open` to `close`.

    Args:
        server: Its command, or the transport to it.
        name: What messages call it.
        timeout: Seconds that it may take to start and to list its tools.
    """

    def __init__(self, server: StdioServerParameters | Transport, name: str, timeout: float) -> None:
        self._server, self._name, self._timeout = server, name, timeout
        self._origin = Origin()
        self._listed: Future[Sequence[types.Tool]] = Future()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._client: Client | None = None
        self._end: Callable[[], object] = lambda: None
        """Ends the connection; it is called in the loop."""
        self._begun = threading.Event()
        self._thread: threading.Thread | None = None

    def open(self) -> Future[Sequence[types.Tool]]:
        """Begin to connect; the result is what the server offers. It raises ConfigError if there is no such server."""
        keep_texts_out()
        if self._thread is not None:
            raise HybridLLMError("these tools are connected already, or closed; connect anew")
        self._thread = started(lambda: asyncio.run(self._serve()), name="hybrid-llm-mcp")
        close_at_exit(self)
        return self._listed

    async def _serve(self) -> None:
        stop, task = asyncio.Event(), asyncio.current_task()
        assert task is not None
        self._loop = asyncio.get_running_loop()
        self._end = lambda: stop.set() if self._listed.done() else task.cancel()
        self._begun.set()
        try:
            async with asyncio.timeout(self._timeout) as limit, Client(self._transport()) as client:
                listed = await _listed(client)
                limit.reschedule(None)
                self._client = client
                self._listed.set_result(listed)
                await stop.wait()
        except BaseException as error:  # noqa: BLE001  # the package raises groups of whatever failed
            failure = self._failure(error)
        else:
            return
        finally:
            self._client = None
        if not self._listed.done():
            self._listed.set_exception(failure)

    def _transport(self) -> Transport:
        if not isinstance(self._server, StdioServerParameters):
            return self._server
        log = sys.__stderr__
        return stdio_client(self._server, errlog=log if log is not None else open(os.devnull, "w"))

    def _failure(self, error: BaseException) -> ConfigError:
        """The error of a server that cannot be used; a message of the server itself is no part of it."""
        while isinstance(error, BaseExceptionGroup):
            error = error.exceptions[0]
        match error:
            case TimeoutError():
                why = f"it has not answered within {self._timeout:g} s"
            case OSError(strerror=str(reason)):
                why = reason
            case MCPError(code=code):
                why = f"it refused to list its tools (code {code})"
            case _TooMany():
                why = f"it lists more than {MOST_TOOLS:,} tools, or does not come to an end"
            case _:
                why = f"{type(error).__name__} while connecting"
        return ConfigError(f"the MCP server {self._name} cannot be used: {why}")

    def call(self, tool: str, arguments: dict[str, Any]) -> Future[types.CallToolResult]:
        """Begin to call a tool; cancelling the future tells the server. Raises HybridLLMError if this is closed."""
        self._origin.check("these tools were connected")
        client, loop = self._client, self._loop
        if client is None or loop is None:
            raise HybridLLMError(f"the MCP server {self._name} is not connected, or has ended")
        return _submit(client.call_tool(tool, arguments), loop)

    def close(self) -> None:
        """End the server, or the connection to it; what is called now fails. Idempotent."""
        thread = self._thread
        if thread is None or not self._origin.is_here:
            return
        self._begun.wait(_CLOSE_S)
        if self._loop is not None:
            with suppress(RuntimeError):  # the loop has ended
                self._loop.call_soon_threadsafe(self._end)
        if thread is not threading.current_thread():
            thread.join(_CLOSE_S)


async def _listed(client: Client) -> tuple[types.Tool, ...]:
    found: list[types.Tool] = []
    cursor: str | None = None
    for _ in range(MOST_TOOLS):
        page = await client.list_tools(cursor=cursor)
        found += page.tools
        if len(found) > MOST_TOOLS:
            break
        if (cursor := page.next_cursor) is None:
            return tuple(found)
    raise _TooMany


def _submit(work: Coroutine[Any, Any, T], loop: asyncio.AbstractEventLoop) -> Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(work, loop)
    except RuntimeError:
        work.close()
        raise HybridLLMError("the MCP server has ended") from None


def http_transport(url: str, headers: dict[str, str]) -> Transport:
    """The transport to a server over HTTP; no proxy of the environment is used."""
    import httpx2

    timeout = httpx2.Timeout(30.0, read=None)  # a call ends by its own deadline
    return _Owned(url, httpx2.AsyncClient(headers=headers, timeout=timeout, trust_env=False))


class _Owned(AbstractAsyncContextManager[Any]):
    """A transport that closes its HTTP client."""

    def __init__(self, url: str, client: Any) -> None:
        self._client = client
        self._inner = streamable_http_client(url, http_client=client)

    async def __aenter__(self) -> Any:
        return await self._inner.__aenter__()

    async def __aexit__(self, *error: Any) -> Any:
        try:
            return await self._inner.__aexit__(*error)
        finally:
            await self._client.aclose()
