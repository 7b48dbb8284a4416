r"""Reads JSON (RFC 8259) as tokens with their places in the text, of any depth and in linear time.

`json` of the standard library gives values without places. A reader of schemas also knows which tokens are the schema's
own words: keywords, types, formats, and numbers that are bounds, such as that of `maximum`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from enum import Enum, auto
from typing import Final, NamedTuple

from hybrid_llm.core.looks import PIECES, look
from hybrid_llm.core.request import TextForm

_SPACE: Final = " \t\r\n"
_LEX: Final = re.compile(
    r"""
    [ \t\r\n]*+ (?:
      (?P<string> " [^"\\\x00-\x1f]*+ (?: \\ (?:["\\/bfnrt]|u[0-9a-fA-F]{4}) [^"\\\x00-\x1f]*+ )*+ )
        (?: (?P<whole>") | (?: \\ (?:u[0-9a-fA-F]{0,3})? )? \Z )
    | (?P<number> -? (?:0|[1-9][0-9]*+) (?:\.[0-9]++)? (?:[eE][+-]?[0-9]++)? ) (?![0-9.+eE-])
    | (?P<word> true | false | null )\b
    | (?P<mark> [][{},:] )
    | (?P<end> \Z )
    | (?P<cut> [-+.0-9a-zE]++ \Z )
    )""",
    re.VERBOSE,
)
_BRACKET: Final = re.compile(r"[\[{]")
_ESCAPE: Final = re.compile(r"\\(?:u([dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|(.))")
_SHORT: Final = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


class _Role(Enum):
    """What a value is: *SCHEMA* a schema; *NAMES* an object of names, whose values are schemas; *DATA* the app's own.

    *BOUND* is a number and *WORD* a string of the schema's own, where they are not objects.
    """

    SCHEMA = auto()
    NAMES = auto()
    DATA = auto()
    BOUND = auto()
    WORD = auto()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ROLES: Final = {
    **dict.fromkeys(("properties", "patternProperties", "$defs", "definitions", "dependentSchemas"), _Role.NAMES),
    **dict.fromkeys(("dependencies", "dependentRequired"), _Role.NAMES),
    **dict.fromkeys(("const", "enum", "default", "example", "examples"), _Role.DATA),
    **dict.fromkeys(("maximum", "minimum", "exclusiveMaximum", "exclusiveMinimum", "multipleOf"), _Role.BOUND),
    **dict.fromkeys(("maxLength", "minLength", "maxItems", "minItems", "maxContains", "minContains"), _Role.BOUND),
    **dict.fromkeys(("maxProperties", "minProperties"), _Role.BOUND),
    **dict.fromkeys(("type", "format", "$schema"), _Role.WORD),
}
"""Keyword of JSON Schema -> what its value is; that of any other keyword is a schema, a name or a text."""
_ELEMENTS: Final = {_Role.NAMES: _Role.SCHEMA, _Role.BOUND: _Role.DATA}
"""What the elements of an array are, where that differs."""
_KEYWORDS: Final = frozenset(_ROLES) | _words(
    "$id $ref $anchor $dynamicRef $dynamicAnchor $vocabulary $comment title description required items prefixItems "
    "additionalItems contains additionalProperties propertyNames unevaluatedItems unevaluatedProperties allOf anyOf "
    "oneOf not if then else pattern uniqueItems readOnly writeOnly deprecated contentEncoding contentMediaType "
    "contentSchema"
)
_WORDS: Final = _words(
    "null boolean object array number string integer date-time date time duration email idn-email hostname "
    "idn-hostname ipv4 ipv6 uri uri-reference iri iri-reference uuid uri-template json-pointer relative-json-pointer "
    "regex http://json-schema.org/draft-07/schema# https://json-schema.org/draft/2020-12/schema "
    "http://json-schema.org/schema# https://json-schema.org/draft/2019-09/schema"
)
"""The types and formats of JSON Schema, and the names of its versions."""


Token = tuple[int, int, bool, bool, bool]
"""A string without its quotes, or a number: the characters *start* to *end* of the text; whether it *is a number*; is
*fixed*, a word or a bound of the schema's own; may be *nested* JSON: a string that is a value of the app's.

A text has a million of them. Plain tuples of numbers are the only records that the garbage collector does not visit,
which would hold up every thread.
"""


class _Next(Enum):
    """What the grammar allows next."""

    VALUE = auto()
    VALUE_OR_END = auto()
    NAME = auto()
    NAME_OR_END = auto()
    COLON = auto()
    COMMA_OR_END = auto()
    NOTHING = auto()


_OPENING: Final = {"{": ("}", _Next.NAME_OR_END), "[": ("]", _Next.VALUE_OR_END)}
_CLOSABLE: Final = {"}": {_Next.NAME_OR_END, _Next.COMMA_OR_END}, "]": {_Next.VALUE_OR_END, _Next.COMMA_OR_END}}
_VALUES: Final = frozenset({_Next.VALUE, _Next.VALUE_OR_END})
_NAMES: Final = frozenset({_Next.NAME, _Next.NAME_OR_END})


class _Frame(NamedTuple):
    """An object or array that is open, by the mark that closes it, and what its members are."""

    closing: str
    role: _Role


def read_tokens(text: str, form: TextForm) -> list[Token] | None:
    """The strings and numbers of *text*; None if it is not JSON.

    A text of the form `CONTENT` is JSON if it is an object or an array, or several of them, as in JSON Lines. A
    `PARTIAL` one may break off anywhere.
    """
    if form is TextForm.PLAIN or (form is TextForm.CONTENT and text.lstrip(_SPACE)[:1] not in _OPENING):
        return None
    reader = _Reader(text, form)
    return reader.tokens if reader.read() else None


class Embedded(NamedTuple):
    """JSON in other text: the characters *start* to *end*, with its strings and numbers in *tokens*."""

    start: int
    end: int
    tokens: list[Token]


def embedded(text: str) -> Iterator[Embedded]:
    """Yield the objects and arrays of JSON in *text*, which is other text, in order and in linear time.

    Of an object that goes on as no JSON, such as `{"a": 1, ...}`, the part before counts. An array must be whole: in
    `[12 Main Street]` the number belongs to the words.
    """
    opening = _BRACKET.search(text)
    while opening is not None:
        look()
        reader = _Reader(text, TextForm.PLAIN)
        start, end = reader.read_one(opening.start())
        if start < end:
            yield Embedded(start, end, [token for token in reader.tokens if token[0] >= start and token[1] <= end])
        opening = _BRACKET.search(text, max(end, reader.read_to, opening.end()))


class _Reader:
    """One pass over one text."""

    def __init__(self, text: str, form: TextForm) -> None:
        self.tokens: list[Token] = []
        self._text = text
        self._partial = form is TextForm.PARTIAL
        self._lines = form is TextForm.CONTENT  # objects and arrays, one after the other
        self._stack: list[_Frame] = []
        self._role = _Role.SCHEMA if form is TextForm.SCHEMA else _Role.DATA
        self._next = _Next.NOTHING if self._lines else _Next.VALUE
        self.read_to = 0

    def read_one(self, start: int) -> tuple[int, int]:
        """Read the object or array at *start*; where what is certain of it begins and ends, the same if nothing is."""
        begin, certain = -1, start
        for match in self._read_from(start):
            if not self._stack:
                return start, match.end()
            if match.lastgroup == "mark":
                certain = match.end()
            if begin < 0 and match["mark"] == "{":
                begin = match.end() - 1
        return (begin, certain) if begin >= 0 else (start, start)

    def _read_from(self, start: int) -> Iterator[re.Match[str]]:
        """Yield what the grammar accepts from *start* on."""
        self.read_to, count = start, 0
        while (match := _LEX.match(self._text, self.read_to)) is not None and match.lastgroup != "end":
            count += 1
            if count % PIECES == 0:
                look()
            if not self._accepts(match):
                return
            self.read_to = match.end()
            yield match

    def read(self) -> bool:
        """Whether the whole text is JSON."""
        for _ in self._read_from(0):
            pass
        rest = _LEX.match(self._text, self.read_to)
        ends = rest is not None and rest.lastgroup == "end"
        return ends and (self._partial or self._next is _Next.NOTHING)

    def _accepts(self, match: re.Match[str]) -> bool:
        if match.lastgroup == "mark":
            return self._mark(match["mark"])
        if match.lastgroup in ("string", "cut") and not self._partial:
            return False  # it breaks off
        if self._next in _NAMES:
            return match["string"] is not None and self._name(match)
        if self._next not in _VALUES:
            return False
        self._scalar(match)
        self._next = self._after_value()
        return True

    def _mark(self, mark: str) -> bool:
        if mark in _OPENING:
            return self._open(mark)
        if mark in _CLOSABLE:
            return self._close(mark)
        if mark == ":":
            valid, self._next = self._next is _Next.COLON, _Next.VALUE
            return valid
        if self._next is not _Next.COMMA_OR_END:
            return False
        self._role = self._stack[-1].role
        self._next = _Next.NAME if self._stack[-1].closing == "}" else _Next.VALUE
        return True

    def _open(self, mark: str) -> bool:
        another = self._lines and not self._stack and self._next is _Next.NOTHING
        if self._next not in _VALUES and not another:
            return False
        closing, self._next = _OPENING[mark]
        if mark == "[":
            self._role = _ELEMENTS.get(self._role, self._role)
        elif self._role in (_Role.BOUND, _Role.WORD):
            self._role = _Role.DATA
        self._stack.append(_Frame(closing, self._role))
        return True

    def _close(self, mark: str) -> bool:
        if not self._stack or self._stack[-1].closing != mark or self._next not in _CLOSABLE[mark]:
            return False
        self._stack.pop()
        self._next = self._after_value()
        return True

    def _after_value(self) -> _Next:
        return _Next.COMMA_OR_END if self._stack else _Next.NOTHING

    def _name(self, match: re.Match[str]) -> bool:
        start, end = match.start("string") + 1, match.end("string")
        name, role = decode(self._text, start, end)[0], self._stack[-1].role
        self.tokens.append((start, end, False, role is _Role.SCHEMA and name in _KEYWORDS, False))
        if role is _Role.SCHEMA:
            self._role = _ROLES.get(name, _Role.SCHEMA)
        elif role is _Role.NAMES:
            self._role = _Role.SCHEMA
        self._next = _Next.COLON
        return True

    def _scalar(self, match: re.Match[str]) -> None:
        if match["string"] is not None:
            start, end = match.start("string") + 1, match.end("string")
            fixed = self._role is _Role.WORD and self._text[start:end] in _WORDS
            self.tokens.append((start, end, False, fixed, self._role is _Role.DATA))
        elif match.lastgroup in ("number", "cut"):
            start, end = match.span(match.lastgroup)
            self.tokens.append((start, end, True, self._role is _Role.BOUND, False))


def decode(text: str, start: int, end: int) -> tuple[str, Sequence[int]]:
    """A string of *text* without its escapes, and where each of its characters begins; last, where it ends."""
    raw = text[start:end]
    if "\\" not in raw:
        return raw, range(start, end + 1)
    parts: list[str] = []
    origin: list[int] = []
    done = start
    for match in _ESCAPE.finditer(text, start, end):
        parts += [text[done : match.start()], _unescaped(match)]
        origin += [*range(done, match.start()), match.start()]
        done = match.end()
    return "".join([*parts, text[done:end]]), [*origin, *range(done, end + 1)]


def _unescaped(match: re.Match[str]) -> str:
    high, low, unit, short = match.groups()
    if high is not None:
        return chr(0x10000 + (int(high, 16) - 0xD800) * 0x400 + int(low, 16) - 0xDC00)
    return chr(int(unit, 16)) if unit is not None else _SHORT.get(short, short)
