"""A PostgreSQL server of its own for tests, where Debian's programs are installed."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin"))


class Server:
    """A server on *port* with its files in *folder*. It ends with the thread that started it, however that ends."""

    def __init__(self, folder: str, port: int) -> None:
        self.folder, self.port, self.data = folder, port, f"{folder}/data"
        self.url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        options = ("-k", self.folder, "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off")
        with open(f"{self.folder}/log", "ab") as log:
            self._process = subprocess.Popen(
                [str(BINARIES[-1] / "postgres"), "-D", self.data, "-p", str(self.port), *options],
                stdout=log,
                stderr=log,
                preexec_fn=_end_with_parent,
                **_user(),
            )
        deadline = time.monotonic() + 30
        while not _answers(self.port):
            assert self._process.poll() is None, "PostgreSQL did not start"
            assert time.monotonic() < deadline, "PostgreSQL does not answer"
            time.sleep(0.02)

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)  # its fast shutdown
            self._process.wait(30)


@contextmanager
def running() -> Iterator[Server]:
    """A running server; the test is skipped where the programs or psycopg are missing."""
    if not BINARIES:
        pytest.skip("needs the programs of PostgreSQL in /usr/lib/postgresql")
    pytest.importorskip("psycopg")
    with tempfile.TemporaryDirectory() as folder:
        server = Server(folder, _free_port())
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres")
        _run("initdb", "-D", server.data, "-A", "trust", "-U", "postgres", "--no-sync")
        server.start()
        try:
            yield server
        finally:
            server.stop()


def forget(url: str, *tables: str) -> None:
    """Drop *tables*, and what is known of the versions of schemas."""
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        for table in (*tables, "hybrid_llm_schemas"):
            connection.execute(f"DROP TABLE IF EXISTS {table}")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _answers(port: int) -> bool:
    import psycopg

    try:
        psycopg.connect(f"postgresql://postgres@127.0.0.1:{port}/postgres", connect_timeout=2).close()
    except psycopg.OperationalError:
        return False
    return True


def _end_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGINT)  # PR_SET_PDEATHSIG


def _user() -> dict[str, str]:
    """PostgreSQL refuses to run as root."""
    return {"user": "postgres", "group": "postgres"} if os.geteuid() == 0 else {}


def _run(name: str, *options: str) -> None:
    """Run a program of PostgreSQL."""
    subprocess.run([str(BINARIES[-1] / name), *options], check=True, stdout=subprocess.DEVNULL, **_user())
