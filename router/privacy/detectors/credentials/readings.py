"""Reads the value that begins at a place behind a word: in quotes, bare up to its end, or several words."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors.credentials import plausible
from hybrid_llm.router.privacy.detectors.credentials.labels import LINE, Label
from hybrid_llm.router.privacy.detectors.credentials.plausible import WORD

_QUOTED: Final = re.compile(
    r"[brfuBRFUL@]{0,2}(?:\"([^\"\r\n]{1,200})\"|'([^'\r\n]{1,200})'|`([^`\r\n]{1,200})`"
    r"|\(([^()\s`\"']{4,60})\)(?:[\s.,;]|$))"
)
_BARE: Final = re.compile(r"(?:[^\s\"'`<>]|>[^\s<]|<[^/A-Za-z!\s<>]|[\"'][^\s\"'`,;:)\]}=<>]){1,200}")
_CUT: Final = {
    "=": re.compile(r"[;&,][\w .-]{1,30}=|[;&,][\"']|\\[nrt]"),
    ":": re.compile(r"[;,][\w .-]{1,30}:|[;&,][\"']|\\[nrt]"),
    "": re.compile(r"[;&,](?:[\w .-]{1,30}[=:]|[\"'])|\\[nrt]"),
}
"""Where the next pair begins; it has the same sign as the one before."""
_CLOSING: Final = re.compile(r"[)\]}](?:\]?\(|[,;.)\]}]*$|[,;.])")
_NO_TAG: Final = re.compile(r"<[/A-Za-z!][^\s<>\"'`]{0,60}[^\n>]{0,80}(?:\n|$)")
_MARKS: Final = re.compile(r"[^A-Za-z0-9\s].*[^A-Za-z0-9\s].*[^A-Za-z0-9\s]")
_HASHED: Final = re.compile(
    r"(?i)(?:(?:old_)?password|md5|sha[0-9_]{0,5}|crypt|encrypt|digest|hashbytes|bcrypt|scrypt|argon2\w{0,2})\(\s?"
)
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
    """The text in quotes of any kind, in backticks or in brackets, also where a function of SQL hashes it."""
    hashed = _HASHED.match(behind, at)
    match = _QUOTED.match(behind, hashed.end() if hashed else at)
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
    if _NO_TAG.match(label.behind, match.end()):
        text += label.behind[match.end() :].split(maxsplit=1)[0]
    if label.behind[at - 1 : at] in {"*", "_"}:
        text = text.rstrip(".,;:").rstrip("*_")
    if _MARKS.search(text) and LINE.search(label.before) and ENDS.match(label.behind, match.end()):
        return Value(text, at, quoted=False)  # no sentence ends here
    value = trimmed(text, at, label.before.rpartition("\n")[2], label.behind[:at].rstrip()[-1:])
    return value if value.text else None


def value_at(label: Label, at: int) -> Value | None:
    """The value in quotes or without."""
    return quoted_at(label.behind, at) or bare_at(label, at)


def trimmed(text: str, start: int, before: str = "", sign: str = "") -> Value:
    """Without what ends a clause, or closes a bracket that opened *before*; `!` may belong to a password."""
    cut = _CUT.get(sign, _CUT[""]).search(text)
    text = text[: cut.start()] if cut else text
    for closing in _CLOSING.finditer(text):
        sign = closing.group()[0]
        opening, to = _OPENING[sign], closing.start()
        if before.count(opening) > before.count(sign) and text.count(opening, 0, to) <= text.count(sign, 0, to):
            text = text[: closing.start()]
            break
    return Value(text.rstrip(".,;:|\\"), start, quoted=False)


def phrase_at(label: Label, at: int) -> Value | None:
    """Several words up to the end of the line."""
    line = label.behind[at:].partition("\n")[0].rstrip("\r .")
    line = _CLAUSE_END.split(line, maxsplit=1)[0].rstrip()
    whole = ENDS.match(label.behind, at + len(line)) is not None
    if " " not in line or not (label.is_english or not label.word or whole) or plausible.likeness(line) < WORD:
        return None
    return Value(line, at, quoted=False)
