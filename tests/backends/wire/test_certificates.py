"""Making and checking certificates: their content, and one clear error for each fault."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import PolicyBuilder, Store

from hybrid_llm.backends.wire import TLSFiles, check_pair, inspect, issue, make_authority
from hybrid_llm.core.errors import ConfigError


def test_the_content_of_a_nodes_certificate(pki):
    facts = inspect(pki.node.cert)
    assert facts.sans == ("spiffe://hybrid-llm/node/node", "localhost", "127.0.0.1")
    assert (facts.identity, facts.kinds, facts.authority) == ("spiffe://hybrid-llm/node/node", ("node",), False)
    assert facts.not_before < datetime.now(UTC) < facts.not_after
    assert inspect(pki.node.ca).authority


def test_certificates_pass_a_strict_verifier(pki):
    """The path validation of *cryptography*, which is stricter than what TLS libraries require."""
    authority = x509.load_pem_x509_certificate(pki.app.ca.read_bytes())
    verifier = PolicyBuilder().store(Store([authority])).build_client_verifier()
    leaf = x509.load_pem_x509_certificate(pki.app.cert.read_bytes())
    assert len(verifier.verify(leaf, []).chain) == 2
    usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(("name", "kind"), [("node", "node"), ("app", "client")])
def test_a_good_set_passes(pki, name, kind):
    assert check_pair(getattr(pki, name), kind).kinds == (kind,)


def _faulty(pki, tmp_path):
    text = tmp_path / "text.pem"
    text.write_text("not PEM")
    app, other = pki.app, pki.foreign_app
    return {
        "does not exist": TLSFiles(ca=app.ca, cert=tmp_path / "no.pem", key=app.key),
        "no certificate in PEM form": TLSFiles(ca=app.ca, cert=text, key=app.key),
        "no unencrypted private key": TLSFiles(ca=app.ca, cert=app.cert, key=text),
        "cannot be read": TLSFiles(ca=tmp_path, cert=app.cert, key=app.key),
        "is not the key of": TLSFiles(ca=app.ca, cert=app.cert, key=pki.node.key),
        "not issued by the authority": TLSFiles(ca=other.ca, cert=app.cert, key=app.key),
        "expired": pki.old_app,
        "not yet valid": pki.early_app,
        "a server's certificate, not a client's": pki.node,
    }


@pytest.mark.parametrize(
    "says",
    [
        "does not exist",
        "no certificate in PEM form",
        "no unencrypted private key",
        "cannot be read",
        "is not the key of",
        "not issued by the authority",
        "expired",
        "not yet valid",
        "a server's certificate, not a client's",
    ],
)
def test_each_fault_has_its_own_message(pki, tmp_path, says):
    with pytest.raises(ConfigError, match=says) as caught:
        check_pair(_faulty(pki, tmp_path)[says], "client")
    assert caught.value.path


def test_a_second_authority_does_not_replace_the_first(tmp_path):
    make_authority(tmp_path)
    before = (tmp_path / "ca.key").read_bytes()
    with pytest.raises(ConfigError, match="there is an authority"):
        make_authority(tmp_path)
    assert (tmp_path / "ca.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", "ca", "../x", "A", "a/b", "x" * 70])
def test_a_name_that_is_no_file_name_is_refused(tmp_path, name):
    make_authority(tmp_path)
    with pytest.raises(ConfigError, match="cannot name"):
        issue(tmp_path, name)


def test_a_node_needs_hosts_and_an_issuer_an_authority(tmp_path):
    with pytest.raises(ConfigError, match="does not exist"):
        issue(tmp_path, "app")
    make_authority(tmp_path)
    with pytest.raises(ConfigError, match="host names"):
        issue(tmp_path, "node", kind="node")
    with pytest.raises(ConfigError, match="no host name"):
        issue(tmp_path, "node", kind="node", hosts=["x" * 300])
    with pytest.raises(ConfigError, match="no kind"):
        issue(tmp_path, "app", kind="king")


def test_dates_are_judged_by_the_moment_that_is_given(pki):
    with pytest.raises(ConfigError, match="expired"):
        check_pair(pki.app, "client", now=datetime.now(UTC) + timedelta(days=400))
