"""A node's model from object storage: verified before it is there, cached by content, never used in part."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace

import fsspec
import pytest

from hybrid_llm.backends.models.cache import ModelCache, RegistryModel, StoredModel, fetched, stored
from hybrid_llm.backends.models.registry import NoSuchVersion, RegistryError, publish
from hybrid_llm.backends.models.registry.remote import RemoteStorage
from hybrid_llm.backends.models.space import NoSpace
from hybrid_llm.backends.signing.sign import sign_folder
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, SecurityError, UntrustedModel
from tests.backends.models.cache.conftest import SIZE, sums_of
from tests.backends.models.registry.conftest import content, write_model


def files(folder):
    found = content(folder)
    found.pop("SHA256SUMS", None)
    return found


def folders(fetching):
    """Every model folder in the cache that has its final name."""
    return [path for path in fetching.cache.root.glob("*/[a-z]*") if path.is_dir() and path.name != "registry"]


def of(registry, which="prod", **options):
    return RegistryModel(registry=registry.url, name="m", which=which, **options)


# A plain folder


def test_a_plain_folder_is_fetched_by_its_list_and_only_once(plain, model, fetching):
    (model / "unlisted").write_text("left where it is")
    with stored(plain, fetching) as folder:
        assert files(folder) == {name: data for name, data in files(model).items() if name != "unlisted"}
        assert folder.name == "model"
    before = plain.received
    with stored(plain, fetching) as again:
        assert again == folder
    assert plain.received - before < 4096, "the second start reads the list only"


@pytest.mark.parametrize("cuts", [1, 3])
def test_a_cut_is_survived_and_what_had_arrived_is_not_fetched_again(plain, fetching, cuts):
    plain.cuts = [RegistryError("cut", url="", retryable=True)] * cuts
    with stored(plain, fetching) as folder:
        assert (folder / "model.safetensors").stat().st_size == SIZE


@pytest.mark.parametrize("damaged", [False, True])
def test_a_start_after_a_cut_fetches_the_rest_only_and_what_was_damaged_meanwhile_again(
    plain, model, fetching, damaged
):
    plain.most, plain.cuts = 1 << 20, [None, None, None, RegistryError("no", url="", retryable=False)]
    with pytest.raises(RegistryError), stored(plain, fetching):
        pass
    (part,) = fetching.cache.root.rglob("model.safetensors.part")
    assert part.stat().st_size == 3 << 20
    assert folders(fetching) == []
    if damaged:
        part.write_bytes(b"x" * part.stat().st_size)
        with pytest.raises(SecurityError), stored(plain, fetching):
            pass
    before = plain.received
    with stored(plain, fetching) as folder:
        assert files(folder) == files(model)
    rest = SIZE if damaged else SIZE - (3 << 20)
    assert rest <= plain.received - before < rest + 4096


def test_a_storage_that_refuses_is_a_typed_error_and_the_next_start_goes_on(plain, fetching):
    plain.cuts = [RegistryError("no", url="", retryable=False)]
    with pytest.raises(RegistryError, match=r"model\.safetensors was not fetched") as caught, stored(plain, fetching):
        pass
    assert not caught.value.retryable
    assert folders(fetching) == []
    with stored(plain, fetching) as folder:
        assert folder.is_dir()


def test_a_file_of_another_digest_is_never_used_and_is_fetched_anew(plain, model, fetching):
    data = (model / "model.safetensors").read_bytes()
    plain.changed = {"model.safetensors": data[:-1] + bytes([data[-1] ^ 1])}
    with pytest.raises(SecurityError, match="another file"), stored(plain, fetching):
        pass
    assert folders(fetching) == []
    plain.changed = {}
    with stored(plain, fetching) as folder:
        assert files(folder) == files(model)


def test_a_truncated_file_is_an_error(plain, model, fetching):
    plain.changed = {"model.safetensors": (model / "model.safetensors").read_bytes()[:-1]}
    with pytest.raises(RegistryError, match="bytes arrived"), stored(plain, fetching):
        pass
    assert folders(fetching) == []


def test_what_was_changed_on_the_disk_is_fetched_again(plain, model, fetching):
    with stored(plain, fetching) as folder:
        (folder / "model.safetensors").write_bytes(b"damaged")
        (folder / "more.py").write_text("added")
    with stored(plain, fetching) as folder:
        assert files(folder) == files(model)


def test_with_trust_a_plain_folder_needs_the_signature_of_its_signer(plain, model, fetching, certs):
    trusting = replace(fetching, trust=Trust(ca=certs / "ca.pem", identity="spiffe://hybrid-llm/signer/release"))
    with pytest.raises(UntrustedModel, match="not signed"), stored(plain, trusting):
        pass
    (model / "SHA256SUMS").unlink()
    sign_folder(model, certs / "other.key", certs / "other.pem")
    with pytest.raises(UntrustedModel), stored(plain, trusting):
        pass
    assert plain.received < SIZE, "nothing is fetched before the signature is accepted"
    sign_folder(model, certs / "release.key", certs / "release.pem")
    with stored(plain, trusting) as folder:
        assert files(folder) == files(model)
        assert (folder / "model.sig").read_bytes() == (model / "model.sig").read_bytes()
    with stored(plain, fetching) as folder:
        assert files(folder) == files(model), "without trust a signature is a list of digests"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: shutil.rmtree(folder), "no model at"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "lists no digests"),
        (lambda folder: (folder / "SHA256SUMS").write_text("x y\n"), "cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text(""), "lists no file"),
        (lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  ../up\n"), "cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_text(f"{'0' * 64}  /abs\n"), "cannot be read"),
        (lambda folder: (folder / "SHA256SUMS").write_bytes(b"\xff\xfe"), "cannot be read"),
        (lambda folder: (folder / "config.json").unlink(), "is listed"),
    ],
)
def test_a_folder_that_cannot_be_verified_is_refused(plain, model, fetching, change, message):
    change(model)
    with pytest.raises(ConfigError, match=message), stored(plain, fetching):
        pass
    assert folders(fetching) == []


def test_a_signature_that_is_damaged_is_refused(plain, model, fetching):
    (model / "SHA256SUMS").unlink()
    (model / "model.sig").write_text("{}")
    with pytest.raises(ConfigError, match="sign and upload"), stored(plain, fetching):
        pass


def test_the_url_of_a_registry_says_how_to_name_a_model_of_it(registry, fetching):
    with pytest.raises(ConfigError, match="--model NAME@ALIAS"), fetched(StoredModel(url=registry.url), fetching):
        pass


def test_every_file_system_of_fsspec_serves_by_the_same_interface(model, fetching):
    """As Google's and Azure's do: tried on fsspec's own in memory."""
    sums_of(model)
    there = fsspec.filesystem("memory")
    there.put(str(model), "/bucket/tiny", recursive=True)
    try:
        with stored(RemoteStorage(there, "memory://bucket/tiny"), fetching) as folder:
            assert files(folder) == files(model)
            assert folder.name == "tiny"
    finally:
        there.rm("/bucket", recursive=True)


# A registry


def test_an_alias_is_followed_at_each_start_and_both_versions_stay(registry, model, fetching):
    with fetched(of(registry), fetching) as first:
        assert files(first) == files(model)
        assert first.name == "m"
    write_model(model, seed=1, size=SIZE)
    registry.promote("m", publish(registry, model, "m").version.digest, "prod")
    with fetched(of(registry), fetching) as second:
        assert files(second) == files(model)
    assert first.is_dir()
    assert first != second


def test_what_was_changed_in_the_cache_is_mended_before_it_is_used(registry, model, fetching):
    with fetched(of(registry), fetching) as folder:
        data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[:-1])
    (folder / "more.py").write_text("added")
    with fetched(of(registry), fetching) as folder:
        assert files(folder) == files(model)


def test_with_trust_a_version_needs_a_signature_at_each_start(registry, model, fetching, certs, trust):
    trusting = replace(fetching, trust=trust)
    with fetched(of(registry), fetching):
        pass
    with pytest.raises(UntrustedModel), fetched(of(registry), trusting):
        pass
    sign_folder(model, certs / "release.key", certs / "release.pem")
    publish(registry, model, "m")
    with fetched(of(registry), trusting) as folder:
        assert (folder / "model.sig").is_file()


@pytest.mark.parametrize(
    ("name", "which", "error"),
    [("absent", "", NoSuchVersion), ("m", "canary", NoSuchVersion), ("m", "1", NoSuchVersion)],
)
def test_what_the_registry_does_not_have_is_an_error(registry, fetching, name, which, error):
    model = RegistryModel(registry=registry.url, name=name, which=which)
    with pytest.raises(error), fetched(model, fetching):
        pass


def test_a_piece_that_was_changed_there_is_refused_and_nothing_is_there(registry, tmp_path, fetching):
    blob = max((tmp_path / "registry" / "blobs").rglob("*"), key=lambda path: path.stat().st_size)
    blob.write_bytes(blob.read_bytes()[:-1] + b"x")
    with pytest.raises(SecurityError), fetched(of(registry), fetching):
        pass
    assert folders(fetching) == []


# An encrypted registry


def test_of_an_encrypted_model_the_disk_has_ciphertext_only_and_memory_is_cleared(sealed, model, key_file, fetching):
    with fetched(of(sealed, key_file=key_file), fetching) as folder:
        assert files(folder) == files(model)
        assert folder.is_relative_to(fetching.memory)
        assert folder.parent.stat().st_mode & 0o077 == 0
    assert list(fetching.memory.iterdir()) == []
    weights = (model / "model.safetensors").read_bytes()
    on_disk = [path.read_bytes() for path in fetching.cache.root.rglob("*") if path.is_file()]
    assert any(len(data) > 1 << 20 for data in on_disk)
    assert not any(weights[start : start + 64] in data for data in on_disk for start in range(0, SIZE, 1 << 20))
    assert not any(b"LlamaForCausalLM" in data or b"config.json" in data for data in on_disk)


def test_an_encrypted_piece_is_fetched_once_and_a_damaged_one_again(sealed, model, key_file, fetching):
    named = of(sealed, key_file=key_file)
    with fetched(named, fetching):
        pass
    blobs = {path: path.stat().st_ino for path in fetching.cache.root.rglob("blobs/**/*") if path.is_file()}
    largest = max(blobs, key=lambda path: path.stat().st_size)
    data = largest.read_bytes()
    largest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with fetched(named, fetching) as folder:
        assert files(folder) == files(model)
    assert largest.read_bytes() == data
    assert all(path.stat().st_ino == inode for path, inode in blobs.items() if path != largest)


def test_another_key_or_none_is_an_error(sealed, registry, tmp_path, key_file, fetching):
    other = tmp_path / "other.key"
    other.write_text("0" * 64)
    with pytest.raises(DecryptionFailed), fetched(of(sealed, key_file=other), fetching):
        pass
    with pytest.raises(ConfigError, match="is encrypted"), fetched(of(sealed), fetching):
        pass
    with pytest.raises(ConfigError, match="is not encrypted"), fetched(of(registry, key_file=key_file), fetching):
        pass
    with (
        pytest.raises(ConfigError, match="holds no key"),
        fetched(of(sealed, key_file=tmp_path / "model" / "config.json"), fetching),
    ):
        pass


def test_what_a_killed_process_left_in_memory_is_deleted_and_what_lives_stays(sealed, key_file, fetching):
    left = fetching.memory / "hybrid-llm-model-left"
    left.mkdir()
    (left / "used.lock").touch()
    (left / "weights").write_text("plain")
    named = of(sealed, key_file=key_file)
    with fetched(named, fetching) as first:
        assert not left.exists()
        with fetched(named, fetching) as second:
            assert first.is_dir()
            assert first != second


def test_without_memory_the_error_says_how_to_name_some(sealed, key_file, fetching, tmp_path):
    with (
        pytest.raises(ConfigError, match="--model-memory DIR"),
        fetched(of(sealed, key_file=key_file), replace(fetching, memory=tmp_path / "absent")),
    ):
        pass


# Disks and processes


def test_a_model_larger_than_the_cache_may_be_is_refused_before_the_download(registry, plain, fetching, tmp_path):
    small = replace(fetching, cache=ModelCache(tmp_path / "small", 1_000_000))
    with pytest.raises(NoSpace, match="--model-cache-size"), fetched(of(registry), small):
        pass
    with pytest.raises(NoSpace, match="--model-cache-size"), stored(plain, small):
        pass
    assert plain.received < 4096


FETCH = """
import sys
from pathlib import Path
from hybrid_llm.backends.models.cache import Fetching, ModelCache, RegistryModel, StoredModel, fetched
url, root, kind = sys.argv[1:]
named = StoredModel(url=url) if kind == "plain" else RegistryModel(registry=url, name="m", which="prod")
try:
    with fetched(named, Fetching(cache=ModelCache(Path(root)))) as folder:
        print(folder)
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces")
@pytest.mark.parametrize("kind", ["plain", "registry"])
def test_a_full_disk_is_a_typed_error(registry, model, tmp_path, kind):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    sums_of(model)
    url, disk = model.as_uri() if kind == "plain" else registry.url, tmp_path / "disk"
    script = f'mkdir {disk} && mount -t tmpfs -o size=4m none {disk} && exec "$@"'
    command = [sys.executable, "-c", FETCH, url, str(disk / "cache"), kind]
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", script, "sh", *command], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("NoSpace"), done.stderr
    assert "--model-cache DIR" in done.stderr


@pytest.mark.parametrize("kind", ["plain", "registry"])
def test_processes_that_start_at_once_share_one_download(registry, model, tmp_path, kind):
    sums_of(model)
    url = model.as_uri() if kind == "plain" else registry.url
    command = [sys.executable, "-c", FETCH, url, str(tmp_path / "cache"), kind]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    outputs = {process.communicate(timeout=60)[0] for process in running}
    assert [process.returncode for process in running] == [0, 0, 0]
    assert len(outputs) == 1
    assert len(list((tmp_path / "cache").glob("*/*/model.safetensors"))) == 1
