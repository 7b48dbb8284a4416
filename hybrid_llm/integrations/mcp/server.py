"""An MCP server: hosts of others generate, and ask which backend would answer and why, under our policy.

It speaks revision 2026-07-28 and those before it, over standard input and output or over HTTP on loopback.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import mcp_types as types
from mcp.server import Server, ServerRequestContext
from mcp.server.stdio import stdio_server
from mcp.server.transport_security import TransportSecuritySettings
from mcp.shared.exceptions import MCPError
from starlette.applications import Starlette

from hybrid_llm import __version__
from hybrid_llm.core.errors import NoEligibleBackend, PolicyError
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.integrations.common import given
from hybrid_llm.integrations.mcp import work
from hybrid_llm.integrations.mcp.documents import (
    ANSWER,
    EXPLANATION,
    TRIAL,
    Arguments,
    Call,
    GenerateCall,
    Simulation,
)
from hybrid_llm.integrations.mcp.logs import keep_texts_out
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.failures import failure_of

_log: Final = logging.getLogger("hybrid_llm.mcp")
_INSTRUCTIONS: Final = (
    "Answers prompts with a model on this device or in the cloud, as a policy decides. Tag what is private with "
    "`privacy`; `explain` shows where a prompt would go before it is sent."
)
_POLICY, _SIGNALS = "hybrid://policy", "hybrid://signals"
PATH: Final = "/mcp"
"""Where the server is found over HTTP."""

Work = Callable[[HybridLLM, Any, work.Notify], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Tool:
    about: str
    takes: type[Arguments]
    returns: dict[str, Any]
    """The JSON Schema of the result."""
    work: Work
    shown: Callable[[Any], str]
    """The result for hosts that read texts only."""
    reads_only: bool = True

    def described(self, name: str) -> types.Tool:
        """The tool as hosts list it."""
        return types.Tool(
            name=name,
            description=self.about,
            input_schema=self.takes.model_json_schema(),
            output_schema=self.returns,
            annotations=types.ToolAnnotations(
                read_only_hint=self.reads_only, destructive_hint=False, open_world_hint=not self.reads_only
            ),
        )


_TOOLS: Final[Mapping[str, _Tool]] = {
    "generate": _Tool(
        about="Answer a prompt with a model on this device or in the cloud, as the policy decides. A host that asks "
        "for progress gets the text as it comes, in the messages of the notifications.",
        takes=GenerateCall,
        returns=ANSWER,
        work=work.generate,
        shown=lambda answer: answer["text"],
        reads_only=False,
    ),
    "explain": _Tool(
        about="Show which backend would answer a prompt, and why: nothing is sent, and no model runs.",
        takes=Call,
        returns=EXPLANATION,
        work=work.explain,
        shown=lambda explanation: explanation["text"],
    ),
    "policy_simulate": _Tool(
        about="Try a policy without putting it into force: check its text, decide requests under it with the signals "
        "of this moment, and run its test cases. Nothing is sent, and no model runs.",
        takes=Simulation,
        returns=TRIAL,
        work=work.simulate,
        shown=json.dumps,
    ),
}
_RESOURCES: Final = (
    types.Resource(
        uri=_POLICY, name="policy", description="The text of the policy in force.", mime_type="application/yaml"
    ),
    types.Resource(
        uri=_SIGNALS,
        name="signals",
        description="What the policy reads now: device, network, backends.",
        mime_type="application/json",
    ),
)


class _Handlers:
    """Answers the requests of hosts with one client."""

    def __init__(self, client: HybridLLM) -> None:
        self._client = client

    async def list_tools(
        self, _: ServerRequestContext[Any], __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        return types.ListToolsResult(tools=[tool.described(name) for name, tool in _TOOLS.items()])

    async def call_tool(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """The result of a tool; what fails is an error of the tool, which the host's model can read."""
        if (tool := _TOOLS.get(params.name)) is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no such tool; there are {', '.join(_TOOLS)}")
        began = time.monotonic()
        try:
            arguments = tool.takes.read(params.arguments or {})
            result = await tool.work(self._client, arguments, context.session.report_progress)
        except Exception as error:  # noqa: BLE001  # whatever fails has a document
            failed = _failed(error)
            _log.info("%s: %s", params.name, failed["code"])
            if failed["code"] == "internal_error":
                _log.error("%s failed with %s", params.name, type(error).__name__)
            return _result(f"{failed['code']}: {failed['message']}", {"error": failed}, is_error=True)
        _log.info("%s: answered in %.0f ms", params.name, 1e3 * (time.monotonic() - began))
        return _result(tool.shown(result), result)

    async def list_resources(
        self, _: ServerRequestContext[Any], __: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        return types.ListResourcesResult(resources=list(_RESOURCES))

    async def read_resource(
        self, _: ServerRequestContext[Any], params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        """The policy in force, or the signals of this moment."""
        found = next((each for each in _RESOURCES if each.uri == str(params.uri)), None)
        if found is None:
            raise MCPError(types.INVALID_PARAMS, f"there is no such resource; there are {_POLICY} and {_SIGNALS}")
        is_policy = found.uri == _POLICY
        text = self._client.policy.text if is_policy else json.dumps(jsonable(self._client.signals()))
        contents = types.TextResourceContents(uri=found.uri, mime_type=found.mime_type, text=text)
        return types.ReadResourceResult(contents=[contents])


def _failed(error: Exception) -> dict[str, Any]:
    """What a host is told of *error*: a code, a message without any text of the request, and what helps."""
    if isinstance(error, PolicyError):
        faults = [{"line": each.line, "column": each.column, "message": str(each)} for each in error.errors]
        return {"code": "invalid_policy", "type": type(error).__name__, "message": str(error), "errors": faults}
    failure = failure_of(error)
    found: dict[str, Any] = {"code": failure.code, "type": type(error).__name__, "message": failure.message}
    found |= {"field": failure.param, "retry": failure.retry, "retry_after": failure.retry_after}
    if isinstance(error, NoEligibleBackend):
        found["excluded"] = dict(error.decision.excluded)
    return given(found)


def _result(text: str, document: dict[str, Any], *, is_error: bool = False) -> types.CallToolResult:
    content: list[types.ContentBlock] = [types.TextContent(text=text)]
    return types.CallToolResult(content=content, structured_content=document, is_error=is_error)


def mcp_server(client: HybridLLM) -> Server[Any]:
    """A server with our tools, which *client* does; whoever runs it closes the client."""
    keep_texts_out()
    handlers = _Handlers(client)
    return Server(
        "hybrid-llm",
        version=__version__,
        title="hybrid-llm",
        instructions=_INSTRUCTIONS,
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_read_resource=handlers.read_resource,
    )


async def serve_stdio(client: HybridLLM) -> None:
    """Serve one host over standard input and output until it closes them; then close *client*.

    What anything else prints meanwhile goes to standard error.
    """
    server = mcp_server(client)
    async with stdio_server() as (received, sent), client:
        await server.run(received, sent, server.create_initialization_options())


def mcp_app(client: HybridLLM, *, port: int) -> Starlette:
    """An ASGI application that serves programs of this machine at `/mcp` on *port*; its lifespan closes *client*.

    It answers nobody whose request names another host, as after DNS rebinding, and no page of another origin.
    """
    server = mcp_server(client)
    hosts = [f"{host}:{port}" for host in ("127.0.0.1", "localhost", "[::1]")]
    security = TransportSecuritySettings(allowed_hosts=hosts, allowed_origins=[f"http://{host}" for host in hosts])
    app = server.streamable_http_app(streamable_http_path=PATH, transport_security=security)
    sessions = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(served: Starlette) -> AsyncIterator[None]:
        async with client, sessions(served):
            yield

    app.router.lifespan_context = lifespan
    return app
