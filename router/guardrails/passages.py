"""Cuts a text that arrives in pieces into passages that can be judged, and holds back what is not judged yet.

Where it cuts depends on the text alone, never on the pieces: so every way to cut an answer into chunks has the same
verdict, and gives the app the same characters.

A block ends behind the first space that follows *step* characters. When one is complete, the text up to its end is
judged, from a block that begins at least a window before it. A passage of at most *window* characters that ends in the
block is whole in that text, and none of its characters has been released before.
"""

from __future__ import annotations

import re
from collections import deque
from functools import lru_cache
from typing import Final

_LONGEST_WORD: Final = 64
"""A run of characters without a space is cut after so many."""
_STEPS: Final = 4
"""Blocks in a window: more release an answer more smoothly, and judge each character more often."""
_SHORTEST: Final = 16
_STRETCHED: Final = 8
"""How many times longer than a window a passage may be written, with escapes and invisible characters."""
UNSEEN: Final = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\U000e0000-\U000e0fff\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
)
"""Characters that do not show, and marks on the one before: a reader sees no longer passage for them."""
_LONGER: Final = re.compile(rf"[\\{UNSEEN}]")
_CHARACTER: Final = re.compile(rf"(?s)\\u[0-9a-fA-F]{{4}}|\\.|[{UNSEEN}]*[^{UNSEEN}]")
"""One character as a reader sees it, with what is written for it."""


class Passages:
    """One text of an answer. Call `push` with each piece, then `due` and `passed` in turn until nothing is due."""

    __slots__ = ("_checked", "_end", "_out", "_starts", "_step", "_text", "_window")

    def __init__(self, window: int) -> None:
        self._window = window
        self._step = max(_SHORTEST, window // _STEPS)
        self._text = ""
        """The text from the block on that the next judgement begins with."""
        self._starts: deque[int] = deque([0])
        """Where blocks begin in it."""
        self._out = self._checked = self._end = 0

    def push(self, piece: str) -> None:
        """Take the next *piece*."""
        self._text += piece

    def due(self, *, over: bool) -> str | None:
        """The text to be judged next; None until more arrives. What is left is due when the text is *over*, for now."""
        block = _block(self._step).match(self._text, self._checked)
        if block is not None:
            self._end = block.end()
        elif over and len(self._text) > self._checked:
            self._end = len(self._text)
        else:
            return None
        return self._text[: self._end]

    def passed(self) -> str:
        """What was due is allowed: the characters that may be released now, which no later passage can have."""
        begin = self._back(self._end)
        released = self._text[self._out : max(begin, self._out)]
        self._out += len(released)
        self._checked = self._end
        self._starts.append(self._end)
        self._forget(begin)
        return released

    def rest(self) -> str:
        """The text is over, for now, and all of it was allowed: what is still held back."""
        released = self._text[self._out :]
        self._out += len(released)
        return released

    def _back(self, end: int) -> int:
        """Where a passage begins at the earliest that ends behind *end*."""
        text, count = self._text, self._window - 1
        begin = max(0, end - count)
        if not begin or not _LONGER.search(text, max(0, begin - 6), end):
            return begin
        first = max(0, end - _STRETCHED * self._window)
        starts = [each.start() for each in _CHARACTER.finditer(text, first, end)]
        return starts[-count] if len(starts) >= count else first

    def _forget(self, begin: int) -> None:
        """Drop the blocks that end before *begin*."""
        while len(self._starts) > 1 and self._starts[1] <= begin:
            self._starts.popleft()
        gone = self._starts[0]
        if gone:
            self._text = self._text[gone:]
            self._out, self._checked = self._out - gone, self._checked - gone
            self._starts = deque(start - gone for start in self._starts)


@lru_cache
def _block(step: int) -> re.Pattern[str]:
    """A block: *step* characters or more, up to a space or to what separates clauses where no spaces are written."""
    longest = step + _LONGEST_WORD
    return re.compile(rf"(?s).{{{step - 1},{longest - 2}}}?[\s\u3001\u3002\uff01\uff0c\uff1b\uff1f]|.{{{longest}}}")
