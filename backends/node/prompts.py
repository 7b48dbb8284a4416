"""From a request to the token ids of its prompt, off the event loop where that takes long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from hybrid_llm.backends.node.answer import TokensToText
from hybrid_llm.backends.node.validation import NODE
from hybrid_llm.router.errors import InvalidRequest, RequestRejected
from hybrid_llm.router.types import Request

__all__ = ["Prompts", "Tokenizer"]

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
