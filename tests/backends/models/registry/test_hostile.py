"""What races, what was changed while it was read, and what someone else wrote into the storage."""

from __future__ import annotations

import random
import threading
from dataclasses import replace

import pytest

from hybrid_llm.backends.models.registry import ModelRegistry, RegistryError, publish, pull
from hybrid_llm.backends.models.registry.keys import Sealed
from hybrid_llm.backends.models.registry.local import LocalStorage
from hybrid_llm.backends.models.registry.records import PIECE, digest_of
from hybrid_llm.core.errors import ConfigError, SecurityError
from tests.backends.models.registry.conftest import content, write_model


def test_of_many_who_create_an_object_at_once_one_does(tmp_path):
    storage = LocalStorage(tmp_path)
    for number in range(10):
        barrier, done = threading.Barrier(6), []

        def create(own, path=f"a/{number}", barrier=barrier, done=done):
            barrier.wait(10)
            if storage.create(path, own):
                done.append(own)

        threads = [threading.Thread(target=create, args=(bytes([own]) * 1000,)) for own in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [storage.read(f"a/{number}")] == done


def test_the_manifest_of_another_model_is_no_version_of_this_one(registry, model):
    version = publish(registry, model, "m").version
    data = registry.storage.read(registry.manifest_path("m", version.digest))
    registry.storage.create(registry.manifest_path("n", version.digest), data)
    with pytest.raises(ConfigError, match="it is of the model m"):
        registry.resolve("n", version.digest)


def test_a_manifest_whose_pieces_are_not_those_of_its_files_makes_no_folder(registry, model, tmp_path):
    manifest = publish(registry, model, "m").version.manifest
    file = manifest.files["model.safetensors"]
    files = {**manifest.files, "model.safetensors": replace(file, sha256=digest_of(b"another file"))}
    data = replace(manifest, files=files).encode()
    registry.storage.create(registry.manifest_path("m", digest_of(data)), data)
    with pytest.raises(SecurityError, match="the manifest is inconsistent"):
        pull(registry, registry.version("m", digest_of(data)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_piece_of_an_earlier_version_that_was_changed_meanwhile_is_fetched(registry, model, tmp_path):
    version = publish(registry, write_model(model, size=PIECE + 10), "m").version
    pull(registry, version, tmp_path / "one")

    def change(step: str, _share: float) -> None:
        if step == "pulling":
            (tmp_path / "one" / "model.safetensors").write_bytes(b"changed")

    done = pull(registry, version, tmp_path / "two", have=[tmp_path / "one"], report=change)
    assert done.received_bytes == PIECE + 10
    assert content(tmp_path / "two") == content(model)


def test_a_file_that_changes_while_it_is_published_makes_no_version(registry, model):
    class Changing(LocalStorage):
        def stat(self, path):
            if path.startswith("blobs/"):
                (model / "model.safetensors").write_bytes(b"changed")
            return super().stat(path)

    with pytest.raises(ConfigError, match="was changed while it was published"):
        publish(ModelRegistry(Changing(registry.storage._root)), model, "m")
    assert registry.names() == ()


class Overtaken(LocalStorage):
    """While an object is sent, or a version looked at, a collection finds the lease too old."""

    def create(self, path, data):
        self._forget(path, "blobs/")
        return super().create(path, data)

    def stat(self, path):
        self._forget(path, "models/")
        return super().stat(path)

    def _forget(self, path, folder):
        if path.startswith(folder):
            for lease in self.list("leases"):
                self.delete(lease.path)


def test_whose_lease_ran_out_publishes_and_promotes_nothing(registry, model):
    late = ModelRegistry(Overtaken(registry.storage._root))
    with pytest.raises(RegistryError, match="it took too long") as caught:
        publish(late, model, "m")
    assert caught.value.retryable
    assert registry.names() == ()
    version = publish(registry, model, "m").version
    with pytest.raises(RegistryError, match="it took too long"):
        late.promote("m", version.digest, "prod")
    assert registry.aliases("m") == {}


def test_two_contents_that_begin_alike_are_stored_as_if_they_had_nothing_in_common():
    """Under one key and nonce, the exclusive or of both would be that of the contents."""
    sealed, common = Sealed(bytes(range(32))), random.Random(0).randbytes(64)
    one, other = (sealed.seal(digest_of(data), data) for data in (common + b"one", common + b"two"))
    assert not any(one[at : at + 4] == other[at : at + 4] for at in range(60))
    assert sealed.name(digest_of(common)) != digest_of(common)
