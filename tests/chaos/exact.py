"""Answers that can be judged: each prompt has one right answer, which engine and device go on with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator

from hybrid_llm.backends.node.engine import EngineInfo, EngineLoad, EngineOutput
from hybrid_llm.core.clearance import Cleared, require_clearance
from hybrid_llm.core.errors import BackendUnavailable, DeadlineExceeded
from hybrid_llm.core.generation import Chunk, FinishReason, Usage
from hybrid_llm.core.protocols import Capabilities
from hybrid_llm.core.request import Location, Request, estimate_tokens
from hybrid_llm.core.signals import BackendState

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
_WORDS = ("the", "train", "leaves", "at", "nine", "from", "platform", "four", "żółć", "学习", "é", "and", "🙂", "it")
_PROMPT = re.compile(r"\[user\] ([^\n]*)\n\[assistant\] (.*)\Z", re.DOTALL)


def prompt_of(number: int, words: int, *, is_json: bool = False) -> str:
    """A prompt whose answer has so many words."""
    return f"case {number}: {words} {'tags as json' if is_json else 'words'}"


def answer_to(prompt: str) -> str:
    """The one right answer: a function of the prompt, with characters of one to four bytes in it."""
    count = int(prompt.split(": ")[1].split()[0])
    digest = hashlib.sha256(prompt.encode()).digest()
    words = [f"{_WORDS[digest[n % 32] % len(_WORDS)]}{n}" for n in range(count)]
    if prompt.endswith("json"):
        return json.dumps({"name": words[0], "tags": words[1:]}, ensure_ascii=False)
    return " ".join(words)


class ExactEngine:
    """Gives right answers, *piece* tokens (bytes) each *step_s* seconds, to *slots* requests at a time.

    *tell* hears of every request that was given up before its end, with the instant at which its slot was free.
    """

    def __init__(
        self,
        *,
        slots: int = 8,
        step_s: float = 0.004,
        piece: int = 12,
        first_s: float = 0.004,
        tell: Callable[[str, float], None] = lambda prompt, instant: None,
    ) -> None:
        from tests.backends.wire.fakes import byte_tokenizer

        self.tokenizer = byte_tokenizer()
        self.slots, self.step_s, self.piece, self.first_s, self._tell = slots, step_s, piece, first_s, tell
        self.info: EngineInfo | None = None
        self.healthy = self.failing = False
        self.active = self.waiting = self.most_waiting = 0

    async def start(self) -> EngineInfo:
        self._free = asyncio.Semaphore(self.slots)
        self.info = EngineInfo(
            engine="exact", model="exact", architecture="Exact", vocab_size=256, context_window=65536, slots=self.slots,
            output_schema=True,
        )  # fmt: skip
        self.healthy = True
        return self.info

    def toggle_healthy(self) -> None:
        """Be as an engine whose process ended, or as one that is back."""
        self.healthy = not self.healthy

    def toggle_failing(self) -> None:
        """Fail each request, or answer them again."""
        self.failing = not self.failing

    async def stream(self, request) -> AsyncGenerator[EngineOutput, None]:
        if self.failing:
            raise RuntimeError("as planted")
        began = time.monotonic()
        self.waiting += 1
        self.most_waiting = max(self.most_waiting, self.waiting)
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.active += 1
        queue_ms, prompt, done = (time.monotonic() - began) * 1e3, "", False
        try:
            prompt, ids = self._rest(request)
            await asyncio.sleep(self.first_s)
            for start in range(0, len(ids), self.piece):
                await asyncio.sleep(self.step_s)
                piece = tuple(ids[start : start + self.piece])
                yield EngineOutput(request_id=request.request_id, token_ids=piece, queue_ms=queue_ms)
            done = True
            yield EngineOutput(request_id=request.request_id, finish_reason=FinishReason.STOP, queue_ms=queue_ms)
        finally:
            self.active -= 1
            self._free.release()
            if not done:
                self._tell(prompt, time.monotonic())

    def _rest(self, request) -> tuple[str, list[int]]:
        """The prompt, and the tokens of its answer behind what is given."""
        match = _PROMPT.search(self.tokenizer.tokenizer.decode(list(request.prompt_ids)))
        assert match is not None
        prompt, given = match[1], match[2]
        answer = answer_to(prompt)
        rest = answer[len(given) :] if answer.startswith(given) else f"<wrong beginning {given!r}>"
        return prompt, self.tokenizer.tokenizer.encode(rest).ids[: request.max_tokens]

    def load(self) -> EngineLoad:
        return EngineLoad(active=self.active, waiting=self.waiting, slots=self.slots)

    async def close(self) -> None:
        self.healthy = False


class ExactEdge:
    """A device that gives the same answers, in pieces of a few characters."""

    def __init__(self, *, step_s: float = 0.002, piece: int = 8) -> None:
        self.name, self.location, self.closed = "edge", Location.EDGE, False
        self.capabilities = Capabilities(model="exact", context_window=65536, output_schema=True)
        self._step_s, self._piece = step_s, piece

    def state(self) -> BackendState:
        return BackendState(name=self.name, location=self.location, ready=not self.closed, context_window=65536)

    def count_tokens(self, request: Request) -> int:
        return estimate_tokens(request)

    def question(self, request: Request) -> tuple[str, str]:
        """The prompt, and the partial answer to go on with."""
        return request.messages[-1].content, request.answer_prefix

    def _pieces(self, request: Request) -> Iterator[Chunk]:
        prompt, given = self.question(request)
        answer = answer_to(prompt)
        rest = answer[len(given) :] if answer.startswith(given) else f"<wrong beginning {given!r}>"
        count = 0
        for start in range(0, len(rest), self._piece):
            if self.closed:
                raise BackendUnavailable("the backend is closed", backend=self.name)
            if request.remaining() <= 0:
                raise DeadlineExceeded("the deadline is over", backend=self.name)
            count += 1
            yield Chunk(text=rest[start : start + self._piece])
        usage = Usage(prompt_tokens=request.prompt_tokens, completion_tokens=count)
        yield Chunk(tokens=0, finish_reason=FinishReason.STOP, usage=usage)

    def stream(self, cleared: Cleared) -> Generator[Chunk, None, None]:
        for piece in self._pieces(require_clearance(cleared, self.location)):
            time.sleep(self._step_s)
            yield piece

    async def astream(self, cleared: Cleared) -> AsyncGenerator[Chunk, None]:
        for piece in self._pieces(require_clearance(cleared, self.location)):
            await asyncio.sleep(self._step_s)
            yield piece

    def close(self) -> None:
        self.closed = True

    async def aclose(self) -> None:
        self.close()
