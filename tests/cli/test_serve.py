"""`hybrid-llm serve`: a real node with a real torch model, from start to a graceful end."""

import json
import secrets
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import psutil
import pytest

from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.core.extras import install_hint

MODEL = Path(__file__).resolve().parents[2] / "examples" / "models" / "hybrid-demo-node"


def wait_for(path, process, seconds=60):
    until = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < until, "the node was not ready in time"
        time.sleep(0.05)
    return int(path.read_text(encoding="ascii"))


def test_a_node_serves_answers_refuses_a_taken_port_and_ends_with_0(start, cli, configure, tls, tmp_path):
    ready = tmp_path / "port"
    options = ("--model", MODEL, "--tls", tls, "--slots", 2)
    warnings = {"PYTHONWARNINGS": "error"}  # of the server and of the engine's process
    reporting = ("--telemetry", "console")
    sealing = tmp_path / "sealing"
    assert cli("certs", "seal-key", sealing, "--name", "one").code == 0
    process = start(
        "serve",
        *options,
        *reporting,
        "--sealed",
        sealing,
        "--listen",
        "127.0.0.1:0",
        "--ready-file",
        ready,
        environment=warnings,
    )
    port = wait_for(ready, process)
    about = "hybrid-demo-node (packed, cpu, bfloat16, 2 slots, 4,096 tokens of KV cache, 2,048 a request)"
    assert process.stdout.readline().decode() == f"ready on 127.0.0.1:{port}: {about}\n"
    config = configure(port)
    answer = cli("generate", "What is 2 + 3?", "--config", config, "--max-tokens", 16, "--verbose")
    assert answer.code == 0
    assert "cloud: " in answer.err
    assert cli("doctor", "--config", config).code == 0
    sealed = configure(port, sealed=sealing / "one.seal.pub")
    assert cli("generate", "What is 2 + 3?", "--config", sealed, "--max-tokens", 16).code == 0
    assert ", sealed" in cli("doctor", "--config", sealed).out
    assert cli("certs", "seal-key", sealing, "--name", "two").code == 0
    process.send_signal(signal.SIGHUP)
    taken = cli("serve", *options, "--listen", f"127.0.0.1:{port}")
    assert taken.code == 3
    assert str(port) in taken.err
    workers = psutil.Process(process.pid).children(recursive=True)
    assert workers
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not ready.exists()
    log = process.stderr.read()
    assert b"loading the weights" in log
    assert b'"rpc.method": "hybrid_llm.v1.HybridLLM/Generate"' in log
    assert b"Warning" not in log
    assert b"sealing keys reloaded" in log
    assert not psutil.wait_procs(workers, timeout=10)[1]


@pytest.fixture
def untold(tmp_path):
    """The model without its chat template, and the template beside it."""
    folder = tmp_path / "base"
    shutil.copytree(MODEL, folder)
    return folder, (folder / "chat_template.jinja").rename(tmp_path / "own.jinja")


def test_a_model_without_a_chat_template_is_not_served(cli, tls, untold):
    """With one that is named it is: the next test has that."""
    refused = cli("serve", "--model", untold[0], "--tls", tls, "--listen", "127.0.0.1:0")
    assert (refused.code, "has no chat template" in refused.err, "--chat-template" in refused.err) == (3, True, True)


def test_with_a_chat_template_that_is_named_it_is_and_every_line_of_the_log_can_be_an_object(
    start, cli, configure, tls, untold, tmp_path
):
    """Those of the server, of the engine's process and of gRPC, which learns of a client that speaks no TLS."""
    ready, (folder, own) = tmp_path / "port", untold
    process = start(
        "serve", "--model", folder, "--tls", tls, "--listen", "127.0.0.1:0", "--ready-file", ready, "--verbose",
        "--log-format", "json", "--chat-template", own, environment={"PYTHONWARNINGS": "default"},
    )  # fmt: skip
    port = wait_for(ready, process)
    answer = cli("generate", "What is 2 + 3?", "--config", configure(port), "--max-tokens", 8)
    assert (answer.code, len(answer.out) > 1) == (0, True)
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.recv(1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    found = [json.loads(line) for line in process.stderr.read().decode().splitlines()]
    assert all({"time", "level", "logger", "message"} <= each.keys() for each in found)
    (call,) = [each for each in found if each["logger"] == "hybrid_llm.node.access"]
    assert (call["outcome"], call["sealed"], call["tenant"]) == ("ok", False, "")
    assert call["request"]
    assert any("a TLS handshake" in each["message"] for each in found)
    assert any("loading the weights" in each["message"] for each in found)
    assert found[-1]["message"] == "stopped"


def test_ctrl_c_while_the_model_loads_ends_it_and_leaves_no_process(start, tls, tmp_path):
    process = start("serve", "--model", MODEL, "--tls", tls, "--listen", "127.0.0.1:0", "--ready-file", tmp_path / "p")
    line = b""
    while b"importing torch" not in line:
        line = process.stderr.readline()
        assert line
    workers = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    assert process.wait(20) == 0
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"--model": "absent"}, 3, "absent"),
        ({"--model": embedded_model()}, 3, "a model for the device (ONNX) cannot be served"),
        ({"--tls": "absent"}, 3, "`hybrid-llm certs init`"),
        ({"--name": "app"}, 3, "not a server's"),
        ({"--listen": "nowhere"}, 3, "HOST:PORT"),
        ({"--ready-file": "absent/folder/port"}, 3, "--ready-file"),
        ({"--slots": "0"}, 2, "less than 1"),
        ({"--weight": "=3"}, 2, "NAME=N"),
        ({"--weight": "app=x"}, 2, "NAME=N"),
        ({"--weight": "app=0"}, 2, "NAME=N"),
        ({"--max-queue": "-1"}, 2, "less than 0"),
        ({"--engine": "vroom"}, 2, "invalid choice"),
        ({"--max-streams": "0"}, 2, "0 is not a whole number of at least 1"),
        ({"--chat-template": "vicuna"}, 2, "'vicuna' is none of chatml, gemma, nor a text file"),
        ({"--client-share": "1.5"}, 2, "1.5 is not a number from 0 to 1"),
        ({"--model-cache-size": "0"}, 2, "not a number of GB above 0"),
        ({"--model": "tiny@prod"}, 3, "name its registry by --registry URL"),
        ({"--model": "tiny", "--registry": "absent"}, 3, "there is no registry at"),
        ({"--model": "file:///absent/model", "--model-cache": "cache"}, 3, "there is no model at"),
        ({"--key-file": "key"}, 3, "--key-file is the key of a registry"),
        ({"--otlp-endpoint": "http://127.0.0.1:4318"}, 3, "--otlp-endpoint needs --telemetry otlp"),
        ({"--telemetry": "otlp", "--otlp-endpoint": "http://node.example:4318"}, 3, "--otlp-insecure"),
    ],
)
def test_invalid_options_are_reported_before_the_node_serves(cli, tls, change, code, message):
    options = {"--model": MODEL, "--tls": tls, "--listen": "127.0.0.1:0", **change}
    result = cli("serve", *(part for option in options.items() for part in option))
    assert result.code == code
    assert message in result.err
    assert "starting the engine" not in result.err


def test_a_signed_model_of_an_encrypted_registry_is_served_from_memory(start, cli, configure, tls, tmp_path):
    """From `publish` to an answer and to the end: the disk has ciphertext only, and the copy in memory is deleted."""
    model, ready, key, memory = tmp_path / "m", tmp_path / "port", tmp_path / "registry.key", tmp_path / "memory"
    shutil.copytree(MODEL, model)
    key.write_text(secrets.token_hex(32))
    memory.mkdir()
    make_authority(tmp_path / "signers")
    issue(tmp_path / "signers", "release", kind="signer")
    signer, registry = tmp_path / "signers" / "release", ("--registry", tmp_path / "registry", "--key-file", key)
    assert cli("models", "sign", model, "--key", f"{signer}.key", "--cert", f"{signer}.pem").code == 0
    assert cli("models", "publish", model, "--name", "tiny", "--alias", "prod", *registry).code == 0
    trust = ("--ca", tmp_path / "signers" / "ca.pem")
    where = ("--model-cache", tmp_path / "cache", "--model-memory", memory)
    options = ("--listen", "127.0.0.1:0", "--ready-file", ready)
    process = start("serve", "--model", "tiny@prod", *registry, *trust, *where, "--tls", tls, *options)
    port = wait_for(ready, process)
    assert process.stdout.readline().decode().startswith(f"ready on 127.0.0.1:{port}: tiny (")
    answer = cli("generate", "What is 2 + 3?", "--config", configure(port), "--max-tokens", 8)
    assert (answer.code, len(answer.out) > 1) == (0, True)
    assert len(list(memory.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert list(memory.iterdir()) == []
    assert not list((tmp_path / "cache").rglob("*.safetensors"))


def test_without_torch_it_says_what_to_install(cli, tls, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = cli("serve", "--model", MODEL, "--tls", tls)
    assert result.code == 3
    assert install_hint("node") in result.err
