"""A text in the order in which it is shown, where characters that nobody sees direct it (Unicode UAX #9).

An override (U+202E, U+202D) reaches to its U+202C, the end of the isolate around it or the end of the paragraph; what
is embedded or isolated from right to left (U+202B, U+2067, U+2068) and what stands behind a mark (U+200F, U+061C)
keeps its words and swaps its groups of digits. The rules are those of UAX #9 for a paragraph from left to right, but
for pairs of brackets (N0) and blanks at the end (L1).

Time is linear in the length of the text: what has one level or one class is handled at once.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from typing import Final, NamedTuple

from hybrid_llm.core.looks import looked

DIRECTIONS: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""The characters that direct a text and are not shown."""
_REORDERS: Final = re.compile("[\u061c\u200f\u202b\u202e\u2067\u2068]")
_PARAGRAPH: Final = re.compile("[^\n\r\x1c-\x1e\x85\u2029]+")
_CONTROL: Final = re.compile("[\u202a-\u202e\u2066-\u2069]")
_ISOLATES: Final = frozenset("\u2066\u2067\u2068")
_NO_ISOLATE: Final = -1
_POP: Final = "\u202c"
_POP_ISOLATE: Final = "\u2069"
_TO_LEFT: Final = frozenset("\u202b\u202e\u2067")
_OVERRIDES: Final = {"\u202d": "L", "\u202e": "R"}
_FIRST_STRONG: Final = "\u2068"
_DEEPEST: Final = 8
"""Levels of nesting that are read; UAX #9 has 125, and no text that anyone writes needs more than three."""
_AHEAD: Final = 256
"""Characters in which U+2068 looks for one that has a direction."""
_MIRRORED: Final = str.maketrans("()<>[]{}", ")(><][}{")
_UNDIRECTED: Final = str.maketrans(dict.fromkeys(DIRECTIONS, "\xad"))
"""What is shown directs no text again; a soft hyphen is as invisible."""

_LETTERS: Final = {
    "L": "L", "R": "R", "AL": "A", "EN": "E", "AN": "N", "ES": "s", "ET": "t", "CS": "c", "NSM": "x", "BN": "x",
}  # fmt: skip
"""A letter for each bidirectional class; `o` stands for all neutral ones."""
_MARKS: Final = re.compile("(.)x+")
_ARABIC: Final = re.compile("A[^LRA]*")
_SIGNED: Final = re.compile("E(?:[sc]E)+|N(?:cN)+")
_TERMINATED: Final = re.compile("[Et]+")
_LATIN: Final = re.compile("L[^R]*")
_NEUTRAL: Final = re.compile("o+")
_WEAK: Final = str.maketrans("stc", "ooo")
_SAME: Final = re.compile("L+|R+|E+|N+")


class _Classes(dict[int, str]):
    """Code point -> letter of its class, filled as characters occur."""

    def __missing__(self, code: int) -> str:
        letter = self[code] = _LETTERS.get(unicodedata.bidirectional(chr(code)), "o")
        return letter


_CLASSES: Final = _Classes()


class _Part(NamedTuple):
    """The characters *start* to *end* (exclusive) at one level: shown from right to left where it is odd."""

    start: int
    end: int
    level: int
    override: str = ""


class _TooDeep(Exception):
    """A paragraph nests its directions deeper than is read."""


class Shown(NamedTuple):
    """A text as it is shown: from `begins[i]` on stands piece *i*, the characters `parts[i]` of the source."""

    text: str
    begins: list[int]
    parts: list[_Part]
    unread: list[tuple[int, int]]
    """Paragraphs of the source that nest too deep to be read."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The least span of the source that holds the characters *start* to *end* (exclusive)."""
        first, last = bisect_right(self.begins, start) - 1, bisect_right(self.begins, end - 1) - 1
        spans = [self._origin(place, start, end) for place in looked(range(first, last + 1))]
        return min(low for low, _ in spans), max(high for _, high in spans)

    def _origin(self, place: int, start: int, end: int) -> tuple[int, int]:
        part, begin = self.parts[place], self.begins[place]
        low, high = max(0, start - begin), min(part.end - part.start, end - begin)
        return (part.end - high, part.end - low) if part.level % 2 else (part.start + low, part.start + high)


def shown(text: str) -> Shown | None:
    """*text* as it is shown; None where it is shown as it is written."""
    if _REORDERS.search(text) is None:
        return None
    parts: list[_Part] = []
    unread: list[tuple[int, int]] = []
    done = 0
    for match in looked(_PARAGRAPH.finditer(text)):
        start, end = match.span()
        if _REORDERS.search(text, start, end) is not None:
            try:
                ordered = _ordered(text, start, end)
            except _TooDeep:
                unread.append((start, end))
            else:
                parts += [_Part(done, start, 0), *ordered]
                done = end
    parts = [part for part in (*parts, _Part(done, len(text), 0)) if part.start < part.end]
    begins = [0, *accumulate(part.end - part.start for part in parts)][:-1]
    return Shown("".join(_written(text, part) for part in looked(parts)), begins, parts, unread)


def _written(text: str, part: _Part) -> str:
    piece = text[part.start : part.end].translate(_UNDIRECTED)
    return piece[::-1].translate(_MIRRORED) if part.level % 2 else piece


def _ordered(text: str, start: int, end: int) -> list[_Part]:
    """The parts of a paragraph, from left to right (L2)."""
    explicit = list(looked(_explicit(text, start, end)))
    sequences: dict[int, list[int]] = {}
    for place, (_, sequence) in looked(enumerate(explicit)):
        sequences.setdefault(sequence, []).append(place)
    levels = [part.level for part, _ in explicit] + [0]
    pieces: list[list[_Part]] = [[] for _ in explicit]
    for places in looked(sequences.values(), 16):
        own = [explicit[place][0] for place in places]
        behind = -1 if text[own[-1].start] in _ISOLATES else places[-1] + 1
        for place, found in zip(places, _implicit(text, own, levels[places[0] - 1], levels[behind]), strict=True):
            pieces[place] = found
    parts = [piece for found in pieces for piece in found]
    for level in range(max((part.level for part in parts), default=0), 0, -1):
        parts = list(_reversed(parts, level))
    return parts


def _reversed(parts: list[_Part], level: int) -> Iterator[_Part]:
    """*parts*, every row of those at *level* or above in reverse."""
    row: list[_Part] = []
    for part in looked(parts):
        if part.level >= level:
            row.append(part)
            continue
        yield from reversed(row)
        row.clear()
        yield part
    yield from reversed(row)


class _Stack:
    """The embeddings, overrides and isolates around a place, the paragraph first (X1 to X8)."""

    def __init__(self) -> None:
        self._around: list[tuple[int, str, int]] = [(0, "", _NO_ISOLATE)]
        self._level = self._sequence = self._last = 0

    def part(self, start: int, end: int) -> tuple[_Part, int]:
        """What stands here, and the sequence of parts that it is resolved with (BD13): adjacent ones of one level."""
        level, override, _ = self._around[-1]
        if level != self._level:
            self._last += 1
            self._level, self._sequence = level, self._last
        return _Part(start, end, level, override), self._sequence

    def push(self, char: str, *, is_to_left: bool) -> None:
        """Begin what *char* begins."""
        if len(self._around) > _DEEPEST:
            raise _TooDeep
        level = self._around[-1][0] + 1
        sequence = self._sequence if char in _ISOLATES else _NO_ISOLATE
        self._around.append((level if level % 2 == is_to_left else level + 1, _OVERRIDES.get(char, ""), sequence))

    def pop(self) -> None:
        """End the last embedding where no isolate is inside it."""
        if len(self._around) > 1 and self._around[-1][2] == _NO_ISOLATE:
            self._around.pop()

    def pop_isolate(self) -> None:
        """End the last isolate with all in it: the sequence before it goes on."""
        last = len(self._around) - 1
        while last and self._around[last][2] == _NO_ISOLATE:
            last -= 1
        if last:
            self._sequence, self._level = self._around[last][2], self._around[last - 1][0]
            del self._around[last:]


def _explicit(text: str, start: int, end: int) -> Iterator[tuple[_Part, int]]:
    """The parts between the characters that embed and override, each with its sequence."""
    stack = _Stack()
    for match in _CONTROL.finditer(text, start, end):
        if match.start() > start:
            yield stack.part(start, match.start())
        start, char = match.end(), match[0]
        if char == _POP:
            stack.pop()
            continue
        if char == _POP_ISOLATE:
            stack.pop_isolate()
        if char == _POP_ISOLATE or char in _ISOLATES:
            yield stack.part(*match.span())
        if char != _POP_ISOLATE:
            is_first = char == _FIRST_STRONG and _is_to_left(text, start, end)
            stack.push(char, is_to_left=is_first or char in _TO_LEFT)
    if start < end:
        yield stack.part(start, end)


def _is_to_left(text: str, start: int, end: int) -> bool:
    classes = text[start : min(end, start + _AHEAD)].translate(_CLASSES)
    return next((letter for letter in classes if letter in "LRA"), "L") != "L"


def _implicit(text: str, parts: list[_Part], before: int, behind: int) -> list[list[_Part]]:
    """The pieces of each of *parts*, which are one sequence, with their levels; *before* and *behind* are around it."""
    level = parts[0].level
    edges = ["LR"[max(level, other) % 2] for other in (before, behind)]
    classes = "".join([part.override * (part.end - part.start) or _classes(text, part) for part in parts])
    resolved, at = _resolved(classes.join(edges), "LR"[level % 2]), 1
    found: list[list[_Part]] = []
    for part in parts:
        end = at + part.end - part.start
        found.append([_leveled(part, match, at) for match in _SAME.finditer(resolved, at, end)])
        at = end
    return found


def _classes(text: str, part: _Part) -> str:
    return text[part.start : part.end].translate(_CLASSES)


def _leveled(part: _Part, match: re.Match[str], at: int) -> _Part:
    """A piece of *part*, whose classes begin at *at*, with the level that its class gives it (I1, I2)."""
    above = (match[0][0] != "R") if part.level % 2 else {"L": 0, "R": 1}.get(match[0][0], 2)
    shift = part.start - at
    return _Part(match.start() + shift, match.end() + shift, part.level + above)


def _resolved(classes: str, embedding: str) -> str:
    """*classes* without weak and neutral ones (W1 to W7, N1, N2)."""
    classes = _MARKS.sub(lambda match: match[1] * len(match[0]), classes)
    classes = _ARABIC.sub(lambda match: match[0].replace("E", "N").replace("A", "R"), classes)
    classes = _SIGNED.sub(lambda match: match[0][0] * len(match[0]), classes)
    classes = _TERMINATED.sub(lambda match: ("E" if "E" in match[0] else "o") * len(match[0]), classes)
    classes = _LATIN.sub(lambda match: match[0].replace("E", "L"), classes.translate(_WEAK))
    return _NEUTRAL.sub(lambda match: _neutral(match, embedding), classes)


def _neutral(match: re.Match[str], embedding: str) -> str:
    """The direction of what is around neutral characters, or that of the *embedding*; a number counts as `R`."""
    around = {match.string[match.start() - 1], match.string[match.end()]}
    direction = "L" if around == {"L"} else "R" if "L" not in around else embedding
    return direction * len(match[0])
