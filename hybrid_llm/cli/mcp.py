"""`hybrid-llm mcp`: serve hosts of the Model Context Protocol."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Final

from hybrid_llm.cli.arguments import Command, add_config, add_log_format, add_verbose
from hybrid_llm.cli.ready_file import ready_file
from hybrid_llm.cli.terminal import Exit, log_to_stderr, note
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.hosts import canonical_address, is_this_machine

if TYPE_CHECKING:
    from hybrid_llm.router.client import HybridLLM


def _options(parser: argparse.ArgumentParser) -> None:
    add_config(parser)
    parser.add_argument(
        "--http",
        metavar="HOST:PORT",
        help="serve over HTTP at this address of this machine, under /mcp, not over standard input and output; "
        "port 0 picks a free one",
    )
    parser.add_argument("--ready-file", type=Path, metavar="FILE", help="contains the port while --http is ready")
    add_verbose(parser, "log one line for each call to standard error")
    add_log_format(parser)


def _run(args: argparse.Namespace) -> int:
    if find_spec("mcp") is None:
        raise ConfigError(f"this command needs the package mcp: {install_hint('mcp')}")
    log_to_stderr(logging.INFO if args.verbose else logging.WARNING, as_json=args.log_format == "json")
    from hybrid_llm.router.default import open_client

    if args.http is None:
        asyncio.run(_serve_stdio(open_client(args.config)))
        return Exit.OK
    with ready_file(args.ready_file) as announce:

        def ready(url: str, port: int, _: Callable[[], None]) -> None:
            print(f"ready on {url}", flush=True)
            announce(port)

        asyncio.run(serve_http(open_client(args.config), args.http, ready))
    note("stopped")
    return Exit.OK


async def _serve_stdio(client: HybridLLM) -> None:
    """Serve until the host closes standard input, or a signal comes: the thread that reads a line cannot be stopped."""
    from hybrid_llm.integrations.mcp.server import serve_stdio

    loop = asyncio.get_running_loop()
    endings: set[asyncio.Task[None]] = set()

    async def end(code: int) -> None:
        try:
            await client.aclose()
        finally:
            os._exit(code)

    def begin_end(code: int) -> None:
        endings.add(loop.create_task(end(code)))

    with suppress(NotImplementedError):  # on Windows
        loop.add_signal_handler(signal.SIGINT, begin_end, Exit.INTERRUPTED)
        loop.add_signal_handler(signal.SIGTERM, begin_end, Exit.OK)
    await serve_stdio(client)


async def serve_http(client: HybridLLM, address: str, on_ready: Callable[[str, int, Callable[[], None]], None]) -> None:
    """Serve programs of this machine at *address* until SIGTERM, SIGINT, or the stop that *on_ready* gets.

    *on_ready* is called once requests are answered, with the URL, the port, and what ends it.

    Raises:
        ConfigError: other machines would reach the address, or it cannot listen there.
    """
    import uvicorn

    from hybrid_llm.gateway.quiet import QuietServer, listener
    from hybrid_llm.integrations.mcp.server import PATH, mcp_app

    host, port = _local_address(address)
    bound = listener(host, port, option="--http")
    port = bound.getsockname()[1]
    app = mcp_app(client, port=port)
    server = QuietServer(uvicorn.Config(app, log_config=None, access_log=False, server_header=False))

    def stop() -> None:
        server.should_exit = True

    shown = f"[{host}]" if ":" in host else host
    server.on_ready = lambda: on_ready(f"http://{shown}:{port}{PATH}", port, stop)
    await server.serve(sockets=[bound])


def _local_address(address: str) -> tuple[str, int]:
    """Host and port of *address*, which nothing but programs of this machine reaches."""
    try:
        host, port = canonical_address(address, lowest_port=0)
    except ValueError:
        host, port = "", 0
    if not is_this_machine(host):
        raise ConfigError(f"{address}: MCP has no keys here, so it listens on this machine only: use 127.0.0.1:8900")
    return host, port


MCP: Final = Command(
    about="Serve hosts of the Model Context Protocol (revision 2026-07-28 and before), as the policy decides.\n"
    "Tools: generate, explain, policy_simulate. By default over standard input and output, as hosts start servers;\n"
    "it ends when the host closes them. Needs the extra `mcp`.",
    options=_options,
    run=_run,
    examples=(
        "hybrid-llm mcp",
        "hybrid-llm mcp --config hybrid.yaml --verbose",
        "hybrid-llm mcp --config hybrid.yaml --http 127.0.0.1:8900",
    ),
    codes=(Exit.CONFIG, Exit.INTERRUPTED),
)
