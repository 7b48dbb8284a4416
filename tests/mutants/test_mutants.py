"""The tests notice planted faults: four here, all of them with `make mutants`; and the list is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutants.__main__ import SUITES

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "fault",
    ["tags are joined", "a hard rule fails open", "a failed detector changes nothing", "a forged MAC passes"],
)
def test_a_planted_fault_is_noticed(fault):
    command = [sys.executable, "-m", "tests.mutants", "--only", fault, "--examples", "80"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 of 1 faults were noticed" in done.stdout


def test_every_fault_of_the_list_can_be_planted():
    for suite in SUITES:
        for mutant in suite.mutants:
            assert (ROOT / suite.room / mutant.file).read_text("utf-8").count(mutant.old) == 1, mutant.what
            assert mutant.new != mutant.old, mutant.what
