"""Patterns for telephone numbers: international, national by their grouping, and any digits near a word."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from hybrid_llm.router.privacy.detectors.engine import Candidate, Context, Pattern
from hybrid_llm.router.privacy.detectors.text import Regex

_EXT: Final = rb"(?: ?(?:x|ext\.?|extension|#) ?[0-9]{1,6})?"
_BEFORE: Final = rb"(?i:^|[^0-9a-z_+.]|tel|phone|mobile|cell|fax|[^0-9]\.)"
_AFTER: Final = rb"(?:[^0-9A-Za-z_]|_|$)"
_SAYING: Final = rb"text(?:s|ed|ing)?|messag(?:es?|ed|ing)|repl(?:y|ies|ied)|respond(?:s|ed|ing)?|answer(?:s|ing|ed)?"
_PLACE: Final = (
    rb"desk|office|reception|switchboard|home|work|headquarters|branch|extension|ext"
    rb"|assistant|emergency|b(?:u|ue)ro|bureau|oficina|ufficio|escritorio|kantoor|empfang|zentrale|centralino"
    rb"|accueil|recepcion"
)
_ASKING: Final = rb"ring(?:s|ing)?|rang|available|registered"
_TIE: Final = rb"(?: (?:at|to|on|from|with|under|by|via|is|for|as|auf|an|au|al|sur|en|unter|no|number|nr)\.?){1,2}:? ?"
_TOLD: Final = re.compile(
    rb"(?i)(?:[^a-z0-9_]|^)(?:(?:" + _SAYING + rb")" + _TIE + rb"|(?:" + _ASKING + rb")(?:" + _TIE + rb"|[.:]? )"
    rb"|(?:" + _PLACE + rb")(?: (?:is|on|no|number)\.?:? ?|[.:]? ))$"
)
_ASKS: Final = re.compile(rb"(?i)(?:^|[.!?:,;\n] ?|\b(?:please|or|and|then|just|to|can|could|also) )(?:text|message) $")
_TELLS: Final = re.compile(rb"(?i)(?: ?[(/-] ?| )(?:" + _PLACE + rb")(?:[^0-9a-z_]|$)")
"""A loose word right before, or right behind, a number in prose; `Text (21) 3964-6187` asks for it."""
_GROUPED: Final = re.compile(rb"[()-]")
_PROGRAM: Final = re.compile(rb"[{}=<>\[\]|_`$@*]|\(\)|\"\s?[:,]|[0-9],[^ ]")
_SIDE: Final = 40
_TIED: Final = 32
"""How far around a number its line is read, and how far before it the word stands that tells of it."""


def _is_told(candidate: Candidate) -> bool:
    """Whether a loose word stands beside a number in groups in prose: `we are not answering at 78 651 450`."""
    data, start, end = candidate.view.data, candidate.start, candidate.end
    if data[start:end].isdigit():
        return False
    before, behind = data[max(0, start - _SIDE) : start], data[end : end + _SIDE]
    line = before[before.rfind(b"\n") + 1 :] + b" " + behind.partition(b"\n")[0]
    if _PROGRAM.search(line):
        return False
    if _TELLS.match(behind) or _TOLD.search(before[-_TIED:]):
        return True
    return _GROUPED.search(data, start, end) is not None and _ASKS.search(before[-_TIED:]) is not None


_TELEPHONE: Final = (
    rb"telefon(?:[aeiouy]|s|en|em|ie|om|nummer[a-z]{0,3}|numer[a-z]*|sz[ax]m[a-z]*|ul[a-z]*|un[a-z]*|sk[a-z]{1,3})?"
)
"""The word in the languages that spell it so, inflected."""
_ABOUT_PHONE: Final = Context(
    rb"(?:tele|smart|hand|i)?phones?(?:[ _-]?(?:no|nr|num(?:ber)?))?|tel|tele|telef"
    rb"|(?:mobile|home|work|cell|contact)[ _-]?num(?:ber)?"
    rb"|cell(?:ular|phone)?|mob(?:ile?|iles)?|fax(?:es|ed)?|telefax|call(?:ed|ing|s|er)?|dial(?:led|ed|ing)?|sms|msisdn"
    rb"|whats-?app|viber|telegram|hotline|helpline|landline|pager|ph|handys?(?:nummern?)?|rufnummer"
    rb"|ruckruf(?:nummer)?|gsm|voicemail|wechat"
    rb"|" + _TELEPHONE + rb"|telefoon(?:nummers?)?|mobil(?:s|en|ens|nummer[a-z]*)?|puheli[nm][a-z]*|talru[a-z]+"
    rb"|telem[ox]vel|cellulare|celular|m[ox]vil|portable"
    rb"|t[ex]l[ex]phone|tlf|puh|(?:my|your|his|her|our|their) (?:new |old )?number"
    rb"|(?:text|message|ring|reach|contact)(?:ed)? (?:me|us|him|her|them)"
    rb"|reach(?:ed|able)?|contact(?:[ _-]?(?:no|num(?:ber)?|info))?|answer(?:ing|ed)? the phone",
    (
        "电话", "手机", "联系", "致电", "拨打", "微信", "传真", "热线", "座机", "來電", "電話", "手機", "号码",
        "短信", "回电", "携帯", "전화", "휴대폰", "핸드폰",
        "телефон", "Телефон", "ТЕЛЕФОН", "мобильн", "Мобильн", "моб.",
        "звони", "τηλέφων", "τηλεφών", "Τηλέφων", "κινητό", "هاتف", "جوال", "טלפון", "โทร", "फ़ोन", "मोबाइल",
    ),
    loose=_SAYING + rb"|" + _ASKING + rb"|" + _PLACE,
    told=_is_told,
)  # fmt: skip
_PHONE_NAMES: Final = Context(
    rb"(?:tele)?phones?(?:[ _-]?(?:no|nr|num(?:ber)?))?|tel|telef|(?:mobile|home|work|cell|contact)[ _-]?num(?:ber)?"
    rb"|cell(?:ular|phone)?|mobile|fax|telefax|hotline|helpline|landline|handy(?:nummer)?|rufnummer|msisdn|whats-?app"
    rb"|" + _TELEPHONE + rb"|telefoon(?:nummers?)?|celular|m[ox]vil|telephone",
    ("电话", "手机", "传真", "热线", "座机", "電話", "手機", "携帯", "전화", "휴대폰"),
)
"""What names a telephone number, without the verbs."""
_NUMBERS: Final = (
    rb"versions?|isbn|issn|doi|arxiv|rfc|pmid|cve|serial|sku|prices?|totals?|amount|usd|eur|offset|delta"
    rb"|timestamps?|ts|time"
    rb"|epoch|created(?:_at)?|updated(?:_at)?|sizes?|bytes|length|count|line|seed|port|pid|sum|balance|iban|ssn"
    rb"|zip|postal"
    rb"|shape|dims?|hash|checksum|commit|revision|coordinates?|lat(?:itude)?|lon(?:gitude)?|ean|upc|gtin|barcode"
    rb"|duration"
)
_REFERENCES: Final = (
    rb"orders?|invoices?|tracking|accounts?|acct|cards?|passport|licen[cs]e|ids?|tickets?|cases?|ref(?:erence)?|papers?"
    rb"|parts?|batch|lot|customer[ _]?(?:no|id|number)|model|issues?|bugs?|pull requests?"
)
_CHINESE: Final = ("订单", "运单", "单号", "账号", "编号", "邮编", "金额", "人民币")
_NO_NUMBER: Final = Context(_NUMBERS)
_NOT_PHONE: Final = Context(_NUMBERS + rb"|" + _REFERENCES, _CHINESE)
_YEAR: Final = r"(?:1[5-9]|20)\d\d"
_DATE: Final = re.compile(
    rf"{_YEAR}[-. /](?:0?[1-9]|1[0-2])[-. /][0-3]?\d\b|[0-3]?\d[-. /][0-3]?\d[-. /]{_YEAR}\b|{_YEAR}[- /]{_YEAR}$"
)
_OTHERS: Final = re.compile(r"[1-9]\d?\d?(?:\.(?:0|[1-9]\d?\d?)){3}|\d{3}-\d\d-\d{4}|\d+\.\d+|[1-9]\d*/\d+")
"""An IPv4 address, the format of a social security number, a decimal fraction, a ratio."""
_MORE: Final = re.compile(rb"[.-][0-9]|[*^%]")
_LESS: Final = re.compile(rb"[0-9A-Za-z]-|[0-9A-Za-z)]/|[0-9]:|.[*^]")
"""What stands behind, or before, a number that is part of something longer."""
_ROW: Final = re.compile(rb" [0-9]|[0-9] ")
_PATH: Final = re.compile(rb"[0-9,.] ?[A-DF-WYZa-df-wyz] ?")
"""What stands before a number in the path of a drawing."""
_EXTENSION: Final = re.compile("[ex#]")
_TIME: Final = re.compile("1[0-9]{9}|1[0-9]{12}")
"""A Unix time in seconds or milliseconds, from 2001 to 2033."""
_SEQUENCES: Final = "01234567890123456789"
_FRACTION: Final = re.compile(r"\+1\.(?:\d{6,9}|\d{11,})|\+[2-9]\.\d+")
"""Signed decimal fractions, but not `+1.4155550123` of a domain's record."""
_COUNTRIES: Final = re.compile(
    r"\+(?:1|7|2(?:[07]|1[1-8]|[2-6]\d|9[0-9])|3(?:[0-4]|[578]\d|6|9)|4(?:[013-9]|2\d)|5(?:[1-8]|0\d|9\d)|6(?:[0-6]"
    r"|[7-9]\d)"
    r"|8(?:[1246]|[05789]\d)|9(?:[0-58]|[679]\d))"
)
"""The country codes of E.164."""
_MIXED: Final = re.compile(r"\d\.\d.* \d|\d \d.*\d\.\d")
"""Decimal fractions beside other numbers."""
_MAX_ROUND: Final = 5
"""More zeros at the end than this make a round number."""


def _plausible(candidate: Candidate, fewest: int = 7, most: int = 15) -> bool:
    """Whether it has as many digits as a telephone number, and is no date, other number or part of a longer one."""
    value = candidate.value
    extension = _EXTENSION.search(value)
    digits = (candidate._replace(end=candidate.start + extension.start()) if extension else candidate).digits
    if not fewest <= len(digits) <= most or len(set(digits)) == 1 or digits in _SEQUENCES:
        return False
    return not (_DATE.match(value) or _OTHERS.fullmatch(value) or _is_piece(candidate) or _is_shape(value))


def _is_shape(value: str) -> bool:
    """Whether it is the sizes of an array, such as `256 512 1024`: three or more multiples of 32."""
    groups = value.split(" ")
    return len(groups) > 2 and all(group.isdigit() and int(group) % 32 == 0 for group in groups)


def _is_piece(candidate: Candidate) -> bool:
    """Whether it is part of something longer: a row of numbers, a UUID, a path, a term of a formula."""
    data, start, end = candidate.view.data, candidate.start, candidate.end
    if _MORE.match(data, end) or _LESS.fullmatch(data, max(0, start - 2), start):
        return True
    if candidate.digits == candidate.value or b" " not in data[start:end]:
        return False  # such numbers may stand side by side
    return _ROW.match(data, end) is not None or _ROW.fullmatch(data, max(0, start - 2), start) is not None


def _international(candidate: Candidate) -> float:
    """A country code, and at most two groups of one digit, such as the trunk zero in `+44 (0)20`."""
    if not _plausible(candidate) or not _COUNTRIES.match(candidate.value) or _FRACTION.fullmatch(candidate.value):
        return 0.0
    singles = sum(len(group) == 1 for group in re.findall(r"\d+", candidate.value)[1:])
    return 0.85 if singles <= 2 else 0.0


def _mobile(candidate: Candidate) -> float:
    return 0.85 if _plausible(candidate) and not _is_power_of_two(candidate.digits) else 0.0


def _north_american(candidate: Candidate) -> float:
    """Area codes and exchanges of the North American plan begin with 2 to 9; grouping by spaces alone is weak."""
    if not _plausible(candidate, 10, 11):
        return 0.0
    value = candidate.value
    starts_low = value[0] == "0" or (value[0] == "1" and value[1].isdigit())
    return (0.7 if not value.replace(" ", "").isdigit() else 0.4) - (0.3 if starts_low else 0.0)


def _national(candidate: Candidate) -> float:
    """Groups that begin with a trunk zero, as in most countries; pairs come in fives."""
    if not _plausible(candidate, 8, 12):
        return 0.0
    groups = re.findall(r"\d+", candidate.value)
    if candidate.view.data[candidate.start - 1 : candidate.start] == b"." or candidate.value.count("/") > 1:
        return 0.0
    if candidate.value.count(".") > 2 and len({len(group) for group in groups}) > 2:
        return 0.0  # the number of a section
    in_pairs = all(len(group) == 2 for group in groups)
    if in_pairs:
        return 0.5 if len(groups) == 5 and groups[0] != "00" else 0.0
    return 0.5 if len(candidate.digits) >= 9 else 0.3


def _weak(candidate: Candidate) -> float:
    """Any digits: typical as a number of ten digits, or with a trunk zero; a time in Unix seconds needs more."""
    if not _plausible(candidate, 7, 13):
        return 0.0
    digits, value = candidate.digits, candidate.value
    if _is_round(digits):
        return 0.0
    if value != digits:
        data, start = candidate.view.data, candidate.start
        is_drawn = _MIXED.search(value) or any(
            _PATH.fullmatch(data, start - size, start) for size in (2, 3, 4) if start >= size
        )
        return 0.0 if is_drawn else 0.25
    if _TIME.fullmatch(digits):
        return 0.05
    if len(digits) == 10:
        return 0.25 if digits[0] == "0" or (digits[0] > "1" and digits[3] > "1") else 0.1
    return 0.2 if digits[0] == "0" or len(digits) in {8, 9, 11, 12} else 0.15


def _timed(candidate: Candidate) -> float:
    """Digits that may be a Unix time: only what names a number makes them one, and no verb such as *call*."""
    return 0.1 if _TIME.fullmatch(candidate.digits) and not _is_round(candidate.digits) else 0.0


def _is_round(digits: str) -> bool:
    """Whether it ends with many zeros or is a limit such as the largest integer of 32 bits."""
    return len(digits) - len(digits.rstrip("0")) > _MAX_ROUND or _is_power_of_two(digits)


def _is_power_of_two(digits: str) -> bool:
    """The same where it is one less."""
    number = int(digits)
    return number & (number - 1) == 0 or number & (number + 1) == 0


def _phone(
    pattern: bytes,
    score: Callable[[Candidate], float],
    *,
    against: Context = _NOT_PHONE,
    needs: bytes = b"9",
    near: Context = _ABOUT_PHONE,
) -> Pattern:
    return Pattern(
        Regex(_BEFORE + rb"(" + pattern + rb")" + _AFTER),
        score,
        near=near,
        against=against,
        needs=needs,
        weak=score is _weak or score is _timed,
    )


PHONE: Final = (
    _phone(rb"\+[1-9](?:[ .()/-]{0,3}[0-9]){6,14}" + _EXT, _international, against=_NO_NUMBER, needs=b"+"),
    _phone(
        rb"(?:(?:00)?86[ -]?)?1[3-9][0-9](?:[0-9]{8}|[ -][0-9]{4}[ -][0-9]{4}|[ -][0-9]{8})",
        _mobile,
    ),
    _phone(rb"(?:1[ .-])?(?:\([0-9]{3}\) ?|[0-9]{3}[ .-])[0-9]{3}[ .-][0-9]{4}" + _EXT, _north_american),
    _phone(rb"00[1-9][0-9]{0,2}(?:[ .()-]{1,2}[0-9]{1,5}){2,5}" + _EXT, _mobile, against=_NO_NUMBER),
    _phone(rb"\(?0[1-9][0-9]{1,2}\)?-[2-9][0-9]{6,7}", _mobile, against=_NOT_PHONE),
    _phone(rb"\(?0[0-9]{1,4}\)?(?:(?:[ .-]| ?/ ?)[0-9]{2,4}){1,5}" + _EXT, _national),
    _phone(rb"0[1-9] [1-9][0-9]?(?: [0-9]{3} ?[0-9]{4}| [0-9]{3} [0-9]{3,4})", _national),
    _phone(rb"\(?0[0-9]{1,4}\)? ?[ /.-] ?[0-9]{5,8}(?:-[0-9]{1,4})?" + _EXT, _national),
    _phone(rb"(?:[0-9] )?\(?[0-9]{1,6}\)?(?:[ ./()-]{1,3}[0-9]{2,8}){1,5}" + _EXT, _weak, needs=b"6"),
    _phone(rb"[0-9]{7,13}" + _EXT, _weak, needs=b"6"),
    _phone(rb"1[0-9]{9}(?:[0-9]{3})?" + _EXT, _timed, near=_PHONE_NAMES),
)
