"""The registry in an S3 server: the same as in a folder, over connections that are refused, cut or not allowed."""

from __future__ import annotations

import socket
import threading

import pytest

from hybrid_llm.backends.models.registry import AliasMoved, ModelRegistry, RegistryError, publish, pull
from hybrid_llm.backends.models.registry.collect import collect
from hybrid_llm.backends.models.registry.records import PIECE
from hybrid_llm.core.errors import ConfigError
from tests.backends.models.registry.conftest import content, write_model

pytest.importorskip("s3fs")
pytest.importorskip("moto.server")
boto3 = pytest.importorskip("boto3")

URL = "s3://models/registry"


@pytest.fixture
def credentials(monkeypatch, s3_endpoint):
    secrets = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "very-secret", "AWS_DEFAULT_REGION": "us-east-1"}
    for name, value in {**secrets, "AWS_ENDPOINT_URL": s3_endpoint, "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


@pytest.fixture
def bucket(credentials):
    client = boto3.client("s3")
    client.create_bucket(Bucket="models")
    yield client
    for found in client.list_objects_v2(Bucket="models").get("Contents", []):
        client.delete_object(Bucket="models", Key=found["Key"])


@pytest.fixture
def s3(bucket):
    return ModelRegistry.open(URL, create=True)


def test_a_model_goes_there_and_comes_back_and_only_the_change_travels(s3, model, tmp_path):
    write_model(model, size=2 * PIECE + 10)
    first = publish(s3, model, "m").version
    pull(s3, first, tmp_path / "one")
    assert content(tmp_path / "one") == content(model)
    data = (model / "model.safetensors").read_bytes()
    (model / "model.safetensors").write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    second = publish(s3, model, "m")
    assert second.sent_bytes == 10
    assert pull(s3, second.version, tmp_path / "two", have=[tmp_path / "one"]).received_bytes == 10
    assert publish(s3, model, "m").was_there


def test_aliases_move_forth_and_back_and_two_at_once_make_one_winner(s3, model):
    versions = [publish(s3, write_model(model, seed=seed), "m").version for seed in range(3)]
    s3.promote("m", versions[0].digest, "prod")
    outcomes, barrier = [], threading.Barrier(2)

    class Meeting(type(s3.storage)):
        def create(self, path, data):
            if path.startswith("aliases/"):
                barrier.wait(10)
            return super().create(path, data)

    other = ModelRegistry(Meeting.open(URL))

    def promote(version):
        try:
            outcomes.append(other.promote("m", version.digest, "prod"))
        except AliasMoved as error:
            outcomes.append(error)

    threads = [threading.Thread(target=promote, args=(version,)) for version in versions[1:]]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(isinstance(outcome, AliasMoved) for outcome in outcomes) == 1
    assert len(s3.history("m", "prod")) == 2
    assert s3.rollback("m", "prod").version == versions[0].digest


def test_garbage_is_collected_there(s3, model):
    version = publish(s3, model, "m").version
    s3.storage.delete(s3.manifest_path("m", version.digest))
    assert collect(s3).blobs == 0, "it is younger than the grace"
    assert collect(s3, grace_s=0.0).blobs == len(version.manifest.pieces)
    assert s3.storage.list("blobs") == []


def test_an_object_is_created_once_and_read_by_ranges(s3):
    assert s3.storage.create("a/b", b"0123456789")
    assert not s3.storage.create("a/b", b"other")
    assert s3.storage.read("a/b") == b"0123456789"
    assert s3.storage.read("a/b", 2, 5) == b"234"
    assert s3.storage.read("a/absent") is None
    assert s3.storage.stat("a/absent") is None
    assert [stored.path for stored in s3.storage.list("a")] == ["a/b"]
    s3.storage.delete("a/b")
    s3.storage.delete("a/b")
    assert s3.storage.list("a") == []


def test_a_bucket_that_is_not_there_is_an_error(bucket):
    with pytest.raises(RegistryError, match="does not exist"):
        ModelRegistry.open("s3://absent/registry", create=True)


def test_a_server_that_is_not_there_is_an_error_that_may_pass(bucket, credentials):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    credentials.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    with pytest.raises(RegistryError) as caught:
        ModelRegistry.open(URL)
    assert caught.value.retryable
    assert "very-secret" not in str(caught.value)


class Refusing(threading.Thread):
    """Answers every request with one error of S3, and closes the connection; without one it closes at once."""

    def __init__(self, status: str = "", code: str = "") -> None:
        super().__init__(daemon=True)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        body = f"<Error><Code>{code}</Code><Message>no</Message></Error>"
        head = f"HTTP/1.1 {status}\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\nConnection: close"
        self._answer = f"{head}\r\n\r\n{body}".encode() if status else b""
        self.start()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                asked = connection.recv(1 << 20)
                head, mark, body = self._answer.partition(b"\r\n\r\n")
                connection.sendall(head + mark + (b"" if asked.startswith(b"HEAD") else body))

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.mark.parametrize(
    ("status", "code", "words", "retryable"),
    [
        ("403 Forbidden", "AccessDenied", "credentials", False),
        ("403 Forbidden", "InvalidAccessKeyId", "credentials", False),
        ("400 Bad Request", "EntityTooLarge", "cannot be used", True),
    ],
)
def test_what_a_server_refuses_is_a_typed_error_and_no_version_is_visible(
    s3, model, credentials, status, code, words, retryable
):
    server = Refusing(status, code)
    try:
        credentials.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(RegistryError, match=words) as caught:
            publish(ModelRegistry(type(s3.storage).open(URL)), model, "m")
    finally:
        server.close()
    assert (caught.value.retryable, "very-secret" in str(caught.value)) == (retryable, False)
    assert s3.names() == ()


def test_without_a_library_the_error_says_how_to_install_it():
    with pytest.raises(ConfigError, match=r"adlfs"):
        ModelRegistry.open("az://container/registry")
