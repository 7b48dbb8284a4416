"""What sslscan and sslyze find on a real node: TLS 1.3 alone, no weak suite, none of the known holes."""

from __future__ import annotations

import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

ROOT = Path(__file__).resolve().parents[3]
SSLSCAN = shutil.which("sslscan")
SSLYZE = (
    shutil.which("sslyze") or next(map(str, ROOT.glob(".venv-sslyze/bin/sslyze")), None) or os.environ.get("SSLYZE")
)
SUITES = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
needs_sslscan = pytest.mark.skipif(SSLSCAN is None, reason="sslscan is not installed: apt-get install sslscan")
needs_sslyze = pytest.mark.skipif(SSLYZE is None, reason="sslyze is not installed: make sslyze")


@pytest.fixture(scope="module")
def port(pki):
    """The port of a node in a process of its own, which refuses TLS 1.2 in the handshake."""
    script = Path(__file__).with_name("node_process.py")
    command = [sys.executable, str(script), str(pki.folder), "0.01", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT) as process:
        try:
            line = process.stdout.readline()
            assert line.startswith("PORT "), line
            yield int(line.split()[1])
        finally:
            process.terminate()
            process.wait(20)


def sslscan(port, *options):
    """The protocols that are enabled, the suites, and the whole report of sslscan."""
    command = [SSLSCAN, "--xml=-", *options, f"127.0.0.1:{port}"]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    report = ET.fromstring(found.stdout).find("ssltest")
    enabled = {
        f"{one.get('type')} {one.get('version')}" for one in report.iter("protocol") if one.get("enabled") == "1"
    }
    return enabled, {one.get("cipher") for one in report.iter("cipher")}, report


def as_client(pki):
    return f"--certs={pki.app.cert}", f"--pk={pki.app.key}"


@needs_sslscan
@pytest.mark.parametrize("certificate", [False, True])
def test_sslscan_finds_tls_13_alone_and_no_weak_suite(port, pki, certificate):
    enabled, suites, report = sslscan(port, *(as_client(pki) if certificate else ()))
    assert enabled == {"tls 1.3"}
    assert suites == SUITES
    assert [one.get("vulnerable") for one in report.iter("heartbleed")] == ["0"]
    assert [one.get("supported") for one in report.iter("renegotiation")] == ["0"]
    assert {one.get("strength") for one in report.iter("cipher")} <= {"strong", "acceptable"}
    assert [one.get("error") for one in report.iter("pk")] == ["false"]
    assert [one.text for one in report.iter("self-signed")] == ["false"]
    assert [one.text for one in report.iter("expired")] == ["false"]


@needs_sslscan
def test_sslscan_would_find_tls_12(pki):
    """The control: a server that offers it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pki.node.cert, pki.node.key)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_shake_hands, args=(listener, context), daemon=True).start()
        enabled, suites, _ = sslscan(listener.getsockname()[1])
    assert "tls 1.2" in enabled
    assert suites - SUITES


def _shake_hands(listener, context):
    while True:
        try:
            plain, _ = listener.accept()
        except OSError:
            return
        plain.settimeout(5)
        try:
            context.wrap_socket(plain, server_side=True).close()
        except OSError:
            plain.close()


@needs_sslyze
def test_sslyze_finds_tls_13_alone_and_no_known_hole(port, pki, tmp_path):
    checks = ["sslv2", "sslv3", "tlsv1", "tlsv1_1", "tlsv1_2", "tlsv1_3", "heartbleed", "robot", "compression", "reneg"]
    options = [f"--{name}" for name in (*checks, "openssl_ccs", "certinfo", "elliptic_curves")]
    command = [SSLYZE, f"--json_out={tmp_path / 'report.json'}", "--mozilla_config", "disable", *options]
    command += ["--cert", str(pki.app.cert), "--key", str(pki.app.key), f"127.0.0.1:{port}"]
    subprocess.run(command, capture_output=True, timeout=120, check=True)
    (server,) = json.loads((tmp_path / "report.json").read_text())["server_scan_results"]
    found = {name: one["result"] for name, one in server["scan_result"].items() if one["status"] == "COMPLETED"}
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2"):
        assert found[f"{version}_cipher_suites"]["accepted_cipher_suites"] == [], version
    accepted = found["tls_1_3_cipher_suites"]["accepted_cipher_suites"]
    assert {one["cipher_suite"]["name"] for one in accepted} == SUITES
    assert not found["heartbleed"]["is_vulnerable_to_heartbleed"]
    assert not found["openssl_ccs_injection"]["is_vulnerable_to_ccs_injection"]
    assert not found["tls_compression"]["supports_compression"]
    assert found["robot"]["robot_result"].startswith("NOT_VULNERABLE")
    assert not found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]
    assert found["elliptic_curves"]["supports_ecdh_key_exchange"]
