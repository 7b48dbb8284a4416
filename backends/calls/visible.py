"""Which tokens the visible text of an answer is made of: those of reasoning, tool calls and stop texts are left out.

With each piece of text come its tokens. So text is held back up to the end of a token, and a token whose text is held
back, because it may begin a stop text or a call, comes with its text.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import NamedTuple

from hybrid_llm.core.logprobs import TokenLogprob

Tokens = tuple[TokenLogprob, ...]


class _Group(NamedTuple):
    """Tokens that became text together: several where each has only some bytes of a character."""

    start: int
    """Characters of the whole answer before it."""
    text: str
    tokens: Tokens

    @property
    def end(self) -> int:
        return self.start + len(self.text)


class VisibleTokens:
    """Aligns the text of one answer with its tokens. Positions are characters of what the model wrote."""

    def __init__(self) -> None:
        self._waiting: list[TokenLogprob] = []
        self._groups: deque[_Group] = deque()
        self._read = self._visible = 0
        self._held = ""
        self._is_over = False

    def read(self, token: TokenLogprob | None, text: str) -> None:
        """The model wrote *token*, which completed *text*; None is a control token, or the end of the answer."""
        if self._is_over:
            return
        if token is not None:
            self._waiting.append(token)
        if text:
            if self._waiting:
                self._groups.append(_Group(self._read, text, tuple(self._waiting)))
            self._waiting.clear()
            self._read += len(text)

    def show(self, text: str, begin: int, *, over: bool) -> tuple[str, Tokens]:
        """The text that can be given now with its tokens, once *text* is visible too.

        Args:
            text: What is visible now, behind all that was before.
            begin: Where the visible text began, or the earliest position where it may begin.
            over: No text follows: a token of which only the beginning is visible is cut there.
        """
        self._visible += len(text)
        self._held += text
        end = begin + self._visible
        while self._groups and self._groups[0].end <= begin:
            self._groups.popleft()
        tokens: list[TokenLogprob] = []
        while self._groups and self._groups[0].end <= end:
            tokens += self._groups.popleft().tokens
        split = self._groups[0] if self._groups and self._groups[0].start < end else None
        given, self._held = self._held, ""
        if over:
            tokens += () if split is None else _cut(split, end - max(split.start, begin))
            self._is_over = True
            self._groups.clear()
        elif split is not None:
            at = max(0, len(given) - (end - split.start))
            given, self._held = given[:at], given[at:]
        return given, tuple(tokens)


def _cut(group: _Group, count: int) -> Tokens:
    """The tokens of the first *count* characters of *group*, the last cut to what it adds to them."""
    data, text = b"".join([token.bytes for token in group.tokens]), group.text.encode()
    if not data.endswith(text):  # no valid UTF-8: what each token adds is not known
        return group.tokens
    left = len(data) - len(text) + len(group.text[:count].encode())
    cut: list[TokenLogprob] = []
    for token in group.tokens:
        if left <= 0:
            break
        part = token.bytes[:left]
        left -= len(part)
        whole = len(part) == len(token.bytes)
        cut.append(token if whole else replace(token, token=part.decode(errors="replace"), bytes=part))
    return tuple(cut)
