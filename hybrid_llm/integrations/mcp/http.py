"""Our MCP server over HTTP, for programs of this machine."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Callable

import uvicorn

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.hosts import canonical_address
from hybrid_llm.gateway.quiet import QuietServer
from hybrid_llm.integrations.mcp.server import PATH, mcp_app
from hybrid_llm.router.client import HybridLLM


class HttpServer:
    """An MCP server that listens on loopback.

    Args:
        client: What answers; it is closed at the end.
        address: `HOST:PORT` of this machine; port 0 picks a free one.

    Raises:
        ConfigError: other machines would reach the address, or it cannot listen there.
    """

    def __init__(self, client: HybridLLM, address: str) -> None:
        self._listener, host = _listener(address)
        self.url = f"http://{host}:{self.port}{PATH}"
        """Where hosts find it."""
        app = mcp_app(client, port=self.port)
        self._server = QuietServer(uvicorn.Config(app, log_config=None, access_log=False, server_header=False))

    @property
    def port(self) -> int:
        """The port on which it listens."""
        port: int = self._listener.getsockname()[1]
        return port

    async def serve(self, on_ready: Callable[[], None]) -> None:
        """Answer until SIGTERM, SIGINT or `stop`; *on_ready* is called once requests are answered."""
        self._server.on_ready = on_ready
        await self._server.serve(sockets=[self._listener])

    def stop(self) -> None:
        """End `serve`, from any thread."""
        self._server.should_exit = True


def _listener(address: str) -> tuple[socket.socket, str]:
    try:
        host, port = canonical_address(address, lowest_port=0)
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local, host, port = False, address, 0
    if not local:
        raise ConfigError(f"{address}: MCP has no keys here, so it listens on this machine only: use 127.0.0.1:8900")
    try:
        family, kind, protocol, _, bound = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(bound)
    except OSError as error:
        raise ConfigError(f"{address}: {error.strerror}; choose another port") from None
    return listener, f"[{host}]" if ":" in host else host
