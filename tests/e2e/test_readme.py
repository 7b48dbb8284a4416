"""What the README shows is true: its configuration, its policy and its Python run as they stand, over a real node."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.cli.demo.command import SCENES
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.observability.recorder import DecisionRecorder

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [text for kind, text in re.findall(r"```(\w*)\n(.*?)```", README, flags=re.DOTALL) if kind == language]


@pytest.fixture
def folder(tmp_path, node) -> Path:
    """A folder as the README describes it, with this node's port."""
    config, policy = blocks("yaml")
    (tmp_path / "hybrid.yaml").write_text(config.replace("7443", str(node.port)))
    (tmp_path / "policy.yaml").write_text(policy)
    shutil.copytree(node.tls, tmp_path / "tls")
    return tmp_path


@pytest.mark.parametrize("index", range(len(blocks("python"))))
def test_the_python_of_the_readme_runs(folder, index):
    code = blocks("python")[index]
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() or index == 2


def test_the_policy_of_the_readme_is_right():
    assert parse_policy(blocks("yaml")[1]).name == "clinic"


def commands(start: str) -> list[list[str]]:
    """The command lines of the README that begin so, without their comments."""
    lines = [line.split(" #")[0].strip() for line in README.splitlines()]
    return [shlex.split(line) for line in lines if line.startswith(f"hybrid-llm {start} ")]


def hybrid_llm(arguments: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "hybrid_llm.cli.main", *arguments[1:]]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


@pytest.fixture
def recorded(folder) -> Path:
    """The folder with the decisions of one request in it."""
    with HybridLLM.from_config(folder / "hybrid.yaml", hooks=[DecisionRecorder(folder / "decisions.jsonl")]) as llm:
        llm.generate("What is 12 + 30?", max_tokens=4)
    return folder


@pytest.mark.parametrize("command", commands("policy"), ids=lambda command: command[2])
def test_an_integrator_can_type_what_the_readme_shows(recorded, command):
    done = hybrid_llm(command, recorded)
    assert done.returncode in ({0, 1} if command[2] == "diff" else {0}), done.stdout + done.stderr
    assert done.stdout.strip()
    if command[2] == "explain":
        assert "pii" in done.stdout


def test_an_operator_can_type_what_the_readme_shows(tmp_path):
    for command in commands("certs"):
        assert hybrid_llm(command, tmp_path).returncode == 0
    assert {path.name for path in (tmp_path / "tls").iterdir()} >= {"ca.pem", "node.pem", "app.pem", "app.key"}
    (serve,) = commands("serve")
    assert (ROOT / serve[serve.index("--model") + 1] / "config.json").is_file()


def test_the_table_of_the_readme_is_that_of_the_demonstration_and_fits_a_terminal():
    (table,) = [block for block in blocks("") if block.startswith("request ")]
    titles = [line[:17].rstrip() for line in table.splitlines()[2:]]
    assert titles == [scene.title for scene in SCENES]
    assert all(line.endswith("ok") for line in table.splitlines()[2:])
    assert max(map(len, table.splitlines())) <= 120


def test_every_page_that_is_linked_is_there():
    pages = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    for page, base in zip(pages, [ROOT, *[ROOT / "docs"] * (len(pages) - 1)], strict=True):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
            assert (base / link).exists(), link
