"""The Compose file: valid by the published schema, its commands parse, its job makes certificates that work."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hybrid_llm import HybridLLM
from hybrid_llm.backends.wire.certificates import TLSFiles
from hybrid_llm.cli.main import build_parser, main
from hybrid_llm.core.request import Location, Message, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, NetworkSignals, Signals
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.config import load_config
from tests.backends.wire import fakes
from tests.gateway.conftest import served
from tests.gateway.test_http import ASKED, CHAT, send

FOLDER = Path(__file__).resolve().parents[2] / "deploy" / "compose"
FILE = yaml.safe_load((FOLDER / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = FILE["services"]
OURS = [
    name for name, service in SERVICES.items() if "command" in service and service["image"].startswith("hybrid-llm")
]


def test_it_is_valid_by_the_schema_of_compose() -> None:
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*words, str(FOLDER / "compose.yaml")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_schema_finds_a_key_that_does_not_exist(tmp_path: Path) -> None:
    path = tmp_path / "compose.yaml"
    path.write_text((FOLDER / "compose.yaml").read_text("utf-8").replace("read_only:", "readonly:"), encoding="utf-8")
    words = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    assert subprocess.run([*words, str(path)], capture_output=True, check=False).returncode == 1


@pytest.mark.parametrize("name", OURS)
def test_every_command_and_health_check_parses(name: str) -> None:
    service = SERVICES[name]
    args = build_parser(service["command"]).parse_args(service["command"])
    assert callable(args.run)
    kind, program, *health = service["healthcheck"]["test"]
    assert (kind, program) == ("CMD", "hybrid-llm")
    assert callable(build_parser(health).parse_args(health).run)
    if service["command"][0] == "serve":
        assert int(service["stop_grace_period"].removesuffix("s")) > args.grace


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_has_more_rights_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    if name in OURS:
        assert service["user"] == "65532:65532"
        assert service["networks"] == ["inside"]
        assert "ports" not in service
    for volume in service["volumes"]:
        source, _, rest = volume.partition(":")
        if source.startswith("."):
            made = {"./model", "./secrets"}
            assert source in made or (FOLDER / source).exists()
        else:
            assert source in FILE["volumes"]
        assert rest.endswith(":ro") or name == "certificates"
    assert name == "certificates" or "authority" not in str(service["volumes"])
    assert FILE["networks"]["inside"] == {"internal": True}


@pytest.fixture
def job(tmp_path: Path) -> Iterator[Any]:
    """Runs the job of certificates with folders of this machine for its volumes."""
    folders = {name: tmp_path / name.lower() for name in ("AUTHORITY", "NODE", "GATEWAY", "SECRETS")}
    for folder in folders.values():
        folder.mkdir()
    program = tmp_path / "bin" / "hybrid-llm"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m hybrid_llm.cli.main "$@"\n', encoding="ascii")
    program.chmod(0o755)
    variables = {name: str(folder) for name, folder in folders.items()}
    variables |= {"OWNER": f"{os.getuid()}:{os.getgid()}", "PATH": f"{program.parent}:{os.environ['PATH']}"}

    def run(*words: str, **more: str) -> dict[str, Path]:
        script = ["sh", str(FOLDER / "certificates.sh"), *words]
        done = subprocess.run(
            script, capture_output=True, text=True, env={**os.environ, **variables, **more}, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return folders

    return run


def test_the_job_makes_what_a_node_a_probe_a_gateway_and_an_app_need(job: Any, tmp_path: Path, capfd: Any) -> None:
    folders = job(NODE_HOSTS="localhost node.example")
    key = (folders["SECRETS"] / "key").read_text().strip()
    config = (FOLDER / "hybrid.yaml").read_text("utf-8").replace("/tls/", f"{folders['GATEWAY']}/")
    with fakes.Node(TLSFiles.from_dir(folders["NODE"], "node")) as node:
        health = ["health", node.target, "--tls", str(folders["NODE"]), "--name", "probe", "--quiet"]
        assert main(health) == 0
        assert main([*health, "--server-name", "node.example"]) == 0
        path = tmp_path / "hybrid.yaml"
        path.write_text(config.replace("node:7443", node.target), encoding="utf-8")
        shutil.copy(FOLDER / "policy.yaml", tmp_path)
        loaded = load_config(path)
        with served(HybridLLM.from_config(path), keys=loaded.gateway.keys) as url:
            assert send(url, CHAT, ASKED).status == 401
            reply = send(url, CHAT, ASKED, authorization=f"Bearer {key}")
            assert reply.document["choices"][0]["message"]["content"] == "hello from the node"
        job("app", "phone")
        assert main(["health", node.target, "--tls", str(folders["SECRETS"]), "--name", "phone"]) == 0


def test_a_gateway_calls_its_node_where_the_network_has_no_way_out() -> None:
    """The built-in policies take that for a device that is offline; the chart's default is the same file."""
    text = (FOLDER / "policy.yaml").read_text("utf-8")
    policy = parse_policy(text, backends={"cloud": Location.CLOUD})
    metadata = RequestMetadata.of(Request(messages=(Message(role="user", content="hello"),)))
    backends = {"cloud": BackendState(name="cloud", location=Location.CLOUD)}
    offline = Signals(network=NetworkSignals(online=False), backends=backends)
    assert policy.decide(metadata, offline).order == ("cloud",)
    assert (FOLDER.parent / "helm" / "hybrid-llm" / "files" / "policy.yaml").read_text("utf-8") == text


def test_the_job_renews_certificates_and_keeps_the_authority_and_the_key(job: Any) -> None:
    folders = job()
    names = {"AUTHORITY": "ca.pem", "SECRETS": "key", "GATEWAY": "keys.json", "NODE": "node.pem"}
    before = {name: (folders[folder] / name).read_bytes() for folder, name in names.items()}
    for folder in ("NODE", "GATEWAY"):
        assert not (folders[folder] / "ca.key").exists()
        for path in folders[folder].iterdir():
            assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    job()
    after = {name: (folders[folder] / name).read_bytes() for folder, name in names.items()}
    assert {name for name in after if after[name] != before[name]} == {"node.pem"}
