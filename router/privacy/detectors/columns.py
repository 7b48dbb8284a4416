"""Secrets named less directly: by the header of their column, by a question before, by words of other scripts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors import plausible
from hybrid_llm.router.privacy.detectors.beside import judged, values
from hybrid_llm.router.privacy.detectors.evidence import layout
from hybrid_llm.router.privacy.detectors.labels import AHEAD, BEHIND, LABEL, SCORES, Label, label_at, shown
from hybrid_llm.router.privacy.detectors.pairs import Label as Cells
from hybrid_llm.router.privacy.detectors.plausible import MIXED, PHRASE
from hybrid_llm.router.privacy.detectors.readings import CLAUSE, Value, bare_at, phrase_at, trimmed, value_at
from hybrid_llm.router.privacy.detectors.text import View, fold

_SAME: Final = {"token": "key", "auth": "key", "pass": "password", "login": "password"}
"""Words that are weaker in prose, but as good as others where a question or a header has them."""
_CELL: Final = 0.2
"""What a key or a header adds that names the value."""
_QUESTION: Final = 200
_ANSWER: Final = 200
_REQUEST: Final = re.compile(
    r"(?i)\?|:\s*$|\b(?:enter|provide|send|tell|give|type|share|need|confirm|what|which|please|bitte|welche"
    r"|cual|quel)\b"
)
_WORDS: Final = re.compile(r"[^\s\"'`]+")
_HEADER: Final = re.compile(
    r"(?i)(?:[^0-9,;|]{0,40}[^a-z]|[a-z]{0,12})(?:(?P<password>pass[ _-]?(?:word|wd|phrase|code|key|wrd)?"
    r"|pwd?|pswd?|pword|p/w|heslo|(?:wi-?fi|wlan|network|router)[ _-]?(?:key|code)|passwort|kennwort"
    r"|contrase[nx]a|senha"
    r"|wachtwoord|mot[ _-]?de[ _-]?passe|mdp|clave|parola|lxsenord|losenord|has[lx]o|salasana|sifre|jelszo"
    r"|psk|(?:secret|memorable|code)[ _-]?(?:word|phrase))|(?P<key>(?:api|secret|access|private|auth|account"
    r"|encryption|signing|master|licen[sc]e|login|door|ssh|wifi|deploy)"
    r"[ _-]?key|(?:client|api|app)?[ _-]?secret|token|credentials?)"
    r"|(?P<pin>pin(?:[ _-]?code)?|otp|cvv2?"
    r"|cvc2?|(?:verification|security|access|unlock|door|gate|alarm|2fa|sms)[ _-]?code))(?:[ _-]?[0-9]"
    r"|[ _-]value)?[ ?:*.]{0,3}(?:\([^()]{1,30}\))?"
)
"""What names the fields of a column."""
_ASSIGNMENT: Final = re.compile(r"[A-Za-z_][\w.\[\] ]* ?=(?: |[A-Za-z_\"'\[({]|$)")
_INLINE: Final = re.compile(
    r"<(?:span|code|em|strong|b|i|a|p|h[1-6]|dt|cite|tt|kbd|label|button|title)(?:\s[^<>]*)?>\s*$"
)
"""Elements of HTML for prose."""
_SEPARATORS: Final = frozenset([b",", b";", b"\t", b"|"])
_EDGES: Final = _SEPARATORS | {b"", b"\n", b"\r", b"[", b"]"}
_AROUND: Final = " \t\"'`"
_LONGEST: Final = 200
_OPENING_WORDS: Final = re.compile(
    r"(?i)(?:\W{0,3}(?:sure|ok(?:ay)?|yes|yeah|well|hi|hello|so|here(?: you go| it is)?|it'?s|it is|that'?s"
    r"|this is|(?:my|the|our)(?: \w+)? is|is)"
    r"[\s,:.!-]{1,3}){0,3}[\"'`*]{0,2}"
)
_LINK: Final = re.compile("[\x80\x90-\x99\xa1\\s:=]{0,8}")


def columns(view: View) -> Iterator[tuple[int, int]]:
    """The fields of tables whose header is such a word, and values that are named less directly than by their key."""
    kinds: dict[Cells, str] = {}
    for cell in layout(view).cells:
        if cell.label and cell.end - cell.start <= _LONGEST:
            if cell.label not in kinds:
                kinds[cell.label] = _named(view, cell.label)
            value = _field(view, cell.start, cell.end) if kinds[cell.label] else None
            if value is not None and _is_secret(kinds[cell.label], value):
                yield value.start, value.end


def _is_secret(kind: str, value: Value) -> bool:
    label = Label(kind, kind, "", "", 0, 0, SCORES[kind])
    return judged(label, value._replace(quoted=kind == "password"), _CELL) is not None


def _named(view: View, spans: Cells) -> str:
    """The kind of secret that a header names, or nothing."""
    for start, end in spans:
        match = _HEADER.fullmatch(view.data[start:end].decode("latin-1").strip(" \t\"'*`_"))
        if match is not None:
            return match.lastgroup or ""
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
    is_field = (edges <= _EDGES and bool(edges & _SEPARATORS)) or is_text or (quoted and before[-1:] == b":")
    if (
        not text
        or not is_field
        or "\n" in text
        or (not quoted and (plausible.is_code(text) or _ASSIGNMENT.match(text)))
    ):
        return None
    if " " in text and not quoted and b"|" not in edges and plausible.likeness(text) != PHRASE:
        return None
    return Value(text, start, quoted=True)


def answered(view: View) -> Iterator[tuple[int, int]]:
    """Yield the values in an answer to a question for a secret, which was said before this text."""
    asked = _asked(view.before[-_QUESTION:])
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
    if value is None or not CLAUSE.match(label.behind, value.end):
        return
    value = value._replace(quoted=True)
    if len(value.text) > 3 and (" " in value.text or judged(label, value, 0.1) is not None):
        yield value.start, value.end


def _asked(question: str) -> str | None:
    """The kind of the secret that a question asks for."""
    data = fold(question)
    kinds = [found.kind for found in LABEL.finditer(data) if label_at(View(question, data), found) is not None]
    return _SAME.get(kinds[-1], kinds[-1]) if kinds and _REQUEST.search(question) else None


def of_script(view: View, start: int, end: int, kind: str) -> Iterator[tuple[int, int]]:
    """Like `labelled`, for a word of another script that stands at *start* to *end*."""
    whole = Label(
        kind, "", shown(view, start - BEHIND, start), shown(view, end, end + AHEAD), end, end - start, SCORES[kind]
    )
    for value in values(whole):
        yield end + value.start, end + value.end
    link = _LINK.match(shown(view, end, end + 8))
    offset = end + (link.end() if link else 0)
    label = Label(kind, "", "", shown(view, offset, offset + AHEAD), offset, offset - start, SCORES[kind])
    first, is_told = value_at(label, 0), link is not None and (":" in link.group() or "=" in link.group())
    if first is not None and judged(label, first, 0.1 if is_told else -0.1) is not None:
        yield offset + first.start, offset + first.end
