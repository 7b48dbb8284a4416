"""Three real nodes in processes of their own, each behind a proxy, and the clients that ask them."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from hybrid_llm.backends.grpc import GrpcConfig, GrpcPool
from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.exact import ExactEdge, answer_to, prompt_of
from tests.chaos.proxy import Proxy
from tests.chaos.traffic import Case, Outcome, is_exact, make_cases

ROOT = Path(__file__).resolve().parents[2]
HOSTS = ("127.0.0.1", "localhost")
POLICY = """\
version: 1
name: chaos
rules:
  - exclude: edge
    when: request.task == "far"
    because: the device's model is not good enough
  - prefer: [cloud, edge]
HEDGE
"""
_START_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """How much a node takes, and how fast it is; times in seconds."""

    slots: int = 16
    queue: int = 64
    first_s: float = 0.004
    step_s: float = 0.004


class ExactNode:
    """One node: `python -m` its *module*, on a port that it keeps over restarts."""

    module = "tests.chaos.node"

    def __init__(self, folder: Path, number: int, options: NodeOptions) -> None:
        self.tls = folder / f"node{number}"
        shutil.copytree(folder / "tls", self.tls)
        self.journal = folder / f"journal{number}"
        self.log = folder / f"log{number}"
        self.options = options
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        o = self.options
        arguments = (self.tls, f"127.0.0.1:{self.port}", self.journal, o.slots, o.queue, o.first_s, o.step_s)
        return [sys.executable, "-m", self.module, *map(str, arguments)]

    def start(self) -> None:
        """Begin to start; `wait` waits for it."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=log, cwd=ROOT)

    def wait(self) -> None:
        """Wait until it serves."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline().decode()
        assert line.startswith("PORT "), f"the node did not start: {self.log.read_text()[-2000:]}"
        self.port = int(line.split()[1])

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def send(self, number: int) -> None:
        assert self._process is not None
        os.kill(self._process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """Send a signal that ends it, and wait for the end."""
        if self._process is None:
            return
        if self.alive:
            self.send(signal.SIGCONT)
            self.send(number)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def freed(self) -> dict[str, float]:
        """When the slot of each request that was given up was free, on `time.monotonic()`; by its prompt."""
        found = {}
        for line in self.journal.read_text().splitlines() if self.journal.exists() else ():
            prompt, _, instant = line.rpartition("\t")
            found[prompt] = float(instant)
        return found


class World:
    """Everything that a fault may touch. Made on entry, gone on exit."""

    node_type: type[ExactNode] = ExactNode
    hedge = "p95"
    back_s = 40.0
    """Seconds within which nodes should answer again after a fault: longer than a breaker stays open by default."""

    def __init__(self, *, nodes: int = 3, options: NodeOptions | None = None) -> None:
        self._count, self._options = nodes, options or NodeOptions()
        self._stack = ExitStack()

    def __enter__(self) -> World:
        with self._stack:
            self._build()
            self._stack = self._stack.pop_all()
        return self

    def _build(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="hybrid-llm-chaos-"))
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        self._prepare()
        tls = self.folder / "tls"
        make_authority(tls)
        issue(tls, "node", kind="node", hosts=HOSTS)
        issue(tls, "app", kind="client")
        self.app_tls = self.folder / "app"
        shutil.copytree(tls, self.app_tls)
        self.nodes = [self.node_type(self.folder, number, self._options) for number in range(self._count)]
        for node in self.nodes:
            node.start()
            self._stack.callback(node.end, signal.SIGKILL)
        for node in self.nodes:
            node.wait()
        self.proxies = [
            self._stack.enter_context(Proxy(node.port, seed=number)) for number, node in enumerate(self.nodes)
        ]

    def _prepare(self) -> None:
        """Do what the folder needs before anything is in it."""

    def pool(self, proxies: list[Proxy] | None = None, **options) -> GrpcPool:
        files = TLSFiles.from_dir(self.app_tls, "app")
        configs = [
            GrpcConfig(target=f"127.0.0.1:{proxy.port}", tls=files, **options) for proxy in proxies or self.proxies
        ]
        return GrpcPool(configs)

    def edge(self) -> Backend:
        return ExactEdge()

    def cases(self, random_: random.Random, numbers: itertools.count, count: int) -> list[Case]:
        """Requests whose answers `judge` can judge."""
        return make_cases(random_, numbers, count)

    def judge(self, outcome: Outcome) -> bool:
        """Whether what the app was given is right."""
        return is_exact(outcome)

    def ask(self, llm: HybridLLM, number: int) -> tuple[Generation, bool]:
        """The answer to a short question, and whether it is right."""
        prompt = prompt_of(number, 12)
        reply = llm.generate(prompt, max_tokens=4096)
        return reply, reply.text == answer_to(prompt)

    def client(self, *, hedge: str = "", edge: Backend | None = None, policy: str = POLICY, **options) -> HybridLLM:
        """A client with the nodes as one backend and a device beside them, with default settings.

        With *hedge*, such as `100ms` or `p95`, it also hedges, and continues answers that break off.
        """
        backends = [edge or self.edge(), self.pool()]
        limits = f"resilience: {{hedge_after: {hedge}, continue_streams: true}}" if hedge else ""
        text = policy.replace("HEDGE", limits)
        places = {"edge": Location.EDGE, "cloud": Location.CLOUD}
        return HybridLLM(backends, parse_policy(text, backends=places), sensors=FixedSensors(), **options)

    def calm(self) -> None:
        """Good weather everywhere, and every node up."""
        for proxy in self.proxies:
            proxy.weather = replace(type(proxy.weather)())
        dead = [node for node in self.nodes if not node.alive]
        for node in dead:
            node.start()
        for node in dead:
            node.wait()

    def freed(self) -> dict[str, float]:
        return {prompt: instant for node in self.nodes for prompt, instant in node.freed().items()}

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def eventually(condition, seconds: float) -> float | None:
    """Seconds until *condition* holds; None if it does not in time."""
    began = time.monotonic()
    while time.monotonic() - began < seconds:
        if condition():
            return time.monotonic() - began
        time.sleep(0.02)
    return None
