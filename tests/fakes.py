"""The fakes that the tests use: a backend that plays a script, and a guardrail that refuses a word."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Generator, Sequence

from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import ALLOW, Capabilities, Direction, Verdict
from hybrid_llm.core.request import Location, Request, RequestMetadata, estimate_tokens
from hybrid_llm.core.signals import BackendState

Script = Sequence[str | Exception]
A_DAY = 86_400.0
"""The deadline, in seconds, of a request that a module makes when it is imported, long before its tests run."""


class FakeBackend:
    """Plays one script a call, the last one for ever: texts are chunks, exceptions are raised, the end is a finish."""

    def __init__(self, name: str, location: Location, *scripts: Script, ready: bool = True) -> None:
        self.name, self.location, self.ready = name, location, ready
        self.capabilities = Capabilities(model="fake", context_window=1000)
        self._scripts = list(scripts) or [["ok"]]
        self.requests: list[Request] = []
        self.closed = self.abandoned = 0

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, ready=self.ready, context_window=1000)

    def count_tokens(self, request: Request) -> int:
        return estimate_tokens(request)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        self.requests.append(require_clearance(cleared, self.location))
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        done = False
        try:
            for step in script:
                if isinstance(step, Exception):
                    raise step
                yield Chunk(text=step)
            done = True
            usage = Usage(prompt_tokens=3, completion_tokens=len(script))
            yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=usage)
        finally:
            self.abandoned += not done

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for chunk in self.stream(cleared):
            yield chunk

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.close()


class FakeGuardrail:
    """Refuses texts that have *word* in them, and remembers what it was asked to judge."""

    def __init__(self, word: str = "forbidden", *, quick: bool = True) -> None:
        self.name, self.window, self.quick = "fake", len(word), quick
        self._word = word
        self.judged: list[tuple[Direction, str]] = []

    def check(self, text: str, direction: Direction, metadata: RequestMetadata) -> Verdict:
        self.judged.append((direction, text))
        return Verdict.refuse("word", "said") if self._word in text else ALLOW
