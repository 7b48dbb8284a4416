"""No optional part fetches from, or reports to, a network that the user did not name.

Each runs in a namespace without a network; a hook of Python and a socket that gets every packet are the witnesses.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.network import NOT_ALLOWED
from tests.offline.parts import CAUGHT, PARTS, ROOT

NEIGHBOURS = {
    "langchain": "langchain_core",
    "llama-index": "llama_index",
    "pydantic-ai": "pydantic_ai",
    "litellm": "litellm",
    "llm": "llm",
}
"""Libraries that use us, in the environment of `make clients`: extra -> module."""
NOT_IN_DEV = {"gpu": "pynvml", "litert-convert": "litert_torch", "ray": "ray", "federated": "flwr", **NEIGHBOURS}
"""Parts that the development environment has not, and the module that each imports; `gpu` needs hardware, `ray`
is large."""


def attempts(part: str, folder: Path) -> list[str]:
    """What *part* tried to reach; with a home directory of its own, so that nothing is there in a cache."""
    command = [sys.executable, str(Path(__file__).with_name("parts.py")), part, str(folder)]
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_HOME", "_CACHE", "_OFFLINE"))}
    environment = {**kept, "HOME": str(folder / "home")}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, env=environment)
    if ran.returncode == NOT_ALLOWED:
        pytest.skip(f"this machine allows no network namespace: {ran.stdout.strip()}")
    assert ran.returncode == 0, ran.stderr[-4000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("part", PARTS)
def test_a_part_reaches_for_no_network(part, tmp_path):
    if part in NOT_IN_DEV and find_spec(NOT_IN_DEV[part]) is None:
        pytest.skip(f"{NOT_IN_DEV[part]} is not installed: pip install 'hybrid-llm[{part}]'")
    assert attempts(part, tmp_path) == []


@pytest.mark.parametrize("part", CAUGHT)
def test_the_witnesses_see_an_attempt(part, tmp_path):
    assert attempts(part, tmp_path)


def test_every_extra_is_among_the_parts():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    assert set(PARTS) == {"base", *extras} - {"dev"}
