"""Revoked certificates: refused by both sides, connections closed in mid-answer, no stream lost of anybody else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import grpc
import pytest
from cryptography import x509

from hybrid_llm.backends.node.revoked import RevokedPeers
from hybrid_llm.backends.wire import TLSFiles, inspect, issue, make_authority
from hybrid_llm.backends.wire.certificates import issued
from hybrid_llm.backends.wire.revocation import RevocationList, id_of, revoke
from hybrid_llm.core.errors import AuthenticationFailed, BackendError, ConfigError, UntrustedPeer


@pytest.fixture
def ca(tmp_path):
    make_authority(tmp_path)
    issue(tmp_path, "node", kind="node", hosts=["localhost", "127.0.0.1"])
    issue(tmp_path, "app")
    issue(tmp_path, "rogue")
    names = {name: TLSFiles.from_dir(tmp_path, name) for name in ("node", "app", "rogue")}
    return SimpleNamespace(folder=tmp_path, crl=tmp_path / "crl.pem", **names)


def serial(files):
    return int(inspect(files.cert).serial, 16)


def revoked_by(ca, *files, **options):
    return revoke(ca.folder, [serial(each) for each in files], **options)


def found(ca, files):
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    return RevocationList(files).find(id_of(certificate))


def test_a_revoked_client_is_refused_and_others_are_answered(ca, tools):
    with tools.Node(ca.node) as node:
        rogue, app = (tools.backend(node.target, each) for each in (ca.rogue, ca.app))
        assert tools.answer(rogue.stream(tools.cleared("hi")))
        revoked_by(ca, ca.rogue)
        tools.eventually(lambda: _refused(rogue, tools))
        assert tools.answer(app.stream(tools.cleared("hi")))
        with grpc.secure_channel(node.target, _credentials(ca.rogue)) as channel:
            check = channel.unary_unary("/grpc.health.v1.Health/Check")
            with pytest.raises(grpc.RpcError) as caught:
                check(b"", timeout=5)
            assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        for each in (rogue, app):
            each.close()


def _credentials(files):
    return grpc.ssl_channel_credentials(files.ca.read_bytes(), files.key.read_bytes(), files.cert.read_bytes())


def _refused(backend, tools):
    try:
        tools.answer(backend.stream(tools.cleared("hi")))
    except AuthenticationFailed as error:
        return "revoked" in str(error)
    except BackendError:  # its connection was closed meanwhile
        return False
    return False


def test_the_connection_of_a_revoked_client_is_closed_in_mid_answer_and_no_other_stream_is_lost(ca, tools, caplog):
    with tools.Node(ca.node, tools.FakeEngine("x" * 60, delay=0.02, slots=4)) as node:
        rogue, app = (tools.backend(node.target, each) for each in (ca.rogue, ca.app))
        theirs, ours = (each.stream(tools.cleared("hi")) for each in (rogue, app))
        begun = next(ours).text
        next(theirs)
        revoked_by(ca, ca.rogue)
        with pytest.raises(BackendError):
            list(theirs)
        assert begun + tools.answer(ours) == "x" * 60
        tools.eventually(lambda: node.engine.active == 0)
        assert "its certificate was revoked" in caplog.text
        for each in (rogue, app):
            each.close()


@pytest.mark.parametrize("asynchronous", [False, True])
def test_an_app_refuses_a_revoked_node_and_ends_its_running_answer(ca, tools, tmp_path_factory, asynchronous):
    """The app has its own copy of the list; the node's own says nothing."""
    mine, theirs = (tmp_path_factory.mktemp(name) / "crl.pem" for name in ("app", "node"))
    app, node_files = (
        TLSFiles(ca=each.ca, cert=each.cert, key=each.key, crl=crl) for each, crl in ((ca.app, mine), (ca.node, theirs))
    )
    with tools.Node(node_files, tools.FakeEngine("x" * 600, delay=0.02)) as node:
        backend = tools.backend(node.target, app)

        def spread():
            revoked_by(ca, ca.node)
            os.replace(ca.crl, mine)

        with pytest.raises(UntrustedPeer, match="while it answered"):
            asyncio.run(_astream(backend, tools, spread)) if asynchronous else _stream(backend, tools, spread)
        with pytest.raises(UntrustedPeer, match=r"was revoked on .* \(unspecified\)"):
            list(backend.stream(tools.cleared("hi")))
        tools.eventually(lambda: node.engine.active == 0)
        backend.close()


def _stream(backend, tools, spread):
    chunks = backend.stream(tools.cleared("hi", max_tokens=600, deadline=20.0))
    next(chunks)
    spread()
    list(chunks)


async def _astream(backend, tools, spread):
    chunks = backend.astream(tools.cleared("hi", max_tokens=600, deadline=20.0))
    async with contextlib.aclosing(chunks):
        await anext(chunks)
        spread()
        async for _ in chunks:
            pass


def test_a_renewed_certificate_of_the_same_name_is_accepted(ca, tools):
    with tools.Node(ca.node) as node:
        revoked_by(ca, ca.app)
        backend = tools.backend(node.target, ca.app)
        tools.eventually(lambda: _refused(backend, tools))
        issue(ca.folder, "app")
        assert tools.answer(backend.stream(tools.cleared("hi")))
        backend.close()


def test_a_list_is_signed_numbered_and_grows(ca):
    first = revoked_by(ca, ca.app, reason="key-compromise")
    again = revoked_by(ca, ca.app, ca.rogue)
    assert [each.reason for each in first] == ["key-compromise"]
    assert {each.serial: each.reason for each in again} == {
        serial(ca.app): "key-compromise",
        serial(ca.rogue): "unspecified",
    }
    crl = x509.load_pem_x509_crl(ca.crl.read_bytes())
    assert crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    assert found(ca, ca.app).reason == "key-compromise"
    assert found(ca, ca.node) is None
    assert {each.identity for each in issued(ca.folder)} == {
        inspect(each.cert).identity for each in (ca.app, ca.node, ca.rogue)
    }


def test_openssl_accepts_the_list_and_refuses_what_it_revokes(ca):
    revoked_by(ca, ca.app)
    for files, says in ((ca.app, "certificate revoked"), (ca.rogue, "OK")):
        command = [
            "openssl",
            "verify",
            "-crl_check",
            "-CRLfile",
            str(ca.crl),
            "-CAfile",
            str(ca.node.ca),
            str(files.cert),
        ]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        assert says in shown.stdout + shown.stderr


@pytest.mark.parametrize("fault", ["garbage", "empty", "half", "foreign", "older", "gone"])
def test_a_list_that_cannot_be_used_leaves_the_last_good_one(ca, tmp_path_factory, caplog, fault):
    revoked_by(ca, ca.rogue)
    old = ca.crl.read_bytes()
    revoked_by(ca, ca.app)
    files = ca.app
    revocations = RevocationList(files)
    other = tmp_path_factory.mktemp("other")
    make_authority(other)
    revoke(other, [5])
    data = {
        "garbage": b"\x00garbage",
        "empty": b"",
        "half": ca.crl.read_bytes()[: len(old) // 2],
        "foreign": (other / "crl.pem").read_bytes(),
        "older": old,
    }
    ca.crl.unlink() if fault == "gone" else ca.crl.write_bytes(data[fault])
    assert not revocations.look()
    assert revocations.find(id_of(x509.load_pem_x509_certificate(files.cert.read_bytes())))
    assert "last good one" in caplog.text
    if fault not in ("gone", "older"):
        with pytest.raises(ConfigError, match=r"crl\.pem"):
            RevocationList(files)


def test_a_node_does_not_start_with_a_broken_list(ca, tools):
    ca.crl.write_text("nonsense")
    node = tools.Node(ca.node)
    node.thread.start()
    with pytest.raises(ConfigError, match=r"crl\.pem"):
        node.do(node.server.start())
    node.loop.call_soon_threadsafe(node.loop.stop)
    node.thread.join(5)
    node.loop.close()


def test_a_list_past_its_date_still_counts_with_a_warning(ca, caplog):
    revoked_by(ca, ca.app, days=0)
    assert found(ca, ca.app)
    assert "still counts" in caplog.text


def test_the_list_of_one_authority_revokes_nothing_of_another(ca, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    make_authority(other, name="another CA")
    revoke(other, [serial(ca.app)])
    both = ca.folder / "both.pem"
    both.write_bytes(ca.app.ca.read_bytes() + (other / "ca.pem").read_bytes())
    files = TLSFiles(ca=both, cert=ca.app.cert, key=ca.app.key, crl=other / "crl.pem")
    certificate = x509.load_pem_x509_certificate(files.cert.read_bytes())
    assert RevocationList(files).find(id_of(certificate)) is None


def test_a_caller_whose_certificate_cannot_be_read_is_refused(ca):
    peers = RevokedPeers(ca.node)
    for context in ({}, {"x509_pem_cert": [b"nonsense"]}):
        with pytest.raises(AuthenticationFailed), peers.call("ipv4:127.0.0.1:1", context):
            pass


def test_only_connections_on_which_a_call_runs_are_remembered(ca):
    closed = []
    peers = RevokedPeers(ca.node, hang_up=lambda address: not closed.append(address))
    contexts = [{"x509_pem_cert": [each.cert.read_bytes()]} for each in (ca.rogue, ca.app)]
    with peers.call("a", contexts[0]), peers.call("a", contexts[0]), peers.call("b", contexts[1]):
        with peers.call("c", contexts[0]):
            pass
        revoked_by(ca, ca.rogue)
        peers.look()
        assert closed == ["a"]
    assert not peers._running


def test_an_authority_that_is_not_there_is_a_clear_error(tmp_path):
    with pytest.raises(ConfigError, match=r"ca\.pem"):
        revoke(tmp_path, [1])


def test_the_dates_of_a_list(ca):
    revoked_by(ca, days=30)
    crl = x509.load_pem_x509_crl(ca.crl.read_bytes())
    assert crl.next_update_utc - datetime.now(UTC) > timedelta(days=29)
