"""docs/extending.md is true: its backend, engine, detector, guardrail, command and signal can be added, and work."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import textwrap
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from hybrid_llm.backends.grpc import GrpcBackend, GrpcConfig
from hybrid_llm.backends.wire import TLSFiles
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.core.clearance import _make_cleared
from hybrid_llm.core.request import Location, Message, Request
from tests.shapes import synthetic_tokenizer

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("hybrid_llm", "router", "policies", "backends", "protos")


def files_of_the_page() -> dict[str, str]:
    """The first line of each block names its file -> the lines after it."""
    page = (ROOT / "docs" / "extending.md").read_text("utf-8")
    blocks = re.findall(r"^( *)```(?:python|yaml|toml)\n(.*?)^ *```$", page, re.DOTALL | re.MULTILINE)
    texts = [textwrap.dedent(text).partition("\n") for _, text in blocks]
    return {first.removeprefix("# "): rest for first, _, rest in texts}


FILES = files_of_the_page()


@pytest.fixture(scope="module")
def package(tmp_path_factory) -> Path:
    """A folder with the package of the page as pip would install it: its modules, and its entry points."""
    folder = tmp_path_factory.mktemp("installed")
    for name, text in FILES.items():
        if name.startswith("acme_llm/"):
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    info = folder / "acme_llm-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    for group, entries in project["entry-points"].items():
        with (info / "entry_points.txt").open("a") as file:
            file.write(f"[{group}]\n" + "".join(f"{name} = {home}\n" for name, home in entries.items()))
    return folder


def python(*arguments: str, path: Path, cwd: Path) -> str:
    """What a Python with *path* installed prints."""
    environment = {**os.environ, "PYTHONPATH": str(path)}
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_addition_takes_at_most_three_files():
    per_addition = {
        "backend": ("acme_llm/backend.py", "pyproject.toml", "hybrid.yaml"),
        "engine": ("acme_llm/engine.py", "pyproject.toml"),
        "detector": ("acme_llm/detector.py", "pyproject.toml", "hybrid.yaml"),
        "guardrail": ("acme_llm/guardrail.py", "pyproject.toml", "hybrid.yaml"),
        "command": ("acme_llm/command.py", "pyproject.toml"),
        "signal": (
            "hybrid_llm/core/signals.py, in DeviceSignals",
            "router/signals/ambient.py",
            "router/signals/system.py, in system_sources",
        ),
    }
    assert {name for names in per_addition.values() for name in names} | {"policy.yaml"} == set(FILES)


def test_the_backend_answers_and_the_detector_tags_through_the_configuration(package, tmp_path):
    for name in ("hybrid.yaml", "policy.yaml"):
        (tmp_path / name).write_text(FILES[name])
    script = """
from hybrid_llm import HybridLLM
with HybridLLM.from_config("hybrid.yaml") as llm:
    reply = llm.generate("badge ACME-123456")
    print(reply.text, reply.backend, sorted(reply.decision.tags), sep="|")
    print(sorted(llm.generate("badge OTHER-123456").decision.tags))
"""
    assert python("-c", script, path=package, cwd=tmp_path) == "Echo: badge ACME-123456 |parrot|['staff']\n[]\n"


def test_the_guardrail_refuses_through_the_configuration(package, tmp_path):
    for name in ("hybrid.yaml", "policy.yaml"):
        (tmp_path / name).write_text(FILES[name])
    script = """
from hybrid_llm import ContentRefused, HybridLLM
with HybridLLM.from_config("hybrid.yaml") as llm:
    try:
        llm.generate("say darn")
    except ContentRefused as refused:
        print(refused.guardrail, refused.direction, refused.category)
"""
    assert python("-c", script, path=package, cwd=tmp_path) == "polite output impolite\n"


@pytest.mark.parametrize(
    ("entry", "message"),
    [("{kind: echo, prefixx: x}", "did you mean `prefix`?"), ("{kind: ecco}", "did you mean `echo`?")],
)
def test_the_keys_of_the_backend_are_checked_like_built_in_ones(package, tmp_path, entry, message):
    (tmp_path / "hybrid.yaml").write_text(f"version: 1\nbackends: {{parrot: {entry}}}\n")
    script = """
from hybrid_llm import ConfigError, HybridLLM
try:
    HybridLLM.from_config("hybrid.yaml")
except ConfigError as error:
    print(error)
"""
    assert message in python("-c", script, path=package, cwd=tmp_path)


@pytest.fixture
def echo_node(package, tmp_path) -> Iterator[tuple[str, Path]]:
    """A node with the engine of the page, in a process of its own: its address, and the folder of its certificates."""
    tls, model = tmp_path / "tls", tmp_path / "model"
    make_authority(tls)
    issue(tls, "node", kind="node", hosts=["localhost", "127.0.0.1"])
    issue(tls, "app", kind="client")
    model.mkdir()
    synthetic_tokenizer(1024).save(str(model / "tokenizer.json"))
    (model / "tokenizer_config.json").write_text('{"eos_token": "<|end|>"}')
    (model / "chat_template.jinja").write_text("{% for message in messages %}{{ message.content }}{% endfor %}")
    ready = tmp_path / "port"
    command = ["-m", "hybrid_llm.cli.main", "serve", "--engine", "echo", "--model", str(model), "--tls", str(tls)]
    command += ["--listen", "127.0.0.1:0", "--ready-file", str(ready)]
    with subprocess.Popen([sys.executable, *command], env={**os.environ, "PYTHONPATH": str(package)}) as node:
        try:
            end = time.monotonic() + 60
            while not ready.exists():
                assert node.poll() is None
                assert time.monotonic() < end, "the node did not become ready"
                time.sleep(0.05)
            yield f"127.0.0.1:{ready.read_text().strip()}", tls
        finally:
            node.terminate()
            node.wait(20)


def test_the_engine_serves_over_grpc_with_mutual_tls(echo_node):
    target, tls = echo_node
    backend = GrpcBackend(GrpcConfig(target=target, tls=TLSFiles.from_dir(tls, "app")))
    try:
        request = Request(messages=(Message(role="user", content="abc to the node"),), deadline=30.0)
        chunks = list(backend.stream(_make_cleared(request, Location.CLOUD)))
        assert "".join(chunk.text for chunk in chunks) == "abc to the node"
        assert backend.probe().engine == "echo"
    finally:
        backend.close()


def test_the_command_shows_in_the_help_and_runs(package, tmp_path):
    program = ("-m", "hybrid_llm.cli.main")
    overview = python(*program, "--help", path=package, cwd=tmp_path)
    assert re.search(r"^ +tokens +from the package acme-llm$", overview, re.MULTILINE)
    assert "Count the tokens of a prompt." in python(*program, "tokens", "--help", path=package, cwd=tmp_path)
    assert int(python(*program, "tokens", "Hello", path=package, cwd=tmp_path)) > 1


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the library with the signal of the page added, in the three files that it names."""
    folder = tmp_path_factory.mktemp("checkout")
    ignore = shutil.ignore_patterns("__pycache__", "*.onnx*")
    for room in ROOMS:
        shutil.copytree(ROOT / room, folder / room, symlinks=True, ignore=ignore)
    (folder / "router/signals/ambient.py").write_text(FILES["router/signals/ambient.py"])
    insert(
        folder / "hybrid_llm/core/signals.py",
        FILES["hybrid_llm/core/signals.py, in DeviceSignals"],
        before=r"\n\n@dataclass\(.*\)\nclass NetworkSignals",
    )
    system = folder / "router/signals/system.py"
    insert(system, FILES["router/signals/system.py, in system_sources"], before=r"\n    fast: ")
    insert(system, "fast.append(AmbientSource)", before=r"\n    return \[source\(Files\(root")
    return folder


def insert(file: Path, text: str, *, before: str) -> None:
    whole = file.read_text("utf-8")
    (at,) = [found.start() for found in re.finditer(before, whole)]
    file.write_text(whole[:at] + "\n" + textwrap.indent(text.strip("\n"), "    ") + whole[at:])


def test_the_signal_is_read_and_a_rule_may_use_it(checkout, tmp_path):
    sensor = tmp_path / "sys/bus/iio/devices/iio:device0/in_temp_input"
    sensor.parent.mkdir(parents=True)
    sensor.write_text("41500\n")
    script = f"""
import hybrid_llm
from pathlib import Path
from hybrid_llm.core.request import Location, Message, Request, RequestMetadata
from hybrid_llm.core.signals import BackendState, Signals
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import SystemSensors

assert hybrid_llm.__file__.startswith({str(checkout)!r}), hybrid_llm.__file__
policy = parse_policy('''
version: 1
name: hot
rules:
  - exclude: edge
    when: has(device.ambient_c) && device.ambient_c > 35.0
''')
sensors = SystemSensors(root=Path({str(tmp_path)!r}))
device, network = sensors.read()
sensors.close()
backends = {{place.value: BackendState(name=place.value, location=place) for place in Location}}
metadata = RequestMetadata.of(Request(messages=(Message(role="user", content="x"),)))
decision = policy.decide(metadata, Signals(device=device, network=network, backends=backends))
print(device.ambient_c, decision.order)
"""
    assert python("-c", script, path=checkout, cwd=tmp_path) == "41.5 ('cloud',)\n"
