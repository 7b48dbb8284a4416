"""`hybrid-llm certs`: an authority that is never overwritten, pairs for nodes and clients, and their contents."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from hybrid_llm.backends.wire.certificates import issue


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


def test_a_file_that_is_no_certificate_is_code_3(cli, tmp_path):
    (tmp_path / "x.pem").write_text("nothing")
    assert cli("certs", "inspect", tmp_path / "x.pem").code == 3
    assert cli("certs", "inspect", tmp_path / "absent.pem").code == 3
    assert cli("certs", "issue", tmp_path, "--name", "app", "--kind", "client").code == 3
