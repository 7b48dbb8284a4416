"""`hybrid-llm doctor`: every part is checked, each fault has a remedy, and no check breaks the others."""

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from importlib import metadata

import pytest

from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.cli.doctor_checks import Setup, check_clock, run_checks
from hybrid_llm.cli.findings import Status, ok
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.extras import install_hint
from tests.backends.http.server import scripted


def examine(cli, *arguments):
    result = cli("doctor", "--json", *arguments)
    found = json.loads(result.out)
    assert result.code == (1 if any(item["status"] == "fault" for item in found) else 0)
    assert all(item["remedy"] for item in found if item["status"] != "ok")
    return found


def faults(found):
    return [item["message"] for item in found if item["status"] == "fault"]


def test_a_sound_installation_has_no_fault_and_every_part_was_checked(cli):
    found = examine(cli)
    assert faults(found) == []
    assert {item["check"] for item in found} >= {
        "python",
        "packages",
        "runtime",
        "model edge",
        "names",
        "policy",
        "sensors",
    }
    assert any("answered" in item["message"] for item in found)


VLLM = {"data": [{"id": "m", "owned_by": "vllm", "max_model_len": 4096}]}


@pytest.mark.parametrize(
    ("reported", "model", "more", "status", "said"),
    [
        (VLLM, "m", "", ["ok"], "is vllm; 4096 tokens, tools yes"),
        (VLLM, "other", "", ["fault", "ok"], "does not list the model other"),
        ({"data": [{"id": "m"}]}, "other", "", ["warning", "ok"], "does not list the model other"),
        (401, "m", "", ["fault"], "does not accept the key"),
        (503, "m", "", ["fault"], "answered 503"),
        (VLLM, "m", ", api_key: {file: missing.key}", ["fault"], "missing.key"),
        (VLLM, "m", ", context_window: 9", ["ok"], "9 tokens"),
    ],
)
def test_a_server_of_others_is_asked_what_it_is(cli, tmp_path, reported, model, more, status, said):
    config = tmp_path / "hybrid.yaml"
    with scripted([]) as server:
        server.described = {"/v1/models": reported}
        config.write_text(
            f'version: 1\nbackends: {{cloud: {{kind: openai, base_url: "{server.url}", model: {model}{more}}}}}'
        )
        found = [item for item in examine(cli, "--config", config) if item["check"] == "backend cloud"]
    assert [item["status"] for item in found] == status
    assert said in found[0]["message"]
    assert server.bodies == []


def test_a_url_without_its_path_is_a_warning(cli, tmp_path):
    config = tmp_path / "hybrid.yaml"
    with scripted([]) as server:
        server.described = {"/v1/models": VLLM}
        url = server.url.removesuffix("/v1")
        config.write_text(f'version: 1\nbackends: {{cloud: {{kind: openai, base_url: "{url}", model: m}}}}')
        found = [item for item in examine(cli, "--config", config) if item["check"] == "backend cloud"]
    assert [item["status"] for item in found] == ["warning", "ok"]
    assert (found[0]["message"], found[0]["remedy"]) == (
        f"{url} lists no models",
        "end `base_url` with /v1, as most servers have it",
    )


@pytest.mark.parametrize(
    ("section", "status", "said"),
    [
        ("drain: 5s", ["ok"], "http://127.0.0.1:8080 for this machine"),
        ("listen: 0.0.0.0:8443", ["fault"], "which need keys"),
        ("listen: 0.0.0.0:8443, keys: keys.json", ["warning", "ok"], "in the clear"),
        ("keys: absent.json", ["fault"], "absent.json is not there"),
        ("tls: {cert: absent.pem, key: absent.key}", ["fault"], "no certificate with its key"),
    ],
)
def test_a_gateway_that_would_not_start_is_a_fault(cli, tmp_path, section, status, said):
    config = tmp_path / "hybrid.yaml"
    (tmp_path / "keys.json").write_text(json.dumps([{"sha256": "a" * 64, "tenant": "acme"}]))
    config.write_text(f"version: 1\nbackends: {{edge: {{kind: onnx, model: embedded}}}}\ngateway: {{{section}}}\n")
    found = [item for item in examine(cli, "--config", config) if item["check"] == "gateway"]
    assert [item["status"] for item in found] == status
    assert said in found[0]["message"]


def test_a_server_that_cannot_be_reached_and_one_in_the_clear_are_named(cli, tmp_path):
    config = tmp_path / "hybrid.yaml"
    clear = '{kind: anthropic, base_url: "http://192.0.2.1:9", model: m, insecure: true, connect_timeout: 50ms}'
    gone = '{kind: openai, base_url: "http://127.0.0.1:9/v1", model: m}'
    config.write_text(f"version: 1\nbackends: {{clear: {clear}, gone: {gone}}}")
    found = {item["check"]: item for item in reversed(examine(cli, "--config", config))}
    assert (found["backend clear"]["status"], found["backend gone"]["status"]) == ("warning", "fault")
    assert "192.0.2.1:9 in the clear" in found["backend clear"]["message"]
    checked = cli("policy", "check", "balanced", "--config", config)
    assert (checked.code, "prompts go to 192.0.2.1:9 in the clear" in checked.err) == (0, True)


def test_a_misspelt_environment_variable_is_a_warning_each_time_and_one_that_a_file_names_is_none(
    cli, monkeypatch, tmp_path
):
    monkeypatch.setenv("HYBRID_LLM_CONFG", "hybrid.yaml")
    monkeypatch.setenv("HYBRID_LLM_CLOUD_KEY", "k")
    config = tmp_path / "hybrid.yaml"
    cloud = '{kind: openai, base_url: "http://127.0.0.1:9/v1", model: any, api_key: {env: HYBRID_LLM_CLOUD_KEY}}'
    config.write_text("version: 1\nbackends:\n  cloud: " + cloud)
    for _ in range(2):
        found = [item for item in examine(cli, "--config", config) if item["check"] == "environment"]
        assert [item["status"] for item in found] == ["warning"]
        assert "did you mean HYBRID_LLM_CONFIG?" in found[0]["message"]


def test_an_extra_that_is_not_installed_is_ok_and_the_remedy_installs_it(cli, monkeypatch):
    version = metadata.version

    def without_torch(name):
        if name == "torch":
            raise metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(metadata, "version", without_torch)
    (node,) = (item for item in examine(cli) if item["message"].startswith("extra node"))
    assert node["message"] == "extra node: optional, not installed (torch); only for hybrid-llm serve"
    assert (node["status"], node["remedy"]) == ("ok", install_hint("node"))


def test_the_text_has_one_line_per_finding_and_a_verdict(cli):
    result = cli("doctor")
    assert result.code == 0
    assert "ok       python: Python 3." in result.out
    assert result.out.endswith("no faults\n")


def test_a_node_that_answers_is_described_with_clock_and_context(cli, configure, node, tls):
    found = examine(cli, "--config", configure(node.port, edge=True), "--tls", tls)
    assert faults(found) == []
    text = " ".join(item["message"] for item in found)
    for part in ("TLSv1.3", "slow on cpu, 2048 tokens", "the node's clock is 0.", "valid until"):
        assert part in text


def test_an_unreachable_node_is_a_fault_with_a_remedy(cli, tls):
    found = examine(cli, "--tls", tls, "--target", "127.0.0.1:1")
    assert faults(found) == ["nothing listens on 127.0.0.1:1; is the node running?"]


def test_a_node_under_another_name_or_authority_is_a_fault_that_says_which(cli, node, tls, tmp_path):
    target = f"127.0.0.1:{node.port}"
    (name,) = faults(examine(cli, "--tls", tls, "--target", target, "--server-name", "elsewhere.example"))
    assert "does not name elsewhere.example" in name
    make_authority(tmp_path / "other", name="somebody else")
    issue(tmp_path / "other", "app")
    (authority,) = faults(examine(cli, "--tls", tmp_path / "other", "--target", target))
    assert "another authority" in authority


def test_each_certificate_that_expires_soon_or_is_invalid_is_reported(cli, tmp_path):
    make_authority(tmp_path)
    issue(tmp_path, "soon", days=3)
    issue(tmp_path, "old", days=7, not_before=datetime.now(UTC) - timedelta(days=9))
    issue(tmp_path, "mixed")
    issue(tmp_path, "other")
    (tmp_path / "mixed.key").write_bytes((tmp_path / "other.key").read_bytes())
    (tmp_path / "other.key").chmod(0o644)
    found = {item["check"]: item for item in examine(cli, "--tls", tmp_path) if item["check"].startswith("certificate")}
    assert "2 days left" in found["certificate soon"]["message"]
    assert "expired" in found["certificate old"]["message"]
    assert "is not the key of" in found["certificate mixed"]["message"]
    assert found["certificate other"]["remedy"].startswith("chmod 600")
    assert (
        found["certificate soon"]["remedy"] == f"renew it: hybrid-llm certs issue {tmp_path} --name soon --kind client"
    )
    assert [found[f"certificate {name}"]["status"] for name in ("soon", "old", "mixed", "other")] == [
        "warning",
        "fault",
        "fault",
        "warning",
    ]


def test_an_invalid_configuration_is_a_fault_and_the_rest_is_still_checked(cli, tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text("version: 1\nbackends: {edge: {kind: onx}}\n", encoding="utf-8")
    found = examine(cli, "--config", path)
    assert len(faults(found)) == 1
    assert found[-1]["check"] == "sensors"


def test_only_configured_models_are_checked(cli, configure):
    assert "model edge" not in {item["check"] for item in examine(cli, "--config", configure(1))}


def test_a_target_without_a_client_certificate_and_an_empty_folder_are_faults(cli, tmp_path):
    assert "client certificate" in faults(examine(cli, "--target", "127.0.0.1:1"))[0]
    assert "no certificate" in faults(examine(cli, "--tls", tmp_path))[0]


def test_a_check_that_breaks_is_a_finding_and_the_others_go_on():
    def breaks(_):
        yield ok("a", "before")
        raise ZeroDivisionError("x")

    def refuses(_):
        raise ConfigError("mend it")
        yield

    def lacks(_):
        raise ModuleNotFoundError("No module named 'grpc'", name="grpc")
        yield

    checks = {"a": breaks, "b": refuses, "c": lacks, "d": lambda _: iter([ok("d", "after")])}
    found = list(run_checks(checks, Setup()))
    assert [item.status for item in found] == [Status.OK, Status.FAULT, Status.FAULT, Status.FAULT, Status.OK]
    assert "ZeroDivisionError" in found[1].message
    assert found[3].remedy == "reinstall hybrid-llm"


def test_a_package_that_is_missing_is_a_fault_for_doctor_and_one_message_elsewhere():
    def without_yaml(*arguments):
        program = f"import sys; sys.modules['yaml'] = None; from hybrid_llm.cli.main import main; main({arguments!r})"
        return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)

    doctor = without_yaml("doctor")
    assert "FAULT    policy: yaml cannot be imported" in doctor.stdout
    assert "-> reinstall hybrid-llm" in doctor.stdout
    assert "ok       runtime" in doctor.stdout
    other = without_yaml("policy", "check", "balanced")
    assert other.stderr.startswith("hybrid-llm: yaml is missing: reinstall hybrid-llm")


@pytest.mark.parametrize(
    ("skew", "status"), [(0.2, "ok"), (-4.9, "ok"), (6.0, "warning"), (-299.0, "warning"), (301.0, "fault")]
)
def test_clocks_that_differ_are_judged_by_how_much(skew, status):
    finding = check_clock("node", skew)
    assert finding.status == status
    assert bool(finding.remedy) is (status != "ok")
    assert ("behind" if skew < 0 else "ahead") in finding.message
