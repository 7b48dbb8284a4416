"""Runs the shipped configuration of HAProxy with the real one, on loopback."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

HAPROXY = shutil.which("haproxy") or shutil.which("haproxy", path="/usr/sbin")
_FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "haproxy"


def haproxy(target: str, log: Path) -> contextlib.AbstractContextManager[int]:
    """HAProxy in front of the node at *target*: the port that clients use. It writes to *log*."""
    return running("haproxy.cfg", log, HYBRID_NODE=target)


@contextlib.contextmanager
def running(configuration: str, log: Path, **variables: str) -> Iterator[int]:
    """HAProxy with a shipped configuration: the port that clients use. It writes to *log*."""
    assert HAPROXY is not None, "haproxy is not installed: apt-get install haproxy"
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    environment = os.environ | {"HYBRID_LISTEN": f"127.0.0.1:{port}"} | variables
    with log.open("wb") as sink:
        words = [HAPROXY, "-db", "-f", str(_FOLDER / configuration)]
        proxy = subprocess.Popen(words, env=environment, stdout=sink, stderr=sink)
    try:
        _wait_until_open(port)
        yield port
    finally:
        proxy.terminate()
        proxy.wait()


def _wait_until_open(port: int) -> None:
    end = time.monotonic() + 20.0
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            return
        time.sleep(0.02)
    raise TimeoutError("HAProxy did not listen within 20 s")
