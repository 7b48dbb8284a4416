"""The Hugging Face Hub: one file of a repository at a commit, checked against the hash that the Hub lists."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("huggingface_hub")

COMMITS = {"main": "a" * 40, "later": "b" * 40}
FILES = {"m-q4_k_m.gguf": b"GGUF" * 5000, "m-q8_0.gguf": b"gguf" * 5000, "README.md": b"# m", "pytorch_model.bin": b"p"}
FETCH = """
import json, sys
from pathlib import Path
from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.core.errors import HybridLLMError
folder = Path(sys.argv[1])
folder.mkdir(exist_ok=True)
try:
    fetched = parse_source(sys.argv[2]).fetch(folder, Wanted(**json.loads(sys.argv[3])), lambda step, share: None)
except HybridLLMError as error:
    print(json.dumps({"error": type(error).__name__, "message": str(error)}))
else:
    print(json.dumps({"name": fetched.path.name, "sha256": fetched.sha256, "revision": fetched.revision}))
"""


class Hub(ThreadingHTTPServer):
    """Speaks as much of the Hub's protocol as its own library asks for; *seen* has the paths of all requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = dict(FILES)
        self.listed = {name: hashlib.sha256(content).hexdigest() for name, content in FILES.items()}
        self.seen = []

    def siblings(self):
        for name, content in self.files.items():
            one = {"rfilename": name, "size": len(content), "blobId": self.listed[name]}
            if name.endswith((".gguf", ".bin")):
                one["lfs"] = {"sha256": self.listed[name], "size": len(content), "pointerSize": 134}
            yield one

    def tree(self):
        for one in self.siblings():
            lfs = {"oid": one["lfs"]["sha256"], **one["lfs"]} if "lfs" in one else None
            entry = {"type": "file", "path": one["rfilename"], "size": one["size"], "oid": one["blobId"]}
            yield {**entry, **({"lfs": lfs} if lfs else {})}


class _Handler(BaseHTTPRequestHandler):
    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        path = unquote(urlsplit(self.path).path)
        self.server.seen.append((self.command, path, self.headers.get("User-Agent", "")))
        parts = path.strip("/").split("/")
        if parts[:3] == ["api", "models", "org"] and "revision" in parts:
            commit = COMMITS.get(parts[-1], parts[-1])
            self.send({"id": "org/repo", "sha": commit, "siblings": list(self.server.siblings())})
        elif parts[:3] == ["api", "models", "org"] and "tree" in parts:
            self.send(list(self.server.tree()))
        elif len(parts) == 5 and parts[2] == "resolve" and parts[4] in self.server.files:
            self.send_file(parts[4], parts[3])
        else:
            self.send({"error": "Repository not found"}, 404, {"X-Error-Code": "RepoNotFound"})

    def send_file(self, name, commit):
        content = self.server.files[name]
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        headers = {"ETag": f'"{self.server.listed[name]}"', "X-Repo-Commit": commit, "Accept-Ranges": "bytes"}
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self.send(content[start:], 206 if start else 200, headers)

    def send(self, content, code=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub():
    with Hub() as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def fetch(hub, tmp_path, monkeypatch):
    """Fetch in a child process, which reads the address of the Hub when it imports the Hub's library."""
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_address[1]}")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_DISABLE_XET", "1")
    for name in ("HF_HUB_OFFLINE", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)

    def run(source="hf:org/repo", **wanted):
        command = [sys.executable, "-c", FETCH, str(tmp_path / "d"), source, json.dumps(wanted)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_one_file_is_fetched_at_the_commit_of_the_revision(fetch, hub):
    found = fetch(file="*Q4_K_M.gguf")
    assert found == {"name": "m-q4_k_m.gguf", "sha256": hub.listed["m-q4_k_m.gguf"], "revision": COMMITS["main"]}
    asked = [path for command, path, _ in hub.seen if command == "GET" and "/resolve/" in path]
    assert asked == [f"/org/repo/resolve/{COMMITS['main']}/m-q4_k_m.gguf"], "nothing else, and no pickle"
    assert fetch("hf:org/repo@later", file="*q8_0.gguf")["revision"] == COMMITS["later"]


def test_a_pinned_commit_and_hash_are_asked_for_and_held_to(fetch, hub):
    found = fetch(file="*q8_0.gguf", revision="c" * 40, sha256=hub.listed["m-q8_0.gguf"])
    assert found["revision"] == "c" * 40
    assert fetch(file="*q8_0.gguf", sha256="0" * 64)["error"] == "SecurityError"


def test_a_file_that_is_not_what_the_hub_lists_is_refused(fetch, hub):
    hub.files["m-q8_0.gguf"] = b"evil" * 5000
    found = fetch(file="*q8_0.gguf")
    assert found["error"] == "SecurityError"
    assert "nothing was added" in found["message"]


def test_several_files_are_a_choice_of_the_user(fetch):
    assert "choose one .gguf with --file PATTERN; it has: m-q4_k_m.gguf, m-q8_0.gguf" in fetch()["message"]
    assert "these match: none" in fetch(file="*q2*")["message"]


def test_a_repository_that_is_not_there_is_an_error_that_says_what_to_do(fetch):
    found = fetch("hf:other/repo")
    assert found["error"] == "FetchFailed"
    assert "hf auth login" in found["message"]


def test_without_a_network_the_error_says_what_to_copy(fetch, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    found = fetch()
    assert found["error"] == "FetchFailed"
    assert "run `hf download org/repo`, copy the file or folder here" in found["message"]
