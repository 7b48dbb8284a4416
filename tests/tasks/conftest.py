"""A backend that answers as a function says, with log-probabilities, and clients of such backends."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Generator, Iterator

import pytest

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors

Answer = str | tuple[TokenLogprob, ...] | Exception
POLICY = """\
version: 1
name: test
tags:
  phi: {allow: [edge], detect: [medical_record]}
rules:
  - exclude: edge
    when: request.prompt_tokens + request.max_tokens > edge.context_window
    because: the prompt does not fit
  - prefer: [edge, cloud]
resilience: {retries: 0}
"""


class Writer:
    """Answers a request with what *write* returns for it: a text, or its tokens, or an error to raise."""

    def __init__(
        self, name: str, location: Location, write: Callable[[Request], Answer], *, window: int = 2000
    ) -> None:
        self.name, self.location, self.write = name, location, write
        self.capabilities = Capabilities(model="writer", context_window=window, logprobs=True)
        self.requests: list[Request] = []

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, context_window=self.capabilities.context_window)

    def count_tokens(self, request: Request) -> int:
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        request = require_clearance(cleared, self.location)
        self.requests.append(request)
        if estimate_tokens(request) + request.max_tokens > self.capabilities.context_window:
            raise RequestRejected("too long", backend=self.name, reason="context_overflow")
        answer = self.write(request)
        if isinstance(answer, Exception):
            raise answer
        tokens = () if isinstance(answer, str) else answer
        yield Chunk(
            text=answer if isinstance(answer, str) else b"".join(t.bytes for t in answer).decode(), logprobs=tokens
        )
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=Usage(prompt_tokens=3, completion_tokens=1))

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None: ...

    async def aclose(self) -> None: ...


@pytest.fixture
def make() -> Iterator[Callable[..., HybridLLM]]:
    """Makes clients of backends, and closes them."""
    made: list[HybridLLM] = []

    def client(*backends, policy: str = POLICY, **options) -> HybridLLM:
        parsed = parse_policy(policy, backends={each.name: each.location for each in backends})
        made.append(HybridLLM(backends, parsed, sensors=FixedSensors(), **options))
        return made[-1]

    yield client
    for each in made:
        each.close()
