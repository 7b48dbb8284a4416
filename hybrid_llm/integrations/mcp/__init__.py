"""The Model Context Protocol, both ways: a server for hosts of others, and the tools of other servers for `run_tools`.

async with McpTools.connect(command=["uvx", "some-server"]) as tools:
    run = await llm.arun_tools("What is in the folder?", tools=tools.tools)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from hybrid_llm.core.extras import install_hint

try:
    import mcp as _package  # noqa: F401  # what everything here is made of
except ImportError as error:
    raise ImportError(f"the Model Context Protocol needs a package: {install_hint('mcp')}") from error

if TYPE_CHECKING:
    from hybrid_llm.integrations.mcp.server import mcp_app, mcp_server, serve_stdio
    from hybrid_llm.integrations.mcp.tools import McpTools

__all__ = ["McpTools", "mcp_app", "mcp_server", "serve_stdio"]

_HOMES: Final = {"McpTools": "tools", "mcp_app": "server", "mcp_server": "server", "serve_stdio": "server"}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the module that *name* lives in, on first use: who calls tools needs no server."""
        from importlib import import_module

        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
