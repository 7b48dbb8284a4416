"""Evidence of a node's machine: reports of SEV-SNP that this test makes and signs, as a processor would."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.x509.oid import NameOID

from hybrid_llm.backends.wire.sealing.evidence import load_measurements, report_data
from hybrid_llm.backends.wire.sealing.keys import EVIDENCE, SealKey, read_private, write_key
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.sealing.suites import X25519
from hybrid_llm.core.errors import ConfigError, UntrustedPeer

GOOD, OTHER = bytes(range(48)), bytes(48)
KEY = SealKey.make(X25519, datetime.now(UTC) + timedelta(days=1)).config


def certificate(name, key, issuer=None, issuer_key=None, *, authority=True):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer.subject if issuer else subject)
    builder = builder.public_key(key.public_key()).serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=9))
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    return builder.sign(issuer_key or key, hashes.SHA384())


class Maker:
    """A maker of processors: a root, an intermediate, and the key of one processor."""

    def __init__(self):
        root, middle, self.chip = (ec.generate_private_key(ec.SECP384R1()) for _ in range(3))
        self.root = certificate("root", root)
        self.middle = certificate("middle", middle, self.root, root)
        self.signer = certificate("chip", self.chip, self.middle, middle, authority=False)

    def evidence(self, key=KEY, measurement=GOOD, *, policy=0, data=None):
        report = bytearray(1184)
        report[0x08:0x10] = policy.to_bytes(8, "little")
        report[0x34:0x38] = (1).to_bytes(4, "little")
        report[0x50:0x90] = report_data(key.digest) if data is None else data
        report[0x90:0xC0] = measurement
        r, s = decode_dss_signature(self.chip.sign(bytes(report[:0x2A0]), ec.ECDSA(hashes.SHA384())))
        report[0x2A0:0x2E8], report[0x2E8:0x330] = r.to_bytes(72, "little"), s.to_bytes(72, "little")
        return bytes(report) + pem(self.signer) + pem(self.middle)


def pem(certificate):
    return certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def maker():
    return Maker()


@pytest.fixture
def accepted(maker, tmp_path):
    (tmp_path / "root.pem").write_bytes(pem(maker.root))
    path = tmp_path / "accepted"
    path.write_text(f"# what may run\nsev-snp {GOOD.hex()}\nauthority root.pem\n")
    return path


def test_a_report_of_this_key_and_an_accepted_measurement_is_good(maker, accepted):
    load_measurements(accepted).verify(replace(KEY, evidence=maker.evidence()))


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ({"measurement": OTHER}, "not accepted"),
        ({"data": bytes(64)}, "another sealing key"),
        ({"policy": 1 << 19}, "debugged"),
    ],
)
def test_a_report_of_anything_else_is_refused(maker, accepted, how, why):
    with pytest.raises(UntrustedPeer, match=why):
        load_measurements(accepted).verify(replace(KEY, evidence=maker.evidence(**how)))


def test_a_report_that_is_cut_changed_or_signed_by_others_is_refused(maker, accepted):
    verifier, good = load_measurements(accepted), maker.evidence()
    flipped = good[:0x20] + bytes([good[0x20] ^ 1]) + good[0x21:]
    faults = [b"", good[:1000], good[:1184], flipped, Maker().evidence(), good[:1184] + pem(maker.signer), b"x" * 3000]
    for evidence in faults:
        with pytest.raises(UntrustedPeer):
            verifier.verify(replace(KEY, evidence=evidence))


@pytest.mark.parametrize("text", ["", "sev-snp 00", "authority none.pem", "tdx " + "00" * 48, "authority root.pem"])
def test_a_file_of_measurements_that_is_none_is_refused(accepted, text):
    accepted.write_text(text)
    with pytest.raises(ConfigError):
        load_measurements(accepted)


class OnlyThis:
    """A verifier of another kind of evidence."""

    def verify(self, key):
        if key.evidence != b"a quote of a TPM":
            raise UntrustedPeer("the quote is not accepted", backend="node")


def test_a_verifier_of_ones_own_checks_other_evidence(pki, tools, tmp_path):
    write_key(tmp_path, "node", suite=X25519, days=1)
    (tmp_path / f"node{EVIDENCE}").write_bytes(b"a quote of a TPM")
    with tools.Node(pki.node, sealed=tmp_path) as node:
        cloud = tools.backend(node.target, pki.app, sealed=SealedSpec(), verifier=OnlyThis())
        assert tools.answer(cloud.stream(tools.cleared("hello"))) == "hello from the node"
        cloud.close()
    with pytest.raises(UntrustedPeer):
        OnlyThis().verify(KEY)


def test_sealing_to_any_key_that_is_offered_is_refused(pki, tools):
    with pytest.raises(ConfigError, match="keys of its own"):
        tools.backend("127.0.0.1:1", pki.app, sealed=SealedSpec())


def test_a_node_presents_its_evidence_and_an_app_that_wants_it_checks_it(pki, tools, maker, accepted, tmp_path):
    folder = tmp_path / "sealing"
    write_key(folder, "node", suite=X25519, days=1)
    [key] = read_private(folder / "node.seal")
    (folder / f"node{EVIDENCE}").write_bytes(maker.evidence(key.config))
    with tools.Node(pki.node, sealed=folder) as node:
        spec = SealedSpec(measurements=accepted)  # no pin: the evidence vouches for the key
        cloud = tools.backend(node.target, pki.app, sealed=spec)
        assert tools.answer(cloud.stream(tools.cleared("hello"))) == "hello from the node"
        cloud.close()
        (folder / f"node{EVIDENCE}").write_bytes(maker.evidence(key.config, OTHER))
        node.loop.call_soon_threadsafe(node.server.reload)
        later = tools.backend(node.target, pki.app, sealed=spec)
        with pytest.raises(UntrustedPeer, match="not accepted"):
            list(later.stream(tools.cleared("hello")))
        later.close()
