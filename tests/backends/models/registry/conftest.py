"""Registries in a folder and in an S3 server, a small model, and who may sign it."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from hybrid_llm.backends.models.registry import ModelRegistry
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.wire.certificates import issue, make_authority


def write_model(folder: Path, *, seed: int = 0, size: int = 100) -> Path:
    """A folder like one of Hugging Face, with weights that depend on *seed*."""
    (folder / "sub").mkdir(parents=True, exist_ok=True)
    (folder / "model.safetensors").write_bytes(random.Random(seed).randbytes(size))
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (folder / "sub" / "empty").write_bytes(b"")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Relative path -> bytes, of every file but the signature."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "model.sig"
    }


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture
def registry(tmp_path):
    return ModelRegistry.open((tmp_path / "registry").as_uri(), create=True)


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    """An authority with two signers, and a client, who is none."""
    folder = tmp_path_factory.mktemp("certs")
    make_authority(folder)
    for name in ("release", "other"):
        issue(folder, name, kind="signer")
    issue(folder, "app", kind="client")
    return folder


@pytest.fixture(scope="session")
def trust(certs):
    return Trust(ca=certs / "ca.pem", identity="spiffe://hybrid-llm/signer/release")
