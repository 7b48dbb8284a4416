"""Metrics as Prometheus reads them: a real client, a real scrape over HTTP, and no text of a request in it."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from hybrid_llm.core.errors import (
    AllBackendsFailed,
    BackendUnavailable,
    ConfigError,
    NoEligibleBackend,
    StreamInterrupted,
)
from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.caching.memory import MemoryCache
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.signals import FixedSensors
from hybrid_llm.router.spending.ledger import Price
from tests.fakes import FakeBackend

POLICY = """\
version: 1
name: metered
tags:
  phi: {{allow: [edge]}}
objectives: {{ttft: 400ms, deadline: 10s}}
rules:
  - prefer: [cloud, edge]
    because: the larger model
resilience: {{retries: 0, {more}breaker: {{failures: 2, open: 100ms}}}}
"""
GONE = BackendUnavailable("gone", backend="cloud")


def scrape(port: int) -> dict[tuple[str, frozenset], float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return samples(answer.read().decode())


def samples(text: str) -> dict[tuple[str, frozenset], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


class Metered:
    """A client with metrics on a port of its own."""

    def __init__(self, *backends, more: str = "", **options) -> None:
        self.metrics = PrometheusMetrics.alone()
        self.port = self.metrics.serve(port=0)
        policy = parse_policy(POLICY.format(more=more), backends={b.name: b.location for b in backends})
        self.llm = HybridLLM(backends, policy, sensors=FixedSensors(), hooks=[self.metrics], **options)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.llm.close()

    def read(self, name: str, **labels: str) -> float | None:
        return scrape(self.port).get((name, frozenset(labels.items())))

    def breaker(self, backend: str) -> list[str]:
        return [
            dict(labels)["state"]
            for (name, labels), value in scrape(self.port).items()
            if name == "hybrid_llm_breaker_state" and value == 1.0 and ("backend", backend) in labels
        ]


def edge(*scripts) -> FakeBackend:
    return FakeBackend("edge", Location.EDGE, *scripts)


def cloud(*scripts) -> FakeBackend:
    return FakeBackend("cloud", Location.CLOUD, *scripts)


OPERATION = {"gen_ai_operation_name": "chat", "gen_ai_provider_name": "hybrid_llm"}


def test_requests_attempts_and_fallbacks_are_counted_by_backend_and_outcome():
    with Metered(edge(["on ", "device"]), cloud([GONE], ["in ", "the ", "cloud"])) as metered:
        metered.llm.generate("hi")
        metered.llm.generate("hi")
        assert metered.read("hybrid_llm_requests_total", backend="edge", outcome="ok") == 1
        assert metered.read("hybrid_llm_requests_total", backend="cloud", outcome="ok") == 1
        assert metered.read("hybrid_llm_attempts_total", backend="cloud", outcome="BackendUnavailable") == 1
        assert metered.read("hybrid_llm_attempts_total", backend="cloud", outcome="ok") == 1
        assert metered.read("hybrid_llm_fallbacks_total", first="cloud", backend="edge") == 1


def test_times_and_tokens_have_the_names_and_buckets_of_the_conventions():
    with Metered(cloud(["in ", "the ", "cloud"])) as metered:
        metered.llm.generate("hi")
        labels = {**OPERATION, "backend": "cloud"}
        seen = scrape(metered.port)
        assert metered.read("gen_ai_client_operation_duration_seconds_count", **labels, error_type="") == 1
        assert metered.read("gen_ai_client_operation_time_to_first_chunk_seconds_count", **labels) == 1
        assert metered.read("gen_ai_client_token_usage_sum", **labels, gen_ai_token_type="input") == 3
        assert metered.read("gen_ai_client_token_usage_sum", **labels, gen_ai_token_type="output") == 3
        assert metered.read("gen_ai_client_token_usage_bucket", **labels, gen_ai_token_type="input", le="4.0") == 1
        bounds = {dict(key)["le"] for name, key in seen if name == "gen_ai_client_operation_duration_seconds_bucket"}
        assert bounds == {*(str(0.01 * 2**power) for power in range(14)), "+Inf"}


def test_a_breaker_is_seen_to_open_to_let_a_probe_pass_and_to_close():
    broken = cloud([GONE], [GONE], ["back"])
    with Metered(edge(), broken) as metered:
        assert (metered.breaker("cloud"), metered.breaker("edge")) == (["closed"], ["closed"])
        metered.llm.generate("hi")
        metered.llm.generate("hi")
        assert metered.breaker("cloud") in (["open"], ["half_open"])
        until = time.monotonic() + 5.0
        while metered.breaker("cloud") != ["half_open"] and time.monotonic() < until:
            time.sleep(0.02)
        assert metered.breaker("cloud") == ["half_open"]
        assert metered.llm.generate("hi").text == "back"
        assert metered.breaker("cloud") == ["closed"]


def test_continued_and_broken_answers_are_counted_separately():
    cut = StreamInterrupted("cut", backend="cloud")
    with Metered(edge(["rest"]), cloud(["first ", cut]), more="continue_streams: true, ") as metered:
        assert metered.llm.generate("hi").continuations
        assert metered.read("hybrid_llm_continuations_total", backend="edge") == 1
    with Metered(edge(["rest"]), cloud(["first ", cut])) as metered:
        with pytest.raises(StreamInterrupted):
            metered.llm.generate("hi")
        assert metered.read("hybrid_llm_continuations_total", backend="edge") is None
        assert metered.read("hybrid_llm_requests_total", backend="", outcome="StreamInterrupted") == 1


class Silent(FakeBackend):
    """Says nothing for as long as anybody waits."""

    async def astream(self, cleared):
        import asyncio

        await asyncio.sleep(30)
        yield  # pragma: no cover


def test_hedges_are_counted_by_backend_and_outcome():
    with Metered(edge(["quick"]), Silent("cloud", Location.CLOUD), more="hedge_after: 10ms, ") as metered:
        assert metered.llm.generate("hi").text == "quick"
        assert metered.read("hybrid_llm_hedges_total", backend="edge", outcome="ok") == 1
        assert metered.read("hybrid_llm_attempts_total", backend="cloud", outcome="cancelled") == 1
        assert metered.read("hybrid_llm_hedges_total", backend="cloud", outcome="cancelled") is None
        assert metered.read("hybrid_llm_retry_budget_left", backend="cloud") == pytest.approx(9.1)


def test_refusals_failures_and_callers_who_leave_are_counted():
    with Metered(cloud(["a ", "b"], [GONE])) as metered:
        with pytest.raises(NoEligibleBackend):
            metered.llm.generate("hi", privacy={"phi"})
        with metered.llm.stream("hi") as stream:
            next(iter(stream))
        with pytest.raises(AllBackendsFailed):
            metered.llm.generate("hi")
        for outcome in ("NoEligibleBackend", "cancelled", "AllBackendsFailed"):
            assert metered.read("hybrid_llm_requests_total", backend="", outcome=outcome) == 1, outcome
        assert metered.read("hybrid_llm_excluded_total", backend="cloud") == 1


def test_an_answer_from_the_cache_is_counted_and_not_timed():
    with Metered(cloud(["same"]), cache=MemoryCache()) as metered:
        for _ in range(3):
            metered.llm.generate("hi")
        assert metered.read("hybrid_llm_cached_answers_total", backend="cloud") == 2
        assert metered.read("hybrid_llm_requests_total", backend="cloud", outcome="ok") == 3
        assert (
            metered.read("gen_ai_client_operation_duration_seconds_count", **OPERATION, backend="cloud", error_type="")
            == 1
        )


def test_policy_objectives_and_spending_are_exported():
    price = Price(input_per_1k=1.0, output_per_1k=2.0, currency="USD")
    with Metered(cloud(["a ", "b ", "c"]), prices={"cloud": price}) as metered:
        metered.llm.generate("hi")
        metered.llm.generate("hi")
        assert metered.read("hybrid_llm_spend_total", backend="cloud", currency="USD") == pytest.approx(2 * 0.009)
        assert metered.read("hybrid_llm_policy_info", policy="metered", digest=metered.llm.policy.digest) == 1
        assert metered.read("hybrid_llm_objective_seconds", objective="ttft") == 0.4
        assert metered.read("hybrid_llm_objective_seconds", objective="deadline") == 10
        assert metered.read("hybrid_llm_objective_seconds", objective="tpot") is None
        assert metered.read("hybrid_llm_backend_info", backend="cloud", location="cloud", model="fake") == 1
        assert metered.read("hybrid_llm_backend_ready", backend="cloud") == 1


def test_nothing_of_a_request_is_a_label_and_their_number_does_not_grow():
    with Metered(edge(["secret answer"]), cloud([GONE])) as metered:
        sizes = []
        for number in range(6):
            metered.llm.generate(
                f"secret prompt {number}",
                request_id=f"id-{number}",
                session_id=f"session-{number}",
                tenant=f"tenant-{number}",
                task=f"task-{number}",
            )
            sizes.append(len(scrape(metered.port)))
        with urllib.request.urlopen(f"http://127.0.0.1:{metered.port}/metrics", timeout=10) as answer:
            text = answer.read().decode()
    assert sizes[2:] == [sizes[2]] * 4
    assert not re.findall(r"secret|id-\d|session-|tenant-|task-", text)


def test_closing_the_client_stops_the_server_and_a_new_client_goes_on_counting():
    before = threading.active_count()
    with Metered(cloud()) as metered:
        metered.llm.generate("hi")
        scrape(metered.port)
    with pytest.raises(OSError, match="refused"):
        scrape(metered.port)
    assert threading.active_count() == before
    policy = metered.llm.policy
    with HybridLLM([cloud()], policy, sensors=FixedSensors(), hooks=[metered.metrics]) as again:
        port = metered.metrics.serve(port=0)
        assert scrape(port)["hybrid_llm_backend_ready", frozenset({("backend", "cloud")})] == 1
        again.generate("hi")
        assert scrape(port)["hybrid_llm_requests_total", frozenset({("backend", "cloud"), ("outcome", "ok")})] == 2


def test_metrics_join_those_of_the_app_in_its_registry():
    registry = CollectorRegistry()
    metrics = PrometheusMetrics(registry=registry)
    policy = parse_policy(POLICY.format(more=""), backends={"cloud": Location.CLOUD})
    with HybridLLM([cloud()], policy, sensors=FixedSensors(), hooks=[metrics]) as llm:
        llm.generate("hi")
        assert ("hybrid_llm_backend_ready", frozenset({("backend", "cloud")})) in samples(
            generate_latest(registry).decode()
        )
        with pytest.raises(ConfigError, match="serves one client"):
            HybridLLM([cloud()], policy, sensors=FixedSensors(), hooks=[metrics])
    with pytest.raises(ConfigError, match=r"registry=CollectorRegistry\(\)"):
        PrometheusMetrics(registry=registry)


def test_metrics_are_exported_even_if_the_sensors_fail():
    class Sick(FixedSensors):
        def read(self):
            raise RuntimeError("no idea")

    metrics = PrometheusMetrics.alone()
    policy = parse_policy(POLICY.format(more=""), backends={"cloud": Location.CLOUD})
    with HybridLLM([cloud()], policy, sensors=Sick(), hooks=[metrics]) as llm:
        port = metrics.serve(port=0)
        llm.generate("hi")
        seen = scrape(port)
    assert seen["hybrid_llm_requests_total", frozenset({("backend", "cloud"), ("outcome", "ok")})] == 1
    assert seen["hybrid_llm_backend_ready", frozenset({("backend", "cloud")})] == 1


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def configured(folder: Path, port: int) -> Path:
    path = folder / "hybrid.yaml"
    path.write_text(
        f"version: 1\npolicy: balanced\nbackends: {{edge: {{kind: onnx}}}}\nmetrics: {{listen: 127.0.0.1:{port}}}\n"
    )
    return path


def test_a_configuration_serves_metrics_until_its_client_is_closed(tmp_path):
    port = free_port()
    with HybridLLM.from_config(configured(tmp_path, port)) as llm:
        llm.generate("Is this good?", max_tokens=3)
        assert scrape(port)["hybrid_llm_requests_total", frozenset({("backend", "edge"), ("outcome", "ok")})] == 1
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_an_address_in_use_is_reported_and_nothing_stays_open(tmp_path):
    before = threading.active_count()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path = configured(tmp_path, taken.getsockname()[1])
        with pytest.raises(
            ConfigError, match=r"metrics cannot listen on 127\.0\.0\.1:\d+: Address already in use; give"
        ):
            HybridLLM.from_config(path)
        with HybridLLM.from_config(path, serve_metrics=False) as llm:
            assert llm.decide("hi").order == ("edge",)
    assert threading.active_count() == before


def test_a_client_that_cannot_be_made_leaves_no_server_behind(tmp_path):
    port = free_port()
    path = configured(tmp_path, port)
    path.write_text(path.read_text().replace("{kind: onnx}", "{kind: onnx, model: nowhere}"))
    with pytest.raises(ConfigError, match="nowhere"):
        HybridLLM.from_config(path)
    with socket.create_server(("127.0.0.1", port)):
        pass


def test_without_the_package_the_error_says_how_to_install_it(tmp_path):
    code = (
        "import sys; sys.modules['prometheus_client'] = None\n"
        "from hybrid_llm.router.observability.prometheus import PrometheusMetrics\n"
        "from hybrid_llm import HybridLLM, ConfigError\n"
        f"for make in (PrometheusMetrics, lambda: HybridLLM.from_config({str(configured(tmp_path, 9))!r})):\n"
        "    try:\n        make()\n"
        "    except ConfigError as error:\n        print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == [f"metrics need prometheus_client: {install_hint('metrics')}"] * 2


def test_the_page_for_operators_names_every_metric_and_no_other():
    page = (Path(__file__).parents[2] / "docs" / "operations.md").read_text("utf-8")
    part = page.split("## Metrics of an app")[1].split("\n## ")[0]
    told = set(re.findall(r"^\| `((?:hybrid_llm|gen_ai)_\w+)`", part, re.MULTILINE))
    registry = CollectorRegistry()
    policy = parse_policy(POLICY.format(more=""), backends={"cloud": Location.CLOUD})
    metrics = PrometheusMetrics(registry=registry)
    with HybridLLM([cloud()], policy, sensors=FixedSensors(), hooks=[metrics], cache=MemoryCache()):
        text = generate_latest(registry).decode()
    kinds = re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE)
    assert told == {name for name, _ in kinds if not name.endswith("_created")}
