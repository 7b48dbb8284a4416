"""Ray Serve itself, HAProxy included: nothing is lost while it grows, loses a replica, is updated and shrinks.

It takes some minutes, and an environment of its own, whose Python HYBRID_LLM_RAY_PYTHON names.
"""

from __future__ import annotations

import json
import os
import shutil

import pytest

from tests.backends.ray.cluster import NODE_MODEL, VARIABLE, isolated


@pytest.mark.slow
def test_a_cluster_grows_loses_a_replica_is_updated_and_shrinks_without_a_lost_answer():
    python = os.environ.get(VARIABLE)
    if not python or not shutil.which("unshare") or not (NODE_MODEL / "model.safetensors").exists():
        pytest.skip(f"needs {VARIABLE}, the Python of an environment with ray[serve], torch and transformers")
    seen = json.loads(isolated("tests.backends.ray.scenario", python, timeout=1800).splitlines()[-1])
    assert seen["usage"] is False
    assert seen["foreign"] == 0
    for phase in ("killed", "updated"):
        assert seen[phase].keys() == {"whole", "slowest_s"}, f"answers were lost or changed: {seen[phase]}"
    assert seen["continuations"] > 0
    assert seen["cancelled"]["idle_after_s"] < 10
