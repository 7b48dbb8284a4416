"""A gateway in front of a backend that does as it is told; the libraries are in an environment of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.policies import builtin_policy
from tests.clients.capable import Capable
from tests.gateway.conftest import served


@pytest.fixture(scope="session")
def base_url() -> Iterator[str]:
    backend = Capable()
    client = HybridLLM([backend], builtin_policy("balanced", backends={backend.name: backend.location}))
    with served(client) as url:
        yield f"{url}/v1"
