"""Leaving a stream early, in any way: the work stops, the slot is free, and nobody hears of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.router import leaving

pytestmark = pytest.mark.usefixtures("young_heap")


@pytest.fixture(
    scope="module", params=[(1, "{retries: 0}"), (2, "{retries: 0, hedge_after: 1ms}")], ids=["one", "hedged"]
)
def llm(request):
    with leaving.edge_client(*request.param) as client:
        client.generate("Hi.", max_tokens=2)
        yield client


@pytest.mark.parametrize("linger", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("way", leaving.WAYS)
def test_whoever_leaves_a_stream_frees_its_slot_and_nothing_is_logged(llm, way, linger, caplog):
    leaving.leave(llm, way, debug=linger, linger=linger)
    assert leaving.idle(llm)
    assert leaving.complaints(caplog) == []


def test_a_loop_that_is_closed_under_a_stream_frees_its_slot_and_nothing_is_logged(llm, caplog):
    leaving.leave_without_closing_the_generators(llm)
    assert leaving.idle(llm)
    assert leaving.complaints(caplog) == []


def test_a_stream_left_without_a_loop_frees_its_slot(llm, caplog):
    leaving.leave_sync(llm)
    assert leaving.idle(llm)
    assert leaving.complaints(caplog) == []


def test_nothing_is_printed_in_development_mode_with_warnings_as_errors():
    command = [sys.executable, "-X", "dev", "-W", "error", "-m", "tests.router.leaving"]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False, timeout=240
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
