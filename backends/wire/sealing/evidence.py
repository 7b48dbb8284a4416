"""Checks what a node shows of the machine that holds its sealing key: a small protocol, and one verifier.

The verifier reads the report of a confidential VM on AMD SEV-SNP (AMD 56860, "SEV Secure Nested Paging Firmware ABI",
table ATTESTATION_REPORT), which names the sealing key and the measurement of what was started. It was tried with
reports that tests make and sign, and with no hardware.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha512
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from hybrid_llm.backends.wire.certificates import load_certificates, read_file
from hybrid_llm.core.errors import ConfigError, UntrustedPeer

if TYPE_CHECKING:
    from hybrid_llm.backends.wire.sealing.keys import KeyConfig

REPORT_BYTES: Final = 1184
_SIGNED: Final = slice(0, 0x2A0)
_POLICY: Final = slice(0x08, 0x10)
_ALGORITHM: Final = slice(0x34, 0x38)
_DATA: Final = slice(0x50, 0x90)
_MEASUREMENT: Final = slice(0x90, 0xC0)
_R: Final = slice(0x2A0, 0x2E8)
_S: Final = slice(0x2E8, 0x330)
_DEBUG: Final = 1 << 19
"""The bit of the policy that lets the host read the guest's memory."""
_ECDSA_P384: Final = 1


class Verifier(Protocol):
    """Decides whether the evidence of a key is good."""

    def verify(self, key: KeyConfig) -> None:
        """Return if `key.evidence` proves that *key* belongs to a machine that runs what it may.

        Raises:
            UntrustedPeer: it does not.
        """


def report_data(digest: bytes) -> bytes:
    """The 64 bytes by which a report names the sealing key with this *digest*: put them into the report's request."""
    return sha512(b"hybrid-llm sealing key in a report 1" + digest).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class SnpReports:
    """Accepts a report of SEV-SNP, followed by the certificates of its signer (VCEK, ASK) in PEM form."""

    measurements: frozenset[bytes]
    """Of the guests that are accepted, 48 bytes each."""
    authorities: tuple[x509.Certificate, ...]
    """The root (ARK) of the processors' makers, who vouch for the signer."""

    def verify(self, key: KeyConfig) -> None:
        """Check measurement, key and signature; see `Verifier`."""
        report, chain = key.evidence[:REPORT_BYTES], key.evidence[REPORT_BYTES:]
        if len(report) < REPORT_BYTES:
            raise _refused("the node shows no report of a confidential VM")
        if int.from_bytes(report[_POLICY], "little") & _DEBUG:
            raise _refused("the node's VM may be debugged by its host")
        if report[_DATA] != report_data(key.digest):
            raise _refused("the node's report is about another sealing key")
        if report[_MEASUREMENT] not in self.measurements:
            raise _refused(f"the node runs what is not accepted: measurement {report[_MEASUREMENT].hex()}")
        self._check_signature(report, chain)

    def _check_signature(self, report: bytes, chain: bytes) -> None:
        try:
            signer = self._signer(x509.load_pem_x509_certificates(chain))
            r, s = (int.from_bytes(report[part], "little") for part in (_R, _S))
            if int.from_bytes(report[_ALGORITHM], "little") != _ECDSA_P384:
                raise ValueError
            signer.verify(encode_dss_signature(r, s), report[_SIGNED], ec.ECDSA(hashes.SHA384()))
        except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
            raise _refused("the node's report is not signed by a processor of an accepted authority") from None

    def _signer(self, chain: list[x509.Certificate]) -> ec.EllipticCurvePublicKey:
        """The key of the first certificate, once the chain leads to an authority; else ValueError or the like."""
        for certificate, issuer in pairwise(chain):
            certificate.verify_directly_issued_by(issuer)
        if not any(_issued(chain[-1], each) for each in self.authorities):
            raise ValueError
        found = chain[0].public_key()
        if not isinstance(found, ec.EllipticCurvePublicKey):
            raise TypeError
        return found


def _issued(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _refused(text: str) -> UntrustedPeer:
    return UntrustedPeer(text, backend="node")


def load_measurements(path: Path) -> SnpReports:
    """Read a file of accepted measurements: `sev-snp HEX` and `authority FILE` on a line each, comments after `#`.

    Raises:
        ConfigError: it cannot be read, or a line is neither; it needs one of each.
    """
    measurements: set[bytes] = set()
    authorities: list[x509.Certificate] = []
    for number, line in enumerate(read_file(path).decode("utf-8", "replace").splitlines(), 1):
        words = line.partition("#")[0].split()
        match words:
            case []:
                continue
            case ["sev-snp", text] if _is_measurement(text):
                measurements.add(bytes.fromhex(text))
            case ["authority", name]:
                authorities += load_certificates(path.parent / name)
            case _:
                wanted = "`sev-snp` and 96 hexadecimal digits, or `authority` and a PEM file"
                raise ConfigError(f"{path}:{number} is not {wanted}", path=str(path))
    if not measurements or not authorities:
        raise ConfigError(f"{path} needs a line `sev-snp MEASUREMENT` and a line `authority FILE`", path=str(path))
    return SnpReports(measurements=frozenset(measurements), authorities=tuple(authorities))


def _is_measurement(text: str) -> bool:
    try:
        return len(bytes.fromhex(text)) == _MEASUREMENT.stop - _MEASUREMENT.start
    except ValueError:
        return False
