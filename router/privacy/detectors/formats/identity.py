"""Patterns for identity numbers, and for what only the word before it identifies: records, licences, dates of birth.

Formats and check digits are those published by the issuing authorities: GB 11643 for China, the Social Security
Administration for the USA, and the authority named with each row.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.formats.checksums import luhn, mod11_2, verhoeff, weighted
from hybrid_llm.router.privacy.detectors.text import Regex, View, apart

_PROVINCES: Final = re.compile("1[1-5]|2[123]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[123]")
_RESIDENT: Final = rb"[1-9][0-9]{5}[ -]?[0-9]{8}[ -]?[0-9]{3}[0-9Xx]"
_ABOUT_ID: Final = Context(
    rb"id|identity|identification|resident|citizen|sfz|id[ _-]?(?:card|no|number)|shen ?fen ?zheng",
    ("身份证", "身份證", "证件", "公民身份", "身分证", "居民"),
)


_NO_RESIDENT: Final = Context(
    rb"orders?|tracking|invoices?|serial|imei|iccid|isbn|hash|sha-?[0-9]*|timestamps?|trace|span|nonce|seed|offset"
    rb"|shipments?|waybill",
    ("订单", "运单", "单号", "流水", "序列号", "快递"),
)


def _is_date(digits: str) -> bool:
    """YYYYMMDD between 1880 and 2049, or YYMMDD."""
    year, month, day = digits[:-4], int(digits[-4:-2]), int(digits[-2:])
    return 1 <= month <= 12 and 1 <= day <= 31 and (len(year) == 2 or 1880 <= int(year) <= 2049)


def _resident(candidate: Candidate) -> float:
    """18 characters: six for the region, eight for the date of birth, a serial number of three, a check digit."""
    compact = candidate.value.replace(" ", "").replace("-", "")
    score = 0.2 if _PROVINCES.match(compact) else 0.1
    if _is_date(compact[6:14]):
        score += 0.25
    return score + (0.35 if mod11_2(compact) else 0.0)


def _old_resident(candidate: Candidate) -> float:
    """15 digits, issued until 1999, without a check digit."""
    digits = candidate.value
    return 0.3 if _PROVINCES.match(digits) and _is_date(digits[6:12]) else 0.0


CN_RESIDENT_ID: Final = (
    Pattern(apart(_RESIDENT, b"0-9", b"0-9"), _resident, near=_ABOUT_ID, against=_NO_RESIDENT, needs=b"9"),
    Pattern(
        apart(rb"[1-9][0-9]{14}", b"0-9", b"0-9"),
        _old_resident,
        near=_ABOUT_ID,
        against=_NO_RESIDENT,
        weak=True,
        needs=b"9",
    ),
)

_ABOUT_SSN: Final = Context(
    rb"s\.?s\.?n\.?s?|socials?|soc(?:ial)?[ ._-]{0,2}sec(?:urity)?|ss[ _]?(?:#|n[o0r]\b|num(?:ber)?\b)|itin"
    rb"|tax[ _]?(?:payer)?[ _-]?(?:id|no|num(?:ber)?)|tin|seguro social|sozialversicherungs(?:nummer|-?nr)",
    ("社会安全", "社保", "社安"),
)
_ARTICLES: Final = Context(
    rb"parts?|sku|isbn|issn|serial|model|catalog(?:ue)?|versions?|tracking|sections?|doi|order|invoice|phone|fax|zip"
)
"""What has numbers that look like those of people."""


def _ssn(candidate: Candidate) -> float:
    """Numbers that are never issued (20 CFR 422.103, and areas from 900 on) only count near a word."""
    digits, value = candidate.digits, candidate.value
    given = digits[:3] not in {"000", "666"} and digits[0] != "9" and digits[3:5] != "00" and digits[5:] != "0000"
    if len(set(digits)) == 1:
        return 0.0
    return (0.4 if "-" in value else 0.25) + (0.2 if given and "-" in value else 0.0) - (0.0 if given else 0.05)


def _ssn_format(value: bytes, before: bytes) -> Regex:
    return Regex(rb"(?:^|[^A-Z%s]|(?i:ssn|itin|ss#))(%s)(?:[^0-9A-Za-z_-]|-[^0-9]|_|$)" % (before, value))


_GAP: Final = rb"(?: ?[-./_] ?| )"


US_SSN: Final = (
    Pattern(
        _ssn_format(rb"[0-9]{3}-[0-9]{2}-[0-9]{4}", rb"0-9a-z_.-"), _ssn, near=_ABOUT_SSN, against=_ARTICLES, needs=b"9"
    ),
    Pattern(
        _ssn_format(rb"[0-9]{3}" + _GAP + rb"[0-9]{2}" + _GAP + rb"[0-9]{4}|[0-9]{9}", rb"0-9a-z_."),
        _ssn,
        near=_ABOUT_SSN,
        against=_ARTICLES,
        weak=True,
        needs=b"9",
    ),
    Pattern(
        _ssn_format(rb"[0-9]{1,6}(?:[ ._/-][0-9]{1,6}){1,4}", rb"0-9a-z_."),
        lambda candidate: 0.1 if len(candidate.digits) == 9 and len(set(candidate.digits)) > 1 else 0.0,
        near=_ABOUT_SSN,
        against=_ARTICLES,
        weak=True,
        needs=b"9",
    ),
)

_ABOUT_NATIONAL: Final = Context(
    rb"identity|national id|resident (?:registration )?(?:id|no|number)|registration number|id (?:card|no|number)"
    rb"|tax id|nino|national insurance|dni|nie|nif|nir|insee|securite sociale|cpf|rrn|nric|fin|hkid|personnummer",
    ("身份证", "證件", "身分證", "身份證"),
)
_NOT_NATIONAL: Final = Context(
    rb"parts?|skus?|isbn|serials?|models?|orders?|invoices?|tracking|shipments?|parcels?|tickets?|versions?"
    rb"|flights?|batch|lot|hash"
    rb"|sha-?[0-9]*|md5|checksum|commit|g?uuid|guid|products?|items?|vins?|plates?|phones?|fax|coupons?|vouchers?"
    rb"|gtin|ean|asin",
    ("订单", "运单", "单号"),
)
_TEN: Final = tuple(range(10, 1, -1))


def _numbers(text: str) -> list[int]:
    return [int(char, 36) for char in text]


def _dni(compact: str) -> bool:
    number = compact[:-1].translate(str.maketrans("XYZ", "012"))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == compact[-1]


def _nir(compact: str) -> bool:
    return compact[13:].isdigit() and 97 - int(compact[:13]) % 97 == int(compact[13:])


def _cpf(compact: str) -> bool:
    digits = _numbers(compact)
    first = sum(d * w for d, w in zip(digits[:9], _TEN, strict=True)) * 10 % 11 % 10
    second = sum(d * w for d, w in zip(digits[:10], (11, *_TEN), strict=True)) * 10 % 11 % 10
    return digits[9:] == [first, second]


def _nric(compact: str) -> bool:
    total = sum(d * w for d, w in zip(_numbers(compact[1:8]), (2, 7, 6, 5, 4, 3, 2), strict=True))
    total += 4 if compact[0] in "TG" else 3 if compact[0] == "M" else 0
    letters = {"S": "JZIHGFEDCBA", "T": "JZIHGFEDCBA", "F": "XWUTRQPNMLK", "G": "XWUTRQPNMLK", "M": "XWUTRQPNJLK"}
    return letters[compact[0]][total % 11] == compact[8]


def _hkid(compact: str) -> bool:
    padded = [36, *_numbers(compact)] if len(compact) == 8 else _numbers(compact)
    return weighted([*padded[:-1], 10 if compact[-1] == "A" else padded[-1]], (9, 8, 7, 6, 5, 4, 3, 2, 1), 11)


def _taiwan(compact: str) -> bool:
    letter = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(compact[0]) + 10
    return weighted([*divmod(letter, 10), *_numbers(compact[1:])], (1, 9, 8, 7, 6, 5, 4, 3, 2, 1, 1), 10)


def _pesel(compact: str) -> bool:
    return weighted(_numbers(compact), (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1), 10) and 1 <= int(compact[4:6]) <= 31


def _steuer_id(compact: str) -> bool:
    """ISO 7064 MOD 11,10."""
    product = 10
    for digit in _numbers(compact[:-1]):
        product = ((digit + product) % 10 or 10) * 2 % 11
    return compact[0] != "0" and (11 - product) % 10 == int(compact[-1])


@dataclass(frozen=True, slots=True)
class _Row:
    """A number of one country: *yes* and *no* are its scores with a valid and an invalid check digit.

    With *words* its format is so common that it only counts near one of them.
    """

    format: bytes
    check: Callable[[str], bool] | None
    yes: float
    no: float = 0.0
    words: bytes = b""
    chinese: tuple[str, ...] = ()

    def score(self, candidate: Candidate) -> float:
        """0 where at most two digits are repeated."""
        compact = "".join(filter(str.isalnum, candidate.value)).upper()
        if len(set(compact)) <= 2:
            return 0.0
        return self.yes if self.check is None or self.check(compact) else self.no

    def pattern(self) -> Pattern:
        near = Context(self.words, self.chinese) if self.words else _ABOUT_NATIONAL
        against = None if self.words else _NOT_NATIONAL
        return Pattern(apart(self.format), self.score, near=near, against=against, weak=bool(self.words), needs=b"9")


_CLEAR: Final = (
    # HMRC, United Kingdom: the national insurance number
    _Row(rb"[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]", None, 0.5),
    # Policía Nacional, Spain: DNI and NIE
    _Row(rb"(?:[0-9]{8}|[XYZ]-?[0-9]{7})-?[A-HJ-NP-TV-Z]", _dni, 0.85, 0.2),
    # INSEE, France: NIR
    _Row(rb"[12] ?[0-9]{2} ?(?:0[1-9]|1[0-2]|[2-4][0-9]) ?[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{2}", _nir, 0.85, 0.25),
    # Receita Federal, Brazil: CPF
    _Row(rb"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _cpf, 0.85, 0.4),
    # Korea: RRN; random since 2020, so only the date of birth can be checked
    _Row(rb"[0-9]{6}-[1-8][0-9]{6}", lambda c: _is_date(c[:6]), 0.6, 0.2),
    # ICA, Singapore: NRIC and FIN
    _Row(rb"[STFGM][0-9]{7}[A-Z]", _nric, 0.8, 0.25),
    # Immigration Department, Hong Kong
    _Row(rb"[A-Z]{1,2}[0-9]{6} ?\([0-9A]\)", _hkid, 0.8, 0.3),
    # National Immigration Agency, Taiwan
    _Row(rb"[A-Z][1289][0-9]{8}", _taiwan, 0.6, 0.2),
    # Skatteverket, Sweden: personnummer
    _Row(rb"(?:[0-9]{2})?[0-9]{6}[-+][0-9]{4}", lambda c: luhn(c[-10:]) and _is_date(c[-10:-4]), 0.6, 0.2),
    # Agenzia delle Entrate, Italy: codice fiscale
    _Row(rb"[A-Z]{6}[0-9]{2}[A-EHLMPR-T][0-9]{2}[A-Z][0-9]{3}[A-Z]", None, 0.8),
)
_COMMON: Final = (
    _Row(rb"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", verhoeff, 0.45, 0.25, rb"aadhaa?r|uidai"),  # India
    _Row(
        rb"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", lambda c: weighted(_numbers(c), (*_TEN, 1), 11), 0.45, 0.25, rb"nhs"
    ),  # United Kingdom
    _Row(
        rb"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", luhn, 0.45, 0.25, rb"sins?|s\.i\.n\.?|soc(?:ial)?\.? ins(?:urance)?"
    ),  # Service Canada
    _Row(rb"[0-9]{11}", _cpf, 0.45, 0.25, rb"cpf"),  # Brazil
    _Row(rb"[0-9]{11}", _pesel, 0.45, 0.25, rb"pesel"),  # Poland
    _Row(  # Bundeszentralamt für Steuern, Germany
        rb"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}",
        _steuer_id,
        0.45,
        0.25,
        rb"steuer[ _-]?id(?:nr)?|steuernummer|steueridentifikationsnummer|steuerliche identifikationsnummer|idnr"
        rb"|tax id",
    ),
    _Row(
        rb"[0-9]{9}", lambda c: weighted(_numbers(c), (*_TEN[1:], -1), 11), 0.45, 0.25, rb"bsn|burgerservicenummer"
    ),  # the Netherlands
    _Row(
        rb"[0-9]{4}[ -]?[0-9]{4}[ -]?[0-9]{4}",
        None,
        0.3,
        0.0,
        rb"my ?number|kojin bango|individual number",
        ("マイナンバー", "個人番号"),
    ),  # Japan
)
_CLEAR_PATTERNS: Final = tuple(row.pattern() for row in _CLEAR)
_CLEAR_FORMATS: Final = Regex(
    rb"(?:^|[^0-9A-Za-z_.-])(?:%s)(?:[^0-9A-Za-z_-]|$)"
    % b"|".join(b"(?P<n%d>%s)" % (i, row.format) for i, row in enumerate(_CLEAR))
)
_ABOUT_COMMON: Final = Context(
    b"|".join(row.words for row in _COMMON), tuple(word for row in _COMMON for word in row.chinese)
)
_COMMON_PATTERNS: Final = tuple(row.pattern() for row in _COMMON)


def national_ids(view: View) -> Iterator[tuple[int, int]]:
    """Yield the numbers of all countries: one pass for the clear formats, one for each common format near its word."""
    for start, end, kind in _CLEAR_FORMATS.finditer(view.data):
        if _CLEAR_PATTERNS[int(kind[1:])].accepts(Candidate(view, start, end)):
            yield start, end
    if view.digits >= 6 and _ABOUT_COMMON.within(view):
        for pattern in _COMMON_PATTERNS:
            yield from pattern.spans(view, bytearray(len(view.data)))
