"""The network of this machine is gone and comes back: real routes of the kernel, in a namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.network import NOT_ALLOWED


def test_without_a_network_the_device_answers_at_once_and_the_cloud_is_used_again_when_there_is_one(pki):
    child = Path(__file__).with_name("no_network.py")
    command = [sys.executable, str(child), str(pki.folder)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if ran.returncode == NOT_ALLOWED:
        pytest.skip(f"this machine allows no network namespace: {ran.stdout}")
    assert ran.returncode == 0, ran.stderr[-4000:]
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["before"] == ["cloud"] * 2
    assert found["cut"] == "edge", "the device continued the answer that the network broke off"
    assert found["back"] < 20.0, "the breaker, open for thirty seconds by default, has nothing to do with it"
    assert "cannot be reached" in found["error"], "nothing was sent to find out that there is no route"
    assert found["during"] == ["edge"] * 4
    assert (found["ready"], found["reason"], found["breaker"]) == (False, "no route to host", "closed")
    assert found["waiting"] == ["cloud", "edge"], "no call waits for a node without a route"
