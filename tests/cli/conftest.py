"""Runs `hybrid-llm`: in this process, or as the installed command; and a node with a slow fake engine, in a thread."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid_llm.backends.node.engine import EngineConfig, EngineInfo, EngineLoad, EngineOutput
from hybrid_llm.backends.node.server import NodeConfig, NodeServer
from hybrid_llm.backends.wire.certificates import TLSFiles, issue, make_authority
from hybrid_llm.cli.main import main
from hybrid_llm.core.generation import FinishReason
from tests.cli.screens import Terminal

ROOT = Path(__file__).resolve().parents[2]
NODE_MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
COMMAND = str(Path(sys.executable).with_name("hybrid-llm"))


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _no_configuration(monkeypatch):
    monkeypatch.delenv("HYBRID_LLM_CONFIG", raising=False)


@pytest.fixture
def cli(capfd, monkeypatch):
    """Run a command line in this process; *stdin* is bytes."""

    def run(*arguments, stdin=b""):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Result(int(code), out, err)

    return run


@pytest.fixture(scope="session")
def command():
    """The path of the installed command."""
    return COMMAND


@pytest.fixture
def start():
    """Start the installed command; whatever still runs afterwards is killed."""
    running = []

    def run(*arguments, environment=None, **options):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
        env = {**os.environ, "COLUMNS": "100", **(environment or {})}
        process = subprocess.Popen([COMMAND, *map(str, arguments)], **pipes, env=env)
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def terminal(command):
    """Start the installed command on a terminal of its own."""
    opened = []

    def run(*arguments, **options):
        opened.append(Terminal(command, *arguments, **options))
        return opened[-1]

    yield run
    for one in opened:
        one.kill()


@pytest.fixture(scope="session")
def tls(tmp_path_factory):
    """A folder of certificates of one authority: node and app."""
    folder = tmp_path_factory.mktemp("tls")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["127.0.0.1"])
    issue(folder, "app", kind="client")
    return folder


class SlowEngine:
    """Generates `tick` every *delay* seconds, *ticks* times; `left` is set when a caller leaves early."""

    def __init__(self, delay=0.02, ticks=400):
        self.delay, self.ticks = delay, ticks
        self.left = threading.Event()
        self.info, self.healthy = None, False

    async def start(self):
        self.info = EngineInfo(
            engine="fake", model="slow", architecture="Fake", vocab_size=2048, context_window=2048, slots=4
        )
        self.healthy = True
        return self.info

    async def stream(self, request):
        ended = False
        try:
            for _ in range(min(self.ticks, request.max_tokens)):
                await asyncio.sleep(self.delay)
                yield EngineOutput(request_id=request.request_id, token_ids=request.prompt_ids[2:3])
            ended = True
            yield EngineOutput(request_id=request.request_id, finish_reason=FinishReason.LENGTH)
        finally:
            if not ended:
                self.left.set()

    def load(self):
        return EngineLoad(slots=4)

    async def close(self):
        self.healthy = False


class NodeThread:
    """A real node, gRPC and mutual TLS included, over a `SlowEngine`."""

    def __init__(self, tls):
        self.engine = SlowEngine()
        self._tls = tls
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))

    async def _serve(self):
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        config = NodeConfig(
            engine=EngineConfig(model=NODE_MODEL), tls=TLSFiles.from_dir(self._tls, "node"), listen="127.0.0.1:0"
        )
        server = NodeServer(config, self.engine)
        try:
            self.port = await server.start()
        finally:
            self._started.set()
        await self._stop.wait()
        await server.stop(0.0)

    def __enter__(self):
        self._thread.start()
        self._started.wait()
        return self

    def __exit__(self, *_):
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


@pytest.fixture
def node(tls):
    with NodeThread(tls) as running:
        yield running


@pytest.fixture
def configure(tmp_path, tls):
    """Write a hybrid.yaml with one node and return its path."""

    def write(port, *, folder=tls, policy="balanced", edge=False, sealed=None, model=""):
        pem = f"tls: {{ca: {folder / 'ca.pem'}, cert: {folder / 'app.pem'}, key: {folder / 'app.key'}}}"
        lines = ["version: 1", f"policy: {policy}", "backends:"]
        lines += ["  edge: {kind: onnx, model: embedded}"] if edge else []
        more = f", sealed: {{keys: {sealed}}}" if sealed else ""
        more += f", model: {model}" if model else ""
        lines += [f'  cloud: {{kind: grpc, target: "127.0.0.1:{port}", {pem}{more}}}']
        path = tmp_path / "hybrid.yaml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
