"""The values of `_heldout`, in the forms that their issuers print; whoever tunes a detector leaves this unread, too."""

from __future__ import annotations

import random
import zlib
from datetime import date, timedelta
from string import ascii_letters, ascii_lowercase, ascii_uppercase, digits, hexdigits

_ALNUM = digits + ascii_letters
_HEX = hexdigits[:16]
_DRAWN = {"#": digits, "%": "23456789", "@": ascii_uppercase, "*": "CFGHJKLMNPRTVWXYZ0123456789"}


def _filled(rng: random.Random, pattern: str) -> str:
    """*pattern* with a digit for `#`, one from 2 for `%`, a capital for `@`, a German document's character for `*`."""
    return "".join(rng.choice(_DRAWN[char]) if char in _DRAWN else char for char in pattern)


def _from(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


_THINGS = (
    *("harbor", "maple", "tiger", "sunset", "copper", "velvet", "rocket", "pepper", "winter", "dragon", "willow"),
    *("marble", "falcon", "ginger", "orchid", "thunder", "cookie", "bamboo", "meadow", "schnee", "luna", "kaffee"),
)
_SIGNS = "!@#$%&*-_+=?^"


def password(rng: random.Random) -> str:
    """What people think up, what managers make, and words in a row."""
    things = rng.sample(_THINGS, 4)
    made = "".join(rng.choice(ascii_letters + digits + _SIGNS) for _ in range(rng.randint(10, 18)))
    return rng.choice(
        (
            f"{things[0].capitalize()}{rng.randint(1, 2030)}{rng.choice(_SIGNS)}",
            f"{things[0]}{things[1].capitalize()}{rng.randint(1, 99)}",
            f"{things[0].replace('e', '3').replace('o', '0')}{rng.choice(_SIGNS)}{rng.randint(10, 9999)}",
            f"{things[0].capitalize()}{rng.choice(_SIGNS)}{things[1].capitalize()}{rng.randint(1, 99)}",
            "-".join(things),
            made + rng.choice(digits) + rng.choice(ascii_letters),
            "-".join(_from(rng, _ALNUM, 6) for _ in range(3)),
            _from(rng, ascii_lowercase + digits, 8) + rng.choice(digits),
        )
    )


def _with_check(rng: random.Random, prefix: str) -> str:
    """Thirty characters and the CRC-32 of them in base 62, as GitHub and npm end theirs."""
    body, check = _from(rng, _ALNUM, 30), ""
    rest = zlib.crc32(body.encode())
    for _ in range(6):
        rest, place = divmod(rest, 62)
        check = (digits + ascii_uppercase + ascii_lowercase)[place] + check
    return prefix + body + check


def token(rng: random.Random) -> str:
    """Keys of well-known issuers, and those without a mark of whose they are."""
    safe = _ALNUM + "-_"
    return rng.choice(
        (
            "AKIA" + _from(rng, ascii_uppercase + "234567", 16),
            _from(rng, _ALNUM + "+/", 40),
            _with_check(rng, rng.choice(("ghp_", "gho_", "npm_"))),
            rng.choice(("sk_live_", "rk_live_", "sk_test_")) + _from(rng, _ALNUM, 24),
            f"xoxb-{rng.randint(10**11, 10**12)}-{rng.randint(10**12, 10**13)}-{_from(rng, _ALNUM, 24)}",
            "AIza" + _from(rng, safe, 35),
            "glpat-" + _from(rng, safe, 20),
            "hf_" + _from(rng, ascii_letters, 34),
            f"SG.{_from(rng, safe, 22)}.{_from(rng, safe, 43)}",
            _from(rng, _HEX, rng.choice((32, 40, 64))),
            _from(rng, _ALNUM, rng.choice((20, 24, 32))),
            "-".join(_from(rng, _HEX, size) for size in (8, 4, 4, 4, 12)),
            f"eyJhbGciOiJIUzI1NiJ9.eyJ{_from(rng, _ALNUM, 40)}.{_from(rng, safe, 43)}",
        )
    )


_MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)


def birthday(rng: random.Random) -> str:
    """A day between 1935 and 2015, as English, German, French and Spanish forms and people write it."""
    day = date(1935, 1, 1) + timedelta(days=rng.randrange(365 * 80))
    y, m, d, month = day.year, day.month, day.day, _MONTHS[day.month - 1]
    return rng.choice(
        (
            day.isoformat(),
            day.isoformat(),
            f"{m:02}/{d:02}/{y}",
            f"{d:02}/{m:02}/{y}",
            f"{m}/{d}/{y}",
            f"{d:02}.{m:02}.{y}",
            f"{d}.{m}.{y}",
            f"{d:02}-{m:02}-{y}",
            f"{y}/{m:02}/{d:02}",
            f"{month} {d}, {y}",
            f"{d} {month} {y}",
            f"{d:02}-{month[:3].upper()}-{y}",
            f"{d} {month[:3]} {y}",
            f"{m}/{d}/{y % 100:02}",
        )
    )


_PASSPORTS = {
    "AT": "@#######",
    "AU": "P@#######",
    "BE": "@@######",
    "BR": "@@######",
    "CA": "@@######",
    "CH": "X#######",
    "CN": "E########",
    "DE": "C********",
    "ES": "@@@######",
    "FI": "@@#######",
    "FR": "##@@#####",
    "GB": "%########",
    "IE": "P@#######",
    "IN": "@#######",
    "IT": "Y@#######",
    "JP": "T@#######",
    "KR": "M########",
    "MX": "G########",
    "NL": "N@@@####%",
    "NZ": "L@######",
    "PT": "C@######",
    "SE": "########",
    "TR": "U########",
    "US": "%########",
    "US, since 2021": "A########",
}


def passport(rng: random.Random) -> str:
    """The number of a passport of one of 25 series."""
    return _filled(rng, rng.choice(list(_PASSPORTS.values()))).replace("O", "R")


_LICENCES = (
    *("@#######", "#########", "### ### ###", "########", "@@######", "@###-####-####", "@###########"),  # US: CA to IL
    *("@############", "K##-##-####", "S########", "D########", "##-###-####", "@####-####%-#0%1%", "WDL%@%@%@##@"),
    *("##@@#####", "############", "U1#@##%##@", "@@#######@", "##########", "#####/1#/####", "#######"),  # FR to CA
    *("######-###", "MH## 201#00#####", "########", "## ### ###"),  # CA, IN, AU
)


def _british(rng: random.Random) -> str:
    """Surname, decade, month (and 50 for women), day, year, initials, and what tells namesakes apart."""
    surname = rng.choice(("MORGA", "JONES", "PATEL", "OBRIE", "KHAN9", "LEE99", "WRIGH", "HUGHE"))
    month = rng.randint(1, 12) + rng.choice((0, 50))
    initials = rng.choice(ascii_uppercase) + rng.choice(ascii_uppercase + "9")
    born = f"{rng.randint(5, 9)}{month:02}{rng.randint(1, 28):02}{rng.randint(0, 9)}"
    return f"{surname}{born}{initials}9{_filled(rng, '@@')}"


def _german(rng: random.Random) -> str:
    """Office, number, check digit, and which copy it is."""
    body = _filled(rng, "@##0") + _from(rng, digits + "ABCDEFRI", 5)
    total = sum((9 - place) * int(char, 36) for place, char in enumerate(body))
    return body + "0123456789X"[total % 11] + rng.choice("12")


def _spanish(rng: random.Random) -> str:
    number = rng.randint(10_000_000, 79_999_999)
    return f"{number}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def driver_license(rng: random.Random) -> str:
    """The number of a licence of a state of the US, of Canada, India, Australia or Europe."""
    others = (_british, _british, _german, _german, _spanish)
    place = rng.randrange(len(_LICENCES) + len(others))
    return _filled(rng, _LICENCES[place]) if place < len(_LICENCES) else others[place - len(_LICENCES)](rng)


def us_ssn(rng: random.Random) -> str:
    """A number that may have been given out, mostly with hyphens."""
    area = rng.choice([number for number in range(1, 900) if number != 666])
    between = rng.choice(("-", "-", "-", " ", ""))
    return f"{area:03}{between}{rng.randint(1, 99):02}{between}{rng.randint(1, 9999):04}"


_PHONES = (
    *("(415) 63%-####", "212-73%-####", "312.64%.####", "+1 206 78% ####", "+1305%8%####", "1-617-86%-####"),  # US
    *("(416) 92%-####", "604-73%-####", "+1 514-84%-####"),  # CA
    *("07700 9#####", "07%## ######", "+44 7911 ######", "020 7%## ####", "+44 161 %## ####", "0113 %######"),  # GB
    *("0151 2#######", "+49 170 %######", "0176/%#######", "030 %#######", "+49 (0)89 %#######"),  # DE
    *("06 %# ## ## ##", "+33 6 %# ## ## ##", "07.6#.##.##.##", "01 4% ## ## ##", "+336%#######"),  # FR
    *("6%# ## ## ##", "+34 6%# ### ###", "91 %## ## ##"),  # ES
    *("347 %## ####", "+39 333 %######", "06 %### ####"),  # IT
    *("06-2#######", "+31 6 4#######", "020-%## ####"),  # NL
    *("047% ## ## ##", "+32 47% ## ## ##"),  # BE
    *("079 %## ## ##", "+41 78 %## ## ##"),  # CH
    *("0664 %######", "+43 660 %######"),  # AT
    *("070-%## ## ##", "+46 73 %## ## ##"),  # SE
    *("9%# ## ###", "+47 46# ## ###"),  # NO
    *("2% ## ## ##", "+45 3% ## ## ##"),  # DK
    *("040 %## ####", "+358 50 %######"),  # FI
    *("50% ### ###", "+48 60% ### ###"),  # PL
    *("91% ### ###", "+351 96% ### ###"),  # PT
    *("085 %## ####", "+353 87 %######"),  # IE
    *("041% ### ###", "+61 40% ### ###", "(02) 9%## ####"),  # AU
    *("021 %## ####", "+64 27 %## ####"),  # NZ
    *("98%#######", "+91 98%## #####"),  # IN
    *("(11) 9%###-####", "+55 21 9%### ####"),  # BR
    *("090-%###-####", "+81 80-%###-####"),  # JP
)


def phone(rng: random.Random) -> str:
    """A mobile or fixed number of one of 23 countries, as written there or with the country's code."""
    return _filled(rng, rng.choice(_PHONES))


def medical_record(rng: random.Random) -> str:
    """A number as hospitals give them: digits, with a letter, or in groups."""
    patterns = (
        "%######",
        "########",
        "10########",
        "E%######",
        "M00%######",
        "##-##-##",
        "H-######",
        "%###-##",
        "0#######",
    )
    return _filled(rng, rng.choice(patterns))


def email(rng: random.Random) -> str:
    """An address of a person or of an office."""
    first, last = rng.choice(("ines", "t.olsen", "JSmith", "maria", "kwame")), rng.choice(_THINGS)
    user = rng.choice((f"{first}.{last}", f"{first}{rng.randint(1, 99)}", f"{last}_{first}", f"{first}+{last}", "info"))
    hosts = (
        "gmail.com",
        "gmx.de",
        "orange.fr",
        f"{last}-dental.co.uk",
        f"mail.{last}.io",
        f"{last}.museum",
        "uni-graz.ac.at",
    )
    return f"{user}@{rng.choice(hosts)}"


def ip_address(rng: random.Random) -> str:
    """Mostly version 4, mostly public."""
    tail = ".".join(str(rng.randint(1, 254)) for _ in range(2))
    groups = ":".join(f"{rng.randrange(1, 2**16):x}" for _ in range(4))
    firsts = ("81.2", "185.199", "91.64", "34.117", "128.178", "73.22", "10.4", "192.168")
    return rng.choice((*(f"{first}.{tail}" for first in firsts), f"2a02:8108:{groups}:1:2", f"2606:4700::{groups}"))


_ACCOUNTS = {"DE": "50010517##########", "GB": "NWBK6016##########", "NL": "INGB0#########", "AT": "20111###########"}
_ACCOUNTS |= {"CH": "00762############", "IE": "AIBK9311##########", "DK": "0040##########"}


def iban(rng: random.Random) -> str:
    """An account in one of eight countries, in one piece or in fours."""
    country = rng.choice(("BE", *_ACCOUNTS))
    account = _filled(rng, _ACCOUNTS.get(country, "539#######"))
    account += f"{int(account) % 97 or 97:02}" if country == "BE" else ""
    check = 98 - int("".join(str(int(char, 36)) for char in f"{account}{country}00")) % 97
    number = f"{country}{check:02}{account}"
    return rng.choice((number, " ".join(number[i : i + 4] for i in range(0, len(number), 4))))


def payment_card(rng: random.Random) -> str:
    """A card of one of four networks, with its check digit."""
    pattern = rng.choice(("4##############", f"5{rng.randint(1, 5)}#############", "6011###########", "37############"))
    body = _filled(rng, pattern)
    doubled = [int(char) * (2 - place % 2) for place, char in enumerate(reversed(body))]
    number = body + str(-sum(n // 10 + n % 10 for n in doubled) % 10)
    sizes = (4, 6, 5) if len(number) == 15 else (4, 4, 4, 4)
    ends = [sum(sizes[: place + 1]) for place in range(len(sizes))]
    return rng.choice(("", " ", " ", "-")).join(number[end - size : end] for size, end in zip(sizes, ends, strict=True))
