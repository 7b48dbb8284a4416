"""The one table of the built-in detectors, and the kinds of model detectors that a `hybrid.yaml` can add to it.

Built-in detectors find formats, not meaning: names, places and free prose need a model behind the same Protocol:

    detectors:
      names: {kind: rampart}
      own:   {kind: ner, model: ner/, labels: {PER: person_name, LOC: location}, min_score: 0.5}
      more:  {kind: presidio, model: en_core_web_sm, labels: {PERSON: person_name}, language: en}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, Protocol

from hybrid_llm.core.registry import Registry
from hybrid_llm.router.privacy.detectors.credentials import search as credentials
from hybrid_llm.router.privacy.detectors.engine import PatternDetector
from hybrid_llm.router.privacy.detectors.formats import contact, identity, mail, money, network, records

if TYPE_CHECKING:
    from hybrid_llm.core.protocols import Detector

_TABLE: Final = (
    PatternDetector("credential", credentials.CREDENTIAL, credentials.credentials, finds="passwords, keys and tokens"),
    PatternDetector("email", mail.EMAIL, mail.addresses, b"@", finds="e-mail addresses"),
    PatternDetector("cn_resident_id", identity.CN_RESIDENT_ID, finds="Chinese resident identity numbers"),
    PatternDetector("us_ssn", identity.US_SSN, finds="US social security numbers and ITINs"),
    PatternDetector("iban", search=money.ibans, needs=b"1", finds="international bank account numbers"),
    PatternDetector("payment_card", money.PAYMENT_CARD, finds="payment card numbers"),
    PatternDetector("crypto_wallet", money.CRYPTO_WALLET, finds="Bitcoin and Ethereum addresses"),
    PatternDetector("medical_record", records.MEDICAL_RECORD, finds="medical record and patient numbers"),
    PatternDetector("passport", records.PASSPORT, finds="passport numbers"),
    PatternDetector("driver_license", records.DRIVER_LICENSE, finds="driver's licence numbers"),
    PatternDetector("date_of_birth", records.DATE_OF_BIRTH, finds="dates of birth"),
    PatternDetector(
        "national_id", search=identity.national_ids, needs=b"1", finds="identity and tax numbers of 16 countries"
    ),
    PatternDetector("ip_address", network.IP_ADDRESS, finds="IPv4 and IPv6 addresses"),
    PatternDetector("mac_address", network.MAC_ADDRESS, finds="MAC addresses"),
    PatternDetector("phone", contact.PHONE, finds="telephone numbers"),
)
"""Most specific first: of two findings with the same span, the earlier detector's counts."""

DETECTORS: Final[Mapping[str, PatternDetector]] = {detector.name: detector for detector in _TABLE}
"""The built-in detectors by name, which is also the kind of their findings."""


class DetectorSpec(Protocol):
    """One entry under `detectors:`, checked: a frozen dataclass with a field `name`, and one made by `key` per key."""

    @property
    def name(self) -> str:
        """The detector's name, which policies use."""
        ...

    def open(self) -> Detector:
        """Make the detector.

        Raises:
            ConfigError: a file or an option is unusable; the message says what to do.
        """
        ...


DETECTOR_KINDS: Final[Registry[type[DetectorSpec]]] = Registry(
    "kind of detector",
    group="hybrid_llm.detectors",
    builtin={
        "ner": f"{__package__}.models.ner:NerSpec",
        "rampart": f"{__package__}.models.rampart:RampartSpec",
        "presidio": f"{__package__}.models.presidio:PresidioSpec",
    },
)
"""Kind -> the dataclass that its entries are read into."""


def register_detector(kind: str, spec: type[DetectorSpec]) -> None:
    """Let `kind: KIND` in `hybrid.yaml` mean the detector that *spec* opens; call it before the file is read.

    Raises:
        ConfigError: the kind is taken.
    """
    DETECTOR_KINDS.register(kind, spec)
