"""Whether a find in a tree of code, documents or data is a value: rules by the text around it, apart from any detector."""

# ruff: noqa: E501, SIM905  (tables of words)
from __future__ import annotations

import ipaddress
import math
import re
from collections import Counter
from collections.abc import Callable

_TOP = frozenset(
    "com org net edu gov mil int io dev ai app co info biz me name xyz pro link bar foo tld dom club shop tech blog team work host site news live asia mobi jobs cat test example invalid localhost local internal".split()
)
_ADDRESS = re.compile(
    r"[\w.!#$%&'*+/=?^`{|}~\"\\-]{1,64}@([\w-]+\.)+([A-Za-z]{2,24}|xn--[\w-]+)|[^@\s]+@\[[0-9a-fA-F:.]+\]"
)
_COUNTRY = re.compile("[a-z]{2}")
_SECRET = re.compile(
    r"pass|pwd|secret|token|key|auth|credential|bearer|login|basic|private|signature|dsn|identified|cookie|session|csrf|code|pin\b",
    re.IGNORECASE,
)
_PHONE_FORM = re.compile(
    r"\+[\d\s().-]{8,22}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|1[ .-]\d{3}[ .-]\d{3}[ .-]\d{4}|0\d{1,4}[ /-][\d /-]{5,12}"
)
_PHONE_WORD = re.compile(
    r"phone|\btel\b|\btel[.:]|fax|mobile|\bcall (?:us|me|him|her)\b|dial|sms|whatsapp|电话|手机", re.IGNORECASE
)
_IDENTITY = {
    "us_ssn": r"ssn|social.?security|taxpayer|itin",
    "medical_record": r"mrn|medical|patient|hospital|nhs|medicare",
    "passport": r"passport|pasaporte|passeport|护照",
    "driver_license": r"driv|licen[cs]e|permis|führerschein",
    "date_of_birth": r"birth|born|dob|geboren|n[ée]e?\b|nacid|nacimiento|生",
    "national_id": r"\bid\b|ident|tax|insurance|nino|dni|nie|cpf|nric|hkid|personnummer|aadhaar|nhs|\bsin\b|pesel|bsn|steuer|fiscale|rrn|number",
    "cn_resident_id": r"身份证|resident|identity",
    "payment_card": r"card|visa|master|amex|payment|stripe|charge",
    "crypto_wallet": r"bitcoin|btc|eth|wallet|crypto",
}
_BEFORE, _AFTER = 60, 30


def is_plausible(kind: str, text: str, start: int, end: int) -> bool:
    """Whether the characters *start* to *end* of *text* may be a value of *kind*."""
    before = text[max(0, start - _BEFORE) : start]
    after = text[end : end + _AFTER]
    rule = _RULES.get(kind)
    if rule is not None:
        return rule(text[start:end], before, after)
    words = _IDENTITY.get(kind)
    return bool(words and re.search(words, before + after, re.IGNORECASE))


def _email(value: str, before: str, after: str) -> bool:
    """An address by its form, also a user at a host in a URL, but neither a repository nor a product of matrices."""
    if value.startswith(("git@", "hg@")) and (after[:1] in {":", "/"} or before.endswith("://")):
        return False
    found = _ADDRESS.fullmatch(value.strip("<>").removeprefix("mailto:"))
    if found is None:
        return re.search(r"\bat\b|%40|&#", value, re.IGNORECASE) is not None
    top, name, host = (found[2] or "local").lower(), *value.partition("@")[::2]
    is_known = top in _TOP or top.startswith("xn--") or _COUNTRY.fullmatch(top) is not None or len(top) > 4
    return is_known and (len(top) > 2 or len(name) > 1 or len(host.partition(".")[0]) > 1)


def _phone(value: str, before: str, after: str) -> bool:
    digits = sum(map(str.isdigit, value))
    shaped = value.startswith("+") or (_PHONE_FORM.fullmatch(value) is not None and value[0] in "(1")
    dashed = re.fullmatch(r"\d{3}-\d{3}-\d{4}", value) is not None
    named = _PHONE_WORD.search(before[-40:] + " " + after[:15]) is not None
    return 7 <= digits <= 15 and (shaped or dashed or named)


def _entropy(value: str) -> float:
    size = len(value)
    return -sum(n / size * math.log2(n / size) for n in Counter(value).values()) if size else 0.0


def _credential(value: str, before: str, after: str) -> bool:
    if "PRIVATE KEY" in value or re.search(r"://[^\s/]*$", before) or (":" in value and after.startswith("@")):
        return True
    if re.search(r"\(\)|\(.*\)$|^\w+\.\w+\(|^(self|os|settings|config|request)\.", value):
        return False
    if _entropy(value) < 1.5 or re.search(
        r"x{4,}|\.\.\.|\*{3}|<.*>|\$\{|\{\{|your[-_ ]|example|placeholder|changeme", value, re.IGNORECASE
    ):
        return False
    line = before.rpartition("\n")[2]
    named = _SECRET.search(line[-45:]) is not None
    literal = before[-1:] in {"'", '"', "`", ">"} or after[:1] in {"'", '"', "`", "<"}
    digits = sum(map(str.isdigit, value))
    random_like = len(value) >= 16 and _entropy(value) > 3.3 and digits >= 2 and not re.fullmatch(r"[a-z_.]+", value)
    literal = literal or (re.search(r"\w=$", before) is not None and after[:1] in {";", "&"})
    if value.isdigit():
        return named and literal
    return (named and literal and " " not in value) or random_like


def _ip_address(value: str, before: str, after: str) -> bool:
    bare = value.strip("[]").partition("/")[0].partition("%")[0]
    bare = bare if bare.count(":") != 1 else bare.partition(":")[0]
    try:
        address = ipaddress.ip_address(bare)
    except ValueError:
        return False
    if address.version == 6:
        return sum(map(bool, bare.split(":"))) >= 2 or bare.startswith(("::ffff", "fe80"))
    versioned = re.search(
        r"(?:==|>=|<=|~=|\bv|version|ver\.?|release|chrome/|safari/|\d\.|section|§|[Mm]ilestone)\s*['\"]?$",
        before,
        re.IGNORECASE,
    )
    drawn = re.search(r"(?:^|[^\d.])\d+(?:\.\d+)?[ ,]-?$|[\d.]-?$|\bd=\"[^\"]*$", before)
    return not versioned and not drawn and not re.match(r"[.-]\d|[a-z]", after)


def _iban(value: str, _before: str, _after: str) -> bool:
    compact = re.sub(r"[\s-]", "", value).upper()
    return compact.isalnum() and int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _mac_address(value: str, _before: str, _after: str) -> bool:
    return (
        re.fullmatch(r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}|(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}", value)
        is not None
    )


_RULES: dict[str, Callable[[str, str, str], bool]] = {
    "email": _email,
    "phone": _phone,
    "credential": _credential,
    "ip_address": _ip_address,
    "iban": _iban,
    "mac_address": _mac_address,
}
