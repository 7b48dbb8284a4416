"""Nodes as they are served, `hybrid-llm serve` over the demonstration model, beside the device's own model."""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import cache

import grpc
import jsonschema
import psutil

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.backends.wire.channels import check_serving, client_credentials
from hybrid_llm.core.errors import BackendUnavailable
from hybrid_llm.core.generation import FinishReason, Generation
from hybrid_llm.core.protocols import Backend
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.faults import _Again
from tests.chaos.traffic import KINDS, Case, Outcome
from tests.chaos.world import ROOT, ExactNode, World

MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
PROMPTS = ("Count from 3 to 20.", "What is 7 plus 5?", "Tell me about trains.", "Is this good? 'A warm, funny film.'")
BOUNDED = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "tags"],
    "additionalProperties": False,
}
_TOKENS = 24


class RealNode(ExactNode):
    """`hybrid-llm serve`, and the process of its engine."""

    def command(self) -> list[str]:
        self.ready = self.tls / "ready"
        self.ready.unlink(missing_ok=True)
        command = [sys.executable, "-m", "hybrid_llm.cli.main", "serve", "--model", str(MODEL), "--tls", str(self.tls)]
        command += ["--listen", f"127.0.0.1:{self.port}", "--ready-file", str(self.ready), "--slots", "32"]
        return [*command, "--dtype", "fp32", "--threads", "1"]

    def wait(self) -> None:
        limit = time.monotonic() + 300.0
        while not self.ready.exists():
            assert self.alive, self.log.read_text()[-2000:]
            assert time.monotonic() < limit, "the node did not start"
            time.sleep(0.05)
        self.port = int(self.ready.read_text().strip().rpartition(":")[2])

    def engines(self) -> Iterator[int]:
        """The process of its engine; none between two of them."""
        for child in psutil.Process(self.pid).children():
            yield child.pid


class RealWorld(World):
    """Real nodes and a real device. What is right is what each of them says when nothing is wrong.

    The nodes write to a disk of their own, where this process may mount one.
    """

    node_type = RealNode
    back_s = 120.0

    def _prepare(self) -> None:
        command = ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(self.folder)]
        self.has_disk = subprocess.run(command, capture_output=True, check=False).returncode == 0
        if self.has_disk:
            self._stack.callback(subprocess.run, ["umount", "--lazy", str(self.folder)], check=True)

    def fill(self) -> None:
        """Write to the nodes' disk until it is full."""
        with suppress(OSError), (self.folder / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(bytes(4096))

    def serves(self, node: ExactNode) -> bool:
        """Whether *node* reports that its engine can take requests."""
        credentials = client_credentials(TLSFiles.from_dir(self.app_tls, "app"))
        with grpc.secure_channel(f"127.0.0.1:{node.port}", credentials) as channel, suppress(BackendUnavailable):
            check_serving(channel, 5.0, backend="cloud")
            return True
        return False

    def ask(self, llm: HybridLLM, number: int) -> tuple[Generation, bool]:
        prompt = PROMPTS[number % len(PROMPTS)]
        reply = llm.generate(prompt, max_tokens=_TOKENS)
        return reply, reply.text == self.right(reply.backend, prompt)

    def edge(self) -> Backend:
        return self._edge

    def _build(self) -> None:
        self._edge = _Shared(EdgeConfig())
        self._stack.callback(self._edge.really_close)
        super()._build()

    @cache  # noqa: B019  # a world lives as long as its process
    def right(self, name: str, prompt: str) -> str:
        """The whole answer of one side, greedily drawn."""
        backend = self._edge if name == "edge" else self.pool()
        policy = parse_policy("version: 1\nname: alone\n", backends={backend.name: backend.location})
        with HybridLLM([backend], policy, sensors=FixedSensors()) as llm:
            return llm.generate(prompt, max_tokens=_TOKENS, deadline=30.0).text

    def cases(self, random_: random.Random, numbers: itertools.count, count: int) -> list[Case]:
        self.learn()
        return [self._case(random_) for _ in range(count)]

    def learn(self) -> None:
        """Ask both sides what is right, while nothing is wrong."""
        for prompt in PROMPTS:
            self.right("edge", prompt), self.right("cloud", prompt)

    def _case(self, random_: random.Random) -> Case:
        schema = random_.random() < 0.4
        return Case(
            kind=random_.choices(KINDS, (4, 3, 4, 3, 1, 1, 1))[0],
            prompt="Describe a train." if schema else random_.choice(PROMPTS),
            deadline=random_.uniform(60.0, 90.0),
            schema=BOUNDED if schema else None,
            far=random_.random() < 0.3,
            pieces=random_.randint(1, 3),
            max_tokens=120 if schema else _TOKENS,
            temperature=1.0 if schema else 0.0,
        )

    def judge(self, outcome: Outcome) -> bool:
        if outcome.case.schema is not None:
            return not outcome.whole or _follows(outcome)
        begins = outcome.text
        if outcome.generation is not None and outcome.generation.continuations:
            begins = begins[: outcome.generation.continuations[0].at]
        sides = [self.right(name, outcome.case.prompt) for name in ("edge", "cloud")]
        if outcome.whole and outcome.generation is not None and not outcome.generation.continuations:
            return outcome.text == self.right(outcome.generation.backend, outcome.case.prompt)
        return any(side.startswith(begins) for side in sides)

    def freed(self) -> dict[str, float]:
        """Real engines keep no journal."""
        return {}


class _Shared(EdgeBackend):
    """One model for all clients: closing a client leaves it open."""

    def close(self) -> None:
        """It stays."""

    async def aclose(self) -> None:
        """It stays."""

    def really_close(self) -> None:
        super().close()


def _follows(outcome: Outcome) -> bool:
    assert outcome.generation is not None
    if outcome.generation.finish_reason is not FinishReason.STOP:
        return False
    try:
        jsonschema.validate(json.loads(outcome.text), BOUNDED)
    except (ValueError, jsonschema.ValidationError):
        return False
    return True


class EngineKilled(_Again):
    """The process of an engine is killed; its node stays, and starts another.

    Only one that has loaded its model: a node waits twice as long each time that one dies before it has answered.
    """

    name = "engine kill -9"
    spares_node = False
    every = (0.8, 1.6)

    def strike(self) -> None:
        node = self.random.choice(self.world.nodes)
        if self.world.serves(node):
            for pid in node.engines():
                os.kill(pid, signal.SIGKILL)


def allow_no_more_memory(pid: int) -> None:
    """Let a process keep the memory that it has, and get none beyond."""
    used = psutil.Process(pid).memory_info().vms
    resource.prlimit(pid, resource.RLIMIT_AS, (used, resource.prlimit(pid, resource.RLIMIT_AS)[1]))


class EngineOutOfMemory(_Again):
    """The process of an engine gets no more memory, and later dies of it or is restarted."""

    name = "engine oom"
    spares_node = False
    every = (2.0, 4.0)

    def strike(self) -> None:
        node = self.random.choice(self.world.nodes)
        if self.world.serves(node):
            for pid in node.engines():
                allow_no_more_memory(pid)

    def heal(self) -> None:
        self._over.set()
        self._thread.join()
        for node in self.world.nodes:
            for pid in node.engines():
                os.kill(pid, signal.SIGKILL)
        super().heal()
