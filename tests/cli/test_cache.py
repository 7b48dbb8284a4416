"""`hybrid-llm cache` shows what the cache on disk holds and saved, and clears it; doctor names what is wrong."""

from __future__ import annotations

import json

import pytest

from hybrid_llm.router.client import HybridLLM

CONFIG = """\
version: 1
backends:
  edge: {kind: onnx, model: embedded, price: {input_per_1k: 1.0, output_per_1k: 2.0, currency: USD}}
cache: {kind: disk, path: answers.db, size: 4 MiB, max_age: 2d, key: {file: own.key}}
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "hybrid.yaml"
    path.write_text(CONFIG)
    return path


@pytest.fixture
def used(config):
    with HybridLLM.from_config(config) as llm:
        replies = [llm.generate("Is this good?", temperature=0, max_tokens=4) for _ in range(3)]
    assert [reply.cached for reply in replies] == [False, True, True]
    return config, replies[0]


def test_the_statistics_are_those_of_all_clients(cli, used):
    config, reply = used
    with HybridLLM.from_config(config) as llm:
        assert llm.generate("Is this good?", temperature=0, max_tokens=4).cached
    found = json.loads(cli("cache", "stats", "--config", config, "--json").out)
    usage, saved = reply.usage, found["saved"]
    assert (found["answers"], found["hits"], found["misses"], found["joined"]) == (1, 3, 1, 0)
    assert found["hit_ratio"] == 0.75
    assert (saved["prompt_tokens"], saved["completion_tokens"]) == (
        3 * usage.prompt_tokens,
        3 * usage.completion_tokens,
    )
    assert saved["spend"]["USD"] == pytest.approx(
        3 * (usage.prompt_tokens * 1.0 + usage.completion_tokens * 2.0) / 1000
    )
    assert saved["seconds"] > 0
    shown = cli("cache", "stats", "--config", config).out
    assert "75.0%" in shown
    assert "saved USD" in shown


def test_clearing_removes_every_answer(cli, used):
    config, _ = used
    assert "removed 1 answer\n" in cli("cache", "clear", "--config", config).err
    assert json.loads(cli("cache", "stats", "--config", config, "--json").out)["answers"] == 0
    with HybridLLM.from_config(config) as llm:
        assert not llm.generate("Is this good?", temperature=0, max_tokens=4).cached


@pytest.mark.parametrize(
    ("cache", "says"),
    [("", "names no cache"), ("cache: {kind: memory}", "in memory"), ("cache: {kind: disk, path: no.db}", "no answer")],
)
def test_without_a_cache_on_disk_it_says_what_to_do(cli, tmp_path, cache, says):
    path = tmp_path / "hybrid.yaml"
    path.write_text(f"version: 1\nbackends: {{edge: {{kind: onnx, model: embedded}}}}\n{cache}\n")
    result = cli("cache", "stats", "--config", path)
    assert result.code == 3
    assert says in result.err
    assert cli("cache", "stats").code == 3


def test_doctor_names_a_key_that_others_can_read(cli, used):
    config, _ = used
    (config.parent / "own.key").chmod(0o644)
    found = json.loads(cli("doctor", "--config", config, "--json").out)
    (one,) = [each for each in found if each["check"] == "cache"]
    assert one["status"] == "fault"
    assert one["remedy"] == f"chmod 600 {config.parent / 'own.key'}"
    assert cli("cache", "stats", "--config", config).code == 3
    (config.parent / "own.key").chmod(0o600)
    (config.parent / "answers.db").chmod(0o644)
    found = json.loads(cli("doctor", "--config", config, "--json").out)
    assert [each["status"] for each in found if each["check"] == "cache"] == ["warning", "ok"]


def test_doctor_names_a_file_that_is_something_else(cli, used):
    config, _ = used
    (config.parent / "answers.db").write_text("my notes")
    found = json.loads(cli("doctor", "--config", config, "--json").out)
    (one,) = [each for each in found if each["check"] == "cache" and each["status"] == "fault"]
    assert "not an answer cache" in one["message"]
