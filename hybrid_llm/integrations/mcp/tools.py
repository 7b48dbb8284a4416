"""The tools of an MCP server as tools of ours, for `run_tools` and its siblings.

    async with McpTools.connect(command=["uvx", "some-server"]) as tools:
        run = await llm.arun_tools("What is in the folder?", tools=tools.tools)

    with McpTools.connect(url="https://tools.example/mcp") as tools:
        run = llm.run_tools("What is in the folder?", tools=tools.tools)

A result is a message of the conversation, as that of any tool: the privacy guard reads it before a backend does.
Arguments go to the server as they are, with values restored that a cloud saw as pseudonyms.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Collection, Coroutine, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self
from urllib.parse import urlsplit

import mcp_types as types
from mcp import StdioServerParameters

from hybrid_llm.core.errors import ConfigError, HybridLLMError, InvalidRequest
from hybrid_llm.core.hosts import is_this_machine
from hybrid_llm.core.threads import awaited, close_aside, require_asyncio
from hybrid_llm.core.tools import Tool
from hybrid_llm.integrations.mcp.connection import MOST_TOOLS, Connection, http_transport

_NAME_LENGTH: Final = 64
_NOT_IN_NAMES: Final = re.compile(r"[^A-Za-z0-9_-]")
_START_S: Final = 30.0


class McpToolError(HybridLLMError):
    """A tool of an MCP server reports that it failed; the message is the server's, for the model."""


class McpTools:
    """The tools of one MCP server, while it is connected; made by `connect`, and entered by `with` or `async with`.

    One connection serves any number of threads and event loops.
    """

    def __init__(self, connection: Connection, only: Collection[str] | None, prefix: str) -> None:
        self._connection, self._only, self._prefix = connection, only, prefix
        self._tools: tuple[Tool, ...] | None = None

    @classmethod
    def connect(
        cls,
        command: Sequence[str] | None = None,
        *,
        url: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        headers: Mapping[str, str] | None = None,
        only: Collection[str] | None = None,
        prefix: str = "",
        timeout: float = _START_S,
    ) -> Self:
        """The tools of the server that *command* starts, or that answers at *url*.

        Args:
            command: The program and its arguments; it speaks over its standard input and output, and ends with us.
            url: Its address: `https`, or `http` on this machine.
            env: Variables of the program, beside `PATH`, `HOME` and the like; it gets no other of ours.
            cwd: The folder of the program.
            headers: Headers of each request to *url*, such as `authorization`.
            only: Names of the tools to take; by default all.
            prefix: What the names of the tools begin with, so that those of several servers differ.
            timeout: Seconds that the server may take to start and to list its tools.

        Raises:
            ConfigError: there is neither *command* nor *url*, or both, or the URL cannot be used.
        """
        if (command is None) is (url is None) or command == [] or isinstance(command, str):
            raise ConfigError("McpTools.connect: pass either a command, as a list, or a url")
        if command is not None:
            program, *arguments = command
            server = StdioServerParameters(command=program, args=arguments, env=dict(env or {}) or None, cwd=cwd)
            return cls(Connection(server, program, timeout), only, prefix)
        assert url is not None
        host = _checked_host(url)
        return cls(Connection(http_transport(url, dict(headers or {})), host, timeout), only, prefix)

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What `run_tools` takes; those that the server had when it was connected.

        Raises:
            HybridLLMError: the server is not connected yet.
        """
        if self._tools is None:
            raise HybridLLMError("these tools are not connected yet: enter them by `with` or `async with`")
        return self._tools

    def _take(self, listed: Sequence[types.Tool]) -> Self:
        known = {tool.name for tool in listed}
        if self._only is not None and not set(self._only) <= known:
            missing = ", ".join(sorted(set(self._only) - known))
            raise InvalidRequest(f"only: the server has no {missing}; it has {', '.join(sorted(known))}", field="only")
        chosen = [tool for tool in listed if self._only is None or tool.name in self._only]
        names = _names([self._prefix + tool.name for tool in chosen])
        self._tools = tuple([self._tool(tool, name) for tool, name in zip(chosen, names, strict=True)])
        return self

    def _tool(self, tool: types.Tool, name: str) -> Tool:
        return Tool(
            name=name,
            description=tool.description or tool.title or "",
            parameters=json.dumps(tool.input_schema),
            call=_caller(self._connection, tool.name),
        )

    def __enter__(self) -> Self:
        try:
            return self._take(self._connection.open().result())
        except BaseException:
            self.close()
            raise

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        require_asyncio()
        try:
            return self._take(await awaited(self._connection.open()))
        except BaseException:
            await self.aclose()
            raise

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.aclose()

    def close(self) -> None:
        """End the server that was started, or the connection; calls that run fail. Idempotent."""
        self._connection.close()

    async def aclose(self) -> None:
        """Do as `close` does, without blocking the event loop."""
        await close_aside("hybrid-llm-mcp-close", self.close)


def _checked_host(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("McpTools.connect: the url is no URL of a server, such as https://tools.example/mcp")
    if parts.scheme == "http" and not is_this_machine(parts.hostname):
        raise ConfigError(f"McpTools.connect: plain HTTP to {parts.hostname} can be read on the way: use https")
    return parts.hostname


def _names(wanted: Iterable[str]) -> Iterator[str]:
    """Names that every format of calls allows, each once."""
    taken: set[str] = set()
    for name in wanted:
        base = _NOT_IN_NAMES.sub("_", name)[:_NAME_LENGTH] or "tool"
        numbered = (f"{base[: _NAME_LENGTH - 5]}_{number}" for number in range(2, MOST_TOOLS + 2))
        free = base if base not in taken else next(each for each in numbered if each not in taken)
        taken.add(free)
        yield free


def _caller(connection: Connection, tool: str) -> Callable[..., Coroutine[Any, Any, str]]:
    """What `run_tools` awaits, in whatever loop it has: cancelling it cancels the call on the server."""

    async def call(**values: Any) -> str:
        return text_of(await asyncio.wrap_future(connection.call(tool, values)))

    return call


def text_of(result: types.CallToolResult) -> str:
    """The result of a tool as the model reads it; JSON where it has no text.

    Raises:
        McpToolError: the tool failed, as it says itself.
    """
    text = "\n".join([_block_text(block) for block in result.content])
    if not text and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if result.is_error:
        raise McpToolError(text or "the tool failed, and does not say why")
    return text


def _block_text(block: types.ContentBlock) -> str:
    match block:
        case types.TextContent(text=text):
            return text
        case types.EmbeddedResource(resource=types.TextResourceContents(text=text)):
            return text
        case types.ResourceLink(uri=uri, name=name):
            return f"{name}: {uri}"
        case types.ImageContent(mime_type=kind) | types.AudioContent(mime_type=kind):
            return f"[{kind}, which cannot be read here]"
    return "[a file, which cannot be read here]"
