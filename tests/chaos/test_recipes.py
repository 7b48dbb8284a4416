"""The recipes of docs/apps.md for servers and workers that fork, run with the real ones."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

WEB = """
import hybrid_llm
MODULE

def app(environ, start_response):
    try:
        text = ASK
    except hybrid_llm.HybridLLMError as error:
        text = type(error).__name__
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [(text or "empty").encode()]
"""
TASKS = """
import celery, hybrid_llm

app = celery.Celery("tasks", broker="filesystem://", backend="file://FOLDER/results")
app.conf.broker_transport_options = {"data_folder_in": "FOLDER/queue", "data_folder_out": "FOLDER/queue"}

@app.task
def answer(prompt):
    return hybrid_llm.generate(prompt, max_tokens=2, deadline=30.0).backend
"""
LOADER = """
import torch.utils.data, hybrid_llm
from hybrid_llm.errors import UnsupportedRuntime

class Answers(torch.utils.data.Dataset):
    def __len__(self): return 4
    def __getitem__(self, number):
        try:
            return hybrid_llm.generate("Hi.", max_tokens=2, deadline=30.0).backend
        except UnsupportedRuntime:
            return "UnsupportedRuntime"

def answers(method):
    loader = torch.utils.data.DataLoader(Answers(), num_workers=1, batch_size=None, multiprocessing_context=method)
    return sorted(set(loader))

if __name__ == "__main__":
    print("fork", False, answers("fork"), flush=True)  # nothing that waits to be written may be forked
    hybrid_llm.generate("Hi.", max_tokens=1)
    for method in ("fork", "spawn", "forkserver"):
        print(method, True, answers(method), flush=True)
"""
SUBPROCESS = """
import subprocess, sys, hybrid_llm
stream = hybrid_llm.stream("Count from 3 to 20.", max_tokens=30)
next(stream)
code = "import hybrid_llm; print(hybrid_llm.generate('Hi.', max_tokens=2).backend)"
for options in ({}, {"preexec_fn": lambda: None}, {"start_new_session": True}):
    print(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **options).stdout.strip())
"""


@contextmanager
def running(folder: Path, *command: str) -> Iterator[Path]:
    """A server with a log; it is ended by SIGTERM, and must end."""
    log = folder / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, stdout=out, stderr=out, start_new_session=True
        )
    try:
        yield log
        process.terminate()
        process.wait(30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def fetched(port: int, log: Path) -> str:
    until = time.monotonic() + 60.0
    while time.monotonic() < until:
        try:
            return urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=40).read().decode()
        except (urllib.error.URLError, ConnectionError):
            time.sleep(0.1)
    raise AssertionError(log.read_text()[-2000:])


OWN = 'llm.generate("Hi.", max_tokens=2, deadline=30.0).backend'
MAKE = "llm = hybrid_llm.HybridLLM.from_config('hybrid.yaml')"


@pytest.mark.parametrize(
    ("flags", "module", "ask", "answer"),
    [
        ((), MAKE, OWN, "edge"),
        (("--preload",), MAKE, OWN, "UnsupportedRuntime"),
        (("--preload",), "", "hybrid_" + OWN, "edge"),
    ],
    ids=["made in the worker", "made before the fork", "made by the first request"],
)
def test_gunicorn(tmp_path, flags, module, ask, answer):
    pytest.importorskip("gunicorn")
    (tmp_path / "hybrid.yaml").write_text("version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n")
    (tmp_path / "web.py").write_text(WEB.replace("MODULE", module).replace("ASK", ask))
    port = free_port()
    command = ("gunicorn", "web:app", "--workers", "2", "--bind", f"127.0.0.1:{port}", *flags)
    with running(tmp_path, *command) as log:
        assert [fetched(port, log) for _ in range(6)] == [answer] * 6


def test_celery_prefork(tmp_path):
    pytest.importorskip("celery")
    for name in ("queue", "results"):
        (tmp_path / name).mkdir()
    (tmp_path / "tasks.py").write_text(TASKS.replace("FOLDER", str(tmp_path)))
    send = "import tasks; print(sorted({tasks.answer.delay('Hi.').get(timeout=90) for _ in range(4)}))"
    worker = ("celery", "-A", "tasks", "worker", "--pool", "prefork", "--concurrency", "2", "--without-mingle")
    with running(tmp_path, *worker) as log:
        sent = [sys.executable, "-c", send]
        done = subprocess.run(sent, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
        assert done.stdout.strip() == "['edge']", done.stderr[-1000:] + log.read_text()[-2000:]


@pytest.fixture(scope="module")
def loaders(tmp_path_factory):
    """One process that has loaders of every kind, before its first call and after, since torch takes seconds."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("loaders")
    (folder / "loader.py").write_text(LOADER)
    command = [sys.executable, "loader.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.parametrize(
    ("method", "used", "answer"),
    [
        ("fork", False, "edge"),
        ("fork", True, "UnsupportedRuntime"),
        ("spawn", True, "edge"),
        ("forkserver", True, "edge"),
    ],
)
def test_pytorch_data_loader(loaders, method, used, answer):
    assert f"{method} {used} ['{answer}']" in loaders.stdout.splitlines(), loaders.stderr[-2000:]


def test_subprocess():
    command = [sys.executable, "-W", "ignore", "-c", SUBPROCESS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.stdout.split() == ["edge"] * 3, done.stderr[-2000:]
