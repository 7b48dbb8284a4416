"""Judges an answer while it arrives: its text, its reasoning and the arguments of each tool call.

Where an answer goes from one of them to another, the one that was left is judged to its end and released, so that the
app gets everything in its order. If it is taken up again, it is judged together with what came before.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace

from hybrid_llm.core.errors import ContentRefused
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.threads import Aside, owned
from hybrid_llm.core.tools import ToolCallDelta
from hybrid_llm.router.guardrails.passages import Passages
from hybrid_llm.router.privacy.restored_tokens import HeldTokens

_TEXT, _REASONING = -1, -2
"""Parts of an answer, beside the indexes of its tool calls."""


class AnswerScreen:
    """Judges one answer. Not thread-safe.

    Args:
        window: Characters of the longest passage that is refused.
        refusal: Why a text is refused; None if it is not.
        aside: How a text is judged; None: at once.
        with_tokens: Whether the text comes with its tokens, and is released token by token.
    """

    def __init__(
        self,
        *,
        window: int,
        refusal: Callable[[str], ContentRefused | None],
        aside: Aside | None = None,
        with_tokens: bool = False,
    ) -> None:
        self._window = window
        self._judge = refusal
        self._aside = aside
        self._tokens = HeldTokens() if with_tokens else None
        self._passages: dict[int, Passages] = {}
        self._part = _TEXT
        self._allowed = 0
        """Characters of the text that may be released."""
        self._refusal: ContentRefused | None = None
        """Why the answer is refused: no further chunk may follow."""

    async def chunks(self, chunks: AsyncGenerator[Chunk, None]) -> AsyncGenerator[Chunk, None]:
        """Those of *chunks* that may be released; a refusal ends them, and with them the work of a backend.

        Raises:
            ContentRefused: a guardrail refuses the answer; all that was allowed before was yielded. Else what *chunks*
                raise.
        """
        async with aclosing(owned(chunks)) as arriving:
            async for chunk in arriving:
                for each in await self._screen(chunk):
                    yield each
                if self._refusal is not None:
                    raise self._refusal

    async def _screen(self, chunk: Chunk) -> list[Chunk]:
        """What of the answer up to *chunk* may be released now."""
        released = _Released()
        if chunk.reasoning:
            await self._feed(_REASONING, chunk.reasoning, released)
        if chunk.text:
            if self._tokens is not None:
                self._tokens.add(chunk.text, chunk.logprobs)
            await self._feed(_TEXT, chunk.text, released)
        for delta in chunk.tool_calls:
            await self._call(delta, released)
        if chunk.finish_reason is not None:
            await self._end(released)
        return released.chunks(chunk, whole=self._refusal is None)

    async def _call(self, delta: ToolCallDelta, released: _Released) -> None:
        if delta.name and self._refusal is None:
            await self._leave(delta.index, released)
            if self._refusal is None:
                released.calls.append(replace(delta, arguments=""))
        await self._feed(delta.index, delta.arguments, released)

    async def _feed(self, part: int, piece: str, released: _Released) -> None:
        """Take the next *piece* of a part."""
        await self._leave(part, released)
        if self._refusal is None and piece:
            self._take(part, await self._passed(part, piece, over=False), released)

    async def _leave(self, part: int, released: _Released) -> None:
        """End the part before, if *part* is another one."""
        if part != self._part:
            await self._end(released)
            released.turn()
            self._part = part

    async def _end(self, released: _Released) -> None:
        """Judge what is left of the current part, and release it."""
        if self._refusal is None:
            self._take(self._part, await self._passed(self._part, "", over=True), released)

    async def _passed(self, part: int, piece: str, *, over: bool) -> str:
        """What may be released of a part, with its next *piece*."""
        passages = self._passages.setdefault(part, Passages(self._window))
        passages.push(piece)
        released: list[str] = []
        while (text := passages.due(over=over)) is not None:
            self._refusal = await self._judged(text)
            if self._refusal is not None:
                return "".join(released)
            released.append(passages.passed())
        if over:
            released.append(passages.rest())
        return "".join(released)

    async def _judged(self, text: str) -> ContentRefused | None:
        if self._aside is None:
            return self._judge(text)
        return await self._aside(lambda: self._judge(text), lambda _: None)

    def _take(self, part: int, text: str, released: _Released) -> None:
        if part == _REASONING:
            released.reasoning += text
        elif part != _TEXT:
            if text:
                released.calls.append(ToolCallDelta(index=part, arguments=text))
        elif self._tokens is None:
            released.text += text
        else:
            self._allowed += len(text)
            piece, tokens = self._tokens.release(self._allowed)
            released.text += piece
            released.logprobs += tokens


class _Released:
    """What is released at one chunk, in the order in which an app reads the parts of a chunk."""

    def __init__(self) -> None:
        self.text = self.reasoning = ""
        self.logprobs: tuple[TokenLogprob, ...] = ()
        self.calls: list[ToolCallDelta] = []
        self._before: list[Chunk] = []

    def turn(self) -> None:
        """The answer goes on in another part: what is released so far precedes it."""
        if self.text or self.reasoning or self.calls:
            self._before.append(self._made(Chunk(tokens=0)))
            self.text, self.reasoning, self.logprobs, self.calls = "", "", (), []

    def chunks(self, chunk: Chunk, *, whole: bool) -> list[Chunk]:
        """The chunks to give the app in place of *chunk*; it ends no answer that is not *whole*."""
        last = chunk if whole else Chunk(tokens=chunk.tokens)
        return [*self._before, self._made(last)]

    def _made(self, chunk: Chunk) -> Chunk:
        return replace(
            chunk, text=self.text, reasoning=self.reasoning, logprobs=self.logprobs, tool_calls=tuple(self.calls)
        )
