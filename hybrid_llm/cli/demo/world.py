"""What the scenes of the demonstration share: two nodes, their network lines, a client, and checks of an outcome."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Final, Self

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.grpc.address import GrpcConfig
from hybrid_llm.backends.grpc.pool import GrpcPool
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.cli.demo.node import NodeProcess
from hybrid_llm.core.decision import Decision
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import Location
from hybrid_llm.core.signals import DeviceSignals, NetworkSignals
from hybrid_llm.policies import PolicyFile
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import SystemSensors
from hybrid_llm.router.spending.ledger import MemoryLedger, Price

PRICE: Final = Price(input_per_1k=0.15, output_per_1k=0.6, currency="USD")
_DELAY_S: Final = 0.1
"""Simulated distance of the nodes, seconds in each direction."""
_NODES: Final = 2
_POLL_S: Final = 0.02
_PING: Final = 39
"""Bytes of an HTTP/2 ping in a TLS record, which gRPC sends by itself; no request is as short."""
_QUIET_S: Final = 0.3
_SETTLE_TIMEOUT_S: Final = 15.0


class RecordingProxy:
    """A TCP proxy between app and node: it delays, counts, stalls and cuts the traffic.

    Args:
        delay_s: delay of each packet, in each direction.
    """

    def __init__(self, *, delay_s: float) -> None:
        self.target_port = 0
        self.bytes_to_node = 0
        """Bytes sent by the app so far."""
        self.stalled = False
        """While set, nothing from the node reaches the app."""
        self.port = 0
        """The port on 127.0.0.1 for the app."""
        self._is_cut = False
        self._delay_s = delay_s
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), name="demo-proxy", daemon=True)
        self._open: set[asyncio.StreamWriter] = set()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    async def _run(self) -> None:
        self._loop, self._closing = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        await self._closing.wait()
        server.close()
        self._abort()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones; data in transit is lost."""
        self._is_cut = True
        self._loop.call_soon_threadsafe(self._abort)

    def restore(self) -> None:
        """Accept connections, and forward what comes from the node."""
        self._is_cut = self.stalled = False

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
                self.bytes_to_node += len(data) if counted and len(data) > _PING else 0
                while self.stalled and not counted:
                    await asyncio.sleep(_POLL_S)
                self._loop.call_later(self._delay_s, self._forward, sink, data)
        except OSError:
            pass  # the other side was cut: data in transit is lost, as on a real network
        self._loop.call_later(self._delay_s, sink.close)

    @staticmethod
    def _forward(sink: asyncio.StreamWriter, data: bytes) -> None:
        if not sink.is_closing():
            sink.write(data)

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._closing.set)
        self._thread.join()


class OverridableSensors(SystemSensors):
    """This machine's sensors, with values that a scene can override."""

    def __init__(self) -> None:
        super().__init__()
        self.overrides: dict[str, float | bool] = {}

    def read(self) -> tuple[DeviceSignals, NetworkSignals]:
        """The latest sample, with the overrides applied."""
        device, network = super().read()
        return replace(device, **self.overrides), network  # type: ignore[arg-type]  # names are checked by replace


class World(ExitStack):
    """A private CA, two nodes, the lines to them, a policy file and a client; removed on exit."""

    def __init__(self, node_model: Path) -> None:
        super().__init__()
        self._node_model = node_model
        self._bytes_before = 0
        self.lines: list[RecordingProxy] = []
        self.ledger = MemoryLedger(PRICE.currency)
        self.events: list[RequestEvent] = []
        """The events of all requests, the latest last."""

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.push(self)
            self._build()
            undo.pop_all()
        return self

    def _build(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hybrid-llm-demo-"))
        self.callback(shutil.rmtree, self.folder, ignore_errors=True)
        certificates = self.folder / "certificates"
        make_authority(certificates)
        issue(certificates, "node", kind="node", hosts=["127.0.0.1", "localhost"])
        issue(certificates, "app", kind="client")
        self.lines = [self.enter_context(RecordingProxy(delay_s=_DELAY_S)) for _ in range(_NODES)]
        self.nodes = [
            NodeProcess(self._node_model, certificates, self.folder / f"node-{number}", witness=self.folder / "witness")
            for number in range(_NODES)
        ]
        for node in self.nodes:
            self.callback(node.stop)
            node.launch()
        self.policy_path = self.folder / "policy.yaml"
        self.policy_path.write_text(self.policy_text(), encoding="utf-8")
        self.llm = self.enter_context(self._client(certificates))
        for line, node in zip(self.lines, self.nodes, strict=True):
            line.target_port = node.wait()

    def _client(self, certificates: Path) -> HybridLLM:
        edge = EdgeBackend(EdgeConfig(model=embedded_model(), load="eager"))
        files = TLSFiles.from_dir(certificates, "app")
        self._cloud = GrpcPool([GrpcConfig(target=f"127.0.0.1:{line.port}", tls=files) for line in self.lines])
        self.policies = PolicyFile(self.policy_path, {"edge": Location.EDGE, "cloud": Location.CLOUD}, interval=0.1)
        self.policies.start()
        self.sensors = OverridableSensors()
        return HybridLLM(
            [edge, self._cloud],
            self.policies,
            sensors=self.sensors,
            hooks=[lambda event: self.events.append(event)],
            prices={"cloud": PRICE},
            ledger=self.ledger,
            cache=MemoryCache(),
        )

    @staticmethod
    def policy_text() -> str:
        """The policy at the start of the demonstration."""
        return resources.files("hybrid_llm.cli.demo").joinpath("policy.yaml").read_text(encoding="utf-8")

    @property
    def bytes_sent(self) -> int:
        """Bytes sent by the app to the nodes since the last `reset_bytes_sent`."""
        return sum(line.bytes_to_node for line in self.lines) - self._bytes_before

    def reset_bytes_sent(self) -> None:
        """Count from zero, as `settle` does."""
        self._bytes_before += self.bytes_sent

    def settle(self) -> None:
        """Undo what a scene did to sensors and lines, and wait until the nodes are usable and quiet, 15 s at most."""
        self.sensors.overrides = {}
        for line in self.lines:
            line.restore()
        quiet, seen, until = 0.0, -1, time.monotonic() + _SETTLE_TIMEOUT_S
        while quiet < _QUIET_S and time.monotonic() < until:
            time.sleep(_POLL_S)
            sent, seen = seen, self.bytes_sent
            quiet = quiet + _POLL_S if seen == sent and self._all_usable() else 0.0
        self.reset_bytes_sent()

    def _all_usable(self) -> bool:
        members = zip(self.nodes, self._cloud.members(), strict=True)
        return all(member.health.is_usable for node, member in members if node.pid)

    def start_node(self, number: int) -> None:
        """Start a stopped node, and connect its line to it."""
        self.nodes[number].launch()
        self.lines[number].target_port = self.nodes[number].wait()


@dataclass(frozen=True, slots=True)
class Check:
    """One expectation, and whether it was met."""

    text: str
    passed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a scene: a row of the table, and its checks."""

    checks: tuple[Check, ...]
    decision: Decision | None = None
    reply: Generation | None = None
    by: str = ""
    """Shown in the table instead of the backend of *reply*."""


@dataclass(frozen=True, slots=True)
class Scene:
    """*title* names the request in the table, *about* describes it."""

    title: str
    about: str
    play: Callable[[World], Outcome]


def answered(
    world: World, reply: Generation, backend: str, *more: Check, by: str = "", cached: bool = False
) -> Outcome:
    """The outcome of an answer that was expected from *backend*."""
    leaves = backend == "cloud" and not cached
    from_where = f"answered by {backend}{' (cached)' if cached else ''}"
    sent = "bytes were sent to the cloud" if leaves else "0 bytes were sent to the cloud"
    checks = (
        Check(from_where, (reply.backend, reply.cached) == (backend, cached)),
        Check("the answer is not empty", bool(reply.text.strip())),
        Check(sent, (world.bytes_sent > 0) == leaves),
    )
    return Outcome(checks=checks + more, decision=reply.decision, reply=reply, by=by)


def by_rule(reply: Generation, because: str) -> Check:
    """The rule that decided gives this reason."""
    return Check(f"reason: {because}", because in reply.decision.because)


def excluded(decision: Decision, backend: str, why: str) -> Check:
    """*backend* is excluded for this reason."""
    return Check(f"{backend} is excluded: {why}", why in decision.excluded.get(backend, ""))


def wait_until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until *condition* holds, for *seconds* at most."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(_POLL_S)
