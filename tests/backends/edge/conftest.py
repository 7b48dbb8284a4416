"""A tiny model with random weights, converted once for the whole run, and what the tests ask of it."""

import os

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some tests import onnxruntime-genai before the backend does

import shutil
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.models import Floor, convert
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.core.generation import Chunk
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.ggufs import small_llama
from tests.shapes import random_model

RANDOM_WEIGHTS = Floor(top1_agreement=0.1, logit_correlation=0.5)


@dataclass(frozen=True)
class Tiny:
    """The original, and its two conversions."""

    source: Path
    int4: Path
    fp32: Path


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Tiny:
    root = tmp_path_factory.getbasetemp() / "tiny-model"  # the tests of `prepare` use the same folder
    models = Tiny(root / "hf", root / "int4", root / "fp32")
    if not root.exists():
        random_model("tiny", models.source, seed=1)
        convert(models.source, models.int4, parity_floor=RANDOM_WEIGHTS, parity_steps=8)
        convert(models.source, models.fp32, "fp32", parity_steps=8)
    return models


@pytest.fixture(scope="session")
def imported(tmp_path_factory) -> Path:
    """A small model with random weights, imported from a GGUF file."""
    folder = tmp_path_factory.mktemp("imported")
    import_gguf(small_llama(folder / "model.gguf"), folder / "small", name="small")
    return folder / "small"


@pytest.fixture(scope="session")
def is_exact():
    """Whether the model in a folder gives tokens the same bits alone and together on this processor."""
    return lru_cache(lambda folder: EdgeModel(folder, threads=1, spin=False).row_runs is not None)


@pytest.fixture
def copy(tiny, tmp_path) -> Path:
    """A copy of the int4 folder that a test may damage."""
    return Path(shutil.copytree(tiny.int4, tmp_path / "copy"))


@pytest.fixture
def edge(tiny):
    """Makes backends over the int4 folder, and closes them."""
    made: list[EdgeBackend] = []

    def make(model: Path = tiny.int4, **options) -> EdgeBackend:
        made.append(EdgeBackend(EdgeConfig(model=model, **{"threads": 1, "spin": False, **options})))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


@pytest.fixture(scope="session")
def clear():
    """Makes a cleared request for the device from a text and the options of `Request`."""
    guard = PrivacyGuard()

    def make(text: str = "Tell me about trains.", location: Location = Location.EDGE, **options):
        request = Request(messages=(Message(role="user", content=text),), **options)
        return guard.clear(Assessment(request=request, allowed=frozenset({location})), location)

    return make


@pytest.fixture(scope="session")
def text_of():
    def join(chunks: list[Chunk]) -> str:
        return "".join(chunk.text for chunk in chunks)

    return join
