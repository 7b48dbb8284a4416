"""`hybrid-llm policy simulate`: works without files, reports invalid ones, and reproduces its results."""

import gzip
import json
import shlex
import sys

import pytest

from hybrid_llm.core.extras import install_hint
from hybrid_llm.core.request import Location, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.router.observability.recorder import Outcome, Recording, dump

CLINIC = """\
version: 1
name: clinic
tags:
  phi: {allow: [edge]}
  public: {allow: [edge, cloud]}
objectives: {ttft: 300ms, deadline: 20s}
rules:
  - prefer: [cloud, edge]
    because: the cloud first
"""


@pytest.fixture
def clinic(tmp_path):
    path = tmp_path / "clinic.yaml"
    path.write_text(CLINIC, encoding="utf-8")
    return path


def simulate(cli, *arguments):
    return cli("policy", "simulate", *arguments)


def test_without_any_file_the_default_policy_is_compared_with_two_baselines(cli, caplog):
    result = simulate(cli, "--requests", 200)
    assert result.code == 0
    for word in ("balanced", "always-edge", "always-cloud", "first token, p99", "left the device", "synthetic: 200"):
        assert word in result.out
    assert "each on 3% of the requests" in result.err
    assert "failed with" not in caplog.text


def test_json_has_the_figures_of_every_policy_and_every_constant(cli, clinic):
    found = json.loads(
        simulate(cli, clinic, "--requests", 300, "--tag", "phi=50%", "--against", "balanced", "--json").out
    )
    assert [one["policy"] for one in found["policies"]] == ["clinic", "always-edge", "always-cloud", "balanced"]
    for one in found["policies"]:
        ends = ("edge", "cloud", "refused", "failed", "late", "off")
        assert sum(one[name] for name in ends) == one["requests"] == 300
        assert one["bound_left"] == 0
        assert set(one["ttft_ms"]) == {"p50", "p95", "p99"}
    first = found["policies"][0]
    assert first["would_leave"] == first["bound"] > 100
    assert first["bound_answered"] == first["edge"] > 100
    assert found["goals"] == {"ttft_ms": 300.0}
    assert found["world"]["edge.slots"] == 1


def test_the_printed_command_reproduces_the_result(cli, clinic, tmp_path):
    (tmp_path / "w.yaml").write_text("version: 1\nnode: {failure_share: 0.1}\n", encoding="utf-8")
    options = ["--requests", 150, "--seed", 7, "--tag", "phi=20%", "--rtt", "80ms", "--offline", "10m..20m"]
    options += ["--world", tmp_path / "w.yaml", "--metered", "0..5m", "--slo-ttft", "1s", "--rate", "200/h"]
    first = simulate(cli, clinic, *options, "--json")
    again = cli(*shlex.split(json.loads(first.out)["command"])[1:], "--json")
    assert again.out == first.out
    assert simulate(cli, clinic, *options[:2], "--seed", 8, *options[4:], "--json").out != first.out


def test_a_compressed_trace_is_simulated_with_a_note_on_the_load_of_a_service(cli, clinic, tmp_path):
    rows = "".join(f"2023-11-16 18:15:{n % 60:02}.5,300,40\n" for n in range(120))
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(f"TIMESTAMP,ContextTokens,GeneratedTokens\n{rows}".encode()))
    result = simulate(cli, clinic, "--trace", path, "--tag", "none")
    assert result.code == 0
    assert "Azure LLM inference trace" in result.out
    assert "it is the load of a service; --rate" in result.err
    calm = simulate(cli, clinic, "--trace", path, "--tag", "none", "--rate", "60/h", "--requests", 50)
    assert "50 requests, stretched to 60 an hour" in calm.out
    assert "load of a service" not in calm.err


def test_the_world_can_be_written_out_changed_and_given(cli, clinic, tmp_path):
    path = tmp_path / "world.yaml"
    path.write_text(simulate(cli, "--show-world").out.replace("decode_tokens_per_s: 94", "decode_tokens_per_s: 9"))
    slow = json.loads(simulate(cli, clinic, "--requests", 50, "--world", path, "--json").out)
    fast = json.loads(simulate(cli, clinic, "--requests", 50, "--json").out)
    assert slow["world"]["edge.decode_tokens_per_s"] == 9.0
    edge = [found["policies"][1]["latency_ms"]["p50"] for found in (slow, fast)]
    assert edge[0] > 2.0 * edge[1]


def test_a_fleet_takes_in_proportion_to_its_nodes(cli, tmp_path):
    """As docs/scaling.md does with 1,000 nodes: a load far beyond one node is too much for one, and not for ten."""
    policy, world = tmp_path / "fleet.yaml", tmp_path / "world.yaml"
    policy.write_text("version: 1\nname: fleet\nobjectives: {ttft: 5s, deadline: 60s}\nrules: [{prefer: [cloud]}]\n")
    missed = []
    for count in (1, 10):
        world.write_text(f"version: 1\nnode: {{count: {count}, background_streams: 0, decode_ms: 39.4}}\n")
        load = ("--requests", 600, "--rate", "40000/h", "--tag", "none", "--backend", "cloud=cloud")
        result = simulate(cli, policy, "--world", world, *load, "--json")
        assert result.code == 0, result.err
        missed.append(json.loads(result.out)["policies"][0]["missed"])
    assert missed[0] > 300
    assert missed[1] < 30


def test_policies_over_other_backends_are_simulated_too(cli, tmp_path):
    path = tmp_path / "fleet.yaml"
    path.write_text("version: 1\nname: fleet\nrules:\n  - prefer: [eu, phone]\n", encoding="utf-8")
    result = simulate(cli, path, "--backend", "phone=edge", "--backend", "eu=cloud", "--requests", 50, "--json")
    assert json.loads(result.out)["policies"][0]["cloud"] == 50


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nosuch"], 3, "nosuch"),
        (["--against", "nosuch"], 3, "nosuch"),
        (["--trace", "nosuch.csv"], 3, "the trace cannot be read"),
        (["--world", "nosuch.yaml"], 3, "the world file cannot be read"),
        (["--rtt", "nosuch.csv"], 3, "the round-trip times cannot be read"),
        (["--rtt", "30"], 2, "--rtt: `30` is not a duration such as 30ms"),
        (["--rtt-pair", "3"], 2, "--rtt-pair: `3` is not two numbers"),
        (["--offline", "10m"], 2, "--offline: `10m` is not a span such as 10m..25m"),
        (["--metered", "2h..1h"], 2, "--metered: `2h..1h` ends before it begins"),
        (["--tag", "phi"], 2, "--tag: `phi` is not TAG=SHARE such as phi=5%"),
        (["--tag", "phi=120%"], 2, "--tag: `phi=120%` is not"),
        (["--tag", "none", "--tag", "phi=1%"], 2, "--tag: `none` is not"),
        (["--tag", "ph=50%"], 3, "does not declare the tag `ph` that requests of the trace have: did you mean `phi`?"),
        (["--rate", "fast"], 2, "--rate: `fast` is not a rate such as 120/h"),
        (["--rate", "0/h"], 2, "--rate: `0/h` is not a rate"),
        (["--requests", "0"], 2, "--requests: 0 is less than 1"),
        (["--slo-ttft", "quick"], 2, "--slo-ttft: `quick` is not a duration"),
    ],
)
def test_invalid_input_is_reported_with_what_to_write(cli, arguments, code, message):
    result = simulate(cli, *arguments)
    assert result.code == code
    assert message in result.err
    assert "Traceback" not in result.err


def test_a_bad_line_of_a_trace_is_reported_with_its_number(cli, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"timestamp": 0, "input_length": 5, "output_length": 5}\n{"timestamp": 1}\n')
    result = simulate(cli, "--trace", path)
    assert result.code == 3
    assert f"{path}: line 2: `input_length` is missing" in result.err


def test_a_baseline_that_lacks_a_tag_of_the_trace_is_refused_by_name(cli, clinic):
    other = clinic.with_name("other.yaml")
    other.write_text("version: 1\nname: other\n")
    result = simulate(cli, clinic, "--requests", 50, "--tag", "phi=50%", "--against", other)
    assert result.code == 3
    assert "policy other does not declare the tag `phi`" in result.err


def test_the_report_is_written_where_it_is_asked_for(cli, clinic, tmp_path):
    pytest.importorskip("matplotlib", reason="the report needs hybrid-llm[report]")
    result = simulate(cli, clinic, "--requests", 100, "--html", tmp_path / "report.html")
    assert result.code == 0
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "Simulation of the policy clinic" in page
    assert "--requests 100" in page
    assert simulate(cli, clinic, "--requests", 10, "--html", tmp_path / "no" / "report.html").code == 1


def test_without_matplotlib_a_report_fails_before_the_simulation(cli, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = simulate(cli, "--html", tmp_path / "report.html")
    assert (result.code, result.out) == (3, "")
    assert result.err == f"hybrid-llm: --html needs matplotlib: {install_hint('report')}\n"


def test_recorded_decisions_are_simulated_with_their_own_tags_limits_and_tenants(cli, tmp_path):
    metadata = RequestMetadata.of(
        Request(messages=(), prompt_tokens=40, max_tokens=50, deadline=9.0, privacy=frozenset({"phi"}), tenant="a")
    )
    state = BackendState(name="edge", location=Location.EDGE)
    lines = [
        dump(Recording(at=1000.0 + at, metadata=metadata, signals=Signals(backends={"edge": state}), outcome=outcome))
        for at, outcome in ((0.0, Outcome(completion_tokens=7)), (30.0, Outcome(error="DeadlineExceeded")))
    ]
    path = tmp_path / "decisions.jsonl"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    result = simulate(cli, "--trace", path, "--json")
    found = json.loads(result.out)
    assert "recorded decisions" in found["trace"]
    assert "assumed tags" not in result.err
    assert [(one["requests"], one["bound"]) for one in found["policies"]] == [(2, 2)] * 3
    path.write_text(lines[0] + "\n{}\n", encoding="utf-8")
    assert simulate(cli, "--trace", path).code == 3
    assert f"{path}:2" in simulate(cli, "--trace", path).err
