"""Patterns for e-mail addresses, telephone numbers and network addresses (IPv4, IPv6, MAC).

E-mail addresses and numbers are also found spelled out and next to text without spaces. Network addresses that are the
same on every machine, such as loopback, identify no one and are not reported.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.text import CJK_CLASS, Regex, apart

_LABEL: Final = rb"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_LOCAL: Final = rb"[A-Za-z0-9_+](?:[A-Za-z0-9_.+'-]*[A-Za-z0-9_+-])?"
_ADDRESS: Final = (
    rb"((?:%(local)s|%(cjk)s{1,24})@(?:(?:%(label)s\.)+[A-Za-z]{2,24}|(?:%(label)s\xa3)+[A-Za-z]{2,24}"
    rb"|%(cjk)s{1,20}\.(?:%(cjk)s{2,6}|[A-Za-z]{2,10})))"
) % {b"local": _LOCAL, b"label": _LABEL, b"cjk": CJK_CLASS}
_FILES: Final = re.compile(
    "png|jpe?g|gif|webp|svg|jsx?|css|html?|json|txt|pdf|exe|dll|xml|ya?ml|gz|bmp|ico", re.IGNORECASE
)

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


def _address(candidate: Candidate) -> float:
    """A file name such as `icon@2x.png` is not an address."""
    return 0.0 if _FILES.fullmatch(candidate.value.rpartition(".")[2]) else 1.0


def _spelled(candidate: Candidate) -> float:
    """`[at]` is unambiguous; a plain ` at ` needs a spelled ` dot ` or a word nearby, because people also meet *at*."""
    value = candidate.value.lower()
    if "\x80\x80" in value and "艾特" not in candidate.view.text[candidate.start : candidate.end]:
        return 0.0
    if re.search(r"[\[({<]\s?(?:at|@|arroba)|[-_]at[-_]|\x80\x80", value):
        return 0.8
    name, plain, rest = re.split(r"\s(at|arroba|arobase|at|@)\s|\s?@\s?", value, maxsplit=1)
    if _NOT_NAMES.fullmatch(name.split()[-1]):
        return 0.1
    dots = re.search(r"dot|punto|punkt|ponto|\[\.|\(\.", name + " " + rest)
    return 0.5 if dots or plain is None or plain == "@" else 0.25


EMAIL: Final = (Pattern(Regex(_ADDRESS), _address, needs=b"@"), Pattern(Regex(_SPELLED), _spelled, near=_ABOUT_EMAIL))

_EXT: Final = rb"(?: ?(?:x|ext\.?|extension|#) ?[0-9]{1,6})?"
_BEFORE: Final = rb"(?i:^|[^0-9a-z_+.]|tel|phone|mobile|cell|fax|[^0-9]\.)"
_AFTER: Final = rb"(?:[^0-9A-Za-z_]|_|$)"
_ABOUT_PHONE: Final = Context(
    rb"(?:tele)?phones?|tel|cell(?:ular|phone)?|mob(?:ile)?|fax|call(?:ed|ing|s)?|dial|sms|text(?:ed)?|messages?|whats-?app|viber"
    rb"|contact|reach|desk|office|answer(?:ing|ed)?|ring|hotline|helpline|ext|handy|telefon[eo]?|movil|voicemail"
    rb"|phone_?number|registered|wechat",
    (
        "电话", "手机", "联系", "致电", "拨打", "微信", "传真", "热线", "座机", "來電", "電話", "手機", "号码",
        "短信", "回电",
    ),
)  # fmt: skip
_NOT_PHONE: Final = Context(
    rb"orders?|invoice|tracking|isbn|issn|accounts?|acct|serial|version|zip|postal|iban|cards?|ssn|passport|licen[cs]e|id|sku"
    rb"|ticket|case|price|total|usd|eur|doi|rfc|pmid|cve",
    ("订单", "运单", "单号", "账号", "编号", "邮编", "金额", "人民币"),
)
_YEAR: Final = r"(?:1[5-9]|20)\d\d"
_DATE: Final = re.compile(
    rf"{_YEAR}[-. ](?:0?[1-9]|1[0-2])[-. ][0-3]?\d\b|[0-3]?\d[-. ][0-3]?\d[-. ]{_YEAR}\b|{_YEAR}[- ]{_YEAR}$"
)
_OTHERS: Final = re.compile(r"[1-9]\d?\d?(?:\.(?:0|[1-9]\d?\d?)){3}|\d{3}-\d\d-\d{4}")
"""An IPv4 address, and the format of a social security number."""
_EXTENSION: Final = re.compile("[ex#]")


def _plausible(candidate: Candidate, fewest: int = 7, most: int = 15) -> bool:
    """Whether it has as many digits as a telephone number, and is no date, other number or part of a longer one."""
    value = candidate.value
    extension = _EXTENSION.search(value)
    digits = (candidate._replace(end=candidate.start + extension.start()) if extension else candidate).digits
    if not fewest <= len(digits) <= most or len(set(digits)) == 1:
        return False
    return not (_DATE.match(value) or _OTHERS.fullmatch(value) or _is_piece(candidate))


def _is_piece(candidate: Candidate) -> bool:
    """Whether it is part of a longer number: a decimal fraction follows, or a hyphen precedes as in a UUID."""
    data, start, end = candidate.view.data, candidate.start, candidate.end
    return (data[end : end + 1] == b"." and data[end + 1 : end + 2].isdigit()) or (
        data[start - 1 : start] == b"-" and data[max(0, start - 2) : start - 1].isalnum()
    )


def _clear(candidate: Candidate) -> float:
    return 0.9 if _plausible(candidate) else 0.0


def _north_american(candidate: Candidate) -> float:
    """Area codes and exchanges of the North American plan begin with 2 to 9; grouping by spaces alone is weak."""
    if not _plausible(candidate, 10, 11):
        return 0.0
    value = candidate.value
    starts_low = value[0] == "0" or (value[0] == "1" and value[1].isdigit())
    return 0.5 + (0.2 if not value.replace(" ", "").isdigit() else 0.0) - (0.3 if starts_low else 0.0)


def _national(candidate: Candidate) -> float:
    """Groups that begin with a trunk zero, as in most countries."""
    return 0.5 if _plausible(candidate, 9, 12) else 0.2


def _weak(candidate: Candidate) -> float:
    return 0.25 if _plausible(candidate, 7, 13) else 0.0


def _phone(pattern: bytes, score: Callable[[Candidate], float] = _clear, *, needs: bytes = b"9") -> Pattern:
    return Pattern(
        Regex(_BEFORE + rb"(" + pattern + rb")" + _AFTER),
        score,
        near=_ABOUT_PHONE,
        against=None if score is _clear else _NOT_PHONE,
        needs=needs,
        weak=score is _weak,
    )


PHONE: Final = (
    _phone(rb"\+[1-9](?:[ .()/-]{0,3}[0-9]){6,14}" + _EXT, needs=b"+"),
    _phone(rb"(?:(?:00)?86[ -]?)?1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4}|[ -][0-9]{8})"),
    _phone(rb"(?:1[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}" + _EXT, _north_american),
    _phone(rb"00[1-9][0-9]{0,2}(?:[ .()-]{1,2}[0-9]{1,5}){2,5}" + _EXT),
    _phone(rb"\(?0[1-9][0-9]{1,2}\)?-[2-9][0-9]{6,7}"),
    _phone(rb"\(?0[0-9]{1,4}\)?(?:[ .-][0-9]{2,4}){2,5}" + _EXT, _national),
    _phone(rb"\(?[0-9]{1,5}\)?(?:[ .-]{1,2}[0-9]{2,8}){1,5}" + _EXT, _weak, needs=b"6"),
    _phone(rb"[0-9]{7,13}" + _EXT, _weak, needs=b"6"),
)


_QUAD: Final = rb"(?:[0-9]{1,3}\.){3}[0-9]{1,3}"
_VERSION: Final = Context(rb"versions?|ver|release|build|firmware|driver|sdk|v|sections?|chapter|clause", ("版本",))


def _v4(candidate: Candidate) -> float:
    octets = [int(part) for part in candidate.value.split(".")]
    if max(octets) > 255 or octets[0] in {0, 127, 255}:
        return 0.0
    return 0.5 if octets[0] < 20 and max(octets) < 100 else 0.7


def _v6(candidate: Candidate) -> float:
    """Valid by RFC 4291, and longer than the `1::2` and `a::b` of program text."""
    try:
        address = ipaddress.IPv6Address(candidate.value.partition("%")[0])
    except ValueError:
        return 0.0
    groups = [group for group in candidate.value.split(":") if group]
    is_long = len(groups) > 3 or (len(groups) > 1 and max(map(len, groups)) > 2)
    has_digit = any(map(str.isdigit, candidate.value))
    return 1.0 if is_long and has_digit and not (address.is_unspecified or address.is_loopback) else 0.0


def _mac(candidate: Candidate) -> float:
    digits = "".join(filter(str.isalnum, candidate.value)).lower()
    dotted_number = "." in candidate.value and digits.isdigit()
    return 0.0 if dotted_number or digits in {"0" * 12, "f" * 12} else 1.0


IP_ADDRESS: Final = (
    Pattern(
        Regex(rb"(?:^|[^0-9A-Za-z_.]|[^0-9]\.)(" + _QUAD + rb")(?:[^0-9A-Za-z_.]|_|\.(?:[^0-9A-Za-z]|$)|$)"),
        _v4,
        against=_VERSION,
        needs=b".",
    ),
    Pattern(
        apart(
            rb"[0-9A-Fa-f]{0,4}(?::[0-9A-Fa-f]{0,4}){2,7}(?:[0-9]?" + _QUAD + rb")?(?:%[0-9a-z]{1,8})?",
            rb"0-9A-Za-z_:.",
            rb"0-9A-Za-z_:",
        ),
        _v6,
        needs=b":",
    ),
)

_MAC: Final = rb"(?:%(x)s{2}:){5}%(x)s{2}|(?:%(x)s{2}-){5}%(x)s{2}|(?:%(x)s{4}\.){2}%(x)s{4}" % {b"x": rb"[0-9A-Fa-f]"}
MAC_ADDRESS: Final = (Pattern(apart(_MAC, rb"0-9A-Za-z:-", rb"0-9A-Za-z:-"), _mac),)
