"""The Model Context Protocol, both ways: a server for hosts of others, and the tools of other servers for `run_tools`.

async with McpTools.connect(command=["uvx", "some-server"]) as tools:
    run = await llm.arun_tools("What is in the folder?", tools=tools.tools)
"""

from __future__ import annotations

from hybrid_llm.core.extras import install_hint

try:
    from hybrid_llm.integrations.mcp.server import mcp_app, mcp_server, serve_stdio
    from hybrid_llm.integrations.mcp.tools import McpTools
except ModuleNotFoundError as error:
    raise ImportError(f"the Model Context Protocol needs a package: {install_hint('mcp')}") from error

__all__ = ["McpTools", "mcp_app", "mcp_server", "serve_stdio"]
