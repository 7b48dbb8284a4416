"""Answers on their way back: each chunk with the values in place of their pseudonyms. It keeps nothing itself."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace

from hybrid_llm.router.privacy.restore import Restorer
from hybrid_llm.router.types import Chunk

__all__ = ["restored"]


async def restored(chunks: AsyncGenerator[Chunk, None], restorer: Restorer) -> AsyncGenerator[Chunk, None]:
    """The same chunks, their texts restored. What is held back at a cut comes with a later chunk.

    It awaits nothing but *chunks*, so that `router.drive` can step it; closing it closes them.
    """
    async with aclosing(chunks):
        async for chunk in chunks:
            text = restorer.feed(chunk.text)
            if chunk.finish_reason is not None:
                text += restorer.finish()
            yield replace(chunk, text=text)
