"""What holds for all tests of preparing models: collecting garbage does not look at what was imported."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def _imported_is_no_garbage() -> Iterator[None]:
    """Each step of a recipe collects garbage, which takes 0.3 s where torch and its kin have 500,000 objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
