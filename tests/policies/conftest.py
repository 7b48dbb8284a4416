"""Shared parts of the policy tests: signals of an ordinary device, and one-condition policies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from hybrid_llm.core.request import Location, RequestMetadata
from hybrid_llm.core.signals import BackendState, DeviceSignals, NetworkSignals, Signals
from hybrid_llm.policies import parse_policy


@pytest.fixture(scope="session")
def signals() -> Signals:
    """A laptop at ease, with a device model and a cloud node."""
    return Signals(
        device=DeviceSignals(
            cpu_load=0.25,
            memory_available_mb=4000.0,
            memory_total_mb=8000.0,
            battery=0.8,
            charging=True,
            temperature_c=50.0,
        ),
        network=NetworkSignals(online=True),
        backends={
            "edge": BackendState(
                name="edge",
                location=Location.EDGE,
                context_window=4096,
                predicted_ttft_ms=150.0,
                predicted_tpot_ms=20.0,
                energy_per_1k_tokens_j=80.0,
            ),
            "cloud": BackendState(
                name="cloud",
                location=Location.CLOUD,
                context_window=32768,
                rtt_ms=30.0,
                predicted_ttft_ms=300.0,
                predicted_tpot_ms=8.0,
                cost_per_1k_tokens=0.5,
            ),
        },
    )


@pytest.fixture(scope="session")
def request_() -> RequestMetadata:
    """A short public question."""
    return RequestMetadata(prompt_tokens=10, max_tokens=90, task="chat")


@pytest.fixture(scope="session")
def holds(signals: Signals, request_: RequestMetadata) -> Callable[..., bool]:
    """`holds("condition", request={...}, device={...})`: does a hard rule with this condition take the edge out?"""

    def check(
        condition: str, *, head: str = "", request=None, device=None, network=None, edge=None, cloud=None
    ) -> bool:
        body = "".join(f"      {line}\n" for line in condition.splitlines())
        text = f"version: 1\nname: one\n{head}rules:\n  - exclude: edge\n    when: |\n{body}"
        backends = {
            "edge": replace(signals.backends["edge"], **(edge or {})),
            "cloud": replace(signals.backends["cloud"], **(cloud or {})),
        }
        world = Signals(
            device=replace(signals.device, **(device or {})),
            network=replace(signals.network, **(network or {})),
            backends=backends,
        )
        decision = parse_policy(text).decide(replace(request_, **(request or {})), world)
        return "edge" in decision.excluded

    return check
