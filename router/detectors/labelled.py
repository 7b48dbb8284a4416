"""What only a word in front tells from any other number: medical records, driver's licences, passports, birthdays."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hybrid_llm.router.detectors.evidence import Context
from hybrid_llm.router.detectors.linear import Regex, linear
from hybrid_llm.router.detectors.views import View

__all__ = ["birthdays", "driver_licenses", "medical_records", "passports"]

_Search = Callable[[View], Iterator[tuple[int, int]]]
_FILL: Final = (
    rb"['\"]?(?:\s?(?:numbers?|num|no\.?|nr\.?|n[o0x]|id|code|is|was|card|s/n)\b\.?|\s?#){0,3}['\"]?[\s:#=,'\"(-]{0,6}"
)
_CHINESE_FILL: Final = rb"[\x80\x90\x94\xa1\s:=#'\"(-]{0,8}"


def _labelled(words: bytes, chinese: tuple[str, ...], value: bytes, fill: bytes = _FILL) -> _Search:
    """A search for *value* behind one of *words* (RE2, any case), or behind a *chinese* word, with a little between."""
    spelled = linear(rb"(?i)(?:^|[^a-z])(?:" + words + rb")" + fill + rb"(" + value + rb")(?:[^a-z0-9]|$)")
    behind = linear(rb"(?i)" + _CHINESE_FILL + rb"(" + value + rb")(?:[^a-z0-9]|$)")

    def search(view: View) -> Iterator[tuple[int, int]]:
        if view.has_digit and _LABELS.within(view):
            yield from _behind_words(view, spelled)
            yield from _behind_chinese(view, behind, () if view.text.isascii() else chinese)

    return search


def _behind_words(view: View, regex: Regex) -> Iterator[tuple[int, int]]:
    for start, end, _ in regex.finditer(view.data):
        if not view.data[start - 1 : start].isalpha() and _has_digits(view.data[start:end]):
            yield start, end


def _behind_chinese(view: View, regex: Regex, words: tuple[str, ...]) -> Iterator[tuple[int, int]]:
    for word in words:
        for at in view.find(word):
            match = regex.match(view.data, at + len(word))
            if match is not None and _has_digits(match.group(1)):
                yield match.span(1)


def _has_digits(value: bytes) -> bool:
    """A number, not a word: at least two digits."""
    return sum(48 <= byte <= 57 for byte in value) >= 2


_MEDICAL: Final = (
    rb"mrn|medical[ _]records?|patient[ _]?(?:id|no|number|#)|hospital[ _]?(?:id|no|number)"
    rb"|health[ _](?:card|insurance|record)|medicare|nhs (?:no|number)|chart (?:no|number)|member id"
)
_MEDICAL_CHINESE: Final = ("病历号", "病案号", "住院号", "门诊号", "就诊卡", "医保卡", "病歷號", "患者编号")
medical_records: Final = _labelled(
    _MEDICAL,
    _MEDICAL_CHINESE,
    rb"[a-z0-9][a-z0-9-]{2,18}[a-z0-9]",
)

_LICENCE: Final = (
    rb"driv(?:er|ing)(?:'?s)?['\xa1]?s?[ _-]?(?:licen[cs]e|permit|id)|dl|dln|f[xu]hrerschein(?:nummer)?"
    rb"|permis de conduire"
)
_LICENCE_CHINESE: Final = ("驾驶证", "驾照", "駕照", "駕駛證")
driver_licenses: Final = _labelled(
    _LICENCE,
    _LICENCE_CHINESE,
    rb"[a-z0-9]{1,4}(?:[ -]?[a-z0-9]{2,9}){1,3}",
)

_PASSPORT: Final = rb"passports?|pass(?:port)?[ _-]?(?:no|number|nr)|reisepass(?:nummer)?|pasaporte|passeport"
_PASSPORT_CHINESE: Final = ("护照", "護照", "通行证")
passports: Final = _labelled(
    _PASSPORT,
    _PASSPORT_CHINESE,
    rb"[a-z]{0,3}[0-9]{5,10}[a-z]?|[a-z0-9]{8,9}",
)

_MONTH: Final = rb"(?:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]{0,6}\.?"
_YEAR: Final = rb"(?:1[89]|20)[0-9]{2}"
_DAY: Final = rb"[0-9]{1,2}(?:st|nd|rd|th)?"
_DATE: Final = (
    _YEAR + rb"[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./ ][0-9]{1,2}[-./ ](?:" + _YEAR + rb"|[0-9]{2})"
    rb"|" + _DAY + rb"(?: of)? " + _MONTH + rb",? " + _YEAR + rb"|" + _MONTH + rb" " + _DAY + rb",? " + _YEAR + rb"|"
    + _YEAR + rb"\x80[0-9]{1,2}\x80[0-9]{1,2}\x80|" + _YEAR + rb"[0-9]{4}"
)  # fmt: skip
_BIRTHDAY: Final = (
    rb"date[ _]of[ _]birth|birth[ _]?(?:date|day)|d\.?o\.?b\.?|born|geboren|geburtsdatum|n[xe]e? le|nacid[oa]"
)
_BIRTHDAY_CHINESE: Final = ("出生日期", "生日", "出生于", "生于", "出生")
birthdays: Final = _labelled(
    _BIRTHDAY,
    _BIRTHDAY_CHINESE,
    _DATE,
    rb"['\"]?[\s:=.,('\"]{0,4}(?:(?:is|was|on|it'?s|it is|am|el|den|the|in)\b\s?){0,3}[\s:=.,('\"]{0,4}",
)

_LABELS: Final = Context(
    rb"|".join((_MEDICAL, _LICENCE, _PASSPORT, _BIRTHDAY)),
    (*_MEDICAL_CHINESE, *_LICENCE_CHINESE, *_PASSPORT_CHINESE, *_BIRTHDAY_CHINESE),
)
"""One look for all labels: most texts hold none."""
