"""Patterns for e-mail addresses (RFC 5322, RFC 6531), also spelled out and next to text without spaces."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from hybrid_llm.core.looks import looked
from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.text import Regex, View

_LOCAL: Final = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.!#$%&'*+/=?^`{|}~\\-")
_CJK: Final = frozenset((0x80, *range(0x90, 0x9A)))
_LONGEST: Final = 64
"""How long a name may be (RFC 5321, 4.5.3.1)."""
_UNSPACED: Final = 24
"""The same, in a script that does not separate words."""
_ATOM: Final = re.compile(rb"[A-Za-z0-9_+]")
_DOMAIN: Final = re.compile(
    rb"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?[.\xa3]){1,8}(?:xn--[A-Za-z0-9-]{2,59}|[A-Za-z]{2,24})"
    rb"|\[(?:IPv6:)?[0-9A-Fa-f:.]{3,45}\]"
    rb"|[A-Za-z0-9\x80\x90-\x99-]{0,20}[\x80\x90-\x99][A-Za-z0-9\x80\x90-\x99-]{0,20}\."
    rb"(?:[\x80\x90-\x99]{2,6}|[A-Za-z]{2,10})"
)
_AT_SIGN: Final = re.compile(b"@")
_QUOTED: Final = re.compile(rb"\"[^\"\r\n]{1,64}\"")
_PAIR: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_.-]*=")
"""What precedes the address in `email=jane@example.org`."""
_QUERY: Final = re.compile(rb"[?&][A-Za-z_][A-Za-z0-9_.-]*=")
_MARKS: Final = frozenset(b"*`~{|}'/=?&.-^\\%")
"""What may stand before an address without being part of it: emphasis, brackets, the end of a path."""
_FILES: Final = re.compile(
    rb"png|jpe?g|gif|webp|avif|svg|[cm]?jsx?|css|html?|json|txt|pdf|exe|dll|xml|ya?ml|gz|bmp|ico|woff2?|service|timer"
    rb"|socket"
    rb"|target|mount|map|md5|sha256|whl|zip|tgz",
    re.IGNORECASE,
)
_SOURCES: Final = re.compile(rb"py[ci]?|tsx?")
"""Of a name with one dot: `.com.py` is a domain."""
_VERSION: Final = re.compile(
    rb"v?[0-9]+(?:\.[0-9]+)*\.?(?:x|rc|dev|beta|alpha|post|next|latest|canary)?[0-9]*|[0-9]+x\..*"
)
_PATH: Final = re.compile(rb":(?:[A-Za-z0-9_.~-]*/[^\s]|[A-Za-z0-9_.~-]+\.git\b)")
_CODE: Final = re.compile(rb"(?:self|cls|np|torch|tf|jnp|this)\.[A-Za-z_].*|[A-Za-z_][A-Za-z0-9_]{0,2}")
_OPERAND: Final = re.compile(rb"[A-Za-z_][A-Za-z0-9_]{0,15}\.(?:m[TH]|[a-z]{1,3}[A-Z][A-Za-z]*)")
"""The right side of a product of matrices: `k.mT`."""


_AT: Final = (
    rb"(?:\s*(?:[\[({<]\s?(?:at|@|arroba)\s?[\])}>]|-at-|_at_)\s*|\s{1,3}(?:at|arroba|arobase|at|@)\s{1,3}|\s@|@\s"
    rb"|\s?\x80\x80\s?)"
)
_DOT: Final = (
    rb"(?:\s*[\[({<]\s?(?:dot|punto|\.)\s?[\])}>]\s*|-dot-|_dot_|\s{1,3}(?:dot|punto|punkt|ponto)\s{1,3}|\s?\.\s?|\x80)"
)
_NAME: Final = rb"[a-z0-9_+-]+"
_ENDINGS: Final = (
    rb"com|org|net|edu|gov|mil|int|info|biz|name|app|dev|online|site|shop|xyz|cloud|mail|email|health|[a-z]{2}"
)
_SPELLED: Final = (
    rb"(?i)(?:^|[^a-z0-9_+-])(" + _NAME + rb"(?:" + _DOT + _NAME + rb"){0,4}" + _AT
    + rb"[a-z0-9-]+(?:" + _DOT + rb"[a-z0-9-]+){0,4}" + _DOT + rb"(?:" + _ENDINGS + rb"))(?:[^a-z0-9_-]|$)"
)  # fmt: skip
_NOT_NAMES: Final = re.compile(
    "us|me|it|them|out|look|find|found|available|visit|site|website|page|blog|online|here|be|is|was|and|or|meet|store|shop"
    "|stay|stop|eat|lunch|dinner|him|her|see|you|located|hosted|work|works|working|arrive|back|live|sold"
)
_ABOUT_EMAIL: Final = Context(
    rb"e-?mails?|mail|mailto|contact|reach|write|address|inbox|send|message|correo|courriel|cc|bcc",
    ("邮箱", "邮件", "电邮", "郵箱", "信箱", "邮址", "伊妹儿"),
)


def _spelled(candidate: Candidate) -> float:
    """`[at]` is unambiguous; a plain ` at ` needs a spelled ` dot ` or a word nearby, because people also meet *at*."""
    value = candidate.value.lower()
    if "\x80\x80" in value and "艾特" not in candidate.view.text[candidate.start : candidate.end]:
        return 0.0
    if re.search(r"[\[({<]\s?(?:at|@|arroba)|\x80\x80|[-_]dot[-_]", value):
        return 0.8
    if re.search("[-_]at[-_]", value):
        return 0.2  # as in www.value-at-risk.net
    name, plain, rest = re.split(r"\s(at|arroba|arobase|at|@)\s|\s?@\s?", value, maxsplit=1)
    if _NOT_NAMES.fullmatch(name.split()[-1]):
        return 0.0
    dots = re.search(r"dot|punto|punkt|ponto|\[\.|\(\.", name + " " + rest)
    if dots:
        return 0.5
    if plain is None or plain == "@":  # as a product of matrices is written
        return 0.5 if re.search(r"\.(?:com|org|net|edu|gov|info)$", rest) else 0.2
    return 0.25


_ABOUT_GIT: Final = Context(rb"message-?ids?|msgid|in-reply-to|git[ -](?:clone|remote|push|fetch|pull)|submodule")


def addresses(view: View) -> Iterator[tuple[int, int]]:
    """Yield each address in *view* that is written with `@`."""
    last = 0
    for sign in looked(_AT_SIGN.finditer(view.data)):
        domain = _DOMAIN.match(view.data, sign.end())
        start = _start(view.data, sign.start(), last) if domain is not None else last
        if domain is not None and start < sign.start() and _WRITTEN.accepts(Candidate(view, start, domain.end())):
            last = domain.end()
            yield start, last


def _start(data: bytes, at: int, last: int) -> int:
    """Where the address begins whose sign is at *at*, not before *last*; *at* where none does."""
    if data.startswith(b'"', at - 1):
        opened = data.rfind(b'"', max(last, at - _LONGEST - 2), at - 1)
        return opened if opened >= 0 and _QUOTED.fullmatch(data, opened, at) else at
    start, first = at, max(last, at - _LONGEST)
    while start > first and data[start - 1] in _LOCAL:
        start -= 1
    if start < at:
        return _without_marks(data, start, at)
    first = max(last, at - _UNSPACED)
    while start > first and data[start - 1] in _CJK:
        start -= 1
    return start


def _without_marks(data: bytes, start: int, at: int) -> int:
    """*start* without a key, a path or emphasis before the name; *at* where no name is left."""
    if data.find(b"//", start, at) >= 0:
        start = data.rfind(b"/", start, at) + 1
    for query in _QUERY.finditer(data, start, at):
        start = query.end()
    start = _behind_marks(data, start, at)
    pair = _PAIR.match(data, start, at)
    if pair is not None and pair.end() < at:
        start = _behind_marks(data, pair.end(), at)
    return at if data[at - 1 : at] == b"." or _ATOM.search(data, start, at) is None else start


def _behind_marks(data: bytes, start: int, at: int) -> int:
    while start < at and data[start] in _MARKS:
        start += 1
    return start


def _address(candidate: Candidate) -> float:
    """No file such as `icon@2x.png`, no version, no product of matrices, no path to a repository."""
    data = candidate.view.data
    at = data.rfind(b"@", candidate.start, candidate.end)
    local, domain = data[candidate.start : at], data[at + 1 : candidate.end]
    name, _, ending = domain.rpartition(b".")
    is_file = _FILES.fullmatch(ending) or (_SOURCES.fullmatch(ending) and b"." not in name)
    if is_file or _VERSION.fullmatch(name) or _VERSION.fullmatch(domain) or _OPERAND.fullmatch(domain):
        return 0.0
    is_short = _CODE.fullmatch(local) is not None and len(name) <= 1
    return 0.15 if local == b"git" or is_short or _is_code(data, candidate.start, candidate.end) else 0.85


def _is_code(data: bytes, start: int, end: int) -> bool:
    """Whether it is a call, a path to a repository, or the password in postgres://user:password@example.org."""
    if data[end : end + 1] in {b"(", b"["} or _PATH.match(data, end):
        return True
    return data[start - 1 : start] == b":" and b"://" in data[max(0, start - 80) : start]


_WRITTEN: Final = Pattern(Regex(b"@"), _address, near=_ABOUT_EMAIL, against=_ABOUT_GIT)
EMAIL: Final = (
    Pattern(Regex(_SPELLED), _spelled, near=_ABOUT_EMAIL, needs=(b"@", b"at", b"arroba", b"arobase", b"\x80")),
)
