"""What the demonstration needs around it: a private CA, a node in a process of its own, a proxy, a policy, a client."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace
from importlib import resources
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hybrid_llm.backends.cloud import CloudBackend, CloudConfig
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.transport import TLSFiles, issue, make_authority
from hybrid_llm.cli.demo.proxy import RecordingProxy
from hybrid_llm.policies import PolicyFile
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.errors import ConfigError
from hybrid_llm.router.sensors import SystemSensors
from hybrid_llm.router.signals import DeviceSignals, NetworkSignals
from hybrid_llm.router.types import Location

__all__ = ["DISTANCE_S", "GivenSensors", "NodeProcess", "World"]

DISTANCE_S: Final = 0.1
"""How far away the node seems, seconds in each direction."""
_START_S: Final = 90.0


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


class NodeProcess:
    """`hybrid-llm serve` in a process of its own."""

    def __init__(self, model: Path, tls: Path, folder: Path) -> None:
        self._command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--model", str(model)]
        self._command += ["--listen", "127.0.0.1:0", "--tls", str(tls), "--name", "node"]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> int:
        """Start it, wait until it is ready, and return its port; ConfigError with its own words if it ends."""
        ready, log = self._folder / "ready", self._folder / "node.log"
        ready.unlink(missing_ok=True)
        with log.open("wb") as output:
            command = [*self._command, "--ready-file", str(ready)]
            self._process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)  # noqa: S603
        until = time.monotonic() + _START_S
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise ConfigError(f"the node did not start: {log.read_text(errors='replace')[-2000:]}")
            time.sleep(0.05)
        return int(ready.read_text().strip().rpartition(":")[2])

    @property
    def pid(self) -> int:
        """The process of the front; 0 while nothing runs."""
        return self._process.pid if self._process is not None else 0

    def stop(self) -> None:
        """Ask it to end, and wait for that."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None


class World:
    """Everything, made on entry and gone on exit, whatever happens in between."""

    def __init__(self, node_model: Path) -> None:
        self._node_model = node_model
        self._stack = ExitStack()

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
        self.proxy = self._stack.enter_context(RecordingProxy(delay_s=DISTANCE_S))
        self.node = NodeProcess(self._node_model, certificates, self.folder)
        self._stack.callback(self.node.stop)
        self.start_node()
        self.policy_path = self.folder / "policy.yaml"
        self.policy_path.write_text(self.policy_text(), encoding="utf-8")
        self.llm = self._stack.enter_context(self._client(certificates))

    def _client(self, certificates: Path) -> HybridLLM:
        edge = EdgeBackend(EdgeConfig(load="eager"))
        target = f"127.0.0.1:{self.proxy.port}"
        cloud = CloudBackend(CloudConfig(target=target, tls=TLSFiles.from_dir(certificates, "app")))
        locations = {"edge": Location.EDGE, "cloud": Location.CLOUD}
        self.policies = PolicyFile(self.policy_path, locations, interval=0.1)
        self.policies.start()
        self.sensors = GivenSensors()
        return HybridLLM([edge, cloud], self.policies, sensors=self.sensors)

    @staticmethod
    def policy_text() -> str:
        """The commented policy that the demonstration begins with."""
        return resources.files("hybrid_llm.cli.demo").joinpath("policy.yaml").read_text(encoding="utf-8")

    def start_node(self) -> None:
        """Start the node, and lead the proxy to it."""
        self.proxy.target_port = self.node.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stack.close()
