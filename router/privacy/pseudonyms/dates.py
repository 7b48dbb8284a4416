"""Dates in any notation: a known date of birth is recognised however it is written, whole or cut off.

The dates of a text are read and looked up; their number of spellings does not matter. A date whose day and month can
be exchanged is known under both readings.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors.text import Regex, View

_NAMES: Final = (
    "january|janvier|januar|jänner|janner|enero|janeiro|gennaio",
    "february|février|fevrier|februar|febrero|fevereiro|febbraio",
    "march|mars|märz|marz|mrz|marzo|março|marco",
    "april|avril|abril|aprile",
    "may|mai|mayo|maio|maggio",
    "june|juin|juni|junio|junho|giugno",
    "july|juillet|juli|julio|julho|luglio",
    "august|août|aout|agosto",
    "september|sept|septembre|septiembre|setembro|settembre",
    "october|octobre|oktober|octubre|outubro|ottobre",
    "november|novembre|noviembre|novembro",
    "december|décembre|decembre|dezember|diciembre|dezembro|dicembre",
)
_MONTHS: Final = {
    short: number
    for number, names in enumerate(_NAMES, 1)
    for name in names.split("|")
    if name.isascii()
    for short in {name[:end] for end in range(3, len(name) + 1)}
    if name[:4] not in {"juin", "juil"} or len(short) > 3
}
"""Names and their beginnings of three letters or more, as folded text has them."""
_MONTH: Final = rb"(?:%s)" % b"|".join(sorted({name[:3].encode() for name in _MONTHS}))
_GAP: Final = rb"[-./ ,_'\\]{1,4}"
_MAYBE: Final = rb"[-./ ,_'\\]{0,4}(?:of |de[l]? |the )?"
_DAY: Final = rb"[0-9]{1,2}(?:st|nd|rd|th)?"
_YEAR: Final = rb"[0-9]{2}(?:[0-9]{2})?"
_DATE: Final = Regex(
    rb"(?i)(?:^|[^0-9])("
    rb"[0-9]{1,2}" + _GAP + rb"[0-9]{1,2}" + _GAP + _YEAR
    + rb"|" + _YEAR + _GAP + rb"[0-9]{1,2}" + _GAP + rb"[0-9]{1,2}"
    + rb"|" + _DAY + _MAYBE + _MONTH + rb"[a-z]{0,7}" + _MAYBE + _YEAR
    + rb"|" + _MONTH + rb"[a-z]{0,7}" + _MAYBE + _DAY + _MAYBE + _YEAR
    + rb"|" + _YEAR + _MAYBE + _MONTH + rb"[a-z]{0,7}" + _MAYBE + _DAY
    + rb"|[0-9]{4}\x80[0-9]{1,2}\x80[0-9]{1,2}\x80?|[0-9]{8}|[0-9]{6})(?:[^0-9]|$)"
)  # fmt: skip
_TOKEN: Final = re.compile("[0-9]+|[a-z]+", re.IGNORECASE)
_FILLERS: Final = frozenset({"st", "nd", "rd", "th", "of", "de", "del", "the"})
_ORDINAL: Final = re.compile("(?<=[0-9])(?:st|nd|rd|th|[snrt])(?![A-Za-z])", re.IGNORECASE)
_LAST: Final = re.compile(
    r"(?:[0-9]{1,8}|[A-Za-z]{1,10})(?:[-./ ,_'\\\x80]{0,4}[0-9a-zA-Z]{1,10}){0,4}[-./ ,_'\\\x80]{0,3}\Z"
)
_WORDS: Final = frozenset({"may", "mar", "march", "mai", "jun", "set"})
_CENTURIES: Final = (1800, 1900, 2000)
_EARLIEST: Final = 1800
_LATEST: Final = 2049

Date = tuple[int, int, int]
"""Year, month and day; the year has two digits where it was written so."""


def dates(view: View) -> Iterator[tuple[int, int, list[Date]]]:
    """Yield start, end (exclusive) and every reading of each date in *view*; dates may overlap."""
    match = _DATE.search(view.data)
    while match is not None:
        start, end = match.span(1)
        found = list(readings(match.group(1).decode("latin-1")))
        if found:
            yield start, end, found
        match = _DATE.search(view.data, end if found else _next_token(view.data, start))


def _next_token(data: bytes, start: int) -> int:
    """Where to search on after what is no date: behind its first token, since a date may begin with the second."""
    end = start + 1
    while data[end : end + 1].isalnum() and data[end : end + 1].isdigit() == data[start : start + 1].isdigit():
        end += 1
    return end


def readings(text: str) -> Iterator[Date]:
    """Every date that the folded *text*, one date in any notation, may mean."""
    tokens = [token.lower() for token in _TOKEN.findall(text) if token.lower() not in _FILLERS]
    for parts in _split(tokens[0]) if len(tokens) == 1 else (tokens,):
        for year, month, day in _orders(parts):
            number = _MONTHS.get(month, 0) if month.isalpha() else int(month)
            if year.isdigit() and day.isdigit() and _is_date(year, number, int(day)):
                yield int(year), number, int(day)


def _split(digits: str) -> Iterator[list[str]]:
    """`19701201` and its like as three parts."""
    sizes = ((4, 2, 2), (2, 2, 4)) if len(digits) == 8 else ((2, 2, 2),)
    for first, second, _ in sizes:
        yield [digits[:first], digits[first : first + second], digits[first + second :]]


def _orders(parts: list[str]) -> Iterator[tuple[str, str, str]]:
    """The orders in which *parts* may be year, month and day."""
    if len(parts) == 3:
        first, second, third = parts
        yield third, second, first
        yield third, first, second
        yield first, second, third


def _is_date(year: str, month: int, day: int) -> bool:
    is_year = len(year) == 2 or (len(year) == 4 and _EARLIEST <= int(year) <= _LATEST)
    return is_year and 1 <= month <= 12 and 1 <= day <= 31


def equivalents(date: Date) -> set[Date]:
    """*date* with its year in two and in four digits."""
    year, month, day = date
    if year > 99:
        return {date, (year % 100, month, day)}
    return {date, *((century + year, month, day) for century in _CENTURIES if century + year <= _LATEST)}


def begins_date(text: str, known: Collection[Date]) -> bool:
    """Whether *text*, folded, ends with the beginning of one of the *known* dates, in any notation."""
    match = _LAST.search(text[-48:])
    if match is None or not known:
        return False
    *before, last = _TOKEN.findall(_ORDINAL.sub("", match[0]))
    kept = [token for token in before if token.lower() not in _FILLERS]
    ends = ([*kept, last], kept) if last.lower() in _FILLERS else ([*kept, last],)
    tails = [tokens[-count:] for tokens in ends for count in range(1, min(3, len(tokens)) + 1)]
    lowered = [[token.lower() for token in tail] for tail in tails if _may_begin(tail)]
    return any(_continues(tail, date) for date in known for tail in lowered)


def _may_begin(tail: list[str]) -> bool:
    """A month alone in lower case, or the beginning of one, may be another word: `may`, `march`, `a`."""
    first = tail[0]
    return len(tail) > 1 or first[0].isdigit() or first[0].isupper() or (len(first) > 2 and first not in _WORDS)


def _continues(tail: list[str], date: Date) -> bool:
    year, month, day = date
    days = (str(day), f"{day:02}")
    months = (str(month), f"{month:02}", *_NAMES[month - 1].split("|"))
    years = (f"{year:02}",)
    orders = ((days, months, years), (months, days, years), (years, months, days))
    return any(_fits(tail, order) for order in (*orders, *(((s,),) for s in _compact(days[1], months[1], years[0]))))


def _compact(day: str, month: str, year: str) -> tuple[str, ...]:
    return year + month + day, day + month + year, month + day + year


def _fits(tail: list[str], order: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the tokens *tail* are the beginning of a date written in *order*, and not the whole."""
    if len(tail) > len(order):
        return False
    *before, last = tail
    if not all(any(_same(token, each) for each in order[i]) for i, token in enumerate(before)):
        return False
    is_end = len(tail) == len(order)
    return any(each.startswith(last) and not (is_end and each == last) for each in order[len(before)])


def _same(token: str, spelling: str) -> bool:
    return token == spelling or (token.isalpha() and len(token) >= 3 and spelling.startswith(token))
