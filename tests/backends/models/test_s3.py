"""S3: an object with the user's own credentials, from a server that speaks its protocol; resumed, and checked."""

from __future__ import annotations

import hashlib
import random

import pytest

from hybrid_llm.backends.models.sources import Wanted, parse_source
from hybrid_llm.backends.models.sources.source import FetchFailed
from hybrid_llm.core.errors import ConfigError, SecurityError

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

CONTENT = random.Random(1).randbytes(12_000_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
URL = "s3://models/small/m.gguf"


@pytest.fixture
def bucket(s3_endpoint, monkeypatch):
    """The bucket `models` with one object, at the endpoint that the environment names."""
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**secrets, "AWS_ENDPOINT_URL": s3_endpoint}.items():
        monkeypatch.setenv(name, value)
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    client.put_object(Bucket="models", Key="small/m.gguf", Body=CONTENT)
    return client


def fetch(folder, url=URL, report=lambda step, share: None, **wanted):
    folder.mkdir(exist_ok=True)
    return parse_source(url).fetch(folder, Wanted(**wanted), report)


def test_an_object_is_fetched_and_its_hash_is_held_to(bucket, tmp_path):
    fetched = fetch(tmp_path / "d", sha256=SHA256)
    assert fetched.path.read_bytes() == CONTENT
    with pytest.raises(SecurityError):
        fetch(tmp_path / "e", sha256="0" * 64)
    assert list((tmp_path / "e").iterdir()) == []


@pytest.mark.parametrize("changed", [False, True])
def test_an_interrupted_download_goes_on_unless_the_object_was_replaced(bucket, tmp_path, changed):
    def interrupt(step, share):
        if step == "downloading" and share > 0.3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(tmp_path / "d", report=interrupt)
    (part,) = (tmp_path / "d").glob("*.part")
    assert 0 < part.stat().st_size < len(CONTENT)
    shares = []
    body = bytes(len(CONTENT)) if changed else CONTENT
    bucket.put_object(Bucket="models", Key="small/m.gguf", Body=body)
    fetched = fetch(tmp_path / "d", report=lambda step, share: shares.append((step, share)))
    assert fetched.path.read_bytes() == body
    assert (min(share for step, share in shares if step == "downloading") > 0.3) is not changed


def test_an_object_that_is_not_there_is_an_error_without_secrets(bucket, tmp_path):
    with pytest.raises(FetchFailed, match=r"copy s3://models/absent\.gguf here") as caught:
        fetch(tmp_path / "d", "s3://models/absent.gguf")
    assert "very-secret" not in str(caught.value)


def folder_of(bucket, **objects):
    """Put *objects* into the folder `folder/`, and into one inside it."""
    for name, content in objects.items():
        bucket.put_object(Bucket="models", Key=f"folder/{name}", Body=content)
    bucket.put_object(Bucket="models", Key="folder/old/config.json", Body=b"not right in the folder")


@pytest.fixture
def emptied(bucket):
    yield bucket
    for found in bucket.list_objects_v2(Bucket="models", Prefix="folder/").get("Contents", []):
        bucket.delete_object(Bucket="models", Key=found["Key"])


def test_a_folder_is_fetched_without_pickles_and_is_the_same_twice(emptied, tmp_path):
    folder_of(emptied, **{"config.json": b"{}", "model.safetensors": CONTENT, "pytorch_model.bin": b"pickle"})
    fetched = fetch(tmp_path / "d", "s3://models/folder/")
    assert {path.name for path in fetched.path.iterdir()} == {"config.json", "model.safetensors"}
    assert (fetched.path / "model.safetensors").read_bytes() == CONTENT
    assert fetch(tmp_path / "e", "s3://models/folder/", sha256=fetched.sha256).sha256 == fetched.sha256
    with pytest.raises(SecurityError):
        fetch(tmp_path / "f", "s3://models/folder/", sha256="0" * 64)
    assert list((tmp_path / "f").iterdir()) == []


def test_a_model_folder_is_fetched_with_its_graph_and_another_one_without(emptied, tmp_path):
    folder_of(emptied, **{"config.json": b"{}", "model.onnx": b"graph", "model.onnx.data": b"weights"})
    assert [path.name for path in fetch(tmp_path / "d", "s3://models/folder/").path.iterdir()] == ["config.json"]
    folder_of(emptied, **{"manifest.json": b"{}"})
    assert len(list(fetch(tmp_path / "e", "s3://models/folder/").path.iterdir())) == 4


def test_of_several_quantised_files_in_a_folder_one_is_named(emptied, tmp_path):
    folder_of(emptied, **{"m-q4_0.gguf": CONTENT, "m-q8_0.gguf": b"other", "README.md": b"text"})
    with pytest.raises(ConfigError, match="--file"):
        fetch(tmp_path / "d", "s3://models/folder/")
    fetched = fetch(tmp_path / "d", "s3://models/folder/", file="*Q4_0.gguf")
    assert (fetched.path.name, fetched.sha256) == ("m-q4_0.gguf", SHA256)


@pytest.mark.parametrize("url", ["s3://models/nothing/", "s3://models/small/old/"])
def test_a_folder_without_a_model_says_so(emptied, tmp_path, url):
    with pytest.raises(ConfigError, match="holds no model"):
        fetch(tmp_path / "d", url)
