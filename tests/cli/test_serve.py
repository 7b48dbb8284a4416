"""`hybrid-llm serve`: a real node with a real torch model, from start to a graceful end."""

import shutil
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from hybrid_llm.backends.edge import embedded_model
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
    process = start(
        "serve", *options, *reporting, "--listen", "127.0.0.1:0", "--ready-file", ready, environment=warnings
    )
    port = wait_for(ready, process)
    about = "hybrid-demo-node (packed, cpu, bfloat16, 2 slots of 2,048 tokens)"
    assert process.stdout.readline().decode() == f"ready on 127.0.0.1:{port}: {about}\n"
    config = configure(port)
    answer = cli("generate", "What is 2 + 3?", "--config", config, "--max-tokens", 16, "--verbose")
    assert answer.code == 0
    assert "cloud: " in answer.err
    assert cli("doctor", "--config", config).code == 0
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
    assert not psutil.wait_procs(workers, timeout=10)[1]


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


def test_a_model_without_a_chat_template_is_served_only_with_one_that_is_named(start, cli, configure, tls, tmp_path):
    folder, ready = tmp_path / "base", tmp_path / "port"
    shutil.copytree(MODEL, folder)
    own = (folder / "chat_template.jinja").rename(tmp_path / "own.jinja")
    refused = cli("serve", "--model", folder, "--tls", tls, "--listen", "127.0.0.1:0")
    assert (refused.code, "has no chat template" in refused.err, "--chat-template" in refused.err) == (3, True, True)
    options = ("--listen", "127.0.0.1:0", "--ready-file", ready, "--chat-template", own)
    process = start("serve", "--model", folder, "--tls", tls, *options)
    answer = cli("generate", "What is 2 + 3?", "--config", configure(wait_for(ready, process)), "--max-tokens", 8)
    assert (answer.code, len(answer.out) > 1) == (0, True)


def test_without_torch_it_says_what_to_install(cli, tls, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    result = cli("serve", "--model", MODEL, "--tls", tls)
    assert result.code == 3
    assert install_hint("node") in result.err
