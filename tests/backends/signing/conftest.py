"""An authority with signers, and a small model folder."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from hybrid_llm.backends.signing.sign import make_signing_key
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.wire.certificates import issue, make_authority


def write_model(folder: Path) -> Path:
    (folder / "sub").mkdir(parents=True)
    (folder / "model.onnx").write_bytes(bytes(range(256)) * 4)
    (folder / "config.json").write_text("{}")
    (folder / "sub" / "tokenizer.json").write_text('{"a": 1}')
    (folder / "empty").write_bytes(b"")
    return folder


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model")


@pytest.fixture(scope="session")
def certs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certs")
    make_authority(folder)
    for name in ("release", "other"):
        issue(folder, name, kind="signer")
    issue(folder, "app", kind="client")
    issue(folder, "old", kind="signer", days=1, not_before=datetime.now(UTC) - timedelta(days=3))
    issue(folder, "early", kind="signer", days=1, not_before=datetime.now(UTC) + timedelta(days=3))
    make_authority(folder / "elsewhere")
    issue(folder / "elsewhere", "release", kind="signer")
    make_signing_key(folder / "plain")
    make_signing_key(folder / "other-plain")
    return folder


@pytest.fixture(scope="session")
def trust(certs):
    return Trust(ca=certs / "ca.pem", identity="spiffe://hybrid-llm/signer/release")
