"""`hybrid-llm gateway`, as a program of its own."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from hybrid_llm.backends.wire import issue, make_authority
from hybrid_llm.cli.main import main

PROGRAM = (sys.executable, "-m", "hybrid_llm.cli.main", "gateway", "--listen", "127.0.0.1:0")
CONFIG = "version: 1\nbackends: {edge: {kind: onnx, model: embedded}}\n"
ASKED = json.dumps({"model": "auto", "max_tokens": 8, "messages": [{"role": "user", "content": "secret-prompt"}]})


@contextmanager
def running(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    config, ready = folder / "hybrid.yaml", folder / "port"
    config.write_text(CONFIG, encoding="utf-8")
    words = [*PROGRAM, "--config", str(config), "--ready-file", str(ready), *options]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not ready.exists():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield process, int(ready.read_text())
    finally:
        process.kill()
        process.communicate()


def get(port: int, method: str, path: str, body: str | None = None, **headers: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, {"content-type": "application/json", **headers})
    response = connection.getresponse()
    text = response.read().decode()
    connection.close()
    return response.status, text


def test_it_answers_counts_and_ends_at_sigterm(tmp_path: Path) -> None:
    with running(tmp_path, "--verbose") as (process, port):
        status, text = get(port, "POST", "/v1/chat/completions", ASKED)
        assert status == 200
        answer = json.loads(text)["choices"][0]["message"]["content"]
        assert "hybrid_llm_requests_total{" in get(port, "GET", "/metrics")[1]
        assert get(port, "GET", "/")[0] == 200
        process.send_signal(signal.SIGTERM)
        out, log = process.communicate(timeout=30)
    assert process.returncode == 0
    assert out == f"ready on http://127.0.0.1:{port}/v1\n"
    assert "/v1/chat/completions 200" in log
    assert "secret-prompt" not in log
    assert not answer.strip() or answer not in log
    assert not (tmp_path / "port").exists()


def test_every_line_of_its_log_can_be_an_object(tmp_path: Path) -> None:
    """Those of the server, of what a client did wrong, and of Python itself."""
    with running(tmp_path, "--verbose", "--log-format", "json") as (process, port):
        assert get(port, "POST", "/v1/chat/completions", ASKED, **{"x-hybrid-tenant": "acme"})[0] == 200
        assert get(port, "POST", "/v1/chat/completions", "no json")[0] == 400
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"what is no HTTP\r\n\r\n")
            client.recv(1)
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=30)
    found = [json.loads(line) for line in log.splitlines()]
    assert all({"time", "level", "logger", "message"} <= each.keys() for each in found)
    calls = [each for each in found if each.get("path") == "/v1/chat/completions"]
    assert [(each["status"], each["tenant"]) for each in calls] == [(200, "acme"), (400, "")]
    assert not any(each["sealed"] for each in calls)
    assert all(len(each["request"]) == 32 for each in calls)
    assert found[-1]["message"] == "stopped"


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["gateway", "--log-format", "json", "--listen", "nowhere:x"], 3, "HOST:PORT"),
        (["gateway", "--log-format=json", "--nonsense"], 2, "--nonsense"),
        (["serve", "--log-format", "json", "--model", "absent", "--tls", "absent"], 3, "absent"),
    ],
)
def test_an_error_at_the_start_is_an_object_too(words: list[str], code: int, message: str) -> None:
    result = subprocess.run([*PROGRAM[:3], *words], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == code
    found = [json.loads(line) for line in result.stderr.splitlines()]
    assert any(message in each["message"] for each in found)
    assert code == 2 or found[-1]["level"] == "ERROR"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_stops_what_runs_and_is_no_error(tmp_path: Path, number: int) -> None:
    head = "POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
    with running(tmp_path, "--grace", "25") as (process, port), socket.create_connection(("127.0.0.1", port)) as client:
        client.sendall(f"{head}content-length: 100\r\n\r\n".encode())  # its body never comes
        time.sleep(0.5)
        process.send_signal(number)
        time.sleep(1.0)
        assert process.poll() is None
        process.send_signal(number)
        _, log = process.communicate(timeout=15)
    assert (process.returncode, "Traceback" in log, "stopped" in log) == (0, False, True)


def test_a_key_that_it_made_opens_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = tmp_path / "keys.json"
    assert main(["gateway", "--keys", str(keys), "--new-key", "acme"]) == 0
    secret = capsys.readouterr().out.strip()
    assert main(["gateway", "--keys", str(keys), "--new-key", "other"]) == 0
    assert secret not in keys.read_text()
    assert [entry["tenant"] for entry in json.loads(keys.read_text())] == ["acme", "other"]
    assert keys.stat().st_mode & 0o077 == 0
    with running(tmp_path, "--keys", str(keys)) as (_, port):
        assert get(port, "GET", "/v1/models")[0] == 401
        assert get(port, "GET", "/v1/models", authorization=f"Bearer {secret}")[0] == 200


def test_the_file_sets_what_the_command_line_does_not(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The address of the command line comes first; keys and certificate are those of the file."""
    keys, config = tmp_path / "keys.json", tmp_path / "hybrid.yaml"
    main(["gateway", "--keys", str(keys), "--new-key", "acme"])
    make_authority(tmp_path)
    issue(tmp_path, "site", kind="node", hosts=["127.0.0.1"])
    secret = capsys.readouterr().out.strip()
    tls = "{cert: site.pem, key: site.key}"
    config.write_text(f"{CONFIG}gateway: {{listen: '127.0.0.1:1', keys: keys.json, tls: {tls}}}\n", encoding="utf-8")
    words = [*PROGRAM, "--config", str(config), "--ready-file", str(tmp_path / "port")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            url = process.stdout.readline().removeprefix("ready on ").strip()
            context = ssl.create_default_context(cafile=tmp_path / "ca.pem")
            asked = urllib.request.Request(f"{url}/models", headers={"authorization": f"Bearer {secret}"})
            assert url.startswith("https://127.0.0.1:")
            assert json.load(urllib.request.urlopen(asked, context=context))["object"] == "list"
        finally:
            process.kill()


def test_the_file_of_the_environment_sets_the_gateway_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys and its address are not lost where `--config` does not name the file."""
    config = tmp_path / "hybrid.yaml"
    config.write_text(f"{CONFIG}gateway: {{listen: '0.0.0.0:1', keys: absent.json}}\n", encoding="utf-8")
    monkeypatch.setenv("HYBRID_LLM_CONFIG", str(config))
    assert main(["gateway"]) == 3
    assert "absent.json" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--listen", "0.0.0.0:8080"], "keys"),
        (["--listen", "8080"], "HOST:PORT"),
        (["--keys", "missing.json"], "missing.json is not there; `hybrid-llm gateway --keys FILE --new-key TENANT`"),
        (["--keys", "BROKEN", "--new-key", "acme"], "it is no list of keys"),
        (["--listen", "127.0.0.1:18080", "--config", "ITSELF"], "http://127.0.0.1:18080/v1 is this gateway itself"),
        (["--listen", "localhost:18080", "--config", "ITSELF"], "is this gateway itself"),
        (["--listen", "0.0.0.0:18080", "--keys", "KEYS", "--config", "ITSELF"], "is this gateway itself"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["--new-key", "acme"], "--keys"),
        (["--listen", "192.0.2.1:8080", "--keys", "KEYS"], "--listen"),
    ],
)
def test_what_cannot_be_is_said(
    options: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys, config = tmp_path / "keys.json", tmp_path / "hybrid.yaml"
    main(["gateway", "--keys", str(keys), "--new-key", "acme"])
    config.write_text(CONFIG, encoding="utf-8")
    capsys.readouterr()
    broken, itself = tmp_path / "broken.json", tmp_path / "itself.yaml"
    broken.write_text("{}", encoding="utf-8")
    itself.write_text('{version: 1, backends: {a: {kind: openai, base_url: "http://127.0.0.1:18080/v1", model: m}}}')
    files = {"KEYS": keys, "BROKEN": broken, "ITSELF": itself}
    words = [str(files.get(word, word)) for word in options]
    if "--config" not in words and "--new-key" not in words:
        words += ["--config", str(config)]
    assert main(["gateway", *words]) == 3
    assert said in capsys.readouterr().err
