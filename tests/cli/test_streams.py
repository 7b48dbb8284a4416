"""Standard streams that are closed, full, a folder or no text: a message, an exit code, and never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full and a POSIX shell")
READING = ["generate - --max-tokens 2", "chat --max-tokens 2", "explain -"]
WRITING = [
    "--help",
    "--version",
    "generate hi --max-tokens 2",
    "explain hi",
    "policy check balanced",
    "policy explain hi --policy balanced",
    "signals --once",
    "models list",
]


def shell(command: str, **options) -> subprocess.CompletedProcess[str]:
    line = f"{sys.executable} -m hybrid_llm.cli.main {command}"
    env = {**os.environ, "PYTHONWARNINGS": "default"}
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, timeout=120, env=env, **options
    )


@pytest.mark.parametrize("command", READING)
def test_closed_standard_input_is_said_in_words(command):
    done = shell(f"{command} <&-")
    assert done.returncode == 2
    assert done.stderr.startswith("hybrid-llm: prompt: standard input is closed")
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", READING)
def test_standard_input_that_is_no_text_is_said_in_words(command):
    done = shell(command, stdin=subprocess.DEVNULL)
    assert "Traceback" not in done.stderr
    line = f"printf '\\377\\376' | {sys.executable} -m hybrid_llm.cli.main {command}"
    done = subprocess.run(["sh", "-c", line], capture_output=True, check=False, timeout=120)
    assert b"Traceback" not in done.stderr
    assert b"hybrid-llm: prompt: " in done.stderr


@pytest.mark.parametrize("where", [">&-", ">/dev/full"])
@pytest.mark.parametrize("command", WRITING)
def test_standard_output_that_takes_nothing_is_a_failure_with_a_message(command, where):
    done = shell(f"{command} {where}")
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert done.stderr.count("hybrid-llm: ") >= 1


@pytest.mark.parametrize("where", ["2>&-", "2>/dev/full"])
@pytest.mark.parametrize(
    ("command", "code"), [("generate hi --max-tokens 0", 2), ("policy check nowhere.yaml", 3), ("--version", 0)]
)
def test_standard_error_that_takes_nothing_does_not_change_the_exit_code(command, code, where):
    done = shell(f"{command} {where}")
    assert done.returncode == code
    assert "Traceback" not in done.stdout


@pytest.mark.parametrize("command", ["generate hi --config {0}", "policy check {0}", "generate hi --schema {0}"])
def test_a_folder_in_place_of_a_file_is_said_in_words(command, tmp_path):
    done = shell(command.format(tmp_path))
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Is a directory" in done.stderr
