"""`python -m tests`: which failures end it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TESTS = """
from pathlib import Path

def test_right():
    pass

def test_unstable():
    seen = Path(__file__).with_name("seen")
    first = not seen.exists()
    seen.touch()
    assert not first, "as it first went"

def test_wrong():
    assert {right}
"""


def suite(folder: Path, *options: str, right: bool) -> subprocess.CompletedProcess[str]:
    (folder / "test_it.py").write_text(TESTS.format(right=right))
    command = [sys.executable, "-m", "tests", *options, str(folder)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_test_that_passes_alone_is_named_as_unstable_with_what_it_said(tmp_path):
    done = suite(tmp_path, right=True)
    assert done.returncode == 0
    assert "as it first went" in done.stdout
    assert "unstable: failed beside others, passed alone: " in done.stdout
    assert "test_it.py::test_unstable" in done.stdout.splitlines()[-2]


@pytest.mark.parametrize(("options", "right"), [((), False), (("--once",), True)])
def test_a_test_that_fails_again_or_may_not_run_again_ends_with_1(tmp_path, options, right):
    done = suite(tmp_path, *options, right=right)
    assert done.returncode == 1
    assert "0 of 1 groups passed" in done.stdout
