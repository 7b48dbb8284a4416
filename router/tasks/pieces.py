"""A text that no context window holds is worked on in pieces, cut at the ends of paragraphs, sentences or words.

The tags of the whole text hold for each piece: what the guard found in one keeps the others where it keeps that one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from hybrid_llm.core.errors import AllBackendsFailed, HybridLLMError, NoEligibleBackend, RequestRejected
from hybrid_llm.core.generation import Generation
from hybrid_llm.core.request import GenerateOptions, Message
from hybrid_llm.router.tasks.session import Session

_BYTES_PER_TOKEN: Final = 3
"""As in `estimate_tokens`: on the high side for most texts."""
_OVERHEAD: Final = 192
"""Tokens for the instruction and the marks."""
_LEAST: Final = 64
"""Tokens of a piece, at least: smaller windows are of no use."""
_HALVINGS: Final = 3
"""How often a piece that does not fit after all is halved."""
_ENDS: Final = (r"\n\s*\n", r"\n", r"[.!?…]['\")\]]?\s|[。！？；]", r"\s")
"""Where a text is cut, the best first."""

Build = Callable[[str], tuple[Sequence[Message], GenerateOptions]]
"""Makes the prompt about a text, and the options of the task, with `max_tokens`."""


class Piece(NamedTuple):
    """A piece of the text, and the answer about it."""

    text: str
    generation: Generation


async def asked_in_pieces(
    session: Session,
    text: str,
    build: Build,
    *,
    excluded: Mapping[str, str] | None = None,
    growth: float = 0.0,
) -> list[Piece]:
    """The answers about *text*: one about the whole where that fits a backend, else one about each piece.

    Args:
        session: What answers.
        text: The text.
        build: Makes the request about a text.
        excluded: Backends that are not to answer, each with the reason.
        growth: How many tokens of answer each token of the text needs, where the answer grows with it.

    Raises as `generate` does; what a model cannot hold only where no backend has a window for pieces.
    """
    try:
        return [Piece(text, await session.ask(*build(text), excluded=excluded))]
    except (NoEligibleBackend, AllBackendsFailed) as error:
        failure, tags = error, error.decision.tags
    window = session.window(tags)
    room = int((window - _OVERHEAD - session.answer_tokens(build("")[1])) / (1.0 + growth))
    size = _BYTES_PER_TOKEN * room
    if not _is_about_size(failure, text, size) or room < _LEAST:
        raise failure
    session.keep(tags)
    found: list[Piece] = []
    for piece in cut(text, size):
        found += await _asked(session, piece, build, excluded, _HALVINGS)
    return found


async def _asked(
    session: Session,
    text: str,
    build: Build,
    excluded: Mapping[str, str] | None,
    halvings: int,
) -> list[Piece]:
    """The answer about one piece, or about its halves if it does not fit after all."""
    try:
        return [Piece(text, await session.ask(*build(text), excluded=excluded))]
    except (NoEligibleBackend, AllBackendsFailed):
        if not halvings:
            raise
    halves = cut(text, -(-len(text.encode()) // 2))
    return [each for half in halves for each in await _asked(session, half, build, excluded, halvings - 1)]


def estimated_tokens(text: str) -> int:
    """Tokens of *text*, as `estimate_tokens` counts them."""
    return -(-len(text.encode("utf-8", "surrogatepass")) // _BYTES_PER_TOKEN)


def _is_about_size(error: HybridLLMError, text: str, size: int) -> bool:
    """Whether the request may have failed because of the length of *text*; *size* is what fits, in bytes."""
    if isinstance(error, AllBackendsFailed):
        failures = error.failures.values()
        return any(isinstance(each, RequestRejected) and each.reason == "context_overflow" for each in failures)
    return len(text.encode("utf-8", "surrogatepass")) > size


def cut(text: str, size: int) -> Iterator[str]:
    """Pieces of *text*, each of at most *size* bytes of UTF-8; together they are the text."""
    start = 0
    while start < len(text):
        end = _end(text, start, size)
        yield text[start:end]
        start = end


def _end(text: str, start: int, size: int) -> int:
    """Where the piece that begins at *start* ends: in its second half, if there is any good place."""
    end = min(len(text), start + size)  # a character has at least one byte
    while len(text[start:end].encode("utf-8", "surrogatepass")) > size:
        end = start + max(1, (end - start) * 3 // 4)
        if end == start + 1:
            break
    if end == len(text):
        return end
    middle = start + (end - start) // 2
    for pattern in _ENDS:
        ends = [match.end() for match in re.finditer(pattern, text[middle:end])]
        if ends:
            return middle + ends[-1]
    return end
