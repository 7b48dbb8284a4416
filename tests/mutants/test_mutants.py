"""The tests notice planted faults: four here, all of them with `make mutants`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "fault",
    ["tags are joined", "a hard rule fails open", "a failed detector changes nothing", "a forged seal passes"],
)
def test_a_planted_fault_is_noticed(fault):
    command = [sys.executable, "-m", "tests.mutants", "--only", fault, "--examples", "80"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 faults were noticed" in done.stdout
