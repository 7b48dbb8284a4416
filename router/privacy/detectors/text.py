"""The text as the detectors see it: one byte per character, its encodings undone, searched with RE2 in linear time.

Folding: ASCII stays as it is. Full-width, mathematical and other digits and letters become the ASCII characters that
they are compatible with (Unicode NFKC), letters with marks their base letter, any other letter `x`, so that a word
stays a word. Characters of scripts that do not separate words become `CJK`: a number next to them is not part of a
word.

Decoding: URL encoding (RFC 3986), HTML entities, the escapes of JSON and program text, invisible characters and
spelled-out digits are undone, up to three layers deep; before that, the `+` of forms. `View.origin` maps offsets back
to the original text.

RE2 has no lookaround: a pattern also matches what must surround a find, and the find is its group. google-re2 is
imported at first use.
"""

from __future__ import annotations

import codecs
import html
import re
import sys
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from hybrid_llm.core.lazy import cached_property
from hybrid_llm.core.looks import PART, PIECES, look, looked
from hybrid_llm.router.privacy.detectors.bidi import DIRECTIONS
from hybrid_llm.router.privacy.detectors.codes import codes, is_within, spaces

_HANDLER: Final = "hybrid_llm.fold"
CJK: Final = 0x80
"""A character of a script that does not separate words."""
_CHINESE_ZERO: Final = 0x90
_OTHER: Final = 0xA1
_IGNORED: Final = 0xA2
_FULL_STOP: Final = 0xA3

_CHINESE_DIGITS: Final = {char: _CHINESE_ZERO + i % 10 for i, char in enumerate("零一二三四五六七八九〇幺")}
_LOOKALIKES: Final = dict(
    zip("АВЕКМНОРСТУХІЅЈаеорсухіѕјԁӏΑΒΕΖΗΙΚΜΝΟΡΤΥΧο", "ABEKMHOPCTYXISJaeopcyxisjdlABEZHIKMNOPTYXo", strict=True)
)
_UNSPACED: Final = (
    "CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO", "IDEOGRAPHIC", "THAI", "LAO", "KHMER", "MYANMAR", "YI",
)  # fmt: skip
"""How the Unicode names of the characters begin that fold to `CJK`."""
_FILLERS: Final = frozenset("\u034f\u115f\u1160\u3164\uffa0")
_SELECTORS: Final = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
_MEMORY: Final = 16 << 20
"""Bytes that one expression's automaton may use; beyond that RE2 falls back to a slower search, still linear."""

_LAYERS: Final = 3
"""How many layers of encoding are undone."""
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
_NUMBERED: Final = re.compile(r"[^0-9a-fA-F]")
_TOKENS: Final = re.compile(r"[a-z]+|\d", re.IGNORECASE)
_CONTROLS: Final = {"n": "\n", "r": "\r", "t": "\t", "b": "\b", "f": "\f"}
_DIGIT: Final = re.compile(rb"[0-9]")
_UNSEEN: Final = bytes([_IGNORED])
_DIRECTIONS: Final = re.compile("[" + "".join(sorted(DIRECTIONS)) + "]+")


def fold(text: str) -> bytes:
    """One byte for each character of *text*."""
    if len(text) <= PART or text.isascii():
        return text.encode("ascii", _HANDLER)
    return b"".join([text[at : at + PART].encode("ascii", _HANDLER) for at in looked(range(0, len(text), PART), 1)])


def _fold_run(error: UnicodeError) -> tuple[bytes, int]:
    """The ASCII encoder's error handler, called once per run of other characters: ASCII itself costs nothing."""
    assert isinstance(error, UnicodeEncodeError)
    return error.object[error.start : error.end].translate(_TABLE).encode("latin-1"), error.end


class _Table(dict[int, int]):
    """Code point -> byte, filled as characters occur."""

    def __missing__(self, code: int) -> int:
        special = _special(chr(code))
        value = self[code] = _by_category(chr(code)) if special is None else special
        return value


def _special(char: str) -> int | None:
    """The byte of a character that is folded regardless of its category; None for all others."""
    if char in _CHINESE_DIGITS:
        return _CHINESE_DIGITS[char]
    if char in "。｡":
        return _FULL_STOP
    if char in _LOOKALIKES:
        return ord(_LOOKALIKES[char])
    decimal = unicodedata.decimal(char, None)
    return _ascii_form(char) if decimal is None else ord("0") + decimal


def _ascii_form(char: str) -> int | None:
    """The ASCII character that *char* is compatible with or a marked form of; None without one."""
    same = unicodedata.normalize("NFKC", char)
    if len(same) == 1 and same.isascii():
        return ord(same)
    base = unicodedata.normalize("NFKD", char)
    is_marked = len(base) > 1 and base[0].isascii() and base[0].isalpha() and not any(map(str.isalnum, base[1:]))
    return ord(base[0]) if is_marked else None


def _by_category(char: str) -> int:
    category = unicodedata.category(char)
    if category == "Cf" or char in _FILLERS or "\u0300" <= char <= "\u036f" or char in _SELECTORS:
        return _IGNORED
    if category == "Pd" or char == "\u2212":
        return ord("-")
    if category[0] == "Z":
        return ord("\n" if category in {"Zl", "Zp"} else " ")
    if category[0] in "LM":
        return CJK if unicodedata.name(char, "").startswith(_UNSPACED) else ord("x")
    return _OTHER


_TABLE: Final = _Table()
codecs.register_error(_HANDLER, _fold_run)


class Found(NamedTuple):
    """A find: *start* and *end* are those of the group that matched, *kind* is its name."""

    start: int
    end: int
    kind: str


@dataclass(frozen=True, eq=False)
class Regex:
    """A pattern in RE2 syntax over Latin-1 bytes, compiled at first use."""

    pattern: bytes

    @cached_property
    def _compiled(self) -> Any:
        import re2

        return re2.compile(self.pattern, re2_options(re2))

    @cached_property
    def _groups(self) -> int:
        return int(self._compiled.groups)

    @cached_property
    def _names(self) -> dict[int, str]:
        return {index: name.decode("ascii") for name, index in self._compiled.groupindex.items()}

    def search(self, data: bytes, start: int = 0) -> Any:
        """The first match that begins at or after *start*, an `re2` match object, or None."""
        return self._compiled.search(data, start)

    def match(self, data: bytes, start: int = 0) -> Any:
        """The match that begins at *start*, or None."""
        return self._compiled.match(data, start)

    def finditer(self, data: bytes, start: int = 0, end: int | None = None) -> Iterator[Found]:
        """Yield every find from *start* to *end*, in order; the text after one find may also precede the next."""
        search, groups, count = self._compiled.search, self._groups, 0
        match = search(data, start, end)
        while match is not None:
            count += 1
            if count % PIECES == 0:
                look()
            index = groups if groups < 2 else match.lastindex
            start, behind = match.span(index)
            yield Found(start, behind, self._names.get(index, ""))
            match = search(data, max(behind, start + 1), end) if behind < len(data) else None


def apart(value: bytes, before: bytes = rb"0-9A-Za-z_.-", after: bytes = rb"0-9A-Za-z_-") -> Regex:
    """*value*, unless a character of the class *before* precedes it or one of the class *after* follows."""
    return Regex(rb"(?:^|[^%s])(%s)(?:[^%s]|$)" % (before, value, after))


def re2_options(re2: Any) -> Any:
    """How all expressions are compiled."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.max_mem = _MEMORY
    options.log_errors = False
    options.never_capture = False
    return options


_SPELLED: Final = Regex(
    rb"(?i)\b(?P<words>(?:" + _WORD.encode() + rb")(?:[ ,.-]{1,3}(?:" + _WORD.encode() + rb"|[0-9]{1,4})){6,})\b"
    rb"|(?P<chinese>[\x90-\x99](?:[ -]?[\x90-\x99]){6,})"
)
_NUMBERS: Final = {count: Regex(rb"[0-9](?:[ .()/+-]{0,3}[0-9]){%d}" % (count - 1)) for count in (9, 6)}

_Piece = tuple[str, int, int]
"""A decoded text, and the start and end of the code in the view that it was decoded from."""


class View:
    """A form of a text: *text*, its folded *data*, one byte per character, and the origin of each character.

    A view consists of parts of its *source*: part *i* begins at `begins[i]` and was decoded from the characters
    `parts[i]` of the source, one for one where both have the same length. A view without a source is the original.
    """

    def __init__(
        self,
        text: str,
        data: bytes,
        source: View | None = None,
        begins: Sequence[int] = (),
        parts: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.text, self.data, self.source, self.begins, self.parts = text, data, source, begins, parts
        self.notes: dict[object, Any] = {}
        """What was already searched for in this view, by searcher."""
        self.before = ""
        """The end of what was said before this text: the question that it may answer."""
        self.directed: View | None = None
        """The view that this one was made of by leaving out the characters that direct its text, if there are any."""
        self.lower = data.lower()
        """The data in lower case."""

    def origin(self, start: int, end: int) -> tuple[int, int]:
        """The span of the original text that the characters *start* to *end* (exclusive) were decoded from."""
        if self.source is None:
            return start, end
        first, last = self._read_from(start)[0], self._read_from(end - 1)[1]
        return self.source.origin(first, last)

    def find(self, word: str) -> Iterator[int]:
        """Yield each position at which *word* begins."""
        at = self.text.find(word)
        while at >= 0:
            yield at
            at = self.text.find(word, at + len(word))

    def _read_from(self, position: int) -> tuple[int, int]:
        """The span of the source that one character was decoded from."""
        index = bisect_right(self.begins, position) - 1
        begin, (start, end) = self.begins[index], self.parts[index]
        behind = self.begins[index + 1] if index + 1 < len(self.begins) else len(self.text)
        if behind - begin != end - start:
            return start, end
        return start + position - begin, start + position - begin + 1

    @cached_property
    def digits(self) -> int:
        """How many digits there are at least with little between them: 9, 6, 1, or 0, as in most texts.

        Most patterns need six of them; a date has fewer than nine.
        """
        if _DIGIT.search(self.data) is None:
            return 0
        return next((count for count, number in _NUMBERS.items() if number.search(self.data) is not None), 1)


def decoded(text: str) -> View:
    """*text* with its encodings undone, layer by layer."""
    view = View(text, fold(text))
    gaps = [(" ", at, at + 1) for at in spaces(view.data)]
    view = _join(view, gaps) if gaps else view
    for _ in range(_LAYERS):
        pieces = list(looked(piece for match in looked(codes(view.data)) for piece in _decode(view, match)))
        if not pieces:
            break
        view = _join(view, pieces)
    view = _undirected(view) if _UNSEEN in view.data else view
    spelled = list(looked(piece for found in _SPELLED.finditer(view.data) for piece in _digits(view, found)))
    return _joined(view, spelled) if spelled else view


def _joined(view: View, pieces: list[_Piece]) -> View:
    joined = _join(view, pieces)
    joined.directed = view.directed
    return joined


def _undirected(view: View) -> View:
    """*view* without the characters that direct its text."""
    undirected = _join(view, [("", *match.span()) for match in looked(_DIRECTIONS.finditer(view.text))])
    undirected.directed = view
    return undirected


def _decode(view: View, match: re.Match[bytes]) -> Iterable[_Piece]:
    kind, (start, end) = match.lastgroup, match.span()
    text, folded = view.text[start:end], match[0].decode("latin-1")
    if kind == "url":  # use the folded digits: in the text itself they may be full-width or accented
        return _from_url(folded, start)
    if kind == "unicode":
        return ((chr(int(folded[i + 2 : i + 6], 16)), start + i, start + i + 6) for i in range(0, len(text), 6))
    if kind == "octal" and "{" not in folded:
        return ((chr(int(folded[i + 1 : i + 4], 8)), start + i, start + i + 4) for i in range(0, len(text), 4))
    if kind == "tag" and not is_within(view.data, start, end):
        return ()
    shown = "".join(filter(DIRECTIONS.__contains__, text)) if kind == "unseen" else _shown(kind or "", text, folded)
    return ((shown, start, end),) if shown != text else ()


def _shown(kind: str, text: str, folded: str) -> str:
    """What one code stands for; the code itself where it stands for nothing."""
    if kind == "escape":
        return chr(int(folded[2:], 16)) if len(text) > 2 else _CONTROLS.get(folded[1], text[1])
    if kind == "entity":
        return html.unescape(folded)
    if kind == "name":
        return _character(folded[3:-1]) or text
    if kind in {"point", "css", "octal"}:
        code = int(_NUMBERED.sub("", folded), 8 if kind == "octal" else 16)
        return chr(code) if code <= sys.maxunicode else text
    return ""


def _character(name: str) -> str:
    """The character of that name, or nothing."""
    try:
        return unicodedata.lookup(name)
    except KeyError:
        return ""


def _digits(view: View, found: Found) -> Iterator[_Piece]:
    start, end = found.start, found.end
    if found.kind == "words":
        yield from _from_words(view.data[start:end].decode("latin-1"), start)
    else:
        digits = enumerate(view.data[start:end], start)
        yield from ((str(byte & 15), at, at + 1) for at, byte in digits if byte >= 0x90)


def _from_url(text: str, offset: int) -> Iterator[_Piece]:
    """The bytes decoded as UTF-8 if valid, else as Latin-1."""
    raw = bytes.fromhex(text.replace("%", ""))
    try:
        chars, widths = (shown := raw.decode("utf-8")), [len(char.encode("utf-8")) for char in shown]
    except UnicodeDecodeError:
        chars, widths = raw.decode("latin-1"), [1] * len(raw)
    for char, width in zip(chars, widths, strict=True):
        yield char, offset, offset + 3 * width
        offset += 3 * width


def _from_words(text: str, offset: int) -> Iterator[_Piece]:
    """`five double five oh` -> 5550; a separator belongs to the word before it."""
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


def _join(view: View, pieces: list[_Piece]) -> View:
    texts: list[str] = []
    datas: list[bytes] = []
    begins: list[int] = []
    parts: list[tuple[int, int]] = []
    size = done = 0
    for shown, start, end in looked((*pieces, ("", len(view.text), len(view.text)))):
        kept = (view.text[done:start], view.data[done:start], done, start)
        for text, data, first, last in (kept, (shown, fold(shown), start, end)):
            if text:
                texts.append(text)
                datas.append(data)
                begins.append(size)
                parts.append((first, last))
                size += len(text)
        done = end
    return View("".join(texts), b"".join(datas), view, begins, parts)
