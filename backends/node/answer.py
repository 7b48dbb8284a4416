"""From an engine's tokens to the pieces of an answer: text, stop texts, counts and times of one request.

From a request to the token ids of its prompt, off the event loop where that takes long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from typing import Protocol

from hybrid_llm.backends.node.admission import NODE
from hybrid_llm.backends.node.engine import AsyncEngine, EngineFault, EngineOutput, EngineRequest
from hybrid_llm.core.errors import (
    BackendError,
    BackendOverloaded,
    BackendUnavailable,
    DeadlineExceeded,
    InvalidRequest,
    RequestRejected,
)
from hybrid_llm.core.generation import Chunk, FinishReason, Timings, Usage
from hybrid_llm.core.request import Request


class TokensToText(Protocol):
    """What turns one answer's tokens into text: `hybrid_llm.backends.text.TextStream` is one."""

    @property
    def stopped(self) -> bool:
        """A stop text has been met."""
        ...

    def push(self, token_id: int) -> str:
        """Take a token; return the text that is certain now."""
        ...

    def flush(self) -> str:
        """Return the text that was held back."""
        ...


class Answer:
    """One answer as it grows. Its times begin at *started*, on the clock of `time.perf_counter()`."""

    def __init__(self, request: EngineRequest, text: TokensToText, *, started: float) -> None:
        self._request = request
        self._text = text
        self._started = started
        self._first = 0.0
        self._told = 0
        self._queue_ms = 0.0
        self.cached_tokens = 0
        """Tokens of the prompt that the engine did not compute again."""
        self.tokens = 0
        """Tokens so far."""
        self.finish_reason: FinishReason | None = None
        """How it ended; None until then, and after a failure."""

    async def pieces(self, engine: AsyncEngine) -> AsyncGenerator[Chunk, None]:
        """Have *engine* generate, and yield the pieces; leaving early aborts the engine's request.

        Raises:
            BackendError: the engine refused the request or failed at it.
            EngineDied: the engine went away.
        """
        async with aclosing(engine.stream(self._request)) as outputs:
            async for output in outputs:
                chunk = self._take(output)
                if chunk is not None:
                    yield chunk
                if self.finish_reason is not None:
                    return
        raise BackendUnavailable("the engine ended the answer without a reason", backend=NODE)

    def _take(self, output: EngineOutput) -> Chunk | None:
        if output.error is not None:
            raise fault_error(output.error)
        self._queue_ms, self.cached_tokens = output.queue_ms, output.cached_tokens
        text = self._decode(output.token_ids)
        if self._text.stopped:
            self.finish_reason = FinishReason.STOP
        elif output.finish_reason is not None:
            self.finish_reason = output.finish_reason
            text += self._text.flush()
        if self.finish_reason is not None:
            return self._last(text)
        return self._piece(text) if text else None

    def _decode(self, token_ids: Iterable[int]) -> str:
        texts = []
        for token_id in token_ids:
            if self._text.stopped:
                break
            self.tokens += 1
            texts.append(self._text.push(token_id))
        if self.tokens and not self._first:
            self._first = time.perf_counter()
        return "".join(texts)

    def _piece(self, text: str) -> Chunk:
        tokens, self._told = self.tokens - self._told, self.tokens
        return Chunk(text=text, tokens=tokens)

    def _last(self, text: str) -> Chunk:
        return Chunk(
            text=text,
            tokens=self.tokens - self._told,
            finish_reason=self.finish_reason,
            usage=Usage(
                prompt_tokens=len(self._request.prompt_ids),
                completion_tokens=self.tokens,
                cached_prompt_tokens=self.cached_tokens,
            ),
            timings=self.timings(),
        )

    def timings(self) -> Timings:
        """The times so far, as the node sees them."""
        now = time.perf_counter()
        first = self._first or now
        steps = max(self.tokens - 1, 1)
        return Timings(
            queue_ms=self._queue_ms,
            ttft_ms=(first - self._started) * 1000,
            tpot_ms=(now - first) * 1000 / steps,
            total_ms=(now - self._started) * 1000,
        )


def fault_error(fault: EngineFault) -> BackendError:
    """Return what a fault of the engine means to the caller."""
    if fault.code == "rejected":
        return RequestRejected(fault.message, backend=NODE, reason="unsupported")
    if fault.code == "overloaded":
        return BackendOverloaded(fault.message, backend=NODE)
    if fault.code == "deadline":
        return DeadlineExceeded(fault.message, backend=NODE)
    return BackendUnavailable(fault.message, backend=NODE)


_INLINE_CHARS = 4096
"""Longer prompts are encoded in a thread: 4096 characters take about a millisecond."""
_THREADS = 2


class Tokenizer(Protocol):
    """What a node needs of a tokenizer: `hybrid_llm.backends.text.ChatTokenizer` is one."""

    @property
    def eos_ids(self) -> frozenset[int]:
        """The ids that end an answer."""
        ...

    def encode(self, request: Request) -> list[int]:
        """Return the prompt as token ids; raises `InvalidRequest`."""
        ...

    def text_stream(self, request: Request, prompt_ids: Sequence[int] = ()) -> TokensToText:
        """Return a new decoder of the answer to *request*, whose prompt is *prompt_ids*."""
        ...


class Prompts:
    """Encodes prompts and refuses those that do not fit."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._threads = asyncio.Semaphore(_THREADS)

    async def encode(self, request: Request, *, context_window: int) -> tuple[int, ...]:
        """Return the prompt's token ids.

        Raises:
            RequestRejected: `context_overflow` where prompt and answer together exceed *context_window*;
                `invalid_argument` where the chat template refuses the conversation.
        """
        try:
            ids = await self._encode(request)
        except InvalidRequest as error:
            raise RequestRejected(str(error), backend=NODE, reason="invalid_argument") from None
        needed = len(ids) + request.max_tokens
        if needed > context_window:
            text = f"{len(ids)} tokens of prompt and {request.max_tokens} of answer make {needed}, "
            raise RequestRejected(text + f"the model takes {context_window}", backend=NODE, reason="context_overflow")
        return tuple(ids)

    async def _encode(self, request: Request) -> list[int]:
        if sum(len(message.content) for message in request.messages) <= _INLINE_CHARS:
            return self._tokenizer.encode(request)
        async with self._threads:
            return await asyncio.to_thread(self._tokenizer.encode, request)
