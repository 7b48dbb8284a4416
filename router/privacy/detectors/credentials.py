"""Credentials: passwords, keys and tokens, by their form, by the word in front of them and by the rules of gitleaks."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors import gitleaks
from hybrid_llm.router.privacy.detectors.evidence import Candidate, Pattern
from hybrid_llm.router.privacy.detectors.folding import linear
from hybrid_llm.router.privacy.detectors.views import View

_TOKENS: Final = (
    rb"(?:AKIA|ASIA)[A-Z0-9]{16}|gh[pousr]_[A-Za-z0-9]{36,255}|github_pat_[A-Za-z0-9_]{22,255}|sk-[A-Za-z0-9_-]{20,200}"
    rb"|[srp]k_(?:live|test)_[A-Za-z0-9]{10,99}|xox[abeprs]-[A-Za-z0-9-]{10,200}|AIza[A-Za-z0-9_-]{35}|glpat-[A-Za-z0-9_-]{20,}"
    rb"|hf_[A-Za-z]{34}|npm_[A-Za-z0-9]{36}|eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}"
)
_KEY_BLOCK: Final = (
    rb"(-----BEGIN [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----"
    rb"(?:\s{0,4}[A-Za-z-]{2,20}: [^\r\n]{1,80})*(?:\s{0,4}[A-Za-z0-9+/=]{4,})*"
    rb"(?:\s{0,4}-----END [A-Z ]{0,32}PRIVATE KEY(?: BLOCK)?-----)?)"
)
_USER_INFO: Final = rb"[a-z][a-z0-9+.-]{1,20}://([^\s/:@'\"<>{}$%*]{0,100}:[^\s/@'\"<>{}$*]{1,200})@"
_SHOWN: Final = rb"\s{1,3}([A-Za-z0-9._~+/=-]{12,})"
_HEADER: Final = rb"(?i)authorization['\"]?\s{0,3}[:=]\s{0,3}['\"]?(?:bearer|basic|token|digest)" + _SHOWN
_BEARER: Final = rb"(?i)bearer" + _SHOWN
_WORDS: Final = (
    rb"pass(?:word|wd|phrase|code)?|pwd|passwort|contrase[nx]a|senha|mot de passe|credentials?|secret(?:[ _-]?key)?"
    rb"|token|api[ _-]?(?:key|secret)|access[ _-]?(?:key|token)|auth[ _-]?key|private[ _-]?key|client[ _-]?secret"
    rb"|pin(?:[ _-]?code)?"
)
_ASSIGNED: Final = (
    rb"(?i)(" + _WORDS + rb")['\"]?\s{0,4}(:=|=>|=|:|\bis:?\s)\s{0,4}"
    rb"(?:\"([^\"\r\n]{4,200})\"|'([^'\r\n]{4,200})'|([^\s'\"`,;<>()\[\]{}]{4,200}))"
)  # fmt: skip
_BARE: Final = 5
"""The group of a value without quotes."""
_PLACEHOLDER: Final = re.compile(
    r"[*x•.#?_-]+|<.*|\$.*|%.*|\{.*|\[.*|.*(?:\{\{|\$\{|%\().*|your[_-].*|.*_here|changeme|example", re.IGNORECASE
)
_NO_VALUES: Final = re.compile(
    "none|null|true|false|nil|undefined|str(?:ing)?|bytes|int|bool(?:ean)?|object|any|optional|required|empty|missing|invalid"
    "|incorrect|wrong|correct|valid|expired|needed|necessary|protected|secret|password|passwd|token|username|email|text"
    "|value|default|hidden|private|public|number|type|field|input|self|request|response|config|settings|environ|getpass"
    "|unknown",
    re.IGNORECASE,
)
_CODE: Final = re.compile(r"[A-Za-z_][\w]*(?:[.:]+[A-Za-z_]\w*)*[.:]?")
"""A name, or names joined by dots: in unquoted program text that is a variable and not its value."""


def _assigned(view: View) -> Iterator[tuple[int, int]]:
    """What stands behind `password:`, `token =` or `secret is`."""
    match = _ASSIGNMENT.search(view.data)
    while match is not None:
        start, end = match.span(match.lastindex)
        is_bare = match.lastindex == _BARE
        value = view.data[start:end].decode("latin-1").rstrip(".!?" if is_bare else "")
        if _is_value(match.group(1).lower(), match.group(2).strip().lower(), value, is_bare=is_bare):
            yield start, start + len(value)
        match = _ASSIGNMENT.search(view.data, start)


def _is_value(word: bytes, sign: bytes, value: str, *, is_bare: bool) -> bool:
    if len(value) < 4 or _PLACEHOLDER.fullmatch(value) or _NO_VALUES.fullmatch(value):
        return False
    if word.startswith(b"pin"):
        return value.isdigit() and len(value) <= 12
    mixed = any(map(str.isdigit, value)) and len(value) >= 6
    if not is_bare:
        return len(value) >= 6 and " " not in value
    if sign.startswith(b"is"):
        return mixed
    return (
        len(value) >= 6
        and (mixed or not _CODE.fullmatch(value))
        and not value.startswith(("/", "\\", "=", "+", "|", "&", "!"))
    )


def _is_user_info(candidate: Candidate) -> float:
    """A user and a password in a URL (RFC 3986, 3.2.1), but no stand-in of a manual."""
    password = candidate.value.partition(":")[2]
    return 0.0 if password.lower() in {"pass", "password", "passwd", "pwd"} or _PLACEHOLDER.fullmatch(password) else 1.0


_CHINESE: Final = ("密码", "口令", "密碼", "密钥", "令牌")
_BEHIND: Final = linear(rb"[\x80\x90-\x99\xa1\s:='\"]{0,6}([!-~]{6,64})")


def _chinese(view: View) -> Iterator[tuple[int, int]]:
    """What stands behind the Chinese words for password, key and token."""
    for word in _CHINESE:
        for at in view.find(word):
            match = _BEHIND.match(view.data, at + len(word))
            if match is not None and any(48 <= byte <= 57 for byte in match.group(1)):
                yield match.span(1)


_PSEUDONYM: Final = re.compile("[A-Z]{2,12}_[A-Z2-7]{5}")
"""What the privacy guard puts in the place of a value, such as `SECRET_QYSAI`: a secret no more."""
_ASSIGNMENT: Final = linear(_ASSIGNED)

CREDENTIAL: Final = (
    Pattern(linear(rb"\b(" + _TOKENS + rb")")),
    Pattern(linear(_KEY_BLOCK), needs=b"-----begin"),
    Pattern(linear(_USER_INFO), _is_user_info, needs=b"://"),
    Pattern(linear(_HEADER), needs=b"authorization"),
    Pattern(linear(_BEARER), needs=b"bearer"),
)


def credentials(view: View) -> Iterator[tuple[int, int]]:
    """Yield every value behind a word for a secret, and every find of gitleaks' rules."""
    for start, end in _candidates(view):
        if not _PSEUDONYM.fullmatch(view.text, start, end):
            yield start, end


def _candidates(view: View) -> Iterator[tuple[int, int]]:
    yield from _assigned(view)
    if not view.text.isascii():
        yield from _chinese(view)
    for start, end in gitleaks.secrets(view):
        quoted = end - start > 2 and view.data[start] == view.data[end - 1] and view.data[start] in b"\"'"
        yield (start + 1, end - 1) if quoted else (start, end)
