"""A folder comes back as it was, only what changed travels, and what was changed on the way never appears."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading

import pytest

from hybrid_llm.backends.models.registry import ModelRegistry, NoSuchVersion, RegistryError, publish, pull
from hybrid_llm.backends.models.registry.local import LocalStorage
from hybrid_llm.backends.models.registry.records import PIECE
from hybrid_llm.backends.signing.sign import sign_folder
from hybrid_llm.backends.signing.verify import verify_folder
from hybrid_llm.core.errors import ConfigError, DecryptionFailed, SecurityError, UntrustedModel
from tests.backends.models.registry.conftest import content, write_model

SIZE = 2 * PIECE + 1000


class Counting(LocalStorage):
    """Counts what is read of pieces, and does *before* before each."""

    def __init__(self, root, before=lambda count: None):
        super().__init__(root)
        self.pieces, self.bytes, self._before = 0, 0, before

    def read(self, path, start=0, end=None):
        if path.startswith("blobs/"):
            self.pieces += 1
            self._before(self.pieces)
        data = super().read(path, start, end)
        self.bytes += len(data or b"") if path.startswith("blobs/") else 0
        return data


def counting(registry, **options):
    return ModelRegistry(Counting(registry.storage._root, **options), registry.sealing)


def test_a_folder_comes_back_as_it_was(registry, model, tmp_path):
    write_model(model, size=SIZE)
    version = publish(registry, model, "m").version
    done = pull(registry, version, tmp_path / "out")
    assert content(tmp_path / "out") == content(model)
    assert not done.was_there
    assert pull(registry, version, tmp_path / "out").was_there


def test_the_same_content_is_the_same_version_and_is_sent_once(registry, model):
    first, second = publish(registry, model, "m"), publish(registry, model, "m")
    assert (first.version.digest, first.was_there) == (second.version.digest, False)
    assert (second.was_there, second.sent_bytes) == (True, 0)


def test_two_who_publish_the_same_at_once_make_one_version(registry, model):
    done = []
    threads = [threading.Thread(target=lambda: done.append(publish(registry, model, "m"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({one.version.digest for one in done}) == 1
    assert sum(not one.was_there for one in done) == 1
    assert len(registry.versions("m")) == 1


def test_only_the_changed_piece_travels_to_the_registry_and_to_the_device(registry, model, tmp_path):
    write_model(model, size=SIZE)
    first = publish(registry, model, "m").version
    pull(registry, first, tmp_path / "one")
    data = bytearray((model / "model.safetensors").read_bytes())
    data[PIECE + 5] ^= 1
    (model / "model.safetensors").write_bytes(data)
    second = publish(registry, model, "m")
    assert second.sent_bytes == PIECE
    counted = counting(registry)
    done = pull(counted, second.version, tmp_path / "two", have=[tmp_path / "one"])
    assert (done.received_bytes, counted.storage.bytes) == (PIECE, PIECE)
    assert content(tmp_path / "two") == content(model)
    assert content(tmp_path / "one") != content(model), "the earlier version stays what it was"


def test_a_pull_that_was_cut_goes_on_by_ranges_and_fetches_no_byte_twice(registry, model, tmp_path):
    write_model(model, size=PIECE)
    version = publish(registry, model, "m").version

    class Cut(Counting):
        """Breaks a request for more than a range, and one of two others."""

        def read(self, path, start=0, end=None):
            if path.startswith("blobs/") and ((end or PIECE) - start > 256 << 10 or self.pieces % 2):
                self.pieces += 1
                raise RegistryError("cut", url=self.url, retryable=True)
            return super().read(path, start, end)

    cut = ModelRegistry(Cut(registry.storage._root))
    pull(cut, version, tmp_path / "out")
    assert content(tmp_path / "out") == content(model)
    assert cut.storage.bytes == sum(map(len, content(model).values()))


PULL = """
import os, sys
from pathlib import Path
from hybrid_llm.backends.models.registry import ModelRegistry, pull
from tests.backends.models.registry.test_publish_and_pull import Counting
def kill(count):
    if count == 4:
        os.kill(os.getpid(), 9)
root, out = map(Path, sys.argv[1:])
registry = ModelRegistry(Counting(root, kill))
pull(registry, registry.resolve("m"), out)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_pull_that_was_killed_goes_on_and_nothing_half_done_is_seen(registry, model, tmp_path):
    write_model(model, size=6 * PIECE)
    version = publish(registry, model, "m").version
    out = tmp_path / "out"
    command = [sys.executable, "-c", PULL, str(registry.storage._root), str(out)]
    killed = subprocess.run(command, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not out.exists()
    counted = counting(registry)
    pull(counted, version, out)
    assert content(out) == content(model)
    assert counted.storage.bytes <= 6 * PIECE + 100, "no more than what was lost is fetched again"
    assert not list(tmp_path.glob(".out.*.part"))


PUBLISH = """
import os, sys
from pathlib import Path
from hybrid_llm.backends.models.registry import ModelRegistry, publish
from hybrid_llm.backends.models.registry.local import LocalStorage
class Killed(LocalStorage):
    done = 0
    def create(self, path, data):
        self.done += path.startswith("blobs/")
        if self.done == 5:  # the four before are on their way, and at least one has arrived
            os.kill(os.getpid(), 9)
        return super().create(path, data)
root, folder = map(Path, sys.argv[1:])
publish(ModelRegistry(Killed(root)), folder, "m")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_publication_that_was_killed_is_not_visible_and_goes_on(registry, model):
    write_model(model, size=6 * PIECE)
    command = [sys.executable, "-c", PUBLISH, str(registry.storage._root), str(model)]
    killed = subprocess.run(command, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert registry.names() == ()
    done = publish(registry, model, "m")
    assert 0 < done.sent_bytes < 6 * PIECE
    assert registry.resolve("m").digest == done.version.digest


def test_two_who_pull_into_one_folder_at_once_wait_for_each_other(registry, model, tmp_path):
    write_model(model, size=SIZE)
    version = publish(registry, model, "m").version
    done, waited = [], []
    counted = counting(registry)

    def run():
        done.append(pull(counted, version, tmp_path / "out", waiting=lambda: waited.append(1)))

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.was_there for one in done) == [False, True, True]
    assert counted.storage.bytes == sum(map(len, content(model).values()))


def test_a_folder_that_holds_something_else_is_left_alone(registry, model, tmp_path):
    version = publish(registry, model, "m").version
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    with pytest.raises(ConfigError, match="something else"):
        pull(registry, version, tmp_path / "out")
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_a_piece_that_was_changed_or_removed_there_never_appears_here(registry, model, tmp_path):
    version = publish(registry, model, "m").version
    (piece,) = (tmp_path / "registry" / "blobs").rglob(f"{version.manifest.files['model.safetensors'].pieces[0]}")
    good = piece.read_bytes()
    piece.write_bytes(bytes([good[0] ^ 1]) + good[1:])
    with pytest.raises(SecurityError, match="changed there"):
        pull(registry, version, tmp_path / "out")
    piece.write_bytes(good[:-1])
    with pytest.raises(SecurityError):
        pull(registry, version, tmp_path / "out")
    piece.unlink()
    with pytest.raises(NoSuchVersion):
        pull(registry, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_manifest_that_was_changed_there_is_refused(registry, model, tmp_path):
    version = publish(registry, model, "m").version
    path = tmp_path / "registry" / registry.manifest_path("m", version.digest)
    path.write_bytes(path.read_bytes().replace(b'"kind"', b'"kinD"'))
    with pytest.raises(SecurityError):
        registry.resolve("m")


def in_mounts(*words, disks):
    """Run a command of ours with small disks of its own; skipped where that is not allowed."""
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode:
        pytest.skip("mount namespaces are not allowed here")
    mounts = "".join(f"mkdir -p {disk} && mount -t tmpfs -o size=4m none {disk} && " for disk in disks)
    seen = "".join(f" && find {disk} -type f >&2" for disk in disks)
    command = shlex.join([sys.executable, "-m", "hybrid_llm.cli.main", "models", *map(str, words)])
    script = f"{mounts}({command} || echo ended with $?){seen}"
    return subprocess.run(["unshare", "--mount", "sh", "-ec", script], capture_output=True, text=True, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces")
def test_a_disk_without_room_is_found_out_before_the_download(registry, model, tmp_path):
    publish(registry, write_model(model, size=SIZE), "m")
    disk = tmp_path / "disk"
    done = in_mounts("pull", "m", "--registry", registry.url, "--into", disk / "out", disks=[disk])
    assert "ended with 1" in done.stdout
    assert "free some space" in done.stderr
    assert "model.safetensors" not in done.stderr, "nothing large is left"


@pytest.mark.skipif(sys.platform != "linux", reason="mount namespaces")
def test_a_registry_on_a_full_disk_is_an_error_and_no_version_is_visible(model, tmp_path):
    write_model(model, size=SIZE)
    disk = tmp_path / "disk"
    done = in_mounts("publish", model, "--name", "m", "--to", disk / "registry", disks=[disk])
    assert "ended with 1" in done.stdout
    assert "free some space there" in done.stderr
    assert "manifest.json" not in done.stderr


def test_a_folder_with_a_link_is_not_published(registry, model, tmp_path):
    (model / "link").symlink_to(tmp_path)
    with pytest.raises(ConfigError, match="link"):
        publish(registry, model, "m")
    assert registry.names() == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_registry_that_is_read_only_is_a_typed_error(registry, model, tmp_path):
    for path in [tmp_path / "registry", *(tmp_path / "registry").rglob("*")]:
        path.chmod(0o555)
    with pytest.raises(RegistryError, match="cannot be used"):
        publish(registry, model, "m")


def test_a_version_is_pulled_with_a_signature_of_who_is_trusted_only(registry, model, tmp_path, certs, trust):
    version = publish(registry, model, "m").version
    with pytest.raises(UntrustedModel, match="not signed"):
        pull(registry, version, tmp_path / "out", trust=trust)
    sign_folder(model, certs / "other.key", certs / "other.pem")
    assert publish(registry, model, "m").was_there, "the signature is added to the version"
    with pytest.raises(UntrustedModel, match="signer/other"):
        pull(registry, version, tmp_path / "out", trust=trust)
    assert not (tmp_path / "out").exists()
    sign_folder(model, certs / "release.key", certs / "release.pem")
    publish(registry, model, "m")
    pull(registry, version, tmp_path / "out", trust=trust)
    assert verify_folder(tmp_path / "out", trust).signer == trust.identity


def test_a_folder_whose_signature_does_not_fit_is_not_published(registry, model, certs):
    sign_folder(model, certs / "release.key", certs / "release.pem")
    (model / "added").write_text("x")
    with pytest.raises(ConfigError, match="added is not signed"):
        publish(registry, model, "m")
    assert registry.names() == ()


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef" * 4 + "\n")
    return path


def test_nothing_of_the_content_is_readable_in_a_registry_with_a_key(model, tmp_path, key_file):
    registry = ModelRegistry.open((tmp_path / "r").as_uri(), key_file=key_file, create=True)
    secret = b"a sentence that nobody may read" * 10
    (model / "model.safetensors").write_bytes(secret)
    version = publish(registry, model, "m").version
    stored = b"".join(path.read_bytes() for path in (tmp_path / "r").rglob("*") if path.is_file())
    names = " ".join(str(path) for path in (tmp_path / "r").rglob("*"))
    record = version.manifest.files["model.safetensors"]
    assert secret[:31] not in stored
    assert b"safetensors" not in stored
    assert record.sha256 not in names, "nor can one who has the file tell that it is there"
    pull(registry, version, tmp_path / "out")
    assert content(tmp_path / "out") == content(model)


def test_a_registry_with_a_key_is_closed_to_another_key_and_to_none(model, tmp_path, key_file):
    url, other = (tmp_path / "r").as_uri(), tmp_path / "other"
    other.write_text("ff" * 32)
    ModelRegistry.open(url, key_file=key_file, create=True)
    with pytest.raises(DecryptionFailed):
        ModelRegistry.open(url, key_file=other)
    with pytest.raises(ConfigError, match="is encrypted"):
        ModelRegistry.open(url)
    plain = (tmp_path / "p").as_uri()
    ModelRegistry.open(plain, create=True)
    with pytest.raises(ConfigError, match="not encrypted"):
        ModelRegistry.open(plain, key_file=key_file)
    other.write_text("no key")
    with pytest.raises(ConfigError, match="openssl rand"):
        ModelRegistry.open(url, key_file=other)


def test_a_sealed_piece_that_was_changed_or_swapped_is_refused(model, tmp_path, key_file):
    registry = ModelRegistry.open((tmp_path / "r").as_uri(), key_file=key_file, create=True)
    version = publish(registry, model, "m").version
    pieces = sorted((tmp_path / "r" / "blobs").glob("*/*/*"), key=lambda path: path.stat().st_size)
    before = pieces[-1].read_bytes()
    pieces[-1].write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    with pytest.raises(DecryptionFailed):
        pull(registry, version, tmp_path / "out")
    pieces[-1].write_bytes(before[:20])
    with pytest.raises(DecryptionFailed):
        pull(registry, version, tmp_path / "out")
    assert not (tmp_path / "out").exists()
