"""A backend of your own, which echoes its prompt; other examples use it: `python examples/own_backend.py`.

`received` has every prompt as the backend received it: what your policy lets leave the device, in that form.
"""

from collections.abc import AsyncGenerator, Generator

from hybrid_llm import Capabilities, Chunk, FinishReason, HybridLLM, Location, errors
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.request import estimate_tokens
from hybrid_llm.core.signals import BackendState
from hybrid_llm.policies import parse_policy


class Echo:
    """Repeats the last message word by word; with *breaks_after*, answers break off after that many words."""

    def __init__(self, name: str = "cloud", *, breaks_after: int = 1_000_000) -> None:
        self.name, self.location, self.breaks_after = name, Location.CLOUD, breaks_after
        self.capabilities, self.count_tokens = Capabilities(model="echo", context_window=4096), estimate_tokens
        self.received: list[str] = []

    def state(self) -> BackendState:
        """Always ready."""
        return BackendState(name=self.name, location=self.location, ready=True, context_window=4096)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        """Answer word by word. `require_clearance` refuses what the guard has not cleared for this location."""
        request = require_clearance(cleared, self.location)
        self.received.append(request.messages[-1].content)
        rest = request.messages[-1].content.removeprefix(request.answer_prefix)
        for number, word in enumerate(rest.split(" ")):
            if number == self.breaks_after:
                raise errors.StreamInterrupted("the connection was lost", backend=self.name)
            yield Chunk(text=word if number == 0 else f" {word}")
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP)

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        """Answer as `stream` does."""
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None:
        """Nothing to close."""

    async def aclose(self) -> None:
        """Nothing to close."""


if __name__ == "__main__":
    with HybridLLM([Echo()], parse_policy("version: 1\nname: any\n", backends={"cloud": Location.CLOUD})) as llm:
        print(llm.generate("Say this again.").text)
