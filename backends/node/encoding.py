"""Encodes prompts beside the event loop: two at a time, and no longer than the call that asked for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, TypeVar

from hybrid_llm.backends.node.requests import NODE
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.errors import BackendOverloaded, InvalidRequest, RequestRejected
from hybrid_llm.core.request import Request

T = TypeVar("T")
R = TypeVar("R")

_INLINE_CHARS: Final = 4096
"""Longer prompts are encoded in a thread: 4,096 characters take about a millisecond."""
_THREADS: Final = 2
_SLICE_CHARS: Final = 65_536
"""Characters that are counted in one piece: about 20 milliseconds, after which a call that has ended is left alone."""
_PLAUSIBLE: Final = 8
"""A prompt of fewer characters per token of the context window probably fits, and is not counted in advance."""
_PER_CUT: Final = 4
"""Tokens by which a text that was cut in slices may count more than the whole, for each cut."""


class PromptEncoder:
    """Encodes with *tokenizer*. A call that is cancelled leaves no work behind but the piece that is being encoded."""

    def __init__(self, tokenizer: ChatTokenizer) -> None:
        self._tokenizer = tokenizer
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="hybrid-llm-encode")

    async def encode(self, request: Request, window: int) -> tuple[int, ...]:
        """Return the prompt's token ids. *window* is the number of tokens for prompt and answer together.

        Raises:
            RequestRejected: prompt and answer exceed the window, or the prompt cannot be encoded.
        """
        characters = sum(map(len, request.visible_text()))
        try:
            if characters > _PLAUSIBLE * window:
                await self._check_length(request, window)
            if characters <= _INLINE_CHARS:
                ids = self._tokenizer.encode(request)
            else:
                ids = await self.in_pool(self._tokenizer.encode, request)
        except InvalidRequest as error:
            raise RequestRejected(str(error), backend=NODE, reason="invalid_argument") from None
        _check_window(len(ids), request, window)
        return tuple(ids)

    async def partial_tokens(self, request: Request, prompt: tuple[int, ...]) -> int:
        """How many tokens at the end of *prompt*, which `encode` returned, are the partial answer of *request*."""
        return await self.in_pool(partial(self._tokenizer.partial_tokens, request), prompt)

    async def _check_length(self, request: Request, window: int) -> None:
        """Refuse a prompt as soon as a part of it exceeds *window*."""
        least = self._tokenizer.least_tokens(request)
        _check_window(least, request, window, "at least ")
        count = 0
        for piece in _slices(request):
            count += await self.in_pool(self._tokenizer.count, piece) - _PER_CUT
            _check_window(count, request, window, "at least ")

    async def in_pool(self, work: Callable[[T], R], argument: T) -> R:
        """Do *work* beside the event loop."""
        try:
            running = asyncio.get_running_loop().run_in_executor(self._pool, work, argument)
        except RuntimeError:
            raise BackendOverloaded("the node can start no thread", backend=NODE) from None
        return await running


def _slices(request: Request) -> Iterator[str]:
    for text in (*(text for message in request.messages for text in message.texts()), request.answer_prefix):
        for start in range(0, len(text), _SLICE_CHARS):
            yield text[start : start + _SLICE_CHARS]


def _check_window(count: int, request: Request, window: int, bound: str = "") -> None:
    if count + request.max_tokens > window:
        text = f"{bound}{count} prompt tokens and max_tokens {request.max_tokens} exceed the context window of {window}"
        raise RequestRejected(text, backend=NODE, reason="context_overflow")
