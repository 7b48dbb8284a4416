"""A node as a process of its own: killed, told to end, started beside others, and what it writes to its log."""

from __future__ import annotations

import os
import signal
import ssl
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.core.errors import BackendUnavailable, StreamInterrupted


@contextmanager
def _node(folder, delay=0.02, listen="127.0.0.1:0"):
    script = Path(__file__).with_name("node_process.py")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRPC_")}
    process = subprocess.Popen(
        [sys.executable, script, folder, str(delay), listen],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip
    try:
        line = process.stdout.readline()
        assert line.startswith("PORT "), process.stderr.read()
        yield process, int(line.split()[1])
    finally:
        process.kill()
        process.communicate()


def test_a_node_killed_in_mid_answer_interrupts_it_and_can_come_back(pki, tools):
    with _node(pki.folder) as (process, port):
        cloud = tools.backend(f"127.0.0.1:{port}", pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=300))
        next(stream)
        process.kill()
        process.wait()
        with pytest.raises(StreamInterrupted):
            list(stream)
        with pytest.raises(BackendUnavailable, match="nothing listens"):
            list(cloud.stream(tools.cleared("hi")))
    with _node(pki.folder, listen=f"127.0.0.1:{port}"):
        tools.eventually(lambda: cloud.endpoint_state().health.is_usable, 20.0)  # probes find it, without a call
        assert tools.answer(cloud.stream(tools.cleared("hi", max_tokens=3))) == "xxx"
    cloud.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_running_answers_end_and_then_the_process(pki, tools, number):
    with _node(pki.folder, delay=0.01) as (process, port):
        cloud = tools.backend(f"127.0.0.1:{port}", pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=60))
        chunks = [next(stream)]
        process.send_signal(number)
        chunks += stream
        assert tools.answer(chunks) == "x" * 60
        out, errors = process.communicate(timeout=10)
        assert "ENDED" in out
        assert process.returncode == 0, errors
        cloud.close()


def test_a_second_signal_does_not_wait(pki, tools):
    with _node(pki.folder, delay=0.05) as (process, port):
        cloud = tools.backend(f"127.0.0.1:{port}", pki.app)
        stream = cloud.stream(tools.cleared("hi", max_tokens=300, deadline=30))
        next(stream)
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGINT)
        with pytest.raises(StreamInterrupted):
            list(stream)
        assert process.wait(3) == 0
        cloud.close()


def test_a_hangup_reloads_the_certificates_and_interrupts_nothing(tmp_path, tools):
    make_authority(tmp_path)
    issue(tmp_path, "node", kind="node", hosts=["127.0.0.1"])
    issue(tmp_path, "app")
    with _node(tmp_path, delay=0.02) as (process, port):
        cloud = tools.backend(f"127.0.0.1:{port}", TLSFiles.from_dir(tmp_path, "app"))
        stream = cloud.stream(tools.cleared("hi", max_tokens=60))
        chunks = [next(stream)]
        process.send_signal(signal.SIGHUP)
        chunks += stream
        assert tools.answer(chunks) == "x" * 60
        (tmp_path / "node.pem").write_text("half a certificate")
        process.send_signal(signal.SIGHUP)
        assert tools.answer(cloud.stream(tools.cleared("hi", max_tokens=3))) == "xxx"
        cloud.close()
        process.terminate()
        _, log = process.communicate(timeout=10)
    assert f"reload: new connections use {tmp_path / 'node.pem'}, valid until 2" in log
    assert "reload: new connections use the last certificates that were good" in log


def test_tls_12_is_refused_in_the_handshake(pki):
    import socket

    context = ssl.create_default_context(cafile=str(pki.app.ca))
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(pki.app.cert, pki.app.key)
    context.set_alpn_protocols(["h2"])
    with (
        _node(pki.folder) as (_, port),
        socket.create_connection(("127.0.0.1", port), 5) as plain,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        context.wrap_socket(plain, server_hostname="127.0.0.1")


def test_the_access_log_tells_who_and_how_long_and_never_what(pki, tools):
    with _node(pki.folder, delay=0) as (process, port):
        cloud = tools.backend(f"127.0.0.1:{port}", pki.app)
        list(cloud.stream(tools.cleared("my secret", max_tokens=7, request_id="r-17", tenant="acme")))
        list(cloud.stream(tools.cleared("hi", max_tokens=1, request_id="r-18 tenant=evil")))
        cloud.close()
        process.terminate()
        _, log = process.communicate(timeout=10)
    line = next(line for line in log.splitlines() if "request=r-17" in line)
    assert 'request="r-18 tenant=evil" ' in log
    for part in (
        "spiffe://hybrid-llm/client/app",
        "tenant=acme",
        "outcome=ok",
        "finish=length",
        "tokens=7",
        "ttft_ms=",
    ):
        assert part in line
    assert "secret" not in log
    assert "xxx" not in log
