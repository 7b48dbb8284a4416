"""What the demonstration needs around it: a private CA, two nodes, the lines to them, a policy, a client."""

from __future__ import annotations

import shutil
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hybrid_llm.backends.cloud.config import CloudConfig
from hybrid_llm.backends.cloud.pool import CloudPool
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.transport import TLSFiles, issue, make_authority
from hybrid_llm.cli.demo.process import NodeProcess
from hybrid_llm.cli.demo.proxy import RecordingProxy
from hybrid_llm.policies import PolicyFile
from hybrid_llm.router.cache import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.hooks import RequestEvent
from hybrid_llm.router.sensors import SystemSensors
from hybrid_llm.router.signals import DeviceSignals, NetworkSignals
from hybrid_llm.router.spending.ledger import MemoryLedger
from hybrid_llm.router.spending.prices import Price
from hybrid_llm.router.types import Location

__all__ = ["DISTANCE_S", "PRICE", "GivenSensors", "World"]

DISTANCE_S: Final = 0.1
"""How far away the nodes seem, seconds in each direction."""
PRICE: Final = Price(input_per_1k=0.15, output_per_1k=0.6, currency="USD")
_NODES: Final = 2
_QUIET_S: Final = 0.3
_SETTLES_S: Final = 15.0
_LOOK_S: Final = 0.02


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
        self._cloud = CloudPool([CloudConfig(target=f"127.0.0.1:{line.port}", tls=files) for line in self.lines])
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
        return all(member.health.can_be_asked for node, member in members if node.pid)

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
