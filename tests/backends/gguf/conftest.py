"""A small, valid file, written once."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

from pathlib import Path

import pytest

from tests.ggufs import small_llama


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Path:
    return small_llama(tmp_path_factory.mktemp("small") / "model.gguf")
