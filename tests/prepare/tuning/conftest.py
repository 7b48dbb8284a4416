"""Tiny models and data whose pattern two layers learn in seconds."""

from __future__ import annotations

import os

import pytest

from tests.prepare.tuning.samples import Samples

os.environ["OMP_NUM_THREADS"] = "1"  # the steps are so small that more threads only wait for each other


@pytest.fixture(scope="session")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    for name in ("torch", "transformers", "peft", "trl", "accelerate", "datasets"):
        pytest.importorskip(name, reason="tuning needs: pip install 'hybrid-llm[prepare]'")
    import torch

    torch.set_num_threads(1)
    return Samples(tmp_path_factory.mktemp("tuning"))
