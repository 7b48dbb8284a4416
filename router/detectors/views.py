"""The form that a text is read in: every encoding in it undone, and offsets that lead back to the original.

It knows encodings, not what is sensitive. Undone are URL encoding (RFC 3986), HTML entities, the escapes of JSON and of
program text, characters that are not shown, and digits that are spelled out, up to three layers deep. Text without
any of these is read as it stands.
"""

from __future__ import annotations

import html
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from hybrid_llm.router.detectors.fold import fold
from hybrid_llm.router.detectors.linear import Regex, linear

__all__ = ["View", "decoded"]

_LAYERS: Final = 3
"""How many encodings around each other are undone."""
_DIGITS: Final = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WORDS: Final = {
    **{word: str(digit) for digit, word in enumerate(_DIGITS)},
    "oh": "0",
    "niner": "9",
    "plus": "+",
    "dash": "-",
    "hyphen": "-",
}
_REPEATS: Final = {"double": 2, "triple": 3}
_WORD: Final = "|".join((*_WORDS, *_REPEATS))
_ESCAPES: Final = linear(
    rb"(?i)(?P<unseen>\xa2+)|(?P<entity>&(?:#[0-9]{1,7}|#x[0-9a-f]{1,6}|[a-z][a-z0-9]{1,30});)"
    rb"|(?P<url>(?:%[0-9a-f]{2})+)|(?P<unicode>(?:\\u[0-9a-f]{4})+)|(?P<escape>\\(?:x[0-9a-f]{2}|[nrtbf\"'/\\]))"
    rb"|\b(?P<spelled>(?:" + _WORD.encode() + rb")(?:[ ,.-]{1,3}(?:" + _WORD.encode() + rb"|[0-9]{1,4})){6,})\b"
    rb"|(?P<chinese>[\x90-\x99](?:[ -]?[\x90-\x99]){6,})"
)
_TOKENS: Final = re.compile(r"[a-z]+|\d", re.IGNORECASE)
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}

_Piece = tuple[str, int, int]
"""A text, and the part of the view that it was decoded from."""


@dataclass(frozen=True, eq=False)
class View:
    """A form of a text: *text*, the same folded to *data*, one byte a character, and where each character came from."""

    text: str
    data: bytes
    starts: array[int] | None = None
    ends: array[int] | None = None
    notes: dict[object, bool] = field(default_factory=dict)
    """Answers to questions about the whole text, kept by whoever asked."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The part of the original text that the characters *start* to *end* (not included) were read from."""
        if self.starts is None or self.ends is None:
            return start, end
        return self.starts[start], self.ends[end - 1]

    @cached_property
    def has_number(self) -> bool:
        """Are there six digits with little between them? Most texts have not, and most patterns need them."""
        return _NUMBER.search(self.data) is not None


_NUMBER: Final = linear(rb"[0-9](?:[ .()/+-]{0,3}[0-9]){5}")


def decoded(text: str) -> View:
    """*text* with what is encoded in it undone, layer by layer."""
    view = View(text, fold(text))
    for _ in range(_LAYERS):
        pieces = [piece for found in _ESCAPES.finditer(view.data) for piece in _pieces(view, found)]
        if not pieces:
            break
        view = _join(view, pieces)
    return view


def _pieces(view: View, found: Regex.Found) -> Iterator[_Piece]:
    kind, start, end = found.kind, found.start, found.end
    text = view.text[start:end]
    if kind == "url":
        yield from _from_url(text, start)
    elif kind == "spelled":
        yield from _from_words(view.data[start:end].decode("latin-1"), start)
    elif kind == "chinese":
        yield from (
            (str(byte & 15), start + i, start + i + 1) for i, byte in enumerate(view.data[start:end]) if byte >= 0x90
        )
    elif kind == "unicode":
        yield from ((chr(int(text[i + 2 : i + 6], 16)), start + i, start + i + 6) for i in range(0, len(text), 6))
    elif kind == "entity":
        shown = html.unescape(text)
        if shown != text:
            yield shown, start, end
    else:
        yield ("" if kind == "unseen" else _unescaped(text)), start, end


def _from_url(text: str, offset: int) -> Iterator[_Piece]:
    """Bytes as UTF-8 where they are, else one character a byte."""
    raw = bytes.fromhex(text.replace("%", ""))
    try:
        chars, widths = (shown := raw.decode("utf-8")), [len(char.encode("utf-8")) for char in shown]
    except UnicodeDecodeError:
        chars, widths = raw.decode("latin-1"), [1] * len(raw)
    for char, width in zip(chars, widths, strict=True):
        yield char, offset, offset + 3 * width
        offset += 3 * width


def _from_words(text: str, offset: int) -> Iterator[_Piece]:
    """`five double five oh` -> 5550: what stands between the words goes with the word before it."""
    repeat, begin = 1, 0
    tokens = list(_TOKENS.finditer(text))
    for i, token in enumerate(tokens):
        word = token.group().lower()
        if word in _REPEATS and i + 1 < len(tokens):
            repeat, begin = _REPEATS[word], begin or token.start()
            continue
        end = tokens[i + 1].start() if i + 1 < len(tokens) else len(text)
        yield _WORDS.get(word, word) * repeat, offset + (begin or token.start()), offset + end
        repeat, begin = 1, 0


def _unescaped(text: str) -> str:
    if len(text) > 2:
        return chr(int(text[2:], 16))
    return _CONTROLS.get(text[1], text[1])


def _join(view: View, pieces: list[_Piece]) -> View:
    texts: list[str] = []
    starts, ends = array("q"), array("q")
    done = 0
    for text, start, end in (*pieces, ("", len(view.text), len(view.text))):
        texts += (view.text[done:start], text)
        _copy(view, done, start, starts, ends)
        if text:
            first, last = view.origin(start, end)
            starts.extend([first] * len(text))
            ends.extend([last] * len(text))
        done = end
    joined = "".join(texts)
    return View(joined, fold(joined), starts, ends)


def _copy(view: View, start: int, end: int, starts: array[int], ends: array[int]) -> None:
    if view.starts is None or view.ends is None:
        starts.extend(range(start, end))
        ends.extend(range(start + 1, end + 1))
    else:
        starts.extend(view.starts[start:end])
        ends.extend(view.ends[start:end])
