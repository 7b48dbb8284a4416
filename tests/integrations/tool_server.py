"""A server of tools, made with the package `mcp` as others make theirs: over pipes, or over HTTP on a port."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import mcp_types as types
from mcp.server import MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from pydantic import BaseModel, Field

server = MCPServer("files", log_level="ERROR")
LEFT = Path(sys.argv[1]) / "left"


class Place(BaseModel):
    city: str
    days: Annotated[int, Field(ge=1, le=7)] = 1


@server.tool()
def get_weather(place: Place) -> str:
    """Tell the weather of a place."""
    return f"sunny in {place.city} for {place.days} days"


@server.tool(name="files.record")
def record(number: int) -> str:
    """Read a record."""
    return f"the patient's file is medical record number 77-{number}"


@server.tool()
def broken() -> str:
    """Fail."""
    raise ToolError("the disk is gone")


@server.tool()
async def slow(seconds: float) -> str:
    """Wait."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        LEFT.write_text("left", "utf-8")
        raise
    return "late"


@server.tool()
def parts() -> list[Any]:
    """Return parts of every kind."""
    return [
        types.TextContent(text="a text"),
        types.ImageContent(data="AAAA", mime_type="image/png"),
        types.ResourceLink(uri="file:///a.txt", name="a"),
    ]


@server.tool(structured_output=True)
def environment() -> dict[str, str]:
    """Show the variables."""
    return dict(os.environ)


@server.tool()
def die() -> str:
    """End the server."""
    os._exit(1)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        server.run("streamable-http", port=int(sys.argv[2]))
    else:
        print(json.dumps("what a careless server prints"), file=sys.stderr)
        server.run("stdio")
