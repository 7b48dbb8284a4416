"""A gateway that listens on loopback, in a thread of the tests."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import anthropic
import openai
import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.core.request import Location
from hybrid_llm.gateway import GatewayConfig
from hybrid_llm.gateway.server import GatewayServer
from hybrid_llm.policies import parse_policy
from tests.fakes import FakeBackend

POLICY = """
version: 1
name: gateway
tags:
  phi: {allow: [edge], detect: [medical_record]}
  public: {allow: [edge, cloud]}
rules:
  - prefer: [cloud, edge]
    when: request.task == "hard"
    because: it is hard
  - prefer: [edge, cloud]
"""

Serve = Callable[..., str]


@contextmanager
def served(client: HybridLLM, **options: Any) -> Iterator[str]:
    """Serve *client*, and yield the URL of its gateway, without a path."""
    managed, metrics = options.pop("managed", None), options.pop("metrics", None)
    config = GatewayConfig(**{"listen": "127.0.0.1:0", "grace_s": 1.0, **options})
    server = GatewayServer(client, config, managed=managed, metrics=metrics)
    ready = threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(ready.set)))
    thread.start()
    try:
        assert ready.wait(20)
        yield f"http://127.0.0.1:{server.port}"
    finally:
        server.stop()
        thread.join(20)
        assert not thread.is_alive()


def fakes(*scripts: Any) -> tuple[FakeBackend, FakeBackend]:
    """An edge and a cloud backend that play *scripts*."""
    return FakeBackend("edge", Location.EDGE, *scripts), FakeBackend("cloud", Location.CLOUD, *scripts)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves a client of the backends that it is given, under the policy above."""
    with ExitStack() as stack:

        def start(*backends: Any, policy: str = POLICY, **options: Any) -> str:
            locations = {backend.name: backend.location for backend in backends}
            client = HybridLLM(list(backends), parse_policy(policy, backends=locations))
            return stack.enter_context(served(client, **options))

        yield start


@pytest.fixture(scope="module")
def client(url: str) -> openai.OpenAI:
    """OpenAI's client for the gateway at *url*, a fixture of the module."""
    return openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def claude(url: str) -> anthropic.Anthropic:
    """Anthropic's client for it."""
    return anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)


def ask(text: str) -> list[dict[str, str]]:
    """A conversation in which the user says *text*."""
    return [{"role": "user", "content": text}]
