"""Secrets named less directly: by the header of their column, by a question before, by words of other scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final

from hybrid_llm.core.looks import looked
from hybrid_llm.router.privacy.detectors.credentials import plausible
from hybrid_llm.router.privacy.detectors.credentials.beside import values
from hybrid_llm.router.privacy.detectors.credentials.labels import (
    AHEAD,
    BEHIND,
    SCORES,
    Label,
    label_at,
    script_words,
    shown,
    words_in,
)
from hybrid_llm.router.privacy.detectors.credentials.others import UNSPACED
from hybrid_llm.router.privacy.detectors.credentials.plausible import MIXED, PHRASE
from hybrid_llm.router.privacy.detectors.credentials.readings import (
    CLAUSE,
    Value,
    bare_at,
    judged,
    phrase_at,
    quoted_at,
    trimmed,
    value_at,
)
from hybrid_llm.router.privacy.detectors.layout.markup import markup
from hybrid_llm.router.privacy.detectors.layout.pairs import Cell, pairs, results
from hybrid_llm.router.privacy.detectors.layout.pairs import Label as Cells
from hybrid_llm.router.privacy.detectors.layout.tables import below, beside_name, inserted
from hybrid_llm.router.privacy.detectors.text import View, fold

_SAME: Final = {"token": "key", "auth": "key", "pass": "password", "login": "password"}
"""Words that are weaker in prose, but as good as others where a question or a header has them."""
_CODE_WORD: Final = "code"
_CELL: Final = 0.2
"""What a key or a header adds that names the value."""
_QUESTION: Final = 200
_ANSWER: Final = 200
_REQUEST: Final = re.compile(
    r"(?i)[?;]\s*$|\?|:\s*$|\b(?:enter|provide|send|tell|give|type|share|need|confirm|what|which|please|bitte|welche"
    r"|cual|quel|ingres[ae]|introdu[czs][a-z]{1,5}|escrib[ae]|entrez|saisissez|inseri\w{1,4}|digit[aei]\w{0,2}|informe"
    r"|voer|geef|podaj|wpisz|zadejte|skriv|angi|anna|eingeben|nennen|sende|paste|send|read out|spell|indique|digame"
    r"|dime|napiste|k[ée]rem|k[ée]rj[üu]k|adja meg|yaz[a-z]{0,6}|gir(?:in|iniz)|syota|kerro|oppgi|indtast|ange|mata)\b"
    r"|[请請输輸入力告]"
    r"|введи|укажи|сообщи|напиши|назови|입력|알려|말씀|أدخل|הזן|εισ[αά]γετε"
)
_WORDS: Final = re.compile(r"[^\s\"'`]+")
_HEADER_END: Final = re.compile(r"(?:[ _-]?[0-9]|[ _-]value)?[ ?:*.]{0,3}(?:\([^()]{1,30}\))?")
"""What may stand behind the word in the name of a column."""
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][\w.\[\] ]* ?=(?: |[A-Za-z_\"'\[({]|$)")
_INLINE: Final = re.compile(
    r"<(?:span|code|em|strong|b|i|a|p|h[1-6]|dt|cite|tt|kbd|label|button|title)(?:\s[^<>]*)?>\s*$"
)
"""Elements of HTML for prose."""
_SEPARATORS: Final = frozenset([b",", b";", b"\t", b"|", b"^", b"~"])
_EDGES: Final = _SEPARATORS | {b"", b"\n", b"\r", b"[", b"]"}
_GAP: Final = b"  "
_BLANKS: Final = frozenset([b" ", b"\n", b"\r", b""])
_SIGNS: Final = (b",", b";", b"|", b"\t", b"^", b"~", b"  ")
_SENTENCE_END: Final = b". "
_IN_CODE: Final = re.compile(rb"(?:.{0,200}'|[ \t]+[^\n]{0,200}\")[^,'\"]{0,40}")
"""What stands before a word in a string of program text: single quotes, or an indented line."""
_NAME: Final = 60
"""How far a name reaches."""
_STRING_BEFORE: Final = re.compile(rb"(?:[{,:]\s{0,20})[\"'][^\"'\n]{0,40}$")
_STRING_BEHIND: Final = re.compile(
    rb"[^\"'\n]{0,20}[\"']\s{0,20}(?:\}|,\s{0,40}[\"'][^\"'\n]{1,40}[\"']\s{0,8}:"
    rb"|:\s{0,20}\{\s{0,20}[\"'][a-z_]{0,12}(?:val|text|data|content))"
)
"""Behind a string that is the value of a pair, or the key of an object with a value in it."""
_ELEMENT_BEHIND: Final = re.compile(
    rb"[^\"'\n]{0,20}[\"']\s{0,20}(?:,\s{0,20}[\"'][^\"'\n]{0,60}[\"']\s{0,20}){0,12}\]\s{0,8},?\s{0,20}(?:\["
    rb"|[\"']\w{1,20}[\"']\s{0,4}:)"
)
"""Behind a string in an array before other arrays."""
_NO_HEADER: Final = re.compile(rb"[=!]|[:?][^,;|\t\r^~]")
"""What is in no name of a field."""
_TWO_FIELDS: Final = re.compile(rb"^[^=:!?,]{0,30}[|;\t,^~]")
_TEXT_BEHIND: Final = re.compile(rb"[^<>\n]{0,30}</")
_AROUND_NAME: Final = b" \t\"'*`_"
_NUMBER: Final = "_0123456789 \"'`*"
_AROUND: Final = " \t\"'`"
_LONGEST: Final = 200
_OPENING_WORDS: Final = re.compile(
    r"(?i)(?:\W{0,3}(?:sure|ok(?:ay)?|yes|yeah|yep|well|hi|hello|so|of course|certainly|no problem|gladly"
    r"|here(?: you go| it is|'s)?"
    r"|it'?s|it is|that'?s|i (?:think|believe)(?: it'?s)?|ja|oui|si|sim|claro|natuerlich|naturlich|bien sur|c'est"
    r"|es ist|het is|voici|this is|(?:my|the|our)(?: \w+)? is|is)[\s,:.!-]{1,3}){0,3}[\"'`*]{0,2}"
)
_UNSURE: Final = re.compile(r"(?i),? (?:i (?:think|believe|guess)|as far as|but|maybe|probably|again)\b")
_IS: Final = re.compile(r"\s(?:је|е|є|есть|είναι)\s$")
_LINK: Final = re.compile("[\x80\x90-\x99\xa1\\s:=]{0,8}")


def columns(view: View) -> Iterator[tuple[int, int]]:
    """The fields of tables whose header is such a word, and values that are named less directly than by their key."""
    kinds: dict[Cells, str] = {}
    words = [(found.start, found.end) for found in words_in(view)]
    if not view.text.isascii():
        words += [(start, end) for start, end, _ in script_words(view.text)]
    for cell in looked(_cells(view, words)):
        if cell.label and cell.end - cell.start <= _LONGEST:
            if cell.label not in kinds:
                kinds[cell.label] = _named(view, cell.label)
            value = _field(view, cell.start, cell.end) if kinds[cell.label] else None
            if (
                value is not None
                and _is_secret(kinds[cell.label], value)
                and not (_is_numbered(view, cell.label, value) or _is_argument(view, cell.label, value))
            ):
                yield value.start, value.end
    for cell in _statements(view) if words else ():
        value = _stated(view, cell) if (kind := _named(view, cell.label)) else None
        if value is not None and _is_secret(kind, value):
            yield value.start, value.end


def _is_numbered(view: View, names: Cells, value: Value) -> bool:
    """Whether name and value differ in a number only: `return password1, password2`."""
    stem = value.text.lower().rstrip(_NUMBER)
    texts = [view.text[start:end].lower() for start, end in names]
    return any(text.rstrip(_NUMBER).endswith(stem) for text in texts) and bool(stem)


def _is_argument(view: View, names: Cells, value: Value) -> bool:
    """Whether name and value are in the same brackets of a call: `assertEqual(token1, token2)`."""
    texts = [view.text[start:end] for start, end in names]
    return value.text.endswith(")") and any("(" in text and ")" not in text for text in texts)


def _statements(view: View) -> Iterator[Cell]:
    """The values that a statement of SQL inserts, and what a debugger prints."""
    if b"values" in view.lower:
        yield from inserted(view.data)
    yield from results(view.data)


def _stated(view: View, cell: Cell) -> Value | None:
    """A value of a statement of SQL: a text, also within a function that hashes it, or a number."""
    text = shown(view, cell.start, cell.end)
    if view.data[cell.start - 1 : cell.start] in {b"'", b'"'}:
        return Value(text, cell.start, quoted=True)
    value = quoted_at(text, 0) or (Value(text.rstrip(), 0, quoted=False) if text.strip().isdigit() else None)
    return value and value._replace(start=cell.start + value.start)


def _cells(view: View, words: Sequence[tuple[int, int]]) -> Iterator[Cell]:
    """The cells of the tables, the JSON and the markup that one of *words* is a name in."""
    data, behind, line, first, last_start = view.data, 0, -1, 0, 0
    for start, end in looked(sorted(words)):
        first = data.rfind(b"\n", last_start, start) + 1 or first  # a line may be long, and have many words
        last_start = start
        if first != line and first >= behind and _is_header(view, opening := _opening(data, first, start), start, end):
            line, last = first, data.find(b"\n", end)
            span = (opening, len(data) if last < 0 else last)
            yield from beside_name(data, span)
            behind = yield from below(data, span)
    if any(_is_member(data, start, end) for start, end in words):
        yield from pairs(data)
    if b"<" in data and any(_is_text(data, start, end) for start, end in words):
        yield from markup(data)


def _opening(data: bytes, first: int, start: int) -> int:
    """Where the text in JSON begins that the word at *start* is in, if that is in its line, which begins at *first*."""
    low = max(first, start - _LONGEST)
    quote = data.rfind(b'"', low, start)
    return quote + 1 if quote > low and data[max(low, quote - 2) : quote].rstrip()[-1:] in {b":", b"="} else first


def _is_header(view: View, first: int, start: int, end: int) -> bool:
    """Whether the word from *start* to *end* is the name of a field in the line that begins at *first*."""
    before = view.data[max(first, start - _NAME) : start].lstrip()
    behind = view.data[end : end + _NAME].partition(b"\n")[0]
    if _NO_HEADER.search(behind) is not None and (b"," in before or not _TWO_FIELDS.search(behind)):
        return False
    starts = [at + len(sign) for sign in _SIGNS if (at := before.rfind(sign)) >= 0]
    ends = [at for sign in _SIGNS if (at := behind.find(sign)) >= 0]
    if _SENTENCE_END in before or _SENTENCE_END in behind or _IN_CODE.fullmatch(view.data, first, start):
        return False
    if not starts and (not ends or not behind[min(ends) :].strip(b" ,;|\t\r\"'^~")):
        return False  # an item of a list, one in a line
    low = start - len(before) + max(starts, default=0)
    return bool(_named(view, ((low, end + min(ends, default=len(behind))),)))


def _is_member(data: bytes, start: int, end: int) -> bool:
    """Whether a word is a string of JSON that is no key."""
    before, behind = data[max(0, start - _NAME) : start], data[end : end + _NAME]
    if _STRING_BEHIND.match(behind) is not None:
        return _STRING_BEFORE.search(before) is not None
    return _ELEMENT_BEHIND.match(data, end, end + AHEAD) is not None


def _is_text(data: bytes, start: int, end: int) -> bool:
    """Whether a word is in a tag of XML or all of an element's text."""
    before = data[max(0, start - _NAME) : start]
    tag = before.rfind(b"<")
    if tag > before.rfind(b">"):
        return True
    return before.rfind(b">") >= 0 and _TEXT_BEHIND.match(data, end, end + _NAME) is not None


def _is_secret(kind: str, value: Value) -> bool:
    label = Label(kind, _CODE_WORD if kind == "pin" else kind, "", "", 0, 0, SCORES[kind])
    return judged(label, value._replace(quoted=kind == "password"), _CELL) is not None


def _named(view: View, spans: Cells) -> str:
    """The kind of secret that a header names, or nothing."""
    known: dict[str, str] = view.notes.setdefault(_kind_of, {})
    for start, end in spans:
        name = view.text[start:end] if end - start <= _NAME * 2 else ""
        if name not in known:
            known[name] = _kind_of(name, view.data[start:end])
        if known[name]:
            return known[name]
        for _, _, kind in script_words(view.text[start:end]) if not view.text[start:end].isascii() else ():
            return kind
    return ""


def _kind_of(text: str, data: bytes) -> str:
    """The kind of secret that a name names, which ends with the word for it, or nothing."""
    data = data[: len(text)].rstrip(_AROUND_NAME)
    name = View(text[: len(data)], data)
    for found in words_in(name):
        label = label_at(name, found) if found.kind != "login" else None
        if label is not None and label.score >= SCORES[label.kind] and _HEADER_END.fullmatch(label.behind):
            return _SAME.get(label.kind, label.kind)
    return ""


def _field(view: View, start: int, end: int) -> Value | None:
    """A piece of a text if it is a field of a table, a string or the text of an element; no program text."""
    text = shown(view, start, end)
    start, text = start + len(text) - len(text.lstrip(_AROUND)), text.strip(_AROUND)
    before = view.data[max(0, start - 6) : start].rstrip(b" ")
    behind = view.data[start + len(text) : start + len(text) + 6].lstrip(b" ")
    quoted = before[-1:] in {b'"', b"'"} and behind[:1] == before[-1:]
    if quoted:
        before, behind = before[:-1].rstrip(b" "), behind[1:].lstrip(b" ")
    edges = {before[-1:], behind[:1]}
    is_text = edges == {b">", b"<"} and not _INLINE.search(view.data[max(0, start - 200) : start].decode("latin-1"))
    is_field = (edges <= _EDGES and bool(edges & _SEPARATORS)) or is_text or (quoted and before[-1:] in {b":", b"="})
    is_field = is_field or (_is_apart(view.data, start, start + len(text)) and not quoted)
    if (
        not text
        or not is_field
        or "\n" in text
        or (not quoted and (plausible.is_code(text) or _ASSIGNMENT.match(text)))
    ):
        return None
    if not quoted and "_" in text.rstrip("_") and text.isidentifier() and not plausible.is_random(text):
        return None
    if " " in text and not quoted and b"|" not in edges and plausible.likeness(text) != PHRASE:
        return None
    return Value(text, start, quoted=True)


def _is_apart(data: bytes, start: int, end: int) -> bool:
    """Whether spaces set a field apart from others in its line."""
    before, behind = data[max(0, start - 2) : start], data[end : end + 2]
    return _GAP in {before, behind} and all(side[-1:] in _BLANKS for side in (before, behind[:1]))


def answered(view: View) -> Iterator[tuple[int, int]]:
    """Yield the values in an answer to a question for a secret, which was said before this text."""
    asked = _asked(view.before[-_QUESTION:]) if view.before else None
    if asked is None:
        return
    label = Label(asked, "", "", shown(view, 0, AHEAD), 0, 0, SCORES[asked])
    opening = _OPENING_WORDS.match(label.behind)
    if opening and asked == "password":
        yield from _whole_answer(label, opening.end())
    for part in _WORDS.finditer(label.behind, 0, _ANSWER):
        value = trimmed(part.group(), part.start())
        like = plausible.likeness(value.text, bare=True)
        if (like >= MIXED or asked == "pin") and judged(label, value, 0.1) is not None:
            yield value.start, value.end


def _whole_answer(label: Label, at: int) -> Iterator[tuple[int, int]]:
    """An answer of a word or a few that make no sentence."""
    value = phrase_at(label, at) or bare_at(label, at)
    if value is None or not (CLAUSE.match(label.behind, value.end) or _UNSURE.match(label.behind, value.end)):
        return
    value = value._replace(quoted=True)
    if len(value.text) > 3 and (" " in value.text or judged(label, value, 0.1) is not None):
        yield value.start, value.end


def _asked(question: str) -> str | None:
    """The kind of the secret that a question asks for."""
    data = fold(question)
    view = View(question, data)
    kinds = [found.kind for found in words_in(view) if label_at(view, found) is not None]
    kinds += [kind for _, _, kind in script_words(question)] if not question.isascii() else []
    return _SAME.get(kinds[-1], kinds[-1]) if kinds and _REQUEST.search(question) else None


def _is_predicate(link: str, text: str) -> bool:
    """Whether *text* behind a verb is a word of the same script: `лозинка је онемогућена`."""
    return _IS.search(link) is not None and text.isalpha() and not any(map(str.isascii, text))


def of_script(view: View, start: int, end: int, kind: str) -> Iterator[tuple[int, int]]:
    """Like `labelled`, for a word of another script that stands at *start* to *end*."""
    behind = UNSPACED.sub("\\1\n", shown(view, end, end + AHEAD))
    whole = Label(kind, "", shown(view, start - BEHIND, start), behind, end, end - start, SCORES[kind])
    for value in values(whole):
        if not _is_predicate(view.text[end : end + value.start], view.text[end + value.start : end + value.end]):
            yield end + value.start, end + value.end
    link = _LINK.match(behind)
    offset = end + (link.end() if link else 0)
    label = Label(kind, "", "", behind[offset - end :], offset, offset - start, SCORES[kind])
    first, is_told = value_at(label, 0), link is not None and any(sign in link.group() for sign in ":=\x80")
    if first is not None and judged(label, first, 0.1 if is_told else -0.1) is not None:
        yield offset + first.start, offset + first.end
