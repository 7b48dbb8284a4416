"""What holds for all tests of preparing models: garbage is collected quickly, and real weights are imported once."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(autouse=True, scope="module")
def _imported_is_no_garbage() -> Iterator[None]:
    """Each step of a recipe collects garbage, which takes 0.3 s where torch and its kin have 500,000 objects."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(scope="session")
def smollm2_scratch(smollm2_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of scratch in which work on `smollm2_gguf` finds its weights dequantised, which takes half a minute."""
    from hybrid_llm.prepare.hub_gguf import open_for_work

    pytest.importorskip("gguf")
    scratch = tmp_path_factory.mktemp("smollm2")
    open_for_work(smollm2_gguf, scratch)
    return scratch
