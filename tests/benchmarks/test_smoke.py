"""Every benchmark runs to its end at its smallest size, and names the commit and the date that it measured."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime

import pytest

from benchmarks.__main__ import NAMES
from benchmarks._run import LITELLM, ROOT


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_runs_at_its_smallest_size(name):
    today = datetime.now(UTC).date().isoformat()
    done = run(name, "--smoke")
    assert done.returncode == 0, done.stdout + done.stderr
    heading = next(line for line in done.stdout.splitlines() if line.startswith("commit "))
    assert today in heading
    assert "the figures mean nothing" in heading
    if name in {"decide", "overhead", "start"} and not LITELLM.exists():
        assert "LiteLLM is not installed and left out" in done.stdout


def test_help_lists_every_benchmark():
    done = run("--help")
    assert done.returncode == 0
    for name in NAMES:
        assert f"\n  {name} " in done.stdout


def test_a_misspelt_name_is_refused_with_the_one_that_is_meant():
    done = run("decid")
    assert (done.returncode, done.stderr) == (2, "there is no benchmark 'decid'; did you mean decide?\n")
