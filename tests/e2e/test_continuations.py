"""Answers that break off in the middle are continued by the other side, with real models and a real node."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Generator

import jsonschema
import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.clearance import Cleared
from hybrid_llm.core.errors import StreamInterrupted
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.protocols import Backend
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "tags": {"type": "array", "items": {"enum": ["red", "green", "blue"]}, "minItems": 1, "maxItems": 3},
        "count": {"type": "integer", "minimum": 0, "maximum": 99},
    },
    "required": ["name", "tags", "count"],
    "additionalProperties": False,
}

NEVER = -1


class Cut:
    """A backend whose first stream breaks off after *at* chunks. A client may close it: what it wraps stays open."""

    def __init__(self, inner: Backend, at: int = NEVER) -> None:
        self.inner, self.at, self.calls = inner, at, 0
        self.name, self.location, self.capabilities = inner.name, inner.location, inner.capabilities
        self.state, self.count_tokens = inner.state, inner.count_tokens

    def close(self) -> None:
        """Leave it open."""

    async def aclose(self) -> None:
        """Leave it open."""

    def _check(self, number: int) -> None:
        if number == self.at and self.calls == 1:
            raise StreamInterrupted("cut", backend=self.name)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        self.calls += 1
        chunks = self.inner.stream(cleared)
        try:
            for number, chunk in enumerate(chunks):
                self._check(number)
                yield chunk
        finally:
            chunks.close()

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        self.calls += 1
        chunks = self.inner.astream(cleared)
        try:
            number = 0
            async for chunk in chunks:
                self._check(number)
                yield chunk
                number += 1
        finally:
            await chunks.aclose()


def client(first: Backend, second: Backend, at: int) -> HybridLLM:
    """*first*, whose first stream breaks off, and *second*, which may be the same."""
    backends = [Cut(first, at)] if first is second else [Cut(first, at), Cut(second)]
    policy = parse_policy(
        "version: 1\nname: continuations\n"
        "resilience: {retries: 1, retry_budget: 100%, continue_streams: true, breaker: {failures: 1000}}\n",
        backends={backend.name: backend.location for backend in backends},
    )
    return HybridLLM(backends, policy, sensors=FixedSensors())


def answer(llm: HybridLLM, prompt: str, *, is_async: bool, **options):
    with llm:
        return asyncio.run(llm.agenerate(prompt, **options)) if is_async else llm.generate(prompt, **options)


@pytest.fixture(scope="module")
def edge():
    backend = EdgeBackend(EdgeConfig())
    yield backend
    backend.close()


@pytest.fixture(scope="module")
def cloud(node):
    backend = node.cloud()
    yield backend
    backend.close()


@pytest.mark.parametrize("at", [1, 3, 6, 12])
@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("direction", ["cloud to edge", "edge to cloud"])
def test_a_cut_answer_goes_on_with_the_other_side_and_says_where(edge, cloud, direction, at, is_async):
    first, second = (cloud, edge) if direction == "cloud to edge" else (edge, cloud)
    options = {"max_tokens": 24, "deadline": 30.0}
    whole = HybridLLM([Cut(first)], parse_policy("version: 1\nname: p\n", backends={first.name: first.location}))
    uncut = answer(whole, "Count from 3 to 20.", is_async=False, **options)
    reply = answer(client(first, second, at), "Count from 3 to 20.", is_async=is_async, **options)
    (continuation,) = reply.continuations
    assert (continuation.backend, reply.backend) == (second.name, second.name)
    assert reply.text[: continuation.at] == uncut.text[: continuation.at]
    assert reply.finish_reason in {FinishReason.STOP, FinishReason.LENGTH}
    assert continuation.tokens <= reply.usage.completion_tokens <= 24
    if reply.finish_reason is FinishReason.LENGTH:
        assert reply.usage.completion_tokens == 24


@pytest.mark.parametrize("direction", ["cloud to edge", "edge to cloud", "edge to edge"])
def test_a_cut_json_answer_is_completed_to_a_document_that_follows_the_schema(edge, cloud, direction):
    sides = {"cloud": cloud, "edge": edge}
    first, second = (sides[name] for name in direction.split(" to "))
    for at in range(1, 26, 3):
        reply = answer(
            client(first, second, at),
            "Describe a train.",
            is_async=at % 2 == 0,
            max_tokens=120,
            output_schema=SCHEMA,
            temperature=1.0,
            deadline=30.0,
        )
        jsonschema.validate(json.loads(reply.text), SCHEMA)
        assert reply.finish_reason is FinishReason.STOP


@pytest.mark.parametrize("direction", ["cloud to cloud", "edge to edge"])
@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 2.0), (-2.0, 1.0)])
def test_penalties_count_the_partial_answer_too(edge, cloud, direction, presence, frequency):
    """Where the side that broke off goes on itself, the greedy answer is that of a stream that was never cut."""
    side = cloud if direction.startswith("cloud") else edge
    penalties = {"presence_penalty": presence, "frequency_penalty": frequency}
    options = {"max_tokens": 24, "deadline": 30.0, "temperature": 0.0, **penalties}
    uncut = answer(client(side, side, NEVER), "Count from 3 to 20.", is_async=False, **options)
    plain = answer(client(side, side, NEVER), "Count from 3 to 20.", is_async=False, max_tokens=24, temperature=0.0)
    assert uncut.text != plain.text
    for at in (3, 10):
        reply = answer(client(side, side, at), "Count from 3 to 20.", is_async=False, **options)
        assert len(reply.continuations) == 1
        assert reply.text == uncut.text
