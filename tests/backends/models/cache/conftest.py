"""An S3 server, a registry and a plain folder with a small model in it, and a cache."""

from __future__ import annotations

import hashlib
import os

import pytest

from hybrid_llm.backends.models.cache import Fetching, ModelCache
from hybrid_llm.backends.models.registry import ModelRegistry, publish
from hybrid_llm.backends.models.registry.local import LocalStorage
from tests.backends.models.registry.conftest import certs, trust, write_model  # noqa: F401  # fixtures

SIZE = (5 << 20) + 7
"""Bytes of the weights: two pieces."""


def sums_of(folder):
    """`SHA256SUMS` as coreutils writes it."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (folder / "SHA256SUMS").write_text("".join(lines))


class Counted:
    """A storage that counts the bytes that are read from it, and breaks where a test says so.

    *cuts* are errors that the next reads of large objects end in, None where one succeeds; *changed* are bytes in place
    of an object's; *most* is how many bytes one read returns.
    """

    def __init__(self, inner):
        self._inner, self.url = inner, inner.url
        self.received, self.cuts, self.changed, self.most = 0, [], {}, None
        self.stat, self.list = inner.stat, inner.list

    def read(self, path, start=0, end=None):
        if self.cuts and path.endswith("safetensors") and (cut := self.cuts.pop(0)) is not None:
            raise cut
        data = self.changed[path][start:end] if path in self.changed else self._inner.read(path, start, end)
        data = data if data is None else data[: self.most]
        self.received += len(data or b"")
        return data


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model", size=SIZE)


@pytest.fixture
def registry(tmp_path, model):
    """A registry with one version of `m`, to which `prod` points."""
    found = ModelRegistry.open(str(tmp_path / "registry"), create=True)
    found.promote("m", publish(found, model, "m").version.digest, "prod")
    return found


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "registry.key"
    path.write_text(os.urandom(32).hex())
    return path


@pytest.fixture
def sealed(tmp_path, model, key_file):
    """The same in an encrypted one."""
    found = ModelRegistry.open(str(tmp_path / "sealed"), key_file=key_file, create=True)
    found.promote("m", publish(found, model, "m").version.digest, "prod")
    return found


@pytest.fixture
def plain(model):
    """The model in a plain folder of a storage, with a list of its digests."""
    sums_of(model)
    return Counted(LocalStorage(model))


@pytest.fixture
def fetching(tmp_path):
    memory = tmp_path / "memory"
    memory.mkdir()
    return Fetching(cache=ModelCache(tmp_path / "cache"), memory=memory)
