"""Patterns that find personal data and secrets in text, each with the check that its format defines.

They find formats, not meaning: names, places and free prose need a model behind the same Protocol. Checksums are
Luhn (ISO/IEC 7812-1) for payment cards, mod 97 (ISO 13616) for IBAN and MOD 11-2 (GB 11643) for resident ids.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from hybrid_llm.router.detectors.base import Detector, Finding

__all__ = ["DETECTORS", "PatternDetector"]


@dataclass(frozen=True, slots=True)
class PatternDetector:
    """A regular expression and a validity check. *pattern* must be linear in the length of the text."""

    name: str
    pattern: re.Pattern[str]
    valid: Callable[[str], bool]

    def find(self, text: str) -> Iterator[Finding]:
        """Yield each match that passes the check."""
        for match in self.pattern.finditer(text):
            if self.valid(match.group()):
                yield Finding(kind=self.name, start=match.start(), end=match.end())


def _digits(text: str) -> list[int]:
    return [int(c) for c in text if c.isdecimal()]


def _luhn(text: str) -> bool:
    digits = _digits(text)
    doubled = (sum(divmod(2 * d, 10)) if i % 2 else d for i, d in enumerate(reversed(digits)))
    return 12 <= len(digits) <= 19 and len(set(digits)) > 1 and sum(doubled) % 10 == 0


def _mod97(text: str) -> bool:
    compact = "".join(text.split())
    rearranged = compact[4:] + compact[:4]
    return int("".join(str(int(c, 36)) for c in rearranged)) % 97 == 1


def _mod11(text: str) -> bool:
    total = sum(int(c) * (2 ** (17 - i) % 11) for i, c in enumerate(text[:17]))
    return "10X98765432"[total % 11] == text[17].upper()


def _ip(text: str) -> bool:
    try:
        return not ipaddress.ip_address(text).is_unspecified
    except ValueError:
        return False


def _ssn(text: str) -> bool:
    area, group, serial = text.split("-")
    return area not in {"000", "666"} and area < "900" and group != "00" and serial != "0000"


def _phone(text: str) -> bool:
    return 8 <= len(_digits(text)) <= 15


def _always(_: str) -> bool:
    return True


def _make(name: str, pattern: str, valid: Callable[[str], bool] = _always, flags: int = 0) -> PatternDetector:
    return PatternDetector(name, re.compile(pattern, re.ASCII | flags), valid)


DETECTORS: Final[dict[str, Detector]] = {
    detector.name: detector
    for detector in (
        _make("email", r"(?<![\w.+-])[\w.+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b"),
        _make(
            "phone",
            r"(?<![\w.-])(?:\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]?\d{2,4}){1,4}"
            r"|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}|1[3-9]\d{9})(?![\w-])",
            _phone,
        ),
        _make("payment_card", r"(?<![\d.-])\d(?:[ -]?\d){11,18}(?![\d-])", _luhn),
        _make("iban", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}\b", _mod97),
        _make(
            "ip_address",
            r"(?<![\d.])(?:\d{1,3}\.){3}\d{1,3}(?![\d.])|(?<![\w:])[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:])",
            _ip,
        ),
        _make("us_ssn", r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])", _ssn),
        _make("cn_resident_id", r"(?<!\d)\d{17}[\dXx](?!\d)", _mod11),
        _make(
            "medical_record",
            r"\b(?:MRN|medical record|patient (?:id|no|number)|hospital (?:id|no|number))\W{0,4}(?:number\W{0,3})?"
            r"(?=[A-Z0-9-]*\d)[A-Z0-9-]{4,20}\b",
            flags=re.IGNORECASE,
        ),
        _make(
            "credential",
            r"-----BEGIN [A-Z ]{0,32}PRIVATE KEY-----|\b(?:AKIA|ASIA)[A-Z2-7]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36,255}\b"
            r"|\bsk-[A-Za-z0-9_-]{20,200}\b|\bxox[abprs]-[A-Za-z0-9-]{10,200}\b|\bAIza[A-Za-z0-9_-]{35}\b"
            r"|\beyJ[A-Za-z0-9_-]{8,2000}\.[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,1000}"
            r"|\b(?:password|passwd|secret|api[_-]?key|token)\b\s{0,4}(?:[:=]|\bis\b)\s{0,4}['\"]?[^\s'\"]{6,200}",
            flags=re.IGNORECASE,
        ),
    )
}
"""The detectors that come with the library, by name."""
