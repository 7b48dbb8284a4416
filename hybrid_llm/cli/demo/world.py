"""A node in a process of its own, as `hybrid-llm serve` runs it, started, stopped and killed by the demonstration.

A TCP proxy that holds every packet for a while and counts the bytes: a far-away node, a witness, and a bad line.

What the demonstration needs around it: a private CA, two nodes, the lines to them, a policy, a client.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.grpc.config import GrpcConfig
from hybrid_llm.backends.grpc.pool import GrpcPool
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import DeviceSignals, NetworkSignals
from hybrid_llm.policies import PolicyFile
from hybrid_llm.router.cache import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.spending.ledger import MemoryLedger, Price

_START_S: Final = 120.0


class NodeProcess:
    """`hybrid-llm serve`; with *witness* its engine writes down there what it is given, see `cli.demo.node`."""

    def __init__(self, model: Path, tls: Path, folder: Path, *, witness: Path | None = None) -> None:
        main = ["hybrid_llm.cli.main", "serve"]
        if witness is not None:
            main = ["hybrid_llm.cli.demo.node", "--witness", str(witness)]
        self._ready, self._log = folder / "ready", folder / "node.log"
        self._command = [sys.executable, "-m", *main, "--model", str(model), "--listen", "127.0.0.1:0"]
        self._command += ["--tls", str(tls), "--name", "node", "--ready-file", str(self._ready)]
        self._witness = witness
        self._process: subprocess.Popen[bytes] | None = None

    def launch(self) -> None:
        """Begin to start; `wait` tells when it is ready."""
        self._ready.unlink(missing_ok=True)
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(self._command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603

    def wait(self) -> int:
        """Wait until it is ready, and return its port; ConfigError with its own words if it ends."""
        until = time.monotonic() + _START_S
        while not self._ready.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise ConfigError(f"the node did not start: {self._log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return int(self._ready.read_text().strip().rpartition(":")[2])

    def start(self) -> int:
        """Start it, wait until it is ready, and return its port."""
        self.launch()
        return self.wait()

    @property
    def pid(self) -> int:
        """The process of the front; 0 while nothing runs."""
        return self._process.pid if self._process is not None else 0

    def witnessed(self) -> list[str]:
        """What its engine was given, one text for each request."""
        if self._witness is None or not self._witness.exists():
            return []
        return self._witness.read_text(encoding="utf-8").splitlines()

    def kill(self) -> None:
        """End it at once, as a machine ends that loses its power."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self.kill()
        self._process = None


_LOOK_S: Final = 0.02


class RecordingProxy:
    """Stands between an app and a node on loopback. It sees what any observer of the network would see.

    Args:
        delay_s: seconds that each packet is held, in each direction.
    """

    def __init__(self, *, delay_s: float) -> None:
        self.target_port = 0
        self.bytes_to_node = 0
        """Bytes that the app has sent so far."""
        self.silent = False
        """While this is set, nothing that the node says reaches the app."""
        self._is_cut = False
        self._delay_s = delay_s
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="demo-proxy", daemon=True)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """The port on 127.0.0.1 that the app connects to."""
        assert self._server is not None, "the proxy is not running"
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    def __enter__(self) -> Self:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", 0), self._loop
        ).result()
        return self

    def cut(self) -> None:
        """Break every connection, and refuse new ones; what is under way is lost."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def mend(self) -> None:
        """Let connections through again."""
        self._is_cut = False

    def _abort(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_cut:
            writer.transport.abort()
            return
        try:
            node_reader, node_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            writer.close()
            return
        self._open |= {writer, node_writer}
        await asyncio.gather(self._pump(reader, node_writer, counted=True), self._pump(node_reader, writer))
        self._open -= {writer, node_writer}

    async def _pump(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, counted: bool = False) -> None:
        try:
            while data := await source.read(65536):
                self.bytes_to_node += len(data) if counted else 0
                while self.silent and not counted:
                    await asyncio.sleep(_LOOK_S)
                self._loop.call_later(self._delay_s, self._forward, sink, data)
        except OSError:
            pass  # the other side was cut; what was under way is lost, as on a real line
        self._loop.call_later(self._delay_s, sink.close)

    @staticmethod
    def _forward(sink: asyncio.StreamWriter, data: bytes) -> None:
        if not sink.is_closing():
            sink.write(data)

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _shut(self) -> None:
        assert self._server is not None
        self._server.close()
        self._abort()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


DISTANCE_S: Final = 0.1
"""How far away the nodes seem, seconds in each direction."""
PRICE: Final = Price(input_per_1k=0.15, output_per_1k=0.6, currency="USD")
_NODES: Final = 2
_QUIET_S: Final = 0.3
_SETTLES_S: Final = 15.0


class GivenSensors:
    """This machine's sensors, with single values replaced by given ones while a scene asks for that."""

    def __init__(self) -> None:
        self._real = SystemSensors()
        self.given: dict[str, float | bool] = {}

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample, given values in place."""
        device, network = self._real.read()
        return replace(device, **self.given), network  # type: ignore[arg-type]  # names are checked by replace

    def close(self) -> None:
        """Stop sampling."""
        self._real.close()


class World:
    """Everything, made on entry and gone on exit, whatever happens in between."""

    def __init__(self, node_model: Path) -> None:
        self._node_model = node_model
        self._stack = ExitStack()
        self.ledger = MemoryLedger(PRICE.currency)
        self.events: list[RequestEvent] = []
        """What the client told its hook of every request, the latest last."""

    def __enter__(self) -> Self:
        with self._stack:
            self._build()
            self._stack = self._stack.pop_all()
        return self

    def _build(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hybrid-llm-demo-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        certificates = self.folder / "certificates"
        make_authority(certificates)
        issue(certificates, "node", kind="node", hosts=["127.0.0.1", "localhost"])
        issue(certificates, "app", kind="client")
        self.lines = [self._stack.enter_context(RecordingProxy(delay_s=DISTANCE_S)) for _ in range(_NODES)]
        self.nodes = [self._node(certificates, number) for number in range(_NODES)]
        for node in self.nodes:
            node.launch()
        self.policy_path = self.folder / "policy.yaml"
        self.policy_path.write_text(self.policy_text(), encoding="utf-8")
        self.llm = self._stack.enter_context(self._client(certificates))
        for number in range(_NODES):
            self._connect(number)

    def _node(self, certificates: Path, number: int) -> NodeProcess:
        folder = self.folder / f"node-{number}"
        folder.mkdir()
        node = NodeProcess(self._node_model, certificates, folder, witness=self.folder / "witness.jsonl")
        self._stack.callback(node.stop)
        return node

    def _client(self, certificates: Path) -> HybridLLM:
        edge = EdgeBackend(EdgeConfig(load="eager"))
        files = TLSFiles.from_dir(certificates, "app")
        self._cloud = GrpcPool([GrpcConfig(target=f"127.0.0.1:{line.port}", tls=files) for line in self.lines])
        self.policies = PolicyFile(self.policy_path, {"edge": Location.EDGE, "cloud": Location.CLOUD}, interval=0.1)
        self.policies.start()
        self.sensors = GivenSensors()
        return HybridLLM(
            [edge, self._cloud],
            self.policies,
            sensors=self.sensors,
            hooks=[self._note],
            prices={"cloud": PRICE},
            ledger=self.ledger,
            cache=MemoryCache(),
        )

    def _note(self, event: RequestEvent) -> None:
        self.events.append(event)

    @staticmethod
    def policy_text() -> str:
        """The commented policy that the demonstration begins with."""
        return resources.files("hybrid_llm.cli.demo").joinpath("policy.yaml").read_text(encoding="utf-8")

    @property
    def bytes_to_cloud(self) -> int:
        """Bytes that the app has sent to the nodes so far, as the network sees them."""
        return sum(line.bytes_to_node for line in self.lines)

    def settle(self) -> None:
        """Wait until the app may ask every node that runs, and nothing has gone to any for a while; 15 s at most."""
        quiet, seen, until = 0.0, -1, time.monotonic() + _SETTLES_S
        while quiet < _QUIET_S and time.monotonic() < until:
            time.sleep(_LOOK_S)
            sent, seen = seen, self.bytes_to_cloud
            quiet = quiet + _LOOK_S if seen == sent and self._all_can_be_asked() else 0.0

    def _all_can_be_asked(self) -> bool:
        members = zip(self.nodes, self._cloud.members(), strict=True)
        return all(member.health.is_usable for node, member in members if node.pid)

    def told_to_nodes(self) -> list[str]:
        """Every request that an engine of a node was given, in its own words; all nodes write to one file, in turn."""
        return self.nodes[0].witnessed()

    def start_node(self, number: int) -> None:
        """Start a node that was stopped, and lead its line to it."""
        self.nodes[number].launch()
        self._connect(number)

    def _connect(self, number: int) -> None:
        self.lines[number].target_port = self.nodes[number].wait()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()
