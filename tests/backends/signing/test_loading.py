"""A model that must be signed is loaded on the device and on a node as it was signed, or not at all."""

from __future__ import annotations

import asyncio
import json
import shutil

import pytest

from hybrid_llm import HybridLLM
from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, embedded_model
from hybrid_llm.backends.edge.folder import MANIFEST_NAME, digest_file
from hybrid_llm.backends.node.engine import EngineConfig
from hybrid_llm.backends.signing.sign import sign_folder
from hybrid_llm.core.errors import ConfigError, NoEligibleBackend, UntrustedModel
from hybrid_llm.policies import builtin_policy
from hybrid_llm.router.config import load_config


@pytest.fixture
def edge(tmp_path, certs):
    folder = tmp_path / "edge"
    shutil.copytree(embedded_model(), folder)
    sign_folder(folder, certs / "release.key", certs / "release.pem")
    return folder


def generate(folder, trust):
    backend = EdgeBackend(EdgeConfig(model=folder, trust=trust))
    with HybridLLM([backend], builtin_policy("offline-first", backends={"edge": backend.location})) as llm:
        return llm.generate("Is it good?", max_tokens=2), backend


def test_a_signed_model_answers(edge, trust):
    answer, _ = generate(edge, trust)
    assert answer.text is not None


@pytest.mark.parametrize("name", ["tokenizer.json", "genai_config.json", MANIFEST_NAME, "model.sig", "added.bin"])
def test_a_model_that_was_changed_is_not_loaded_and_answers_no_request(edge, trust, name):
    """Also where the manifest was made to fit. The backend is not ready, and the reason is in the decision."""
    path = edge / name
    path.write_bytes((path.read_bytes() if path.exists() else b"") + (b"x" if name == "model.sig" else b" "))
    manifest = json.loads((edge / MANIFEST_NAME).read_text())
    if name in manifest["files"]:
        found = digest_file(path)
        manifest["files"][name] = {"sha256": found.sha256, "bytes": found.bytes}
        (edge / MANIFEST_NAME).write_text(json.dumps(manifest))
    with pytest.raises(NoEligibleBackend, match="sign"):
        generate(edge, trust)
    backend = EdgeBackend(EdgeConfig(model=edge, trust=trust))
    with pytest.raises(UntrustedModel):
        backend.load()
    assert (backend.loaded, backend.state().ready) == (False, False)
    assert "sign" in backend.state().reason
    backend.close()


def test_the_configuration_names_whose_signature_is_needed(edge, certs, tmp_path):
    shutil.copy(certs / "ca.pem", tmp_path / "ca.pem")
    text = f"""
version: 1
backends:
  edge: {{kind: onnx, model: {edge}, trust: {{ca: ca.pem, identity: spiffe://hybrid-llm/signer/other}}}}
policy: offline-first
"""
    (tmp_path / "hybrid.yaml").write_text(text)
    (spec,) = load_config(tmp_path / "hybrid.yaml").backends
    backend = spec.open()
    with pytest.raises(UntrustedModel, match="signer/release, not by spiffe://hybrid-llm/signer/other"):
        backend.load()
    backend.close()
    (tmp_path / "hybrid.yaml").write_text(text.replace("ca: ca.pem, identity", "identity"))
    with pytest.raises(Exception, match="ca"):
        load_config(tmp_path / "hybrid.yaml")


def start_engine(folder, trust):
    """Start the engine of a node."""
    from hybrid_llm.backends.node.supervisor import EngineProcess

    async def start() -> None:
        engine = EngineProcess(EngineConfig(model=folder, trust=trust))
        try:
            await engine.start()
        finally:
            await engine.close()

    asyncio.run(start())


def test_a_node_does_not_load_a_model_of_another_signer(tmp_path, certs, trust):
    folder = tmp_path / "node"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    sign_folder(folder, certs / "other.key", certs / "other.pem")
    with pytest.raises(UntrustedModel, match="signer/other") as caught:
        start_engine(folder, trust)
    assert (caught.value.reason, caught.value.model) == ("signer", str(folder))


def test_a_node_does_not_load_an_adapter_whose_base_is_not_signed(tmp_path, certs, trust):
    """The adapter is the small part: the weights that answer are those of the base."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    for folder in (base, adapter):
        folder.mkdir()
        (folder / "config.json").write_text("{}")
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    sign_folder(adapter, certs / "release.key", certs / "release.pem")
    with pytest.raises(UntrustedModel) as caught:
        start_engine(adapter, trust)
    assert (caught.value.reason, caught.value.model) == ("unsigned", str(base))
    sign_folder(base, certs / "release.key", certs / "release.pem")
    with pytest.raises(ConfigError, match="no weights"):
        start_engine(adapter, trust)
