"""A signature holds for what was signed, by who is trusted; OpenSSF's own library reads ours, and we read its."""

from __future__ import annotations

import contextlib
import json
import shutil
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.signing.sign import make_signing_key, sign_folder
from hybrid_llm.backends.signing.statement import SIGNATURE, decode, encode_bundle, encode_statement, to_sign
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.signing.verify import digest_folder, verify_any, verify_folder
from hybrid_llm.backends.wire.certificates import issue, load_certificates, load_key
from hybrid_llm.core.errors import ConfigError, UntrustedModel
from tests.backends.signing.conftest import write_model


def signed(folder, certs, name="release"):
    sign_folder(folder, certs / f"{name}.key", certs / f"{name}.pem")
    return folder


def test_a_model_is_verified_by_the_authority_and_the_name_of_the_signer(model, certs, trust):
    found = verify_folder(signed(model, certs), trust)
    assert found.signer == "spiffe://hybrid-llm/signer/release"
    assert set(found.files) == {"model.onnx", "config.json", "sub/tokenizer.json", "empty"}
    assert verify_folder(model, Trust(ca=certs / "ca.pem")).signer == found.signer


def test_a_model_is_verified_by_a_plain_key(model, certs):
    sign_folder(model, certs / "plain")
    assert verify_folder(model, Trust(key=certs / "plain.pub")).signer.startswith("the key ")
    with pytest.raises(UntrustedModel, match="another key"):
        verify_folder(model, Trust(key=certs / "other-plain.pub"))


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("other", "not by spiffe"),
        ("old", "expired"),
        ("early", "check the clock"),
        ("elsewhere/release", "not of the auth"),
    ],
)
def test_another_signer_is_not_trusted(model, certs, trust, name, why):
    with pytest.raises(UntrustedModel, match=why) as caught:
        verify_folder(signed(model, certs, name), trust)
    assert (caught.value.reason, caught.value.model) == ("signer", str(model))


def test_a_signer_whose_name_begins_like_the_trusted_one_is_another_signer(model, certs, trust):
    issue(certs, "release-test", kind="signer")
    with pytest.raises(UntrustedModel, match="release-test, not by"):
        verify_folder(signed(model, certs, "release-test"), trust)


SIGNS_DATA = x509.KeyUsage(True, *[False] * 8)
SIGNS_CERTIFICATES = x509.KeyUsage(*[False] * 5, True, *[False] * 3)


@pytest.mark.parametrize(
    ("is_authority", "key_usage", "holds"),
    [
        (True, None, True),
        (True, SIGNS_CERTIFICATES, True),
        (True, SIGNS_DATA, False),
        (False, None, False),
        (False, SIGNS_CERTIFICATES, False),
    ],
)
def test_only_an_authority_lets_somebody_else_sign(model, tmp_path, is_authority, key_usage, holds):
    """The trusted authority has issued a certificate; its owner issues one for somebody else."""
    extensions = [x509.BasicConstraints(ca=is_authority, path_length=None), *([key_usage] if key_usage else [])]
    root = issued(tmp_path, "root", None, x509.BasicConstraints(ca=True, path_length=None))
    between = issued(tmp_path, "between", root, *extensions)
    issued(tmp_path, "third", between, x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]))
    sign_folder(model, tmp_path / "third.key", tmp_path / "third.pem", chain=[tmp_path / "between.pem"])
    with contextlib.nullcontext() if holds else pytest.raises(UntrustedModel, match="is not of the authority"):
        verify_folder(model, Trust(ca=tmp_path / "root.pem"))


def issued(folder, name, issuer, *extensions):
    """A certificate and its key, in *folder* too, by *issuer*, a certificate and its key, or by itself."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateBuilder(
        issuer[0].subject if issuer else subject,
        subject,
        key.public_key(),
        x509.random_serial_number(),
        now - timedelta(days=1),
        now + timedelta(days=1),
    )
    for each in extensions:
        builder = builder.add_extension(each, critical=True)
    names = x509.SubjectAlternativeName([x509.DNSName(f"{name}.example")])
    certificate = builder.add_extension(names, critical=False).sign(issuer[1] if issuer else key, hashes.SHA256())
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / f"{name}.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    return certificate, key


def test_a_signature_cannot_leave_out_what_is_loaded(model, certs, trust):
    """What a signature asks to ignore is ignored only where nothing of it is ever loaded."""
    statement = json.loads(encode_statement("m", digest_folder(model)))
    statement["predicate"]["serialization"]["ignore_paths"] = ["extra.onnx", ".gitignore"]
    data, key = json.dumps(statement).encode(), load_key(certs / "release.key")
    chain = tuple(each.public_bytes(serialization.Encoding.DER) for each in load_certificates(certs / "release.pem"))
    value = key.sign(to_sign(data), ec.ECDSA(hashes.SHA256()))
    (model / SIGNATURE).write_bytes(encode_bundle(data, value, chain=chain))
    (model / ".gitignore").write_text("x")
    verify_folder(model, trust)
    (model / "extra.onnx").write_bytes(b"x")
    with pytest.raises(UntrustedModel, match=r"extra\.onnx is not signed"):
        verify_folder(model, trust)


def test_the_certificate_of_an_app_signs_no_model(model, certs):
    with pytest.raises(ConfigError, match="--kind signer"):
        signed(model, certs, "app")
    lib = pytest.importorskip("model_signing")
    lib.signing.Config().use_certificate_signer(
        private_key=certs / "app.key",
        signing_certificate=certs / "app.pem",
        certificate_chain=[certs / "ca.pem"],
    ).sign(model, model / SIGNATURE)
    with pytest.raises(UntrustedModel, match="not for signing"):
        verify_folder(model, Trust(ca=certs / "ca.pem"))


def test_of_several_signatures_the_one_that_is_trusted_is_taken(model, certs, trust):
    files, found = digest_folder(model), []
    for name in ("other", "release"):
        found.append((signed(model, certs, name) / SIGNATURE).read_bytes())
    assert verify_any(found, files, trust, "m") == verify_any(found[::-1], files, trust, "m") == found[1]
    with pytest.raises(UntrustedModel, match="signer/other"):
        verify_any(found[:1], files, trust, "m")


def test_a_plain_key_is_no_certificate_and_a_certificate_no_plain_key(model, certs, trust):
    sign_folder(model, certs / "plain")
    with pytest.raises(UntrustedModel, match="plain key"):
        verify_folder(model, trust)
    with pytest.raises(UntrustedModel, match="not valid"):
        verify_folder(signed(model, certs), Trust(key=certs / "plain.pub"))


def test_a_model_without_a_signature_is_not_trusted(model, trust):
    with pytest.raises(UntrustedModel) as caught:
        verify_folder(model, trust)
    assert caught.value.reason == "unsigned"


def test_the_signature_of_another_model_does_not_hold(model, certs, trust, tmp_path):
    other = write_model(tmp_path / "other")
    (other / "config.json").write_text('{"other": 1}')
    shutil.copy(signed(other, certs) / SIGNATURE, model / SIGNATURE)
    with pytest.raises(UntrustedModel, match=r"config\.json is changed"):
        verify_folder(model, trust)


FILES = ("model.onnx", "config.json", "sub/tokenizer.json")


def flipped(data: bytes, at: int) -> bytes:
    """*data* with one byte changed."""
    index = at % len(data)
    return data[:index] + bytes([data[index] ^ (1 + at % 255)]) + data[index + 1 :]


def root_of(path: Path) -> Path:
    return next(folder for folder in path.parents if folder.name == "model")


def link(path: Path) -> None:
    moved = root_of(path).with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def swap(path: Path) -> None:
    other = root_of(path) / "empty"
    data = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(data)


TAMPER = {
    "flip": lambda path, at: path.write_bytes(flipped(path.read_bytes(), at)),
    "cut": lambda path, at: path.write_bytes(path.read_bytes()[: at % path.stat().st_size]),
    "append": lambda path, at: path.write_bytes(path.read_bytes() + b"\0"),
    "add": lambda path, at: path.with_name(f"added-{at}.json").write_bytes(b""),
    "add what git has": lambda path, at: path.with_name(".gitignore").write_bytes(b""),
    "remove": lambda path, at: path.unlink(),
    "rename": lambda path, at: path.rename(path.with_name("renamed")),
    "link": lambda path, at: link(path),
    "swap": lambda path, at: swap(path),
    "make a folder of": lambda path, at: (path.unlink(), path.mkdir()),
}


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    changes=st.lists(st.tuples(st.sampled_from(sorted(TAMPER)), st.integers(0, 10**6)), min_size=1, max_size=3),
    names=st.permutations(FILES),
)
def test_a_model_that_was_tampered_with_is_never_accepted(certs, trust, changes, names):
    """Each change is of another file, so that none undoes another."""
    with tempfile.TemporaryDirectory() as folder:
        model = signed(write_model(Path(folder) / "model"), certs)
        verify_folder(model, trust)
        for (kind, at), name in zip(changes, names, strict=False):
            TAMPER[kind](model / name, at)
        with pytest.raises(UntrustedModel):
            verify_folder(model, trust)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 10**6), by=st.integers(0, 10**6))
def test_a_signature_that_was_changed_is_refused_or_means_the_same(model, certs, trust, at, by):
    """White space, a field that nothing reads, and bits of base64 beyond the last byte."""
    path = model / SIGNATURE
    if not (model.parent / "good").exists():
        signed(model, certs)
        path.rename(model.parent / "good")
    good = (model.parent / "good").read_bytes()
    index = at % len(good)
    path.write_bytes(good[:index] + bytes([good[index] ^ (1 + by % 255)]) + good[index + 1 :])
    try:
        verify_folder(model, trust)
    except UntrustedModel:
        return
    assert decode(path.read_bytes()) == decode(good)


@pytest.mark.parametrize(
    "change",
    [
        lambda bundle: bundle.update(mediaType="x"),
        lambda bundle: bundle["dsseEnvelope"].update(payloadType="x"),
        lambda bundle: bundle["dsseEnvelope"].update(signatures=[]),
        lambda bundle: bundle["dsseEnvelope"]["signatures"].append(bundle["dsseEnvelope"]["signatures"][0]),
        lambda bundle: bundle["dsseEnvelope"].update(payload="e30="),
        lambda bundle: bundle["verificationMaterial"]["x509CertificateChain"].update(certificates=[]),
        lambda bundle: bundle["verificationMaterial"]["x509CertificateChain"]["certificates"].insert(
            0, {"rawBytes": "AAAA"}
        ),
        lambda bundle: bundle.pop("verificationMaterial"),
    ],
)
def test_a_signature_of_another_form_is_refused(model, certs, trust, change):
    path = signed(model, certs) / SIGNATURE
    bundle = json.loads(path.read_text())
    change(bundle)
    path.write_text(json.dumps(bundle))
    with pytest.raises(UntrustedModel):
        verify_folder(model, trust)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.binary(max_size=200)
    | st.recursive(st.none() | st.text() | st.integers(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)).map(
        lambda x: json.dumps(x).encode()
    )
)
def test_any_bytes_in_place_of_a_signature_are_a_typed_error(trust, data):
    with pytest.raises(UntrustedModel):
        verify_any([data], {}, trust, "m")


@pytest.mark.parametrize("kind", ["certificate", "key"])
def test_openssf_model_signing_accepts_our_signature(model, certs, kind):
    lib = pytest.importorskip("model_signing")
    if kind == "certificate":
        signed(model, certs)
        config = lib.verifying.Config().use_certificate_verifier(certificate_chain=[certs / "ca.pem"])
    else:
        sign_folder(model, certs / "plain")
        config = lib.verifying.Config().use_elliptic_key_verifier(public_key=certs / "plain.pub")
    config.verify(model, model / SIGNATURE)
    (model / "config.json").write_text("changed")
    with pytest.raises(ValueError, match="Hash mismatch"):
        config.verify(model, model / SIGNATURE)


@pytest.mark.parametrize("kind", ["certificate", "key"])
def test_we_accept_a_signature_of_openssf_model_signing(model, certs, trust, kind):
    lib = pytest.importorskip("model_signing")
    (model / ".gitattributes").write_text("which it leaves out")
    config = lib.signing.Config()
    if kind == "certificate":
        config.use_certificate_signer(
            private_key=certs / "release.key",
            signing_certificate=certs / "release.pem",
            certificate_chain=[certs / "ca.pem"],
        )
    else:
        config.use_elliptic_key_signer(private_key=certs / "plain")
        trust = Trust(key=certs / "plain.pub")
    config.sign(model, model / SIGNATURE)
    assert "model.onnx" in verify_folder(model, trust).files
    (model / "config.json").write_text("changed")
    with pytest.raises(UntrustedModel, match="is changed"):
        verify_folder(model, trust)


@pytest.mark.parametrize("curve", [ec.SECP384R1(), ec.SECP521R1()])
def test_the_larger_curves_are_accepted_with_their_own_hash(model, tmp_path, curve):
    key = ec.generate_private_key(curve)
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (tmp_path / "k").write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
    public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "k.pub").write_bytes(key.public_key().public_bytes(*public))
    sign_folder(model, tmp_path / "k")
    verify_folder(model, Trust(key=tmp_path / "k.pub"))
    lib = pytest.importorskip("model_signing")
    lib.verifying.Config().use_elliptic_key_verifier(public_key=tmp_path / "k.pub").verify(model, model / SIGNATURE)


def test_keys_and_folders_that_cannot_be_used_are_errors_that_say_so(model, certs, tmp_path):
    rsa_key = rsa.generate_private_key(65537, 2048)
    public = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "rsa.pub").write_bytes(rsa_key.public_key().public_bytes(*public))
    sign_folder(model, certs / "plain")
    for name in ("rsa.pub", "absent.pub"):
        with pytest.raises(ConfigError, match=name):
            verify_folder(model, Trust(key=tmp_path / name))
    with pytest.raises(ConfigError, match="no such directory"):
        verify_folder(tmp_path / "absent", Trust(key=certs / "plain.pub"))
    with pytest.raises(ConfigError, match="not the certificate of the key"):
        sign_folder(model, certs / "release.key", certs / "other.pem")
    with pytest.raises(ConfigError, match="cannot be made"):
        make_signing_key(certs / "plain")
