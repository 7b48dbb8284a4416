"""Numbers of persons and accounts, drawn with a seed: telephones of 22 countries, documents, identity numbers, banks.

The formats and check digits are those that the issuers publish (ITU-T E.164 and the national plans, ICAO 9303, the
registry of IBANs, ISO/IEC 7812, and the authority of each identity number).
"""

# ruff: noqa: E501  (tables of formats)
from __future__ import annotations

import datetime as dt
import random
import re
import string
from collections.abc import Callable

_UPPER, _DIGITS = string.ascii_uppercase, string.digits
_CONSONANTS = "BCDFGHJKLMNPQRSTVWXYZ"


def filled(rng: random.Random, form: str) -> str:
    """*form* with `#` as any digit, `N` as 2 to 9, `@` as a capital letter, `*` as a letter or digit."""
    drawn = {"#": _DIGITS, "N": "23456789", "@": _UPPER, "*": _UPPER + _DIGITS}
    return "".join(rng.choice(drawn[char]) if char in drawn else char for char in form)


PHONES: dict[str, tuple[str, ...]] = {
    "US": ("(N1N) N##-####", "N1N-N##-####", "N1N.N##.####", "+1 N1N N## ####", "+1-N1N-N##-####", "1-N1N-N##-####", "N1NN######"),
    "CA": ("(N0N) N##-####", "+1 (N0N) N##-####", "N0N N## ####"),
    "GB": ("020 7### ####", "07### ######", "+44 20 7### ####", "+44 7### ######", "(0161) 4## ####", "01632 96####"),
    "DE": ("030/1######", "030 1######", "0151 ########", "+49 30 1######", "+49 (0)89 1######", "0171-#######", "089 / 12 34 ##"),
    "FR": ("01 4# ## ## ##", "06 ## ## ## ##", "+33 6 ## ## ## ##", "+33 (0)1 4# ## ## ##", "06.##.##.##.##", "06########"),
    "IT": ("06 6### ####", "347 ### ####", "+39 347 ### ####", "+39 06 6### ####", "02-########"),
    "ES": ("91 N## ## ##", "6## ### ###", "+34 6## ## ## ##", "+34 91 N## ## ##", "6########"),
    "NL": ("020 N## ####", "06 ########", "+31 6 ########", "+31 20 N## ####", "06-########"),
    "SE": ("08-### ### ##", "070-### ## ##", "+46 70 ### ## ##", "+46 8 ### ### ##"),
    "PL": ("22 ### ## ##", "5## ### ###", "+48 5## ### ###", "+48 22 ### ## ##"),
    "CH": ("044 ### ## ##", "079 ### ## ##", "+41 79 ### ## ##", "+41 (0)44 ### ## ##"),
    "AT": ("01 5######", "0664 #######", "+43 664 #######", "+43 1 5######", "0664/#######"),
    "BR": ("(11) 9####-####", "(21) 3###-####", "+55 11 9####-####", "11 9####-####"),
    "MX": ("55 #### ####", "+52 55 #### ####", "(33) #### ####", "+52 1 55 #### ####"),
    "IN": ("9#### #####", "+91 9#### #####", "+91-9#########", "011-2### ####", "09#########"),
    "CN": ("13#########", "138-####-####", "+86 139 #### ####", "010-6### ####", "0755 2### ####"),
    "JP": ("03-3###-####", "090-####-####", "+81 90 #### ####", "+81-3-3###-####"),
    "KR": ("010-####-####", "02-7##-####", "+82 10 #### ####", "+82-2-7##-####"),
    "AU": ("(02) 9### ####", "04## ### ###", "+61 4## ### ###", "+61 2 9### ####", "04########"),
    "RU": ("8 (495) N##-##-##", "+7 495 N##-##-##", "+7 (9##) ###-##-##", "8 9## ### ## ##", "+79#########"),
    "ZA": ("011 N## ####", "082 ### ####", "+27 82 ### ####", "+27 11 N## ####"),
    "TR": ("0212 N## ## ##", "0532 ### ## ##", "+90 532 ### ## ##", "(0212) N## ## ##"),
}  # fmt: skip


def phone(rng: random.Random) -> str:
    """A telephone number of one of 22 countries, every country as often as another."""
    return filled(rng, rng.choice(PHONES[rng.choice(sorted(PHONES))]))


_PASSPORTS = (
    "#########", "@########", "1########", "C01X#0T4#", "C3@@#####", "##@@#####", "@#######", "E########", "G########",
    "EA#######", "@@######", "@@#######", "@@@######", "M########", "@@#@@@@##", "########", "X#######", "## #######",
)  # fmt: skip


def passport(rng: random.Random) -> str:
    """A passport number of one of eighteen countries."""
    return filled(rng, rng.choice(_PASSPORTS))


_LICENCES = (
    "@#######", "#########", "### ### ###", "########", "@###-###-##-###-#", "@############", "@###-####-####", "@@######",
    "@#### ##### #####", "@ ### ### ### ###", "## ### ###", "WDL@@@@###@@", "@@@@@######@@#@@", "@@@@@ ###### @@#@@",
    "B0##@@@#@##", "MH12 20#########", "DL-142011#######", "@####-#####-#####", "############", "@########", "@#####",
    "@###-####-####-##", "@@@**###*###",
)  # fmt: skip


def driver_license(rng: random.Random) -> str:
    """A driver's licence number after the rules of states of the USA, of Canada, Europe, India, Japan and Australia."""
    return filled(rng, rng.choice(_LICENCES))


def us_ssn(rng: random.Random) -> str:
    """A number that the Social Security Administration may have issued, in each spelling."""
    area = rng.choice([area for area in range(1, 900) if area != 666])
    parts = (f"{area:03d}", f"{rng.randint(1, 99):02d}", f"{rng.randint(1, 9999):04d}")
    return rng.choice(["-", "-", "-", " ", "", ".", ""]).join(parts)


def _luhn(digits: str) -> str:
    doubled = (sum(divmod(2 * int(c), 10)) if i % 2 == 0 else int(c) for i, c in enumerate(reversed(digits)))
    return digits + str(-sum(doubled) % 10)


def payment_card(rng: random.Random) -> str:
    """A card of one of six schemes with a valid check digit, in groups or not."""
    form = rng.choice(
        [
            "4##############",
            "51#############",
            "2221###########",
            "6011###########",
            "62#############",
            "37############",
        ]
    )
    digits = _luhn(filled(rng, form))
    cuts = (4, 10, 15) if len(digits) == 15 else (4, 8, 12, 16)
    groups = [digits[a:b] for a, b in zip((0, *cuts), cuts, strict=False)]
    return rng.choice([" ", " ", "-", "", ""]).join(groups)


_BANKS = {
    "DE": "##################", "FR": "##########***********##", "GB": "@@@@##############", "NL": "@@@@##########",
    "ES": "####################", "IT": "@##########************", "AT": "################", "CH": "#####************",
    "PL": "########################", "SE": "####################", "BE": "############", "IE": "@@@@##############",
    "NO": "###########", "PT": "#####################", "DK": "##############", "FI": "##############",
    "AE": "###################", "SA": "##******************", "TR": "######****************", "BR": "#######################@*",
}  # fmt: skip


def iban(rng: random.Random) -> str:
    """An account of one of twenty countries with valid check digits, in groups of four or compact."""
    country = rng.choice(sorted(_BANKS))
    account = filled(rng, _BANKS[country])
    number = int("".join(str(int(char, 36)) for char in f"{account}{country}00"))
    compact = f"{country}{98 - number % 97:02d}{account}"
    return compact if rng.random() < 0.5 else " ".join(re.findall(".{1,4}", compact))


def _weighted(rng: random.Random, length: int, check: Callable[[list[int]], int | None]) -> str:
    """Digits followed by the check digit that *check* makes of them; drawn anew where there is none."""
    while True:
        digits = [rng.randint(1, 9), *(rng.randint(0, 9) for _ in range(length - 1))]
        last = check(digits)
        if last is not None and 0 <= last <= 9:
            return "".join(map(str, [*digits, last]))


def _dot(digits: list[int], weights: tuple[int, ...]) -> int:
    return sum(d * w for d, w in zip(digits, weights, strict=True))


def _cpf(rng: random.Random) -> str:
    digits = [rng.randint(0, 9) for _ in range(9)]
    for _ in range(2):
        digits.append(_dot(digits, tuple(range(len(digits) + 1, 1, -1))) * 10 % 11 % 10)
    text = "".join(map(str, digits))
    return rng.choice([text, f"{text[:3]}.{text[3:6]}.{text[6:9]}-{text[9:]}"])


def _verhoeff(digits: list[int]) -> int:
    """The check digit in the dihedral group of order ten (Verhoeff, 1969), from its two generators."""

    def times(a: int, b: int) -> int:
        turn = (a % 5 + (b % 5 if a < 5 else -(b % 5))) % 5
        return turn + 5 * ((a >= 5) != (b >= 5))

    spread = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)

    def permuted(digit: int, often: int) -> int:
        for _ in range(often % 8):
            digit = spread[digit]
        return digit

    total = 0
    for place, digit in enumerate(reversed(digits), 1):
        total = times(total, permuted(digit, place))
    return next(d for d in range(10) if times(total, d) == 0)


def _born(rng: random.Random) -> dt.date:
    return dt.date(1945, 1, 1) + dt.timedelta(days=rng.randrange(20_000))


def _nir(rng: random.Random) -> str:
    base = f"{rng.choice('12')}{rng.randrange(100):02d}{rng.randint(1, 12):02d}{rng.randint(1, 95):02d}{rng.randrange(1, 990):03d}{rng.randrange(1, 999):03d}"
    text = f"{base}{97 - int(base) % 97:02d}"
    return rng.choice([text, " ".join([text[0], text[1:3], text[3:5], text[5:7], text[7:10], text[10:13], text[13:]])])


def _fiscale(rng: random.Random) -> str:
    born, letters = _born(rng), "".join(rng.choices(_CONSONANTS, k=6))
    base = f"{letters}{born:%y}{'ABCDEHLMPRST'[born.month - 1]}{born.day:02d}{rng.choice('ABCDEFGHIL')}{rng.randint(100, 999)}"
    odd = dict(zip(_DIGITS + _UPPER, [1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23], strict=True))  # fmt: skip
    even = {char: int(char) if char.isdigit() else ord(char) - 65 for char in _DIGITS + _UPPER}
    return base + chr(65 + sum((even if i % 2 else odd)[char] for i, char in enumerate(base)) % 26)


def _nric(rng: random.Random) -> str:
    first, digits = rng.choice("STFG"), [rng.randint(0, 9) for _ in range(7)]
    total = _dot(digits, (2, 7, 6, 5, 4, 3, 2)) + (4 if first in "TG" else 0)
    return f"{first}{''.join(map(str, digits))}{('JZIHGFEDCBA' if first in 'ST' else 'XWUTRQPNMLK')[total % 11]}"


def _hkid(rng: random.Random) -> str:
    letter, digits = rng.choice(_UPPER), [rng.randint(0, 9) for _ in range(6)]
    total = 36 * 9 + (ord(letter) - 55) * 8 + _dot(digits, (7, 6, 5, 4, 3, 2))
    return f"{letter}{''.join(map(str, digits))}({'0123456789A'[-total % 11]})"


def _taiwan(rng: random.Random) -> str:
    letter, digits = rng.choice(_UPPER), [rng.randint(1, 2), *(rng.randint(0, 9) for _ in range(7))]
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(letter) + 10
    total = code // 10 + code % 10 * 9 + _dot(digits, (8, 7, 6, 5, 4, 3, 2, 1))
    return f"{letter}{''.join(map(str, digits))}{-total % 10}"


def _dni(rng: random.Random) -> str:
    number = rng.randrange(10**7)
    if rng.random() < 0.5:
        lead = rng.randrange(3)
        return f"{'XYZ'[lead]}{number:07d}{'TRWAGMYFPDXBNJZSQVHLCKE'[(lead * 10**7 + number) % 23]}"
    number = rng.randrange(10**7, 10**8)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _steuer(digits: list[int]) -> int:
    product = 10
    for digit in digits:
        product = ((digit + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10


def _my_number(digits: list[int]) -> int:
    rest = sum(d * (n + 1 if n <= 6 else n - 5) for n, d in enumerate(reversed(digits), 1)) % 11
    return 0 if rest <= 1 else 11 - rest


def _groups(rng: random.Random, digits: str, size: int, separators: str = " -") -> str:
    pieces = [digits[i : i + size] for i in range(0, len(digits), size)]
    return rng.choice(["", *separators]).join(pieces)


def _resident(rng: random.Random) -> str:
    base = f"{rng.choice(['110101', '310115', '440305', '510104'])}{_born(rng):%Y%m%d}{rng.randrange(1000):03d}"
    weights = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
    return base + "10X98765432"[_dot([int(c) for c in base], weights) % 11]


def _nino(rng: random.Random) -> str:
    compact = f"{rng.choice('ABCEGHJKLMNPRSTWXYZ')}{rng.choice('ABCEGHJKLMPRSTWXYZ')}{filled(rng, '######')}{rng.choice('ABCD')}"
    return rng.choice([compact, " ".join([compact[:2], compact[2:4], compact[4:6], compact[6:8], compact[8]])])


def _nhs(digits: list[int]) -> int | None:
    rest = (11 - _dot(digits, tuple(range(10, 1, -1))) % 11) % 11
    return rest if rest < 10 else None


def _nhs_number(rng: random.Random) -> str:
    text = _weighted(rng, 9, _nhs)
    return rng.choice([text, f"{text[:3]} {text[3:6]} {text[6:]}"])


def _aadhaar(rng: random.Random) -> str:
    digits = [int(char) for char in filled(rng, "N##########")]
    return _groups(rng, "".join(map(str, [*digits, _verhoeff(digits)])), 4)


def _pesel(rng: random.Random) -> str:
    digits = [int(char) for char in f"{_born(rng):%y%m%d}{rng.randrange(10000):04d}"]
    return "".join(map(str, [*digits, -_dot(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) % 10]))


def _swedish(rng: random.Random) -> str:
    born = _born(rng)
    digits = _luhn(f"{born:%y%m%d}{rng.randrange(1, 1000):03d}")
    return f"{rng.choice(['', f'{born.year // 100}'])}{digits[:6]}-{digits[6:]}"


NATIONAL: dict[str, tuple[tuple[str, ...], Callable[[random.Random], str]]] = {
    "BR": (("CPF", "CPF do cliente"), _cpf),
    "CA": (("SIN", "social insurance number"), lambda r: _groups(r, _luhn(filled(r, "4#######")), 3)),
    "FR": (("NIR", "numéro de sécurité sociale"), _nir),
    "DE": (("Steuer-ID", "Steueridentifikationsnummer"), lambda r: _weighted(r, 10, _steuer)),
    "HK": (("HKID", "Hong Kong identity card"), _hkid),
    "IN": (("Aadhaar", "Aadhaar number"), _aadhaar),
    "IT": (("codice fiscale", "Codice Fiscale"), _fiscale),
    "JP": (("My Number", "マイナンバー"), lambda r: _groups(r, _weighted(r, 11, _my_number), 4)),
    "KR": (
        ("RRN", "resident registration number"),
        lambda r: f"{_born(r):%y%m%d}-{r.choice('12')}{filled(r, '######')}",
    ),
    "NL": (("BSN", "burgerservicenummer"), lambda r: _weighted(r, 8, lambda d: _dot(d, (9, 8, 7, 6, 5, 4, 3, 2)) % 11)),
    "PL": (("PESEL", "numer PESEL"), _pesel),
    "SG": (("NRIC", "NRIC number"), _nric),
    "ES": (("DNI", "NIE"), _dni),
    "SE": (("personnummer", "Personnummer"), _swedish),
    "TW": (("national ID", "身分證"), _taiwan),
    "GB": (("NINO", "National Insurance number"), _nino),
    "NHS": (("NHS number", "NHS no"), _nhs_number),
    "CN": (("身份证", "resident ID"), _resident),
}
