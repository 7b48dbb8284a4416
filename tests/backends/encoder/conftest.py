"""Two encoders, trained and converted once for the whole run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hybrid_llm.backends.encoder.backend import EncoderBackend
from hybrid_llm.backends.encoder.spec import EncoderConfig
from hybrid_llm.backends.models.encoders import convert_encoder
from hybrid_llm.core.request import Location, Message, Request
from hybrid_llm.router.privacy import Assessment, PrivacyGuard
from tests.encoders import trained


@dataclass(frozen=True)
class Converted:
    """The original, as transformers saved it, and the folder that was made of it."""

    source: Path
    folder: Path


def _converted(root: Path, *, tokens: bool) -> Converted:
    made = Converted(root / "hf", root / "int8")
    if not made.folder.exists():
        trained(made.source, tokens=tokens)
        convert_encoder(made.source, made.folder, license="Apache-2.0")
    return made


@pytest.fixture(scope="session")
def texts(tmp_path_factory) -> Converted:
    return _converted(tmp_path_factory.getbasetemp() / "encoder-texts", tokens=False)


@pytest.fixture(scope="session")
def entities(tmp_path_factory) -> Converted:
    return _converted(tmp_path_factory.getbasetemp() / "encoder-entities", tokens=True)


@pytest.fixture(scope="session")
def clear():
    """Makes a cleared request for the device from a text and the options of `Request`."""
    guard = PrivacyGuard()

    def make(text: str, **options):
        request = Request(messages=(Message(role="user", content=text),), **options)
        return guard.clear(Assessment(request=request, allowed=frozenset({Location.EDGE})), Location.EDGE)

    return make


@pytest.fixture
def encoder() -> Iterator[type]:
    """Makes backends, and closes them."""
    made: list[EncoderBackend] = []

    def make(folder: Path, **options) -> EncoderBackend:
        made.append(EncoderConfig(model=folder, **options).open())
        return made[-1]

    yield make
    for backend in made:
        backend.close()
