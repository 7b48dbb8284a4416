"""Secrets that do not follow their word: before it, as the second of a pair, as one more in a row."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Final

from hybrid_llm.router.privacy.detectors.credentials import plausible
from hybrid_llm.router.privacy.detectors.credentials.labels import Label
from hybrid_llm.router.privacy.detectors.credentials.plausible import MIXED, PHRASE, RANDOM, WORD
from hybrid_llm.router.privacy.detectors.credentials.readings import ENDS, Value, trimmed, value_at

_CLOSE: Final = r"[\"'`*_\])}]{0,4}"
_OWNERS: Final = (
    r"(?:(?:my|the|your|our|a|an|his|her|their|new|old|mein|meine|das|dein|unser|mon|le|la|mi|minha|a|meu|mia|il|lo"
    r"|mijn|het|om|moje|mitt)\s){0,2}(?:[\w-]+\s){0,2}"
)
_AHEAD: Final = re.compile(
    r"(?:^|(?P<verb>\b(?:use|used|using|put|set|have|has|with|need|chose|pick(?:ed)?|tr(?:y|ied)|typed?|enter(?:ed)?"
    r"|it'?s|its|that'?s|nimm|nutze?|mit|avec|con|com|met|utilise[rz]?|usa|usar|gebruik|is)\s)"
    r"|[\s(])[\"'`]?(?P<value>[^\s\"'`]{5,64})[\"'`]?(?P<link>\s(?:is|was|are|were|as|for|als|ist|war|comme"
    r"|est|como|es|e|come|som|jako|ar|er|je|to|jest|foi|era|fue|on)\s"
    r"|\s\(|\s?(?:=|<-|<=|<--)\s|,\s(?:that'?s|that is|which is|it'?s|is)\s|\san?\s)" + _OWNERS + "$",
    re.IGNORECASE,
)
_ENCLOSED: Final = re.compile(r"\w{0,2}\s?\)")
_ASKS: Final = re.compile(r"(?i)^is\s$")
_TWO: Final = re.compile(
    rf"{_CLOSE}(?:\s?[:=]\s{{0,3}}|\s(?:with|as|using|is|are)\s|\s)(?:(?:the )?user(?:name)?\s)?[\"'`]?[^\s/:"
    rf"|,\"'`=\[({{][^\s/:|,\"'`=]{{1,60}}[\"'`]?"
    r"(?:\s?[/|,:]\s?|\s(?:and|und|y|et|with|e|en)\s)[\"'`]?([^\s/|,\"'`][^\s|,\"'`]{3,63})"
)
_ACCOUNTS: Final = ("credential", "cred", "log-in d", "login d", "zugangs", "anmelde", "login", "identifiants", "inlog")
"""How the words begin that stand for a user's name with a password."""
_MORE: Final = re.compile(r"\s{0,2}(?:,\s{0,2}|(?:/|and|or|to|und|y|et|then)\s{1,2})")
_LINK: Final = re.compile(r"(?:(?:就|[設设]置?|改|[換换])?(?:是|为|為|成)|は|が|を|는|은|이|가)\s?[:：]?\s?")
"""What stands between a word and its value in a script that does not separate words: `password是X`."""
UNSPACED: Final = re.compile("([!-~])[\x80\x90-\x99\xa3]")
"""Where a text in Latin letters ends before another script that does not separate words."""
_LEAST: Final = {"password": MIXED, "key": RANDOM, "token": RANDOM}
_DIGITS: Final = 6
_LONG: Final = 8
"""Letters of a word that may be a password where little else says so."""


def more(label: Label, value: Value) -> Iterator[Value]:
    """The second of `passwords X and Y`, `from X to Y`."""
    match = _MORE.match(label.behind, value.end + value.quoted)
    if match is None or label.kind != "password":
        return
    other = value_at(label, match.end())
    if other is not None and plausible.likeness(other.text, bare=not other.quoted) >= MIXED:
        yield other


def pair(label: Label) -> Iterator[Value]:
    """The second of `login: bob / X`, `username and password are bob and X`."""
    if label.kind != "login" and not label.is_login and not label.word.startswith(_ACCOUNTS):
        return
    match = _TWO.match(label.behind)
    if match is not None:
        value = trimmed(match.group(1), match.start(1))
        likeness = plausible.likeness(value.text, bare=True)
        is_whole = " / " in match.group() and ENDS.match(label.behind, value.end) is not None
        if (
            likeness >= MIXED
            or (likeness >= PHRASE and len(value.text) >= _DIGITS)
            or (is_whole and is_long(value.text))
        ):
            yield value


def ahead(label: Label) -> Iterator[Value]:
    """The value before the word: `X is my password`, `it's X (my password)`, `use X as the password`."""
    match = _AHEAD.search(label.before) if label.kind in _LEAST else None
    if match is None or not _may_link(match, label.behind):
        return
    start = match.start("value") - len(label.before) - label.length
    value = Value(match["value"], start, quoted=False)
    least = WORD if label.kind == "password" and match["verb"] and is_long(value.text) else _LEAST[label.kind]
    if plausible.likeness(value.text, bare=True) >= least:
        yield value


def linked(label: Label, behind: str) -> Iterator[Value]:
    """The value behind a link of another script, which the text *behind* begins with: `我的password是X`."""
    match = _LINK.match(behind)
    if match is None or label.kind not in _LEAST:
        return
    value = value_at(replace(label, behind=UNSPACED.sub("\\1\n", label.behind)), match.end())
    if value is not None and plausible.likeness(value.text, bare=not value.quoted) >= MIXED:
        yield value


def _may_link(match: re.Match[str], behind: str) -> bool:
    """Whether a bracket that opens before the word closes behind it, and only a question links by nothing else."""
    link = match["link"].strip()
    if link == "(":
        return _ENCLOSED.match(behind) is not None
    return link not in {"a", "an"} or (match["verb"] or "").strip().lower() == "is"


def is_long(text: str) -> bool:
    """Whether *text* is of letters, and long enough to be a password where little else says so."""
    return len(text) >= _LONG and text.replace("-", "").isalpha() and not plausible.is_predicate(text)
