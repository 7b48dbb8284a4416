"""The properties notice planted faults: two here, all of them with `python -m tests.policies.mutants`."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("fault", ["tags are joined", "a rule behind one that orders"])
def test_a_planted_fault_is_noticed(fault):
    command = [sys.executable, "-m", "tests.policies.mutants", "--only", fault, "--examples", "80"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 faults were noticed" in done.stdout
