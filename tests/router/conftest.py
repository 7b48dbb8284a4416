"""What the tests of the client share: a device that is fixed, and clients over fakes that are closed again."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest

from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: test
tags:
  phi:    {allow: [edge], detect: [medical_record]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [edge, cloud]
    because: the device first
resilience: {retries: 1}
"""


@pytest.fixture(scope="module")
def young_heap() -> Iterator[None]:
    """Leave what is there out of garbage collections: after thousands of tests each takes a quarter of a second."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def edge() -> FakeBackend:
    return FakeBackend("edge", Location.EDGE, ["on ", "the ", "device"])


@pytest.fixture
def cloud() -> FakeBackend:
    return FakeBackend("cloud", Location.CLOUD, ["in ", "the ", "cloud"])


@pytest.fixture
def make_client() -> Iterator[type]:
    clients: list[HybridLLM] = []

    def make(*backends: FakeBackend, policy: str = POLICY, **options) -> HybridLLM:
        parsed = parse_policy(policy, backends={b.name: b.location for b in backends})
        client = HybridLLM(backends, parsed, sensors=options.pop("sensors", FixedSensors()), **options)
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()
