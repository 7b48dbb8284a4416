"""A gateway in front of a backend that does as it is told; the libraries are in an environment of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from hybrid_llm import HybridLLM, guardrails
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.core.request import Location
from hybrid_llm.policies import builtin_policy, parse_policy
from hybrid_llm.router.spending.ledger import Price
from tests.clients.capable import Capable
from tests.gateway.conftest import served


def capable_client() -> HybridLLM:
    backend = Capable()
    return HybridLLM([backend], builtin_policy("balanced", backends={backend.name: backend.location}))


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    with served(capable_client()) as url:
        yield f"{url}/v1"


POLICY = """
version: 1
name: neighbours
tags:
  phi: {allow: [edge]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [cloud, edge]
    because: the cloud knows more
resilience: {retries: 0}
"""

Pair = Callable[..., tuple[HybridLLM, Capable, Capable]]


@pytest.fixture
def pair() -> Iterator[Pair]:
    """Makes a client that prefers its cloud, which costs 1 USD for 1,000 tokens; and the two backends."""
    with ExitStack() as stack:

        def make(**behaviour: Any) -> tuple[HybridLLM, Capable, Capable]:
            edge, cloud = (Capable(each.value, each, **behaviour) for each in Location)
            policy = parse_policy(POLICY, backends={each.value: each for each in Location})
            client = HybridLLM([edge, cloud], policy, prices={"cloud": Price(input_per_1k=1, output_per_1k=1)})
            return stack.enter_context(client), edge, cloud

        yield make


@pytest.fixture(scope="session")
def llm() -> Iterator[HybridLLM]:
    """A client, for the integrations that need no gateway."""
    with capable_client() as client:
        yield client


@pytest.fixture(scope="session")
def refusing() -> Iterator[HybridLLM]:
    """A client with a guardrail that refuses `forbidden`."""
    backend = Capable()
    policy = builtin_policy("balanced", backends={backend.name: backend.location})
    with HybridLLM([backend], policy, guardrails=[guardrails.Denylist(["forbidden"])]) as client:
        yield client


@pytest.fixture(scope="session")
def embedded() -> Iterator[HybridLLM]:
    """A client of the real model that the library brings."""
    backend = EdgeBackend(EdgeConfig(model=embedded_model()))
    with HybridLLM([backend], builtin_policy("balanced", backends={backend.name: backend.location})) as client:
        yield client
