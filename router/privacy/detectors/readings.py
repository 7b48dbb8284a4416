"""Reads the value that begins at a place behind a word: in quotes, bare up to its end, or several words."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors import plausible
from hybrid_llm.router.privacy.detectors.labels import LINE, Label
from hybrid_llm.router.privacy.detectors.plausible import WORD

_QUOTED: Final = re.compile(
    r"[brfuBRFUL@]{0,2}(?:\"([^\"\r\n]{1,200})\"|'([^'\r\n]{1,200})'|`([^`\r\n]{1,200})`"
    r"|\(([^()\s`\"']{4,60})\)(?:[\s.,;]|$))"
)
_BARE: Final = re.compile(
    r"(?:[^\s\"'`<>]|>[^\s<]|<[^/A-Za-z!\s<>]|[\"'][^\s\"'`,;:)\]}=<>])(?:[^\s\"'`<>]|>[^\s<]"
    r"|<[^/A-Za-z!\s<>]|[\"'][^\s\"'`,;:)\]}=<>]){0,199}"
)
_CUT: Final = re.compile(r"[;&,](?:[\w .-]{1,30}[=:]|[\"'])|\\[nrt]|[)\]](?:\]?\(|[,;.]|$)")
CLAUSE: Final = re.compile(
    r"[ \t]{0,3}(?:$|[.,;!?()\r\n\"*`]|(?:and|but|so|please|pls|thanks|thx|ty|for|on|und|y|et|btw|lol|if|when"
    r"|now|right|because|since|also|then|too|or)\b)"
)
ENDS: Final = re.compile(r"[ \t]{0,8}(?:$|[\r\n]|#|//)")
_CLAUSE_END: Final = re.compile(r"[,.;!?()\"<]| - |\xa1")
_SPACED: Final = re.compile(r"[0-9]{2,4}(?:[ -][0-9]{2,4}){1,2}")
_OPENING: Final = {")": "(", "]": "[", "}": "{"}


class Value(NamedTuple):
    """A text that may be a secret: where it starts in the slice behind the label, and how it stands there."""

    text: str
    start: int
    quoted: bool

    @property
    def end(self) -> int:
        """Where it ends in that slice."""
        return self.start + len(self.text)


def is_alone(label: Label, value: Value) -> bool:
    """Whether name and value are all of a line, as in YAML and `.env`."""
    return LINE.search(label.before) is not None and ENDS.match(label.behind, value.end) is not None


def quoted_at(behind: str, at: int) -> Value | None:
    """The text in quotes of any kind, in backticks or in brackets."""
    match = _QUOTED.match(behind, at)
    if match is None or match.lastindex is None or match.group(match.lastindex)[0] in ",;.)]}+ ":
        return None
    # what is in backticks or brackets may be a name
    return Value(match.group(match.lastindex), match.start(match.lastindex), quoted=match.lastindex < 3)


def bare_at(label: Label, at: int) -> Value | None:
    """The text without quotes, up to the next space or to what ends a clause."""
    match = _SPACED.match(label.behind, at) if label.kind == "pin" else None
    match = match or _BARE.match(label.behind, at)
    if match is None:
        return None
    text = match.group()
    value = trimmed(text.rstrip("*_") if label.behind[at - 1 : at] in {"*", "_"} else text, at)
    return value if value.text else None


def value_at(label: Label, at: int) -> Value | None:
    """The value in quotes or without."""
    return quoted_at(label.behind, at) or bare_at(label, at)


def trimmed(text: str, start: int) -> Value:
    """Without what ends a clause or a pair of brackets; a mark of exclamation may belong to a password."""
    cut = _CUT.search(text)
    text = (text[: cut.start()] if cut else text).rstrip(".,;:|\\")
    while text and text[-1] in ")]}" and text.count(text[-1]) > text.count(_OPENING[text[-1]]):
        text = text[:-1].rstrip(".,;:")
    return Value(text, start, quoted=False)


def phrase_at(label: Label, at: int) -> Value | None:
    """Several words up to the end of the line."""
    line = label.behind[at:].partition("\n")[0].rstrip("\r .")
    line = _CLAUSE_END.split(line, maxsplit=1)[0].rstrip()
    whole = ENDS.match(label.behind, at + len(line)) is not None
    if " " not in line or not (label.is_english or not label.word or whole) or plausible.likeness(line) < WORD:
        return None
    return Value(line, at, quoted=False)
