"""Apps that reach a gateway with the official `openai` client, while the servers behind the gateway fail."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

import openai

from hybrid_llm.core import errors
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.policies import Policy
from hybrid_llm.router.client import HybridLLM
from tests.chaos.http import HttpWorld
from tests.gateway.conftest import served


def _error_of(code: str) -> errors.HybridLLMError:
    """The error of ours that has this code over HTTP."""
    if code == "deadline_exceeded":
        return errors.DeadlineExceeded(code, backend="gateway")
    if code == "stream_interrupted":
        return errors.StreamInterrupted(code, backend="gateway")
    return errors.BackendUnavailable(code, backend="gateway")


@dataclass(slots=True)
class Answer:
    """As much of a `Generation` as the judge reads."""

    text: str
    backend: str
    continuations: tuple[object, ...] = ()


class _Stream:
    """The chunks of a stream, and at its end the answer. A stream that ends without a finish reason is untyped."""

    def __init__(self, chunks: Any) -> None:
        self._chunks = chunks
        self._text, self._done = "", False
        self.backend = chunks.response.headers.get("x-hybrid-backend", "")

    def _take(self, chunk: Any) -> Chunk:
        (choice,) = chunk.choices
        text = choice.delta.content or ""
        self._text += text
        self._done = choice.finish_reason is not None
        return Chunk(text=text, finish_reason=FinishReason.STOP if self._done else None)

    def __iter__(self) -> Iterator[Chunk]:
        with typed():
            for chunk in self._chunks:
                yield self._take(chunk)

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        with typed():
            async for chunk in self._chunks:
                yield self._take(chunk)

    @property
    def generation(self) -> Answer:
        if not self._done:
            raise RuntimeError("the stream ended as if it were complete")
        return Answer(self._text, self.backend)


class OfficialApp:
    """The official client with the methods that the traffic asks, and the server that it asks."""

    def __init__(self, llm: HybridLLM) -> None:
        self._stack = ExitStack()
        url = self._stack.enter_context(served(llm))
        self.policy: Policy = llm.policy
        self._settings: dict[str, Any] = {"base_url": f"{url}/v1", "api_key": "none", "max_retries": 0}
        self._sync = openai.OpenAI(**self._settings)

    @staticmethod
    def _body(prompt: str, options: dict[str, Any]) -> dict[str, Any]:
        hybrid = {"task": options.get("task", "chat"), "privacy": list(options.get("privacy", ()))}
        if deadline := options.get("deadline"):
            hybrid["deadline"] = deadline
        if session := options.get("session_id"):
            hybrid["session"] = session
        body: dict[str, Any] = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
        body |= {"max_tokens": options["max_tokens"], "temperature": 0, "extra_body": {"hybrid": hybrid}}
        if schema := options.get("output_schema"):
            body["response_format"] = {"type": "json_schema", "json_schema": {"name": "tags", "schema": schema}}
        return body

    def generate(self, prompt: str, **options: Any) -> Answer:
        with typed():
            response = self._sync.chat.completions.with_raw_response.create(**self._body(prompt, options))
            return _answer(response)

    @contextmanager
    def stream(self, prompt: str, **options: Any) -> Iterator[_Stream]:
        with typed():
            chunks = self._sync.chat.completions.create(stream=True, **self._body(prompt, options))
        with chunks:
            yield _Stream(chunks)

    async def agenerate(self, prompt: str, **options: Any) -> Answer:
        with typed():
            async with openai.AsyncOpenAI(**self._settings) as client:
                response = await client.chat.completions.with_raw_response.create(**self._body(prompt, options))
                return _answer(response)

    @asynccontextmanager
    async def astream(self, prompt: str, **options: Any) -> AsyncIterator[_Stream]:
        async with openai.AsyncOpenAI(**self._settings) as client:
            with typed():
                chunks = await client.chat.completions.create(stream=True, **self._body(prompt, options))
            async with chunks:
                yield _Stream(chunks)

    def close(self) -> None:
        """End the client, and the gateway with it."""
        self._sync.close()
        self._stack.close()


def _answer(response: Any) -> Answer:
    (choice,) = response.parse().choices
    return Answer(choice.message.content or "", response.headers["x-hybrid-backend"])


@contextmanager
def typed() -> Iterator[None]:
    """What the official client raises for an error of ours, as that error; anything else is untyped."""
    try:
        yield
    except openai.APIError as error:
        if not error.code:
            raise
        fault = _error_of(error.code)
    else:
        return
    raise fault


class OfficialWorld(HttpWorld):
    """Gateways behind a gateway."""

    def client(self, **options: Any) -> OfficialApp:  # type: ignore[override]
        return OfficialApp(super().client(**options))
