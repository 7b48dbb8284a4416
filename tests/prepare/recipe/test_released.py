"""From data to a device: a model is prepared, tuned, quantised, measured, signed and published to two registries."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM, tasks
from hybrid_llm.backends.digests import folder_digest
from hybrid_llm.backends.models.registry import ModelRegistry, RegistryError, pull
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.signing.verify import verify_folder
from hybrid_llm.backends.wire.certificates import issue, make_authority
from hybrid_llm.core.errors import ConfigError, SecurityError
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe
from tests.prepare.recipe.short import make_inputs

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

ROOT = Path(__file__).resolve().parents[3]
S3 = "s3://released/registry"
MAKE = """
version: 1
name: reviews
seed: 3
steps:
  data:
    kind: prepare-data
    sources: ./reviews.zip
    duplicates: keep
    label_by_file: {positive: "*.pos", negative: "*.neg"}
    splits: {train: 80%, validation: 10%, test: 10%}
    licence: CC0-1.0
  tuned: {kind: tune, model: ./encoder, data: data, steps: 4, batch: 8, max_length: 16, every: 2}
  small: {kind: quantise, model: tuned, data: data, evaluate_on: 20, least_agreement: 50%}
  report: {kind: evaluate, suite: sentiment.suite.yaml, data: data, models: [tuned, small]}
  signed: {kind: sign, model: small, key: certs/release.key, cert: certs/release.pem}
  folder: {kind: publish, model: signed, name: reviews, registry: REGISTRY, alias: prod}
  cloud: {kind: publish, model: signed, name: reviews, registry: "s3://released/registry", alias: [canary, prod]}
"""
USE = """
version: 1
name: app
steps:
  pulled: {kind: pull, model: reviews@prod, registry: REGISTRY, trust: {ca: certs/ca.pem}}
  report: {kind: evaluate, suite: sentiment.suite.yaml, models: [pulled], data: ./models/data}
"""
KILLED = """
import os, signal, sys
from pathlib import Path
from hybrid_llm.prepare.recipe.document import read_recipe
from hybrid_llm.prepare.recipe.runner import run_recipe
recipe, out = Path(sys.argv[1]), Path(sys.argv[2])
for line in sys.stdin:
    at, _, begins = line.rstrip().partition(" ")
    def report(step, what, share):
        if step == at and what.startswith(begins):
            os.kill(os.getpid(), signal.SIGKILL)
    child = os.fork()
    if child == 0:
        try:
            run_recipe(read_recipe(recipe), out, report=report)
        finally:
            os._exit(1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""For each line `STEP WHAT`, a run in a process that is killed there: forked, since the imports take seconds."""


@pytest.fixture(scope="module")
def s3(s3_endpoint):
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": s3_endpoint, "AWS_MAX_ATTEMPTS": "1"}.items():
            patch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="released")
        yield


@pytest.fixture(scope="module")
def here(tmp_path_factory, s3):
    """A folder where the steps up to the report have run, and nothing is out yet."""
    folder = make_inputs(tmp_path_factory.mktemp("released"))
    make_authority(folder / "certs")
    issue(folder / "certs", "release", kind="signer")
    (folder / "make.yaml").write_text(MAKE.replace("REGISTRY", (folder / "registry").as_uri()))
    run_recipe(read_recipe(folder / "make.yaml"), folder / "models", only="report")
    return folder


@pytest.fixture
def killed(here):
    """Runs the recipe until a step says what it is called with, where the process is killed."""
    command = [sys.executable, "-c", KILLED, str(here / "make.yaml"), str(here / "models")]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as runs:

        def killed(step, what):
            runs.stdin.write(f"{step} {what}\n")
            runs.stdin.flush()
            assert runs.stdout.readline() == "-9\n"

        yield killed
        runs.stdin.close()


def visible(url):
    """Alias -> version, and all versions of what is published; nothing where no registry was begun."""
    try:
        registry = ModelRegistry.open(url)
    except ConfigError:
        return {}, []
    return {alias: entry.version for alias, entry in registry.aliases("reviews").items()}, [
        digest for digest, _ in registry.versions("reviews")
    ]


def test_a_recipe_goes_from_data_to_two_registries_and_another_begins_with_what_is_there(here, killed):
    local, models, trust = (here / "registry").as_uri(), here / "models", Trust(ca=here / "certs" / "ca.pem")
    killed("signed", "hashing the result")
    assert not (models / "signed").exists()
    killed("cloud", "publishing")  # what needs a network comes first
    assert visible(S3) == ({}, [])
    killed("cloud", "hashing the result")  # everything is out there, and nothing says so
    killed("folder", "publishing")
    assert visible(local) == ({}, [])
    done = {one.name: one for one in run_recipe(read_recipe(here / "make.yaml"), models)}
    assert [name for name, one in done.items() if one.is_due] == ["folder"]
    (digest,) = visible(S3)[1]
    assert visible(S3) == ({"canary": digest, "prod": digest}, [digest])
    assert visible(local) == ({"prod": digest}, [digest])
    assert not any(one.is_due for one in run_recipe(read_recipe(here / "make.yaml"), models))
    assert [entry.number for entry in ModelRegistry.open(S3).history("reviews", "prod")] == [1]

    for number, url in enumerate((local, S3)):
        (here / "use.yaml").write_text(USE.replace("REGISTRY", url))
        out = here / f"app{number}"
        used = {one.name: one for one in run_recipe(read_recipe(here / "use.yaml"), out)}
        assert not any(one.is_due for one in run_recipe(read_recipe(here / "use.yaml"), out))
        assert used["report"].record.metrics == done["report"].record.metrics
        verify_folder(out / "pulled", trust)
        assert folder_digest(out / "pulled") == folder_digest(models / "small")
    card = json.loads((here / "app0" / "pulled" / "card.json").read_text())
    assert card["evaluations"]["report"]["accuracy"] == done["report"].record.metrics["accuracy"]
    edge = {"kind": "encoder", "model": str(here / "app0" / "pulled"), "trust": {"ca": str(here / "certs" / "ca.pem")}}
    with HybridLLM.from_config({"version": 1, "backends": {"edge": edge}}) as llm:
        assert tasks.classify("bab dod", ["negative", "positive"], llm=llm).label in ("negative", "positive")


def test_bytes_that_were_changed_in_the_storage_are_not_pulled(here, tmp_path):
    run_recipe(read_recipe(here / "make.yaml"), here / "models")
    damaged = shutil.copytree(here / "registry", tmp_path / "registry")
    blobs = [path for path in (damaged / "blobs").rglob("*") if path.is_file() and path.name[0] != "."]
    blob = max(blobs, key=lambda path: path.stat().st_size)
    blob.chmod(0o600)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    (here / "use.yaml").write_text(USE.replace("REGISTRY", str(damaged)))
    with pytest.raises((SecurityError, RegistryError)):
        run_recipe(read_recipe(here / "use.yaml"), tmp_path / "out")
    assert not (tmp_path / "out" / "pulled").exists()
    with pytest.raises((SecurityError, RegistryError)):
        pull(ModelRegistry.open(str(damaged)), ModelRegistry.open(str(damaged)).resolve("reviews"), tmp_path / "copy")
