"""Reads and judges the value that begins at a place behind a word: in quotes, bare up to its end, or several words."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from hybrid_llm.router.privacy.detectors.credentials import plausible
from hybrid_llm.router.privacy.detectors.credentials.labels import LINE, Label
from hybrid_llm.router.privacy.detectors.credentials.plausible import MIXED, NOTHING, WORD

_QUOTED: Final = re.compile(
    r"[brfuBRFUL@]{0,2}(?:\"([^\"\r\n]{1,200})\"|'([^'\r\n]{1,200})'|`([^`\r\n]{1,200})`"
    r"|\(([^()\s`\"']{4,60})\)(?:[\s.,;]|$)|\[[ ]?([^\[\]\s`\"']{4,60})[ ]?\][ \t]{0,3}(?:[\r\n]|$))"
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
    r"[ \t]{0,3}(?:$|[.,;!?()\r\n\"*`]|</|(?:and|but|so|please|pls|thanks|thx|ty|for|on|und|y|et|btw|lol|if|when"
    r"|now|right|because|since|also|then|too|or)\b)"
)
_OPENED: Final = re.compile(r"([\"'])[\w.-]{0,40}$")
"""The quote that a pair is in: `- "MDP=X"`."""
ENDS: Final = re.compile(r"[ \t]{0,8}(?:$|[\r\n]|#|//)")
_CLAUSE_END: Final = re.compile(r"[,.;!?()\"<]| - |\xa1")
_SPACED: Final = re.compile(r"[0-9]{2,4}(?:[ -][0-9]{2,4}){1,2}")
THRESHOLD: Final = 0.5
_PIN: Final = re.compile(r"[A-Z]{0,3}-?[0-9]{3,10}|[0-9]{3}[ -][0-9]{3,4}|[A-Z0-9]{2,6}(?:-[A-Z0-9]{2,6}){0,4}")
_OWNER: Final = re.compile(
    r"(?:\b(?:my|your|our|his|her|their|the|new|old|temporary|temp|default|initial|current|mein|dein|mi|mon"
    r"|minha|mijn)\s|--?)[\w-]*$",
    re.IGNORECASE,
)
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
    quote = _OPENED.search(label.before)
    end = value.end + (quote is not None and label.behind.startswith(quote[1], value.end))
    return LINE.search(label.before) is not None and ENDS.match(label.behind, end) is not None


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
    if label.behind[at - 1 : at] in {"*", "_"} or (text.endswith("**") and "**" in label.before):
        text = text.rstrip(".,;:").rstrip("*_")
    if label.behind[at - 1 : at] == ">" and label.behind.startswith("</", match.end()):
        return Value(text, at, quoted=False)
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


def judged(label: Label, value: Value, score: float) -> Value | None:
    """*value* if the evidence for it suffices."""
    like = plausible.likeness(value.text, bare=not value.quoted)
    if like == NOTHING or len(value.text) < _least(label, value):
        return None
    if label.kind == "pin" and (_PIN.fullmatch(value.text) or like < MIXED):
        return value if _PIN.fullmatch(value.text) and label.score + score + 0.2 >= THRESHOLD - 1e-9 else None
    if label.kind == "login" or value.text.startswith("--") or (label.kind == "pin" and "cod" not in label.word):
        return None
    return value if label.score + score + _of_value(label, value, like) >= THRESHOLD - 1e-9 else None


def _of_value(label: Label, value: Value, like: float) -> float:
    """What the value adds, and what its surroundings do for it."""
    if label.kind in {"key", "token", "auth"} and not value.quoted and like == MIXED and _is_name(value.text):
        like -= 0.2
    if label.kind in {"key", "token", "auth"}:
        is_name = value.quoted and "_" in value.text and value.text.isidentifier() and like <= MIXED
        like -= 0.3 if is_name else 0.1 if like < MIXED else 0.0
    if label.kind == "pass" and (
        label.is_login or (LINE.search(label.before) and like >= WORD and not value.text.isdigit())
    ):
        like += 0.2
    if like < MIXED and label.kind == "password" and (label.is_login or _OWNER.search(label.before)):
        like += 0.1
    return like


def _is_name(text: str) -> bool:
    return text.isidentifier() and not text.isalpha()


def _least(label: Label, value: Value) -> int:
    if label.kind == "pin":
        return 3 if label.word.startswith("cv") else 4
    if label.kind == "password":
        return 4
    return 6 if label.kind == "pass" or value.quoted else 7
