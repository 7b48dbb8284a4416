"""The environment variables are one typed table: a wrong value is refused by name, a wrong name is reported once."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.environment import (
    VARIABLES,
    Environment,
    log_unknown_variables,
    read_environment,
    unknown_variables,
)
from hybrid_llm.core.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
NAMES = [key.name for key in VARIABLES.keys]


def test_a_variable_that_is_absent_or_empty_is_not_set():
    assert read_environment({}) == read_environment(dict.fromkeys(NAMES, "")) == Environment()


def test_each_variable_has_its_type():
    environ = {
        "HYBRID_LLM_CONFIG": "a/hybrid.yaml",
        "HYBRID_LLM_POLICY": "offline-first",
        "HYBRID_LLM_MODELS": "~/models",
        "HYBRID_LLM_REGISTRY": "s3://models/registry",
        "HYBRID_LLM_DEBUG_TRACEBACKS": "1",
    }
    assert set(environ) == set(NAMES)
    assert read_environment(environ) == Environment(
        config=Path("a/hybrid.yaml"),
        policy="offline-first",
        models=Path("~/models").expanduser(),
        registry="s3://models/registry",
        debug_tracebacks=True,
    )


def test_a_wrong_value_is_an_error_that_names_the_variable():
    with pytest.raises(ConfigError, match=r"HYBRID_LLM_DEBUG_TRACEBACKS: 'yes' is not `1` or `0`"):
        read_environment({"HYBRID_LLM_DEBUG_TRACEBACKS": "yes"})


def test_an_unknown_variable_is_reported_with_the_nearest_name_and_one_that_a_file_names_is_not():
    environ = {"HYBRID_LLM_CONFG": "x", "HYBRID_LLM_CLOUD_KEY": "secret", "HYBRID_OTHER": "x", "HYBRID_LLM_CONFIG": "x"}
    key, confg = unknown_variables(environ=environ)
    assert "HYBRID_LLM_CONFG is not read: did you mean HYBRID_LLM_CONFIG?" in confg
    assert "HYBRID_LLM_CLOUD_KEY" in key
    assert "secret" not in key
    assert list(unknown_variables({"HYBRID_LLM_CLOUD_KEY"}, environ)) == [confg]


@given(name=st.text("ABCDEFGILMNOPRSTUY_", max_size=12))
def test_every_name_with_the_prefix_is_either_read_or_reported(name):
    variable = f"HYBRID_LLM_{name}"
    assert (variable in NAMES) is not bool(list(unknown_variables(environ={variable: "x"})))


def test_the_log_has_an_unknown_variable_once(monkeypatch, caplog):
    monkeypatch.setenv("HYBRID_LLM_MODLES", "x")
    with caplog.at_level(logging.WARNING, "hybrid_llm"):
        log_unknown_variables()
        log_unknown_variables()
    assert [record.getMessage() for record in caplog.records] == [
        "the environment variable HYBRID_LLM_MODLES is not read: did you mean HYBRID_LLM_MODELS?"
    ]


def test_no_other_variable_is_read_anywhere():
    rooms = [ROOT / room for room in ("hybrid_llm", "router", "policies", "backends")]
    texts = {path: path.read_text("utf-8") for room in rooms for path in room.rglob("*.py")}
    named = {(name, path) for path, text in texts.items() for name in re.findall(r"HYBRID_LLM_[A-Z_]+[A-Z]", text)}
    assert {name for name, _ in named} == set(NAMES)


def run(code: str, folder: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    variables = {name: value for name, value in os.environ.items() if name not in NAMES}
    return subprocess.run(
        [sys.executable, "-c", code], env=variables | environ, cwd=folder, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HYBRID_LLM_POLICY": "offline-first"}, "offline-first"),
        ({"HYBRID_LLM_POLICY": "mine.yaml"}, "mine"),
        ({"HYBRID_LLM_CONFIG": "conf/hybrid.yaml", "HYBRID_LLM_POLICY": "mine.yaml"}, "mine"),
        ({"HYBRID_LLM_CONFIG": "absent.yaml"}, "HYBRID_LLM_CONFIG names absent.yaml, which does not exist"),
        ({"HYBRID_LLM_POLICY": "balancd"}, "HYBRID_LLM_POLICY: `balancd` is no file and no built-in policy"),
    ],
)
def test_the_module_level_functions_use_the_file_and_the_policy_that_the_environment_names(tmp_path, environ, expected):
    (tmp_path / "mine.yaml").write_text("version: 1\nname: mine\nrules: [{prefer: [edge]}]\n")
    (tmp_path / "conf").mkdir()
    text = "version: 1\npolicy: latency-first\nbackends: {edge: {kind: onnx, model: embedded}}\n"
    (tmp_path / "conf" / "hybrid.yaml").write_text(text)
    done = run("import hybrid_llm; print(hybrid_llm.decide('x').policy)", tmp_path, **environ)
    shown = done.stderr.strip().splitlines()[-1] if done.returncode else done.stdout.strip()
    assert expected in shown if done.returncode else expected == shown
