"""Restores the values behind pseudonyms in a text together with its tokens, for log-probabilities.

The tokens of a pseudonym become one: the value, with the sum of their log-probabilities, that is the probability that
the model wrote this pseudonym there, and without alternatives, which are pieces of pseudonyms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple, Protocol

from hybrid_llm.core.logprobs import TokenLogprob

Tokens = tuple[TokenLogprob, ...]
Span = tuple[int, int, str]
"""The characters *start* to *end* of an answer, as the backend wrote it, and what they were replaced by."""


class Text(Protocol):
    """What finds the pseudonyms: a `Restorer`."""

    replaced: list[Span] | None

    @property
    def settled(self) -> int:
        """Characters whose text is final."""
        ...

    def feed(self, piece: str) -> str:
        """Take the next piece."""
        ...

    def finish(self) -> str:
        """End the answer."""
        ...


class _Piece(NamedTuple):
    """Tokens, and the *text* that they are together, up to the character *end* of the answer."""

    text: str
    end: int
    tokens: Tokens

    @property
    def start(self) -> int:
        return self.end - len(self.text)


class TokenRestorer:
    """Restores one answer through *text*. What it returns is cut between tokens. Not thread-safe."""

    def __init__(self, text: Text) -> None:
        text.replaced = []
        self._text = text
        self._held = HeldTokens(text.replaced)

    def feed(self, text: str, tokens: Tokens, *, last: bool) -> tuple[str, Tokens]:
        """Take the next *text* and its *tokens*; return what is final now, all that is left after the *last*.

        Raises:
            PrivacyViolation: the table is wiped.
        """
        self._text.feed(text)
        self._held.add(text, tokens)
        if last:
            self._text.finish()
        return self._held.release(self._held.read if last else self._text.settled)


class HeldTokens:
    """A text that is held back with its tokens, and released between them. Not thread-safe.

    *replaced*, which its owner extends, is what parts of the text are replaced by.
    """

    def __init__(self, replaced: list[Span] | None = None) -> None:
        self._replaced = [] if replaced is None else replaced
        self._pieces: deque[_Piece] = deque()
        self.read = 0
        """Characters that were added."""

    def add(self, text: str, tokens: Tokens) -> None:
        """Hold the next *text* back with its *tokens*."""
        for piece, its in _pieces(text, tokens):
            self.read += len(piece)
            self._pieces.append(_Piece(piece, self.read, its))

    def release(self, settled: int) -> tuple[str, Tokens]:
        """The text and tokens that end within the first *settled* characters, and are not released yet."""
        taken = list(self._taken(settled))
        return "".join([piece for piece, _ in taken]), tuple([token for _, its in taken for token in its])

    def _taken(self, settled: int) -> Iterator[tuple[str, Tokens]]:
        """Remove the pieces that end before *settled*; those that a replacement joins are one."""
        while self._pieces:
            joined, spans = self._joined()
            if joined.end > settled:
                return
            del self._replaced[: len(spans)]
            while self._pieces and self._pieces[0].end <= joined.end:
                self._pieces.popleft()
            yield _restored(joined, spans) if spans else (joined.text, joined.tokens)

    def _joined(self) -> tuple[_Piece, list[Span]]:
        """The next piece, with all that the same replacements reach into, and these replacements."""
        pieces = iter(self._pieces)
        whole, spans = next(pieces), list[Span]()
        for span in self._replaced:
            if span[0] >= whole.end:
                break
            spans.append(span)
            while whole.end < span[1]:
                text, end, tokens = next(pieces)
                whole = _Piece(whole.text + text, end, whole.tokens + tokens)
        return whole, spans


def _restored(piece: _Piece, spans: list[Span]) -> tuple[str, Tokens]:
    parts, done = list[str](), piece.start
    for start, end, value in spans:
        parts += (piece.text[max(0, done - piece.start) : start - piece.start], value)
        done = end
    text = "".join([*parts, piece.text[done - piece.start :]])
    if not piece.tokens:
        return text, ()
    total = sum(token.logprob for token in piece.tokens)
    return text, (TokenLogprob(token=text, logprob=total, bytes=text.encode("utf-8", "surrogatepass")),)


def _pieces(text: str, tokens: Tokens) -> Iterator[tuple[str, Tokens]]:
    """*text* cut between its *tokens*, where their bytes are whole characters of it; else they stay together."""
    waiting: list[TokenLogprob] = []
    done = 0
    for token in tokens:
        waiting.append(token)
        piece = _decoded(waiting)
        if piece and text.startswith(piece, done) and len(piece) < len(text) - done:
            yield piece, tuple(waiting)
            done += len(piece)
            waiting.clear()
    if done < len(text):
        yield text[done:], tuple(waiting)


def _decoded(tokens: list[TokenLogprob]) -> str:
    try:
        return b"".join([token.bytes for token in tokens]).decode()
    except UnicodeDecodeError:
        return ""
