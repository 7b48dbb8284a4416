"""What one backend cannot take, another one of the decision may."""

from collections.abc import AsyncGenerator, Generator

import pytest

from hybrid_llm import BackendState, Capabilities, Chunk, FinishReason, HybridLLM, Location
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import RequestRejected
from hybrid_llm.core.request import estimate_tokens
from hybrid_llm.policies import parse_policy

POLICY = "version: 1\nname: both\nrules: [{prefer: [small, large]}]\n"


class Sized:
    """Answers, or rejects every request for *reason*."""

    def __init__(self, name: str, reason: str = "") -> None:
        self.name, self.location, self._reason = name, Location.CLOUD, reason
        self.capabilities, self.count_tokens = Capabilities(model="sized", context_window=4096), estimate_tokens

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, ready=True, context_window=4096)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        require_clearance(cleared, self.location)
        if self._reason:
            raise RequestRejected("not this one", backend=self.name, reason=self._reason)
        yield Chunk(text="Yes.", finish_reason=FinishReason.STOP)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""


def _client(reason: str) -> HybridLLM:
    policy = parse_policy(POLICY, backends={"small": Location.CLOUD, "large": Location.CLOUD})
    return HybridLLM([Sized("small", reason), Sized("large")], policy)


@pytest.mark.parametrize("reason", ["context_overflow", "message_too_large", "unsupported"])
def test_a_limit_of_one_backend_does_not_end_the_request(reason: str) -> None:
    with _client(reason) as llm:
        reply = llm.generate("Is it?")
    assert (reply.text, reply.backend) == ("Yes.", "large")
    assert [(each.backend, each.reason) for each in reply.attempts] == [("small", reason), ("large", "")]


def test_what_every_backend_would_reject_ends_it() -> None:
    with _client("invalid_argument") as llm, pytest.raises(RequestRejected):
        llm.generate("Is it?")
