"""Where OpenTelemetry reports go: only where a file or the SDK's variables say, in bounded time, and never twice."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml

from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.secret import Secret
from hybrid_llm.core.telemetry import CLOSE_S, TelemetrySpec
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.config import parse_config
from tests.otlp import Collector, values_of

CONFIG = {"version": 1, "backends": {"edge": {"kind": "onnx", "model": "embedded"}}}


def write(folder: Path, **telemetry: object) -> Path:
    path = folder / "hybrid.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, "telemetry": telemetry}), encoding="utf-8")
    return path


def ask(path: Path, count: int = 1) -> None:
    with HybridLLM.from_config(path) as llm:
        for _ in range(count):
            llm.generate("Is this review positive? 'Dull.'", max_tokens=2)


@pytest.fixture
def clean(monkeypatch):
    """The SDK's variables as a test sets them."""
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_file_s_telemetry_arrives_at_its_collector_when_the_client_closes(tmp_path, clean):
    clean.setenv("KEY_OF_COLLECTOR", "Bearer sesame\n")
    clean.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    with Collector() as collector:
        headers = {"authorization": {"env": "KEY_OF_COLLECTOR"}, "x-scope-orgid": "one"}
        ask(write(tmp_path, exporter="otlp", endpoint=collector.url, headers=headers, include=["because"]))
    names = [span.name for _, span in collector.spans()]
    assert names.count("attempt edge") == 1
    assert collector.headers["authorization"] == "Bearer sesame"
    assert collector.headers["x-scope-orgid"] == "one"
    assert {service for service, _ in collector.spans()} == {"hybrid-llm"}
    assert ("hybrid-llm", "gen_ai.client.inference.duration") in collector.metrics()
    root = next(span for _, span in collector.spans() if span.name.startswith("chat"))
    assert "hybrid_llm.because" in values_of(root.attributes)


def test_the_sdk_s_variables_hold_where_the_file_is_silent(tmp_path, clean):
    with Collector() as collector:
        clean.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url + "/")
        clean.setenv("OTEL_EXPORTER_OTLP_HEADERS", "x-from=the%20environment")
        clean.setenv("OTEL_SERVICE_NAME", "clinic")
        clean.setenv("OTEL_TRACES_SAMPLER", "always_off")
        ask(write(tmp_path, exporter="otlp"))
    assert {service for service, _ in collector.metrics()} == {"clinic"}
    assert collector.headers["x-from"] == "the environment"
    assert collector.spans() == []


def test_the_file_s_sample_is_the_share_of_traces(tmp_path, clean):
    clean.setenv("OTEL_TRACES_SAMPLER", "always_on")
    with Collector() as collector:
        ask(write(tmp_path, exporter="otlp", endpoint=collector.url, sample="0%"))
    assert collector.spans() == []
    assert collector.metrics()


def test_a_disabled_sdk_starts_and_sends_nothing(tmp_path, clean):
    clean.setenv("OTEL_SDK_DISABLED", "true")
    before = threading.active_count()
    with Collector() as collector:
        ask(write(tmp_path, exporter="otlp", endpoint=collector.url))
        assert TelemetrySpec(exporter="otlp", endpoint=collector.url).open() is None
    assert collector.everything == b""
    assert threading.active_count() <= before + 1


def test_an_unreachable_collector_delays_no_request_and_the_end_only_for_a_while(tmp_path, clean):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        path = write(tmp_path, exporter="otlp", endpoint=f"http://127.0.0.1:{silent.getsockname()[1]}")
        llm = HybridLLM.from_config(path)
        llm.generate("Is this review positive? 'Dull.'", max_tokens=2)
        closing = time.monotonic()
        llm.close()
        assert time.monotonic() - closing < CLOSE_S + 5


@pytest.mark.parametrize(
    ("telemetry", "message"),
    [
        ({"exporter": "otlp", "endpoint": "http://collector.example:4318"}, "insecure: true"),
        ({"exporter": "otlp", "headers": {"authorization": {"env": "NOT_SET"}}}, "NOT_SET is not set"),
        ({"exporter": "otlp", "headers": {"authorization": {"file": "absent"}}}, "absent cannot be read"),
    ],
)
def test_what_would_leak_or_cannot_work_is_refused_when_the_client_is_made(telemetry, message, tmp_path, clean):
    with pytest.raises(ConfigError, match=message):
        HybridLLM.from_config(write(tmp_path, **telemetry))


def test_a_collector_that_only_the_environment_names_is_held_to_the_same(tmp_path, clean):
    clean.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://collector.example:4318/v1/traces")
    with pytest.raises(ConfigError, match="insecure: true"):
        HybridLLM.from_config(write(tmp_path, exporter="otlp"))


@pytest.mark.parametrize(
    "telemetry",
    [
        {},
        {"exporter": "jaeger"},
        {"exporter": "otlp", "endpoint": "collector:4318"},
        {"exporter": "otlp", "endpoint": "https://user:secret@collector"},
        {"exporter": "otlp", "sample": "101%"},
        {"exporter": "otlp", "include": ["prompt"]},
        {"exporter": "otlp", "content": "all"},
        {"exporter": "otlp", "headers": {"a": {"env": "A", "file": "b"}}},
    ],
)
def test_a_wrong_key_is_refused_at_load(telemetry):
    with pytest.raises(ConfigError):
        parse_config(yaml.safe_dump({**CONFIG, "telemetry": telemetry}), Path("hybrid.yaml"))


def test_a_secret_never_shows():
    spec = TelemetrySpec(exporter="otlp", headers={"authorization": Secret(env="KEY_OF_COLLECTOR")})
    assert "KEY_OF_COLLECTOR" in repr(spec)  # its place, not its value: that is read when it is opened


def run(code: str, **env: str) -> str:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**clean, **env}, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_client_without_telemetry_does_not_import_opentelemetry():
    code = (
        "import sys\nfrom hybrid_llm import HybridLLM, generate\n"
        "generate('Is this review positive? \\'Dull.\\'', max_tokens=2)\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry')])"
    )
    assert run(code, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9").strip() == "[]"


def test_without_the_packages_the_error_says_what_to_install(tmp_path):
    path = write(tmp_path, exporter="console")
    code = (
        "import sys\nsys.modules['opentelemetry.sdk.trace'] = None\nsys.modules['opentelemetry.metrics'] = None\n"
        "from hybrid_llm import ConfigError, HybridLLM\n"
        f"try:\n    HybridLLM.from_config({str(path)!r})\nexcept ConfigError as error:\n    print(error)\n"
        "try:\n    from hybrid_llm.router.observability.otel import OpenTelemetryHook\n"
        "except ConfigError as error:\n    print(error)"
    )
    lines = run(code).splitlines()
    assert lines == [f"telemetry needs OpenTelemetry: {install_hint('otel')}"] * 2


def test_the_console_prints_to_stderr_and_leaves_stdout_to_the_app(tmp_path):
    path = write(tmp_path, exporter="console")
    code = (
        f"from hybrid_llm import HybridLLM\nwith HybridLLM.from_config({str(path)!r}) as llm:\n    llm.generate('hi')"
    )
    assert run(code) == ""


def test_a_forked_child_reports_nothing_again(tmp_path):
    with Collector() as collector:
        path = write(tmp_path, exporter="otlp", endpoint=collector.url)
        code = (
            "import os, time\nfrom hybrid_llm import HybridLLM\n"
            f"llm = HybridLLM.from_config({str(path)!r})\nllm.generate('hi', max_tokens=2)\n"
            "if os.fork() == 0:\n    os.close(1)\n    os.close(2)\n    time.sleep(0.6)\n"
            "os._exit(0)"
        )
        run(code, OTEL_METRIC_EXPORT_INTERVAL="100")
        sent = len(collector.bodies["/v1/metrics"])  # by the parent, which is gone
        time.sleep(0.6)
        assert len(collector.bodies["/v1/metrics"]) == sent
