"""The catalogue of the detectors that come with the library: every one by name, made of the patterns of its family.

They find formats, not meaning: names, places and free prose need a model behind the same Protocol (`ner`, `presidio`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hybrid_llm.router.privacy.detectors import contact, credentials, identity, money
from hybrid_llm.router.privacy.detectors.engine import PatternDetector
from hybrid_llm.router.privacy.detectors.evidence import Pattern
from hybrid_llm.router.privacy.detectors.views import View

_Search = Callable[[View], Iterator[tuple[int, int]]]


def _made(name: str, *patterns: Pattern, search: _Search | None = None) -> PatternDetector:
    return PatternDetector(name, patterns, search)


DETECTORS: Final[dict[str, PatternDetector]] = {
    detector.name: detector
    for detector in (
        _made("credential", *credentials.CREDENTIAL, search=credentials.credentials),
        _made("email", *contact.EMAIL),
        _made("cn_resident_id", *identity.CN_RESIDENT_ID),
        _made("us_ssn", *identity.US_SSN),
        _made("iban", search=money.ibans),
        _made("payment_card", *money.PAYMENT_CARD),
        _made("crypto_wallet", *money.CRYPTO_WALLET),
        _made("medical_record", search=identity.medical_records),
        _made("passport", search=identity.passports),
        _made("driver_license", search=identity.driver_licenses),
        _made("date_of_birth", search=identity.birthdays),
        _made("national_id", search=identity.national_ids),
        _made("ip_address", *contact.IP_ADDRESS),
        _made("mac_address", *contact.MAC_ADDRESS),
        _made("phone", *contact.PHONE),
    )
}
"""The detectors by name, the most telling first: of two findings of one length, this order tells which counts."""
