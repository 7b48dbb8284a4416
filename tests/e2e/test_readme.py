"""What the README shows is true: its configuration, its policy and its Python run as they stand, over a real node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm.policies import parse_policy

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


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


def test_every_page_that_is_linked_is_there():
    pages = [README, *(path.read_text(encoding="utf-8") for path in (ROOT / "docs").glob("*.md"))]
    for page, base in zip(pages, [ROOT, *[ROOT / "docs"] * (len(pages) - 1)], strict=True):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page):
            assert (base / link).exists(), link
