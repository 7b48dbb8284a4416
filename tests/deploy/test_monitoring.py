"""The shipped alerts and dashboards ask for what a node and an app export: a real Prometheus scrapes both."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from hybrid_llm.backends.wire import TLSFiles, issue, make_authority
from hybrid_llm.backends.wire.revocation import revoke
from hybrid_llm.backends.wire.sealing.keys import write_key
from hybrid_llm.backends.wire.sealing.pins import SealedSpec
from hybrid_llm.backends.wire.sealing.suites import HYBRID
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.prometheus import PrometheusMetrics
from hybrid_llm.router.signals import FixedSensors
from tests.backends.wire import fakes

MONITORING = Path(__file__).parents[2] / "deploy" / "monitoring"
PROMETHEUS, PROMTOOL = shutil.which("prometheus"), shutil.which("promtool")
SILENT = {
    "hybrid_llm_hedges_total",
    "hybrid_llm_fallbacks_total",
    "hybrid_llm_continuations_total",
    "hybrid_llm_excluded_total",
    "hybrid_llm_spend_total",
    "hybrid_llm_node_health",
}
"""Metrics that exist only once something happened that does not happen here; tests/router/test_metrics.py has them."""
EMPTY = {"app: Requests that fail A"}
"""A panel that is empty while all goes well."""
POLICY = """\
version: 1
name: watched
objectives: {ttft: 400ms}
rules: [{prefer: cloud, because: there is nothing else}]
resilience: {retries: 0}
"""


def expressions():
    """Where it stands -> the expression, of all alerts and panels."""
    found = {}
    for group in yaml.safe_load((MONITORING / "alerts.yaml").read_text())["groups"]:
        found |= {rule["alert"]: rule["expr"] for rule in group["rules"]}
    for path in sorted((MONITORING / "grafana").glob("*.json")):
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel["targets"]:
                expr = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
                found[f"{path.stem}: {panel['title']} {target['refId']}"] = expr
    return found


def metrics_in(expr):
    return set(re.findall(r"(?:hybrid_llm_|gen_ai_client|vllm:)[a-z_0-9:]*", expr))


@pytest.fixture(scope="module")
def scraped(tmp_path_factory):
    """A node and an app after a few requests, and what both export."""
    folder = tmp_path_factory.mktemp("monitoring")
    make_authority(folder)
    issue(folder, "node", kind="node", hosts=["127.0.0.1"], days=5)
    issue(folder, "app", days=300)
    revoke(folder, [], days=3)
    pinned = write_key(folder / "sealing", "one", suite=HYBRID, days=2)
    (folder / "pins").write_text(pinned.line())
    policy = parse_policy(POLICY, backends={"cloud": Location.CLOUD})
    app = PrometheusMetrics.alone()
    with fakes.Node(TLSFiles.from_dir(folder, "node"), metrics="127.0.0.1:0", sealed=folder / "sealing") as node:
        sealed = SealedSpec(keys=folder / "pins")
        backend = fakes.backend(node.target, TLSFiles.from_dir(folder, "app"), sealed=sealed)
        node_port = node.server._observers._reporters[0]._server.port
        with HybridLLM([backend], policy, sensors=FixedSensors(), hooks=[app]) as llm:
            app_port = app.serve(port=0)

            def ask():
                for _ in range(3):
                    llm.generate("what Zw3f wrote", tenant="tenant-Zw3f", request_id="id-Zw3f")

            ask()
            yield {"node": node_port, "app": app_port, "ask": ask}


def scrape(port, accept="*/*"):
    asked = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(asked, timeout=10) as answer:
        return answer.read().decode()


def test_every_metric_that_is_asked_for_is_exported(scraped):
    exported = set(re.findall(r"^([a-zA-Z_:][\w:]*)", scrape(scraped["node"]) + scrape(scraped["app"]), re.MULTILINE))
    for where, expr in expressions().items():
        assert metrics_in(expr) - exported - SILENT == set(), where


def test_a_scrape_of_a_node_has_the_names_that_schedulers_read_and_nothing_of_a_client(scraped):
    text = scrape(scraped["node"], "application/openmetrics-text;version=1.0.0")
    for name in ("num_requests_waiting", "num_requests_running", "kv_cache_usage_perc"):
        assert re.search(rf'^vllm:{name}{{model_name="fake-model"}} 0.0$', text, re.MULTILINE)
    assert 'vllm:cache_config_info{block_size="16"' in text
    assert "vllm:lora_requests_info{" in text
    assert 'vllm:prefix_cache_queries_total{model_name="fake-model"}' in text
    assert 'hybrid_llm_node_calls_total{model_name="fake-model",outcome="ok"} 3.0' in text
    assert "Zw3f" not in text
    assert "spiffe" not in text


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed: apt-get install prometheus")
def test_promtool_finds_nothing_wrong():
    subprocess.run([PROMTOOL, "check", "rules", MONITORING / "alerts.yaml"], check=True, capture_output=True)
    subprocess.run([PROMTOOL, "check", "config", MONITORING / "prometheus.yml"], check=True, capture_output=True)


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed: apt-get install prometheus")
def test_a_real_prometheus_answers_every_expression(scraped, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    targets = [f"127.0.0.1:{scraped['node']}", f"127.0.0.1:{scraped['app']}"]
    jobs = [{"job_name": "all", "scrape_interval": "1s", "static_configs": [{"targets": targets}]}]
    rules = str(MONITORING / "alerts.yaml")
    (tmp_path / "p.yml").write_text(yaml.safe_dump({"rule_files": [rules], "scrape_configs": jobs}))
    command = [PROMETHEUS, f"--config.file={tmp_path / 'p.yml'}", f"--storage.tsdb.path={tmp_path / 'data'}"]
    with subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}", "--log.level=error"]) as server:
        try:
            _wait_for(lambda: is_ready(port))
            _wait_for(lambda: all(row["value"][1] == "1" for row in query(port, "up")) and len(query(port, "up")) == 2)
            scraped["ask"]()
            _wait_for(lambda: query(port, "sum(rate(vllm:prompt_tokens_total[1m])) > 0"))
            due = {name: {(row["metric"]["what"], row["metric"].get("backend")) for row in query(port, expression)}
                   for name, expression in expressions().items() if name.endswith(("Expires", "Due"))}  # fmt: skip
            assert due == {
                "CertificateExpires": {("certificate", None)},
                "AuthorityExpires": set(),
                "RevocationListDue": {("revocation_list", None), ("revocation_list", "cloud")},
                "SealingKeyExpires": {("sealing_key", None), ("pinned_key", "cloud")},
            }
            for where, expr in expressions().items():
                query(port, expr)
                if ": " in where and where not in EMPTY and not metrics_in(expr) & SILENT:
                    _wait_for(lambda expr=expr: query(port, expr), f"{where} shows nothing")
        finally:
            server.terminate()


def is_ready(port):
    """While Prometheus starts, it refuses connections, then answers 503."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/-/ready", timeout=10):
            return True
    except urllib.error.URLError:
        return False


def query(port, expr):
    url = f"http://127.0.0.1:{port}/api/v1/query?" + urllib.parse.urlencode({"query": expr})
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return json.load(answer)["data"]["result"]
    except urllib.error.HTTPError as error:
        raise AssertionError(f"{expr}: {error.read().decode()}") from None


def _wait_for(condition, otherwise="nothing came"):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.2)
