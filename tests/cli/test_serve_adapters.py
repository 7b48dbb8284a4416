"""`hybrid-llm serve --adapter` from object storage and registries, signed or not, with a real node at the end."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from hybrid_llm.backends.signing.sign import make_signing_key, sign_folder
from hybrid_llm.cli.terminal import Exit
from tests.cli.conftest import NODE_MODEL
from tests.cli.test_serve import wait_for

pytest.importorskip("s3fs")
boto3 = pytest.importorskip("boto3")

SIZES = {"q_proj": (256, 256), "v_proj": (256, 128)}
"""Inputs and outputs of two linear layers of the model that is served."""


def write_adapter(folder: Path, seed: int) -> Path:
    """An adapter for the examples' model as peft saves it, which names a base that is not here."""
    folder.mkdir()
    numbers, rank = np.random.default_rng(seed), 4
    settings = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "r": rank, "lora_alpha": 8, "bias": "none"}
    named = {"target_modules": list(SIZES), "base_model_name_or_path": "/home/tuner/hybrid-demo-node"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | named))
    weights = {}
    for layer in range(8):
        for module, (inputs, outputs) in SIZES.items():
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            weights[f"{name}.lora_A.weight"] = numbers.normal(0, 0.3, (rank, inputs)).astype("float32")
            weights[f"{name}.lora_B.weight"] = numbers.normal(0, 0.3, (outputs, rank)).astype("float32")
    save_file(weights, folder / "adapter_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """The private keys of who is trusted, and of another signer; `.pub` beside each."""
    folder = tmp_path_factory.mktemp("keys")
    for name in ("release", "other"):
        make_signing_key(folder / f"{name}.key")
    return folder


@pytest.fixture
def bucket(monkeypatch, s3_endpoint):
    """Uploads a folder into the bucket `models`; returns its URL."""
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**secrets, "AWS_ENDPOINT_URL": s3_endpoint, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")

    def upload(folder: Path, name: str) -> str:
        for path in folder.iterdir():
            client.upload_file(str(path), "models", f"{name}/{path.name}")
        return f"s3://models/{name}"

    return upload


@pytest.fixture
def model(tmp_path, keys):
    """The model of the examples, signed."""
    shutil.copytree(NODE_MODEL, tmp_path / "m")
    sign_folder(tmp_path / "m", keys / "release.key")
    return tmp_path / "m"


@pytest.mark.parametrize(("source", "signer"), [("folder", "other"), ("bucket", "other"), ("registry", "")])
def test_an_adapter_that_no_trusted_signer_signed_is_refused_as_a_model_is(
    source, signer, cli, bucket, keys, model, tls, tmp_path
):
    """Wherever it comes from, before anything is loaded; the message is the same but for the name."""
    folder = write_adapter(tmp_path / "tuned", 1)
    if signer:
        sign_folder(folder, keys / f"{signer}.key")
    where, registry = str(folder), ()
    if source == "bucket":
        where = bucket(folder, f"tuned-{signer}")
    elif source == "registry":
        registry = ("--registry", (tmp_path / "registry").as_uri())
        assert cli("models", "publish", folder, "--name", "tuned", "--alias", "prod", *registry).code == 0
        where = "tuned@prod"
    options = (*registry, "--public-key", keys / "release.key.pub", "--model-cache", tmp_path / "cache", "--tls", tls)
    refused = cli("serve", "--model", model, "--adapter", f"support={where}", *options)
    as_model = cli("serve", "--model", where, *options)
    assert (refused.code, refused.err) == (as_model.code, as_model.err)
    assert refused.code == Exit.SECURITY
    assert "sign" in refused.err
    assert "loading the weights" not in refused.err


def test_signed_adapters_of_a_bucket_and_a_registry_answer_beside_their_base(
    start, cli, configure, bucket, keys, model, tls, tmp_path
):
    adapters = {name: write_adapter(tmp_path / name, seed) for seed, name in enumerate(("support", "sales"))}
    for folder in adapters.values():
        sign_folder(folder, keys / "release.key")
    registry, ready = ("--registry", (tmp_path / "registry").as_uri()), tmp_path / "port"
    assert cli("models", "publish", adapters["sales"], "--name", "sales-lora", "--alias", "prod", *registry).code == 0
    url = bucket(adapters["support"], "lora/support")
    named = ("--adapter", f"support={url}", "--adapter", f"again={url}", "--adapter", "sales=sales-lora@prod")
    where = ("--public-key", keys / "release.key.pub", "--model-cache", tmp_path / "cache", "--tls", tls)
    options = ("--listen", "127.0.0.1:0", "--ready-file", ready, "--dtype", "fp32")
    process = start("serve", "--model", model, *named, *registry, *where, *options)
    port = wait_for(ready, process)
    assert b"adapters support, again, sales)" in process.stdout.readline()
    answers = {}
    for name in ("", "support", "again", "sales"):
        config = configure(port, model=name)
        answer = cli("generate", "What is 2 + 3?", "--config", config, "--max-tokens", 8, "--temperature", 0)
        assert answer.code == 0, answer.err
        answers[name] = answer.out
    assert answers["support"] == answers["again"]
    assert len(set(answers.values())) == 3
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
