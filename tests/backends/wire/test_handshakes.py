"""Handshakes that fail: the node's log names peer and reason in one line each, and has no line of C-core's."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
from contextlib import ExitStack

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.handshakes import failures_in, reason_of
from tests.chaos.world import ROOT

TRACE = b"""\
I1130 15:39:36.601123    8258 handshaker.cc:80] handshake_manager 0x7f: adding handshaker security [0x7f] at index 1
I1130 15:39:36.607021    8258 ssl_transport_security.cc:2563] Handshake failed with error SSL_ERROR_SSL: error:10
I1130 15:39:36.607097    8258 handshaker.cc:155] CallNextHandshakerLocked: error=UNKNOWN: it failed: OK
=== Source Location Trace: ===
src/core/util/status_helper.cc:68
 shutdown=false index=2, args={x=1, grpc.internal.endpoint_peer_address=ipv4:192.0.2.7:51840, y=2}, exit_early=0}
I1130 15:39:36.607182    8258 channel_trace.h:396] handshake manager 0x7f: Failed with error: UNKNOWN: it failed: OK
=== Source Location Trace: ===
src/core/util/status_helper.cc:68

""".splitlines(keepends=True)


class Serving:
    """A node in a process of its own, and what it has written to standard error."""

    def __init__(self, stack, folder, pki, **environment):
        self.log = folder / "log"
        arguments = (pki.folder, "127.0.0.1:0", folder / "journal", 4, 4, 0.0, 0.0)
        plain = {key: value for key, value in os.environ.items() if not key.startswith("GRPC_")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.chaos.node", *map(str, arguments)],
                stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env=plain | environment,
            )  # fmt: skip
        stack.callback(self.process.stdout.close)
        stack.callback(self.process.wait)
        stack.callback(self.process.kill)
        self.port = int(self.process.stdout.readline().split()[1])

    def lines(self):
        return self.log.read_text().splitlines()

    def plain(self, data):
        """Send *data* without TLS; returns the address that the node sees."""
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(data)
            with contextlib.suppress(OSError):
                connection.recv(100)
            return connection.getsockname()

    def tls(self, files=None, ca=None, **options):
        context = ssl.create_default_context(cafile=str(ca or files.ca))
        for name, value in {"maximum_version": ssl.TLSVersion.TLSv1_3, **options}.items():
            setattr(context, name, value)
        if files is not None:
            context.load_cert_chain(files.cert, files.key)
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            address = connection.getsockname()
            with contextlib.suppress(OSError), context.wrap_socket(connection, server_hostname="127.0.0.1") as secure:
                secure.recv(100)
            return address


@pytest.fixture
def stack():
    with ExitStack() as opened:
        yield opened


def test_each_failed_handshake_is_one_line_with_peer_and_reason(stack, tools, pki, tmp_path):
    node = Serving(stack, tmp_path, pki)
    expected = [
        (node.plain(b"GET / HTTP/1.1\r\n\r\n"), "it speaks HTTP without TLS"),
        (node.plain(b"\x00" * 100), "it does not speak TLS"),
        (node.tls(ca=pki.app.ca), "it sent no certificate"),
        (node.tls(pki.stranger, ca=pki.app.ca), "its certificate was refused, unable to get local issuer certificate"),
        (node.tls(pki.old_app), "its certificate was refused, certificate has expired"),
        (node.tls(pki.app, maximum_version=ssl.TLSVersion.TLSv1_2), "it does not offer TLS 1.3"),
        (node.tls(pki.app), "it does not offer HTTP/2"),
    ]
    lines = [f"a TLS handshake of ipv4:127.0.0.1:{port} failed: {reason}" for (_, port), reason in expected]
    tools.eventually(lambda: len(node.lines()) >= len(lines))
    assert node.lines() == lines


def test_a_host_that_fails_again_and_again_is_logged_once(stack, tools, pki, tmp_path):
    node = Serving(stack, tmp_path, pki)
    for _ in range(40):
        node.plain(b"GET / HTTP/1.1\r\n\r\n")
    node.tls(ca=pki.app.ca)
    tools.eventually(lambda: len(node.lines()) >= 2)
    assert [line.rpartition("failed: ")[2] for line in node.lines()] == [
        "it speaks HTTP without TLS",
        "it sent no certificate",
    ]
    cloud = tools.backend(f"127.0.0.1:{node.port}", pki.app)
    stack.callback(cloud.close)
    assert cloud.probe().ready


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_reader_of_the_trace_ends_with_its_node(stack, tools, pki, tmp_path, number):
    node = Serving(stack, tmp_path, pki)
    readers = psutil.Process(node.process.pid).children()
    assert len(readers) == 1
    node.process.send_signal(number)
    node.process.wait(20)
    tools.eventually(lambda: not readers[0].is_running() or readers[0].status() == psutil.STATUS_ZOMBIE)
    assert node.lines() == []


def test_a_node_whose_reader_was_killed_serves_and_writes_to_standard_error(stack, tools, pki, tmp_path):
    node = Serving(stack, tmp_path, pki)
    psutil.Process(node.process.pid).children()[0].kill()
    time.sleep(0.2)
    node.plain(b"GET / HTTP/1.1\r\n\r\n")
    tools.eventually(lambda: "Handshake failed" in node.log.read_text())
    cloud = tools.backend(f"127.0.0.1:{node.port}", pki.app)
    stack.callback(cloud.close)
    assert cloud.probe().ready


def test_where_the_user_configures_the_log_of_grpc_it_is_left_alone(stack, tools, pki, tmp_path):
    node = Serving(stack, tmp_path, pki, GRPC_VERBOSITY="INFO")
    node.plain(b"GET / HTTP/1.1\r\n\r\n")
    tools.eventually(lambda: "ssl_transport_security.cc" in node.log.read_text())
    assert psutil.Process(node.process.pid).children() == []


CRASH = """
import os
from hybrid_llm.backends.node.handshakes import logged_handshakes
with logged_handshakes():
    os.write(2, b"terminate called\\nwithout an end of line")
    os.abort()
"""


def test_the_last_words_of_a_process_that_crashes_are_not_lost(tmp_path):
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run([sys.executable, "-c", CRASH], stderr=log, cwd=ROOT, check=False)
    assert done.returncode == -signal.SIGABRT
    end = time.monotonic() + 10
    while not (text := (tmp_path / "log").read_bytes()).startswith(b"terminate called\nwithout an end of line"):
        assert time.monotonic() < end, text
        time.sleep(0.01)


others = (
    st.binary(max_size=40)
    .map(lambda line: line.replace(b"\n", b"") + b"\n")
    .filter(lambda line: not re.match(rb"=== Source|src/core/| shutdown=|\n|I\d{4}", line))
)


@given(st.lists(others), st.lists(others))
def test_what_is_not_of_the_trace_passes_unchanged(before, after):
    got = list(failures_in([*before, *TRACE, *after, *TRACE]))
    failure = (b"ipv4:192.0.2.7:51840", b"UNKNOWN: it failed: OK")
    assert got == [*before, failure, *after, failure]


@given(st.text())
def test_an_error_that_nobody_knows_has_a_reason_too(error):
    assert len(reason_of(error)) <= 120
