"""Values of every kind, drawn with a seed after the formats of their issuers, not after any detector's patterns.

Each generator takes a `random.Random` and returns one value as people write it. Telephone numbers, identity numbers and
the like are in `_numbers`.
"""

# ruff: noqa: SIM905  (tables of words)
from __future__ import annotations

import base64
import datetime as dt
import json
import random
import string
import uuid

_WORDS = (
    "summer winter dragon monkey harbour copper violet marble thunder river falcon orchid pepper castle velvet ginger "
    "rocket meadow saturn walnut tiger sunset coffee piano silver anchor breeze cactus domino ember"
).split()
_NAMES = (
    "jane john maria wei ahmed olga pierre lucia hans sofia kenji priya tomas ingrid carlos fatima noah emma".split()
)
_SURNAMES = "doe smith garcia chen khan ivanova dupont rossi mueller silva tanaka patel novak larsen lopez ali".split()
_DOMAINS = (
    "example.org mail.example.com corp-mail.de beispiel.at posteo.net uni-wien.ac.at gmail.com fastmail.fm mailbox.io "
    "klinik-nord.de sub.dept.example.co.uk example.travel proton.me xn--mller-kva.example example.com.br"
).split()
_LEET = str.maketrans("aeios", "@310$")
_MARKS = "!@#$%^&*-_+=?."


def _chars(rng: random.Random, alphabet: str, length: int) -> str:
    return "".join(rng.choices(alphabet, k=length))


def _mixed(rng: random.Random, length: int, marks: str) -> str:
    """Letters of both cases, a digit and one of *marks*, in any order; the first is a letter or digit."""
    must = [rng.choice(string.ascii_lowercase), rng.choice(string.ascii_uppercase), rng.choice(string.digits)]
    rest = [rng.choice(marks), *rng.choices(string.ascii_letters + string.digits + marks, k=length - 4)]
    rng.shuffle(rest)
    rng.shuffle(must)
    return "".join([*must, *rest])


def password(rng: random.Random) -> str:
    """As people choose and as managers draw them: one in twelve is a word alone, one in fifteen digits alone."""
    word, other = rng.sample(_WORDS, 2)
    makers = (
        lambda: f"{word.capitalize()}{rng.randint(1950, 2029)}!",
        lambda: f"{word.capitalize()}{rng.randint(1, 99)}{rng.choice(_MARKS)}",
        lambda: f"{word}{rng.randint(10, 9999)}",
        lambda: word.translate(_LEET) + str(rng.randint(1, 999)),
        lambda: word.capitalize().translate(_LEET) + rng.choice("!#$?"),
        lambda: f"{word}-{other}-{rng.choice(_WORDS)}",
        lambda: f"{word.capitalize()}{other.capitalize()}{rng.randint(0, 9)}",
        lambda: f"{word}{other}",
        lambda: _mixed(rng, rng.randint(8, 16), _MARKS),
        lambda: _mixed(rng, rng.randint(10, 24), "!@#%&*+=?:;~^()[]{}|<>,."),
        lambda: _chars(rng, string.ascii_lowercase + string.digits, rng.randint(8, 14)),
        lambda: _chars(rng, string.ascii_letters, rng.randint(10, 14)),
        lambda: rng.choice(_NAMES).capitalize() + "@" + str(rng.randint(100, 2999)),
        lambda: _chars(rng, string.digits, rng.randint(6, 10)),
        lambda: _chars(rng, string.ascii_uppercase + string.digits, 10),
    )
    return rng.choice(makers)()


def _jwt(rng: random.Random) -> str:
    parts = ({"alg": "HS256", "typ": "JWT"}, {"sub": str(rng.randrange(10**9)), "iat": rng.randrange(10**9)})
    encoded = [base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, _chars(rng, string.ascii_letters + string.digits + "-_", 43)])


def token(rng: random.Random) -> str:
    """Keys and tokens of vendors, and those without any mark: hexadecimal, base64, UUIDs."""
    alnum, lower = string.ascii_letters + string.digits, string.ascii_lowercase + string.digits
    makers = (
        lambda: "AKIA" + _chars(rng, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", 16),
        lambda: rng.choice(["ghp_", "gho_", "ghs_"]) + _chars(rng, alnum, 36),
        lambda: "sk-proj-" + _chars(rng, alnum + "-_", 48),
        lambda: rng.choice(["sk_live_", "rk_test_"]) + _chars(rng, alnum, 24),
        lambda: f"xoxb-{rng.randrange(10**11, 10**12)}-{rng.randrange(10**11, 10**12)}-{_chars(rng, alnum, 24)}",
        lambda: "AIza" + _chars(rng, alnum + "-_", 35),
        lambda: "hf_" + _chars(rng, string.ascii_letters, 34),
        lambda: "SG." + _chars(rng, alnum + "-_", 22) + "." + _chars(rng, alnum + "-_", 43),
        lambda: "1000." + _chars(rng, "0123456789abcdef", 32) + "." + _chars(rng, "0123456789abcdef", 32),
        lambda: _jwt(rng),
        lambda: _chars(rng, "0123456789abcdef", rng.choice([32, 40, 64])),
        lambda: str(uuid.UUID(int=rng.getrandbits(128), version=4)),
        lambda: base64.b64encode(rng.randbytes(rng.choice([20, 24, 32]))).decode(),
        lambda: _chars(rng, alnum, rng.randint(20, 40)),
        lambda: _chars(rng, lower, rng.randint(16, 32)),
    )
    return rng.choice(makers)()


_MONTHS = {
    "en": "January February March April May June July August September October November December".split(),
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember".split(),
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre".split(),
    "es": "enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre".split(),
}
_DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()


def _ordinal(day: int) -> str:
    return f"{day}{'th' if 11 <= day <= 13 else {1: 'st', 2: 'nd', 3: 'rd'}.get(day % 10, 'th')}"


def birthday(rng: random.Random) -> str:
    """A date in one of the spellings in use; English months three times as often as others."""
    day = dt.date(1930, 1, 1) + dt.timedelta(days=rng.randrange(29_000))
    month = _MONTHS["en"][day.month - 1]
    makers = (
        day.isoformat,
        lambda: f"{day:%d/%m/%Y}",
        lambda: f"{day:%m/%d/%Y}",
        lambda: f"{day.month}/{day.day}/{day.year}",
        lambda: f"{day:%d.%m.%Y}",
        lambda: f"{day:%d-%m-%Y}",
        lambda: f"{day:%m/%d/%y}",
        lambda: f"{day:%Y/%m/%d}",
        lambda: f"{day:%Y.%m.%d}",
        lambda: f"{day:%Y%m%d}",
        lambda: f"{day.day} {month} {day.year}",
        lambda: f"{month} {day.day}, {day.year}",
        lambda: f"{month} {_ordinal(day.day)}, {day.year}",
        lambda: f"{_ordinal(day.day)} of {month} {day.year}",
        lambda: f"{day.day:02d}-{month[:3]}-{day.year}",
        lambda: f"{month[:3]} {day.day}, {day.year}",
        lambda: f"{_DAYS[day.weekday()]}, {day.day} {month} {day.year}",
        lambda: f"{_DAYS[day.weekday()]}, {month} {day.day}, {day.year}",
        lambda: f"{day.day}. {_MONTHS['de'][day.month - 1]} {day.year}",
        lambda: f"{day.day} {_MONTHS['fr'][day.month - 1]} {day.year}",
        lambda: f"{day.day} de {_MONTHS['es'][day.month - 1]} de {day.year}",
        lambda: f"{day.year}年{day.month}月{day.day}日",
        lambda: f"{day.isoformat()}T00:00:00Z",
    )
    return rng.choice(makers)()


def medical_record(rng: random.Random) -> str:
    """Numbers of hospitals: digits, groups, or a site's letters before them."""
    digits = str(rng.randrange(10**5, 10**9))
    makers = (
        lambda: digits,
        lambda: digits.zfill(10),
        lambda: f"{rng.randrange(100, 999)}-{rng.randrange(10, 99)}-{rng.randrange(10, 99)}",
        lambda: _chars(rng, string.ascii_uppercase, rng.randint(1, 3)) + digits,
        lambda: f"{_chars(rng, string.ascii_uppercase, 2)}-{digits}",
        lambda: f"{rng.randint(2004, 2026)}-{rng.randrange(10**4, 10**6)}",
        lambda: f"{rng.randrange(10, 99)}-{rng.randrange(10, 99)}-{rng.randrange(10, 99)}",
        lambda: _chars(rng, string.ascii_uppercase + string.digits, 6) + str(rng.randrange(10, 99)),
    )
    return rng.choice(makers)()


def email(rng: random.Random) -> str:
    """Addresses after RFC 5321: dots, tags, apostrophes, long domains, a few in capitals."""
    name, surname, domain = rng.choice(_NAMES), rng.choice(_SURNAMES), rng.choice(_DOMAINS)
    makers = (
        lambda: f"{name}.{surname}@{domain}",
        lambda: f"{name[0]}{surname}@{domain}",
        lambda: f"{name}_{surname}@{domain}",
        lambda: f"{name}+{rng.choice(_WORDS)}@{domain}",
        lambda: f"{name}{rng.randint(1, 99)}@{domain}",
        lambda: f"{name}-{surname}.{rng.choice(_WORDS)}@{domain}",
        lambda: f"o'{surname}@{domain}",
        lambda: f"{name}.{surname}@{domain}".upper(),
        lambda: f"{name.capitalize()}.{surname.capitalize()}@{domain}",
    )
    return rng.choice(makers)()


def ip_address(rng: random.Random) -> str:
    """IPv4 and IPv6 addresses of hosts, public and private."""
    four = f"{rng.choice([10, 172, 192, *rng.sample(range(11, 223), 9)])}.{rng.randrange(256)}.{rng.randrange(256)}"
    four = f"{four}.{rng.randint(1, 254)}".replace("127.", "128.")
    groups = [f"{rng.randrange(1, 65536):x}" for _ in range(8)]
    makers = (
        lambda: four,
        lambda: four,
        lambda: four,
        lambda: ":".join(["2001", "db8", *groups[2:]]),
        lambda: f"2a02:{groups[0]}:{groups[1]}::{groups[2]}",
        lambda: f"fe80::{rng.randrange(1, 65536):x}:{rng.randrange(256):x}ff:fe{rng.randrange(256):02x}:{groups[3]}",
    )
    return rng.choice(makers)()
