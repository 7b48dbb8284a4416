"""`hybrid-llm certs`: an authority that is never overwritten, pairs for nodes and clients, and their contents."""

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from hybrid_llm.backends.wire.certificates import issue
from hybrid_llm.backends.wire.sealing.keys import read_public


@pytest.fixture
def authority(cli, tmp_path):
    assert cli("certs", "init", tmp_path / "ca").code == 0
    return tmp_path / "ca"


def test_init_makes_an_authority_and_never_overwrites_one(cli, authority):
    before = (authority / "ca.key").read_bytes()
    assert (authority / "ca.key").stat().st_mode & 0o077 == 0
    result = cli("certs", "init", authority)
    assert result.code == 3
    assert "there is an authority" in result.err
    assert (authority / "ca.key").read_bytes() == before


def test_a_node_and_a_client_get_their_pairs(cli, authority):
    made = cli("certs", "issue", authority, "--name", "node", "--kind", "node", "--host", "127.0.0.1", "--days", 7)
    assert made.out.startswith("created ")
    shown = json.loads(cli("certs", "inspect", authority / "node.pem", "--json").out)
    assert shown["identity"] == "spiffe://hybrid-llm/node/node"
    assert "127.0.0.1" in shown["sans"]
    assert shown["kinds"] == ["node"]
    assert cli("certs", "issue", authority, "--name", "app", "--kind", "client").code == 0
    assert (authority / "app.key").stat().st_mode & 0o077 == 0


def test_a_pair_of_the_same_name_is_renewed(cli, authority):
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    assert cli("certs", "issue", authority, "--name", "app", "--kind", "client").out.startswith("renewed ")


def test_inspect_reads_well(cli, authority):
    result = cli("certs", "inspect", authority / "ca.pem")
    assert "use       authority" in result.out
    assert "days left" in result.out


@pytest.mark.parametrize(
    ("ended", "state"),
    [
        ({"hours": 3}, "expired 0 days ago"),
        ({"hours": 25}, "expired 1 day ago"),
        ({"hours": 49}, "expired 2 days ago"),
        ({"hours": -25}, "1 day left"),
    ],
)
def test_inspect_counts_whole_days(cli, authority, ended, state):
    issue(authority, "app", days=7, not_before=datetime.now(UTC) - timedelta(days=7, **ended))
    assert f"({state})" in cli("certs", "inspect", authority / "app.pem").out


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--name", "node", "--kind", "node"], 3),
        (["--name", "node", "--kind", "node", "--host", "bad host"], 3),
        (["--name", "node", "--kind", "node", "--host", "127.0.0.1:7443"], 3),
        (["--name", "ca", "--kind", "client"], 3),
        (["--name", "../app", "--kind", "client"], 3),
        (["--name", "app", "--kind", "server"], 2),
        (["--name", "app", "--kind", "client", "--days", "0"], 2),
        (["--name", "app", "--kind", "client", "--days", "soon"], 2),
    ],
)
def test_an_invalid_request_is_refused_and_leaves_nothing(cli, authority, arguments, code):
    assert cli("certs", "issue", authority, *arguments).code == code
    assert sorted(path.name for path in authority.iterdir()) == ["ca.key", "ca.pem"]


def test_a_node_without_a_host_is_refused_with_the_option_to_add(cli, authority):
    assert "give `--host`" in cli("certs", "issue", authority, "--name", "node", "--kind", "node").err


def test_a_list_of_revoked_certificates_shows_when_it_is_to_be_signed_again(cli, authority, tmp_path):
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    serial = json.loads(cli("certs", "inspect", authority / "app.pem", "--json").out)["serial"]
    cli("certs", "revoke", authority, "--name", "app", "--reason", "superseded", "--days", 9)
    shown = cli("certs", "inspect", authority / "crl.pem").out
    assert re.search(r"again by  \S+ \S+ UTC \(8 days left\)", shown)
    assert f"  {serial}  " in shown
    assert "UTC (superseded)" in shown
    assert f", by {authority / 'ca.pem'}" in shown
    (one,) = json.loads(cli("certs", "inspect", authority / "crl.pem", "--json").out)["lists"]
    assert (one["number"], one["signed_by_ca"], len(one["revoked"])) == (1, True, 1)
    other = tmp_path / "other"
    cli("certs", "init", other)
    (other / "crl.pem").write_bytes((authority / "crl.pem").read_bytes())
    assert "UTC, not by" in cli("certs", "inspect", other / "crl.pem").out
    (other / "ca.pem").unlink()
    assert "not checked" in cli("certs", "inspect", other / "crl.pem").out


def test_a_chain_and_files_in_der_are_read_without_a_key(cli, authority, tmp_path):
    cli("certs", "issue", authority, "--name", "node", "--kind", "node", "--host", "127.0.0.1")
    cli("certs", "revoke", authority)
    pem, crl = (authority / "node.pem").read_bytes(), (authority / "crl.pem").read_bytes()
    (tmp_path / "chain.pem").write_bytes(pem + (authority / "ca.pem").read_bytes())
    (tmp_path / "node.der").write_bytes(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))
    (tmp_path / "crl.der").write_bytes(x509.load_pem_x509_crl(crl).public_bytes(Encoding.DER))
    chain = cli("certs", "inspect", tmp_path / "chain.pem").out
    assert chain.index("use       node") < chain.index("use       authority")
    shown = json.loads(cli("certs", "inspect", tmp_path / "chain.pem", "--json").out)
    assert [each["authority"] for each in (shown, *shown["chain"])] == [False, True]
    assert "spiffe://hybrid-llm/node/node" in cli("certs", "inspect", tmp_path / "node.der").out
    assert "revoked   0" in cli("certs", "inspect", tmp_path / "crl.der").out


@pytest.mark.parametrize("ending", [".seal", ".seal.pub"])
def test_sealing_keys_show_what_is_public_of_them(cli, tmp_path, ending):
    cli("certs", "seal-key", tmp_path, "--name", "a", "--days", 9)
    secret = (tmp_path / "a.seal").read_text().split()[-1]
    shown = cli("certs", "inspect", tmp_path / f"a{ending}").out
    (key,) = read_public(tmp_path / "a.seal.pub")
    assert f"sha256:{key.digest.hex()}" in shown
    assert "(8 days left)" in shown
    (tmp_path / "pins").write_bytes((tmp_path / "a.seal.pub").read_bytes() * 2)
    assert cli("certs", "inspect", tmp_path / "pins").out.count("sealing key") == 2
    assert secret not in shown + cli("certs", "inspect", tmp_path / f"a{ending}", "--json").out


def test_anything_else_is_refused_with_what_it_is(cli, authority, tmp_path):
    (tmp_path / "x.pem").write_text("nothing")
    (tmp_path / "x.der").write_bytes(bytes(range(256)))
    (tmp_path / "csr.pem").write_text("-----BEGIN CERTIFICATE REQUEST-----\nMA==\n-----END CERTIFICATE REQUEST-----\n")
    (tmp_path / "crl.pem").write_text("-----BEGIN X509 CRL-----\nMA==\n-----END X509 CRL-----\n")
    for path, words in (
        (tmp_path / "x.pem", "holds no certificate, revocation list or sealing key"),
        (tmp_path / "x.der", "in PEM or DER form"),
        (tmp_path / "crl.pem", "in PEM or DER form"),
        (tmp_path / "csr.pem", "holds a request"),
        (authority / "ca.key", "holds a private key, of which nothing is shown"),
        (tmp_path / "absent.pem", "does not exist"),
        (tmp_path, "cannot be read"),
    ):
        result = cli("certs", "inspect", path)
        assert (result.code, result.out) == (3, "")
        assert words in result.err


def test_a_file_that_is_no_certificate_is_code_3(cli, tmp_path):
    (tmp_path / "x.pem").write_text("nothing")
    assert cli("certs", "inspect", tmp_path / "x.pem").code == 3
    assert cli("certs", "inspect", tmp_path / "absent.pem").code == 3
    assert cli("certs", "issue", tmp_path, "--name", "app", "--kind", "client").code == 3


def test_renewing_keeps_kind_and_hosts_and_leaves_what_lasts(cli, authority):
    cli("certs", "issue", authority, "--name", "node", "--kind", "node", "--host", "127.0.0.1", "--days", 20)
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    before = json.loads(cli("certs", "inspect", authority / "node.pem", "--json").out)
    renewed = cli("certs", "renew", authority, "--within", 30)
    assert renewed.out.count("renewed") == 1
    after = json.loads(cli("certs", "inspect", authority / "node.pem", "--json").out)
    assert (after["sans"], after["kinds"]) == (before["sans"], before["kinds"])
    assert after["serial"] != before["serial"]
    assert "nothing to renew" in cli("certs", "renew", authority, "--within", 30).err
    assert cli("certs", "renew", authority).out.count("renewed") == 2
    assert cli("certs", "renew", authority, "--name", "absent").code == 3
    assert cli("certs", "renew", authority, "--name", "ca").code == 3


def test_a_revoked_certificate_shows_so(cli, authority):
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    assert "revoked" not in cli("certs", "inspect", authority / "app.pem").out
    assert cli("certs", "revoke", authority, "--name", "app", "--reason", "key-compromise").code == 0
    assert "(key-compromise)" in cli("certs", "inspect", authority / "app.pem").out
    shown = json.loads(cli("certs", "inspect", authority / "app.pem", "--json").out)
    assert shown["revoked"]["reason"] == "key-compromise"
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    assert json.loads(cli("certs", "inspect", authority / "app.pem", "--json").out)["revoked"] is None
    assert cli("certs", "inspect", authority / "app.pem", "--crl", authority / "absent.pem").code == 3


def test_only_what_was_replaced_is_revoked(cli, authority):
    serials = []
    for _ in range(3):
        cli("certs", "issue", authority, "--name", "app", "--kind", "client")
        serials.append(json.loads(cli("certs", "inspect", authority / "app.pem", "--json").out)["serial"])
    out = cli("certs", "revoke", authority, "--name", "app", "--superseded").out
    assert [serial in out for serial in serials] == [True, True, False]
    assert "2 certificates" in cli("certs", "revoke", authority).out, "signed anew as it is"
    assert "3 certificates" in cli("certs", "revoke", authority, "--name", "app").out


@pytest.mark.parametrize(
    "arguments", [["--name", "absent"], ["--superseded"], ["--serial", "xyz"], ["--reason", "mood", "--serial", "1"]]
)
def test_what_cannot_be_revoked_is_refused_and_no_list_is_written(cli, authority, arguments):
    assert cli("certs", "revoke", authority, *arguments).code in (2, 3)
    assert not (authority / "crl.pem").exists()


def test_a_broken_record_of_what_was_issued_is_named_by_its_line(cli, authority):
    cli("certs", "issue", authority, "--name", "app", "--kind", "client")
    with (authority / "issued.jsonl").open("a") as file:
        file.write("half a li")
    result = cli("certs", "revoke", authority, "--name", "app")
    assert result.code == 3
    assert "issued.jsonl:2" in result.err


def test_a_sealing_key_is_made_once_and_its_public_part_can_be_pinned(cli, tmp_path):
    made = cli("certs", "seal-key", tmp_path, "--name", "one", "--days", 2, "--report-data")
    [pinned] = read_public(tmp_path / "one.seal.pub")
    assert made.code == 0
    assert f"digest sha256:{pinned.digest.hex()}" in made.out
    assert "mlkem768-x25519" in made.out
    assert "report data " in made.out
    private = (tmp_path / "one.seal").read_text().split()[-1]
    assert private not in made.out + made.err
    assert cli("certs", "seal-key", tmp_path, "--name", "one").code == 3
    assert cli("certs", "seal-key", tmp_path, "--suite", "x25519").code == 0  # named after the day
    assert len(list(tmp_path.glob("*.seal"))) == 2
