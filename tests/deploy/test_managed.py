"""What the image for managed endpoints starts, with real models: a node behind a gateway, or a gateway alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from hybrid_llm.backends.edge import embedded_model
from tests.gateway.test_http import send

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "container" / "managed"
NODE_MODEL = ROOT / "examples" / "models" / "hybrid-demo-node"
SAID = {"messages": [{"role": "user", "content": "What is 12 + 30?"}], "max_tokens": 4}
pytestmark = pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")


@contextmanager
def container(folder: Path, *words: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The entry point of the image, with programs and variables of this machine; nothing of it is left."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, words_of in (("hybrid-llm", "-m hybrid_llm.cli.main"), ("python3", "")):
        (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words_of} "$@"\n', encoding="ascii")
        (programs / name).chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("AIP_", "AZUREML_"))}
    environment |= {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(folder), **variables}
    process = subprocess.Popen(
        ["bash", str(SCRIPT), *words], env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        yield process
    finally:
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for child in children:
            child.kill()
        process.kill()
        process.communicate()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
        return port


def ready(process: subprocess.Popen[str], url: str, path: str) -> None:
    """Wait until the endpoint is healthy, as a platform does."""
    end = time.monotonic() + 90
    while time.monotonic() < end:
        assert process.poll() is None, process.communicate()[1]
        try:
            if send(url, path, method="GET").status == 200:
                return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(path)


def stopped(process: subprocess.Popen[str]) -> int:
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    return process.returncode


def test_sagemaker_gets_a_node_behind_a_gateway_and_the_container_ends_with_either(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {
        "MODEL_DIR": str(NODE_MODEL),
        "SAGEMAKER_BIND_TO_PORT": str(port),
        "SERVE_OPTIONS": "--slots 2 --quiet",
    }
    with container(tmp_path, "serve", **variables) as process:
        ready(process, url, "/ping")
        reply = send(url, "/invocations", SAID)
        assert (reply.status, reply.headers["x-hybrid-backend"]) == (200, "cloud")
        streamed = send(url, "/invocations", SAID | {"stream": True})
        assert streamed.events[-1] == "[DONE]"
        node = next(
            child for child in psutil.Process(process.pid).children(recursive=True) if "serve" in child.cmdline()
        )
        node.kill()
        process.communicate(timeout=60)
        assert process.returncode not in (0, 3)
    with pytest.raises(OSError):
        send(url, "/ping", method="GET")


def test_vertex_ai_gets_a_copy_of_its_storage_and_a_sigterm_ends_it_in_order(tmp_path: Path) -> None:
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    routes = {"AIP_HTTP_PORT": str(port), "AIP_HEALTH_ROUTE": "/ready", "AIP_PREDICT_ROUTE": "/answer"}
    storage = tmp_path / "bucket" / "model"
    shutil.copytree(embedded_model(), storage / "nested")
    with container(tmp_path, **routes, AIP_STORAGE_URI=f"file://{storage}") as process:
        ready(process, url, "/ready")
        reply = send(url, "/answer", {"instances": [SAID, SAID]})
        assert [each["object"] for each in reply.document["predictions"]] == ["chat.completion"] * 2
        assert stopped(process) == 0
    assert not list(tmp_path.glob("tmp.*"))


def test_azure_ml_gets_what_a_configuration_says(tmp_path: Path) -> None:
    port = free_port()
    model = tmp_path / "model"
    model.mkdir()
    config = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    (model / "hybrid.yaml").write_text(config, encoding="utf-8")
    variables = {"AZUREML_MODEL_DIR": str(model), "GATEWAY_OPTIONS": f"--listen 127.0.0.1:{port}"}
    with container(tmp_path, **variables, GRACE="1") as process:
        ready(process, f"http://127.0.0.1:{port}", "/health")
        assert send(f"http://127.0.0.1:{port}", "/score", SAID).status == 200
        assert stopped(process) == 0


@pytest.mark.parametrize(
    ("files", "message"),
    [((), "holds no hybrid.yaml"), (("config.json",), r"no \*.safetensors"), (None, "is no folder")],
)
def test_what_is_no_model_ends_it_with_a_message(tmp_path: Path, files: tuple[str, ...] | None, message: str) -> None:
    model = tmp_path / "model"
    for name in files or ():
        model.mkdir(exist_ok=True)
        (model / name).write_text("{}")
    if files == ():
        model.mkdir()
    with container(tmp_path, MODEL_DIR=str(model)) as process:
        _, log = process.communicate(timeout=30)
    assert process.returncode == 3
    assert message.replace("\\", "") in log
