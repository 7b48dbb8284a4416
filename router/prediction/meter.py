"""Times one attempt at its stream: how long the first token took, and each further one. It changes nothing of it."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.types import Chunk, Usage

__all__ = ["Measured", "metered"]

_HELD_UP: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One attempt that is over, in ms from its call; None is what is not known."""

    elapsed_ms: float
    ttft_ms: float | None = None
    """None where no token came: the first one would have taken *elapsed_ms* or more."""
    tpot_ms: float | None = None
    """None too where the reader was so slow that the times are its own."""
    computed: float = 1.0
    """The share of the prompt that the backend had not read before; 1 where it does not tell."""


async def metered(
    chunks: AsyncGenerator[Chunk, None],
    over: Callable[[Measured], None],
    clock: Callable[[], float] = time.monotonic,
) -> AsyncGenerator[Chunk, None]:
    """Pass *chunks* on, and tell *over* what was measured, however the stream ends."""
    tokens = 0
    first = held = 0.0
    usage: Usage | None = None
    began = last = clock()
    try:
        async with aclosing(chunks):
            async for chunk in chunks:
                last = clock()
                first = first or last
                tokens += chunk.tokens
                usage = chunk.usage or usage
                yield chunk
                held += clock() - last
    finally:
        over(_measured(began, first, last, clock(), tokens, held, _computed(usage)))


def _computed(usage: Usage | None) -> float:
    if usage is None or not 0 < usage.cached_prompt_tokens <= usage.prompt_tokens:
        return 1.0
    return 1.0 - usage.cached_prompt_tokens / usage.prompt_tokens


def _measured(
    began: float, first: float, last: float, now: float, tokens: int, held: float, computed: float
) -> Measured:
    if not first:
        return Measured(elapsed_ms=(now - began) * 1e3)
    waited = last - first - held  # the time after the last piece is no longer in *held*: the reader has left
    fluent = tokens > 1 and held <= _HELD_UP * waited
    return Measured(
        elapsed_ms=(now - began) * 1e3,
        ttft_ms=(first - began) * 1e3,
        tpot_ms=(last - first) * 1e3 / (tokens - 1) if fluent else None,
        computed=computed,
    )
