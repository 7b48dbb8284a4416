"""What the gateway costs beside a bare ASGI echo and LiteLLM's proxy: processor time of the server for each request.

    python -m benchmarks gateway [--litellm PATH] [--json FILE]

Each server is a process of its own and answers from memory: the gateway from a backend that has its answer ready, the
echo from bytes that are written already, LiteLLM's proxy (`--litellm` is the path of the program, of an environment
with `litellm[proxy]`) from its own mock of a provider. One client keeps four connections alive and asks whole and
streamed answers. Rounds are interleaved; the figures are medians of the CPU time that each server takes.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil

from benchmarks._run import ROOT, parsed, parser, with_json, write
from hybrid_llm.core.request import Location

TOKENS = 200
"""Of a streamed answer."""
CONNECTIONS = 4
WORDS = "word " * TOKENS
LITELLM = """\
model_list:
  - model_name: edge
    litellm_params: {model: openai/mock, api_key: none, mock_response: "%s"}
  - model_name: cloud
    litellm_params: {model: openai/mock, api_key: none, mock_response: "some words"}
litellm_settings: {telemetry: false}
"""


@dataclass
class Server:
    """One server: how it is started, and what it cost in each round, seconds of CPU a request."""

    name: str
    command: Sequence[str]
    port: int
    whole: list[float] = field(default_factory=list)
    streamed: list[float] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        environment = os.environ | {"PYTHONPATH": str(ROOT)} | self.environment
        self.process = subprocess.Popen(self.command, env=environment, stdout=subprocess.DEVNULL, cwd=ROOT)
        until = time.monotonic() + 120
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            if self.process.poll() is not None or time.monotonic() > until:
                sys.exit(f"{self.name} does not start")
            time.sleep(0.1)

    def stop(self) -> None:
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)

    def cpu(self) -> float:
        assert self.process is not None
        main = psutil.Process(self.process.pid)
        return sum(sum(each.cpu_times()[:2]) for each in (main, *main.children(recursive=True)))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return int(taken.getsockname()[1])


async def ask(port: int, count: int, *, stream: bool) -> None:
    """Ask *count* times over one connection."""
    # The router's cost of each token is part of a streamed answer's: a whole one has few.
    asked = {
        "model": "edge" if stream else "cloud",
        "messages": [{"role": "user", "content": "Say some words."}],
        "stream": stream,
    }
    body = json.dumps(asked).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\ncontent-type: application/json\r\n"
    request = f"{head}authorization: Bearer none\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
    for _ in range(count):
        writer.write(request)
        await _read_answer(reader)
    writer.close()
    await writer.wait_closed()


async def _read_answer(reader: asyncio.StreamReader) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).lower()
    if not head.startswith(b"http/1.1 200"):
        sys.exit(f"an answer is none: {head[:200]!r}")
    if b"content-length: " in head:
        await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r")[0]))
        return
    while size := int(await reader.readuntil(b"\r\n"), 16):
        await reader.readexactly(size + 2)
    await reader.readexactly(2)


async def measure(server: Server, count: int, *, stream: bool) -> float:
    """Seconds of the server's CPU for a request."""
    await ask(server.port, 3, stream=stream)
    before = server.cpu()
    await asyncio.gather(*[ask(server.port, count // CONNECTIONS, stream=stream) for _ in range(CONNECTIONS)])
    return (server.cpu() - before) / (count // CONNECTIONS * CONNECTIONS)


def echo_app() -> Any:
    """Answers with bytes that are written already: what no gateway can be cheaper than."""
    whole = json.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": WORDS}}]}).encode()
    event = b'data: {"choices":[{"index":0,"delta":{"content":"word "},"finish_reason":null}]}\n\n'

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        stream = b'"stream": true' in body
        kind = b"text/event-stream" if stream else b"application/json"
        headers = [(b"content-type", kind)] + ([] if stream else [(b"content-length", str(len(whole)).encode())])
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        if not stream:
            await send({"type": "http.response.body", "body": whole})
            return
        for _ in range(TOKENS):
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    return app


def run(what: str, port: int) -> None:
    """Be one of the servers."""
    if what == "echo":
        import uvicorn

        uvicorn.run(echo_app(), host="127.0.0.1", port=port, log_config=None, access_log=False)
        return
    from benchmarks.overhead import Memory
    from hybrid_llm import HybridLLM
    from hybrid_llm.gateway import GatewayConfig
    from hybrid_llm.gateway.server import GatewayServer
    from hybrid_llm.policies import builtin_policy

    backends = [Memory("edge", Location.EDGE, TOKENS), Memory("cloud", Location.CLOUD, 2)]
    policy = builtin_policy("balanced", backends={each.name: each.location for each in backends})
    server = GatewayServer(HybridLLM(backends, policy), GatewayConfig(listen=f"127.0.0.1:{port}"))
    asyncio.run(server.serve(lambda: None))


def servers(litellm: Path | None, folder: Path) -> list[Server]:
    found = []
    for name in ("echo", "gateway"):
        port = free_port()
        found.append(
            Server(name, [sys.executable, "-m", "benchmarks.gateway", "--be", name, "--port", str(port)], port)
        )
    if litellm is not None:
        config, port = folder / "litellm.yaml", free_port()
        config.write_text(LITELLM % WORDS, encoding="utf-8")
        command = [str(litellm), "--config", str(config), "--port", str(port), "--host", "127.0.0.1"]
        weak = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"
        environment = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", weak: "true"}
        found.append(Server("LiteLLM's proxy", command, port, environment=environment))
    return found


def main() -> None:
    made = with_json(parser(__doc__))
    made.add_argument(
        "--litellm", type=Path, metavar="PATH", help="the program `litellm` of an environment with its proxy"
    )
    made.add_argument("--be", choices=("echo", "gateway"), help="be this server (used by the benchmark itself)")
    made.add_argument("--port", type=int, default=0, help="the port of that server")
    if "--be" in sys.argv:
        options = made.parse_args()
        return run(options.be, options.port)
    options = parsed(made)
    rounds, count = (1, 16) if options.smoke else (7, 200)
    with TemporaryDirectory() as folder, ExitStack() as stack:
        compared = servers(options.litellm, Path(folder))
        for server in compared:
            stack.callback(server.stop)
            server.start()
        for _ in range(rounds):
            for server in compared:
                server.whole.append(asyncio.run(measure(server, count, stream=False)))
                server.streamed.append(asyncio.run(measure(server, count // 4, stream=True)))
    show(compared, options.json)
    return None


def show(compared: Sequence[Server], path: Path | None) -> None:
    figures: dict[str, object] = {}
    floor = compared[0]
    print(f"\n{'':18}{'CPU a request, ms':>20}{'more than echo':>16}{'CPU a token, us':>18}{'more than echo':>16}")
    for server in compared:
        whole, streamed = statistics.median(server.whole), statistics.median(server.streamed)
        token, token_floor = streamed / TOKENS, statistics.median(floor.streamed) / TOKENS
        more, more_token = whole - statistics.median(floor.whole), token - token_floor
        print(f"{server.name:18}{whole * 1e3:20.2f}{more * 1e3:16.2f}{token * 1e6:18.1f}{more_token * 1e6:16.1f}")
        figures[server.name] = {"request_ms": whole * 1e3, "token_us": token * 1e6}
    write(path, figures)


if __name__ == "__main__":
    main()
