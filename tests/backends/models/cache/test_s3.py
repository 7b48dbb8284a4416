"""Models for nodes from an S3 server: a plain folder and a registry, and what such a server refuses."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace

import pytest

from hybrid_llm.backends.models.cache import RegistryModel, StoredModel, fetched
from hybrid_llm.backends.models.registry import ModelRegistry, RegistryError, publish
from hybrid_llm.core.errors import ConfigError, SecurityError
from tests.backends.models.cache.conftest import sums_of
from tests.backends.models.cache.test_fetch import files, folders

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")
FOLDER = StoredModel(url="s3://models/llm/tiny")


@pytest.fixture
def s3(monkeypatch, s3_endpoint, model):
    """The model in the bucket `models`, in a plain folder with a list."""
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**secrets, "AWS_ENDPOINT_URL": s3_endpoint, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    sums_of(model)
    for path in filter(lambda path: path.is_file(), model.rglob("*")):
        client.upload_file(str(path), "models", f"llm/tiny/{path.relative_to(model).as_posix()}")
    yield client
    for found in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=found["Key"])


def test_a_folder_in_a_bucket_is_fetched_verified_and_cached(s3, model, fetching):
    with fetched(FOLDER, fetching) as folder:
        assert files(folder) == files(model)
        assert folder.name == "tiny"
    s3.delete_object(Bucket="models", Key="llm/tiny/model.safetensors")
    s3.put_object(Bucket="models", Key="llm/tiny/model.safetensors", Body=b"not fetched again")
    with fetched(FOLDER, fetching) as folder:
        assert files(folder) == files(model)


def test_a_file_that_does_not_fit_its_digest_is_refused(s3, fetching):
    s3.put_object(Bucket="models", Key="llm/tiny/config.json", Body=b'{"architectures": ["OtherForCausalLM"]}')
    with pytest.raises(SecurityError), fetched(FOLDER, fetching):
        pass
    assert folders(fetching) == []


def test_a_registry_in_a_bucket_encrypted_or_not(s3, model, fetching, key_file):
    (model / "SHA256SUMS").unlink()
    for name, key in (("open", None), ("sealed", key_file)):
        registry = ModelRegistry.open(f"s3://models/{name}", key_file=key, create=True)
        registry.promote("m", publish(registry, model, "m").version.digest, "prod")
        with fetched(RegistryModel(registry=registry.url, name="m", which="prod", key_file=key), fetching) as folder:
            assert files(folder) == files(model)


@pytest.mark.parametrize("encrypted", [False, True])
def test_while_the_registry_is_away_the_version_of_the_last_start_serves(
    s3, model, fetching, key_file, monkeypatch, caplog, encrypted
):
    key = key_file if encrypted else None
    registry = ModelRegistry.open("s3://models/away", key_file=key, create=True)
    registry.promote("m", publish(registry, model, "m").version.digest, "prod")
    named = RegistryModel(registry=registry.url, name="m", which="prod", key_file=key)
    with fetched(named, fetching) as folder:
        before = files(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free.getsockname()[1]}")
    with fetched(named, fetching) as folder:
        assert files(folder) == before
    assert "the version of the last start" in caplog.text
    with pytest.raises(RegistryError), fetched(replace(named, which="canary"), fetching):
        pass
    shutil.rmtree(fetching.cache.root)
    with pytest.raises(RegistryError), fetched(named, fetching):
        pass


@pytest.mark.parametrize("url", ["s3://absent/folder", "s3://models/absent"])
def test_a_bucket_or_folder_that_is_not_there_is_an_error(s3, fetching, url):
    with pytest.raises(ConfigError, match="check the bucket"), fetched(StoredModel(url=url), fetching):
        pass


def test_without_credentials_the_error_says_so(s3, fetching, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(RegistryError, match="check the credentials"), fetched(FOLDER, fetching):
        pass


@pytest.mark.parametrize("url", ["gs://models/llm", "az://models/llm", "ftp://models/llm", "s3://k:secret@models/llm"])
def test_a_url_that_is_not_known_or_needs_a_library_is_an_error_without_its_secret(fetching, url):
    with pytest.raises(ConfigError) as caught, fetched(StoredModel(url=url), fetching):
        pass
    assert "secret" not in str(caught.value)
