"""Servers that are reached over HTTP: three gateways in processes of their own, each a backend of kind `openai`."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import replace

from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.core.protocols import Backend
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.chaos.http_node import SEEN
from tests.chaos.traffic import Case, Outcome, make_cases
from tests.chaos.world import ExactNode, World

POLICY = """\
version: 1
name: chaos over http
tags:
  private: {allow: [edge]}
  public: {allow: [edge, cloud]}
rules:
  - exclude: edge
    when: request.task == "far"
    because: the device's model is not good enough
  - prefer: [cloud, cloud1, cloud2, edge]
HEDGE
"""


class HttpNode(ExactNode):
    """A gateway over exact answers; a request that the app declared private must never reach it."""

    module = "tests.chaos.http_node"

    def _lines(self) -> Iterator[tuple[str, str]]:
        for line in self.journal.read_text(encoding="utf-8").splitlines() if self.journal.exists() else ():
            first, _, second = line.partition("\t")
            yield first, second

    def freed(self) -> dict[str, float]:
        return {first: float(second) for first, second in self._lines() if first != SEEN}

    def seen(self) -> set[str]:
        """Every prompt that has come to it."""
        return {second for first, second in self._lines() if first == SEEN}


class HttpWorld(World):
    """The gateways, each behind its proxy, and clients that reach them by HTTPS."""

    node_type = HttpNode

    def servers(self) -> list[Backend]:
        """The backends: `cloud`, `cloud1`, `cloud2`."""
        return [
            OpenAISpec(
                name=f"cloud{number or ''}",
                base_url=f"https://localhost:{proxy.port}/v1",
                model="exact",
                ca=self.app_tls / "ca.pem",
                connect_timeout_s=1.0,
                idle_timeout_s=2.0,
            ).open()
            for number, proxy in enumerate(self.proxies)
        ]

    def client(self, *, hedge: str = "", edge: Backend | None = None, policy: str = POLICY, **options) -> HybridLLM:
        backends = [edge or self.edge(), *self.servers()]
        limits = f"resilience: {{hedge_after: {hedge}, continue_streams: true}}" if hedge else ""
        places = {backend.name: backend.location for backend in backends}
        return HybridLLM(
            backends, parse_policy(policy.replace("HEDGE", limits), backends=places), sensors=FixedSensors(), **options
        )

    def cases(self, random_: random.Random, numbers: itertools.count, count: int) -> list[Case]:
        """A fifth of them may not leave the device. A cut document is never far: only the device goes on with one."""
        made = make_cases(random_, numbers, count)
        for at, case in enumerate(made):
            private = random_.random() < 0.2
            made[at] = replace(case, private=private, far=case.far and not private and case.schema is None)
        return made

    def judge(self, outcome: Outcome) -> bool:
        """A private prompt that a server has seen is as wrong as a wrong answer."""
        leaked = outcome.case.private and any(outcome.case.prompt in node.seen() for node in self.nodes)
        return not leaked and super().judge(outcome)
