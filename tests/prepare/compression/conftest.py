"""Models that are made once for all of these tests: do not change them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hybrid_llm.prepare.data.folder import DataFormat
from tests.encoders import ABOUT, PLAIN, trained
from tests.prepare.compression import tiny

pytest.importorskip("torch")
pytest.importorskip("transformers")


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_texts(tmp_path_factory.mktemp("texts") / "data")


@pytest.fixture(scope="session")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_decoder(tmp_path_factory.mktemp("decoder") / "teacher", seed=1)


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(tmp_path_factory.mktemp("classifier") / "topic", tokens=False)


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled texts that the classifier has learnt to tell apart."""
    rng, records = random.Random(1), []
    for _ in range(64):
        label = rng.choice(list(ABOUT))
        words = [*rng.choices(PLAIN, k=6), rng.choice(ABOUT[label])]
        records.append({"text": " ".join(rng.sample(words, len(words))), "label": label})
    return tiny.write_data(tmp_path_factory.mktemp("topics") / "data", DataFormat.LABELLED, records, ABOUT)
