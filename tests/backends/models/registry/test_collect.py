"""Whatever is published, promoted, collected and killed, in any order and at once: what is visible is whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from hybrid_llm.backends.models.registry import ModelRegistry, NoSuchVersion, RegistryError, publish, pull
from hybrid_llm.backends.models.registry.collect import collect
from hybrid_llm.backends.models.registry.leases import LEASE_S, MARK_S
from hybrid_llm.backends.models.registry.local import LocalStorage
from tests.backends.models.registry.conftest import content, write_model

HOUR = 3600.0


class Killed(BaseException):
    """The process is gone: nothing of it runs any more, no clean-up either."""


class Mortal(LocalStorage):
    """A storage whose user dies before its *last* change."""

    def __init__(self, root: Path, last: int) -> None:
        super().__init__(root)
        self._left, self._lock = last, threading.Lock()

    def _change(self) -> None:
        with self._lock:
            self._left -= 1
            if self._left < 0:
                raise Killed

    def create(self, path: str, data: bytes) -> bool:
        self._change()
        return super().create(path, data)

    def delete(self, path: str) -> None:
        self._change()
        super().delete(path)


def age(root: Path, seconds: float) -> None:
    """Let *seconds* pass for everything in a registry."""
    for path in root.rglob("*"):
        if path.is_file():
            found = path.stat()
            os.utime(path, (found.st_atime - seconds, found.st_mtime - seconds))


def require_whole(registry: ModelRegistry) -> None:
    """Each version that is visible has all its pieces, and each alias points to one."""
    for name in registry.names():
        digests = {digest for digest, _ in registry.versions(name)}
        for digest in digests:
            for piece in registry.version(name, digest).manifest.pieces:
                stored = registry.storage.read(registry.blob_path(piece))
                assert stored is not None, f"{name}@{digest[:8]} lacks a piece"
                registry.sealing.unseal(piece, stored)
        for alias, entry in registry.aliases(name).items():
            assert entry.version in digests, f"{alias} points to nothing"


NAMES, CONTENTS = st.sampled_from(["a", "b"]), st.integers(0, 3)


class Life(RuleBasedStateMachine):
    """One registry in which things happen one after the other, and end by a kill at any point."""

    @initialize()
    def begin(self):
        self.root = Path(tempfile.mkdtemp())
        self.registry = ModelRegistry.open((self.root / "r").as_uri(), create=True)
        self.published = {}
        self.folders = [write_model(self.root / f"m{seed}", seed=seed) for seed in range(4)]

    def mortal(self, last):
        return ModelRegistry(Mortal(self.root / "r", last))

    def _after_marks(self):
        """The mark of a collection that died keeps others waiting: let it run out."""
        if list((self.root / "r").glob("collecting/*")):
            age(self.root / "r", MARK_S + 1)

    @rule(seed=CONTENTS, name=NAMES)
    def publish(self, seed, name):
        self._after_marks()
        done = publish(self.registry, self.folders[seed], name)
        self.published[name, done.version.digest] = seed

    @rule(seed=CONTENTS, name=NAMES, last=st.integers(0, 6))
    def publish_and_die(self, seed, name, last):
        self._after_marks()
        try:
            done = publish(self.mortal(last), self.folders[seed], name)
        except Killed:
            return
        self.published[name, done.version.digest] = seed

    @rule(name=NAMES, alias=st.sampled_from(["prod", "canary"]), number=st.integers(0, 5))
    def promote(self, name, alias, number):
        self._after_marks()
        versions = self.registry.versions(name)
        if versions:
            digest = versions[number % len(versions)][0]
            self.registry.promote(name, digest, alias)
            assert self.registry.resolve(name, alias).digest == digest

    @rule(name=NAMES, last=st.integers(0, 3))
    def promote_and_die(self, name, last):
        self._after_marks()
        if self.registry.versions(name):
            with contextlib.suppress(Killed):
                self.mortal(last).promote(name, "", "prod")

    @rule(name=NAMES)
    def rollback(self, name):
        self._after_marks()
        history = self.registry.history(name, "prod")
        try:
            assert self.registry.rollback(name, "prod").version in {entry.version for entry in history}
        except NoSuchVersion:
            assert not history or not history[-1].previous

    @rule(grace=st.sampled_from([0.0, HOUR]), unused=st.sampled_from([None, 0.0, HOUR]))
    def collect(self, grace, unused):
        before = {(name, entry.version) for name in self.registry.names() for entry in self._moves(name)}
        assert collect(self.registry, grace_s=grace, unused_s=unused).complete
        there = {(name, digest) for name, digest, _ in self.registry.all_versions()}
        assert before <= there, "what an alias has pointed to stays"

    @rule(last=st.integers(0, 6))
    def collect_and_die(self, last):
        with contextlib.suppress(Killed):
            collect(self.mortal(last), grace_s=0.0, unused_s=0.0)

    @rule(seconds=st.sampled_from([2 * HOUR, LEASE_S + 1]))
    def wait(self, seconds):
        age(self.root / "r", seconds)

    @rule(name=NAMES)
    def pull(self, name):
        for digest, _ in self.registry.versions(name)[:1]:
            out = Path(tempfile.mkdtemp(dir=self.root)) / "out"
            pull(self.registry, self.registry.version(name, digest), out)
            seed = self.published.get((name, digest))
            assert seed is None or content(out) == content(self.folders[seed])

    def _moves(self, name):
        return [entry for alias in self.registry.aliases(name) for entry in self.registry.history(name, alias)]

    @invariant()
    def what_is_visible_is_whole(self):
        if hasattr(self, "registry"):
            require_whole(self.registry)

    def teardown(self):
        if hasattr(self, "root"):
            shutil.rmtree(self.root)


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=20, stateful_step_count=20, deadline=None)


class Gate:
    """Lets one of several threads at a time go on to its next use of the storage, as *choices* say."""

    def __init__(self, choices: list[int]) -> None:
        self._choices, self._turn = list(choices), threading.Condition()
        self._waiting: list[int] = []
        self._alive: set[int] = set()

    def enter(self) -> None:
        with self._turn:
            self._alive.add(threading.get_ident())

    def leave(self) -> None:
        with self._turn:
            self._alive.discard(threading.get_ident())
            self._turn.notify_all()

    def pass_through(self) -> None:
        own = threading.get_ident()
        with self._turn:
            self._waiting.append(own)
            # A thread that sleeps is waited for a moment, so that the order is that of the choices.
            self._turn.wait_for(lambda: len(self._waiting) >= len(self._alive), 0.004)
            self._turn.notify_all()
            self._turn.wait_for(lambda: self._next() == own, 0.05)
            self._waiting.remove(own)
            if self._choices:
                self._choices.pop(0)
            self._turn.notify_all()

    def _next(self) -> int:
        choice = self._choices[0] if self._choices else 0
        return sorted(self._waiting)[choice % len(self._waiting)]


class Gated(LocalStorage):
    """A storage each use of which waits at a gate."""

    def __init__(self, root: Path, gate: Gate) -> None:
        super().__init__(root)
        self._gate = gate

    def create(self, path, data):
        self._gate.pass_through()
        return super().create(path, data)

    def stat(self, path):
        self._gate.pass_through()
        return super().stat(path)

    def list(self, folder):
        self._gate.pass_through()
        return super().list(folder)

    def delete(self, path):
        self._gate.pass_through()
        super().delete(path)


@settings(max_examples=25, deadline=None)
@given(choices=st.lists(st.integers(0, 2), min_size=40, max_size=40))
def test_what_is_published_or_promoted_while_garbage_is_collected_is_whole(choices):
    """Two publish what is there already, old and unused, and one promotes what is about to be deleted."""
    with tempfile.TemporaryDirectory() as folder:
        root, gate, failed = Path(folder) / "r", Gate(choices), []
        registry = ModelRegistry.open(root.as_uri(), create=True)
        models = [write_model(Path(folder) / f"m{seed}", seed=seed) for seed in range(2)]
        for number, model in enumerate(models):
            version = publish(registry, model, "m").version
            if number == 0:
                registry.storage.delete(registry.manifest_path("m", version.digest))
        age(root, 2 * HOUR)

        def run(work):
            gate.enter()
            try:
                work(ModelRegistry(Gated(root, gate)))
            except NoSuchVersion:
                pass  # it was deleted before it was promoted
            except RegistryError as error:
                failed.append(error)
            finally:
                gate.leave()

        works = [
            lambda registry: publish(registry, models[0], "m"),
            lambda registry: collect(registry, grace_s=HOUR, unused_s=HOUR),
            lambda registry: registry.promote("m", version.digest, "prod"),
        ]
        threads = [threading.Thread(target=run, args=(work,)) for work in works]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failed
        require_whole(registry)
        assert any(content_is(registry, digest, models[0]) for digest, _ in registry.versions("m"))


def content_is(registry, digest, model):
    files = registry.version("m", digest).manifest.files
    return set(files) == set(content(model)) and files["model.safetensors"].bytes == 100


def test_pieces_that_nothing_refers_to_are_deleted_once_they_are_old_enough(registry, model, tmp_path):
    version = publish(registry, model, "m").version
    root = tmp_path / "registry"
    assert collect(registry, grace_s=0.0).blobs == 0
    registry.storage.delete(registry.manifest_path("m", version.digest))
    assert collect(registry, grace_s=HOUR).blobs == 0
    age(root, 2 * HOUR)
    assert collect(registry, grace_s=HOUR, dry_run=True).blobs == len(version.manifest.pieces)
    done = collect(registry, grace_s=HOUR)
    assert (done.blobs, done.complete) == (len(version.manifest.pieces), True)
    assert registry.storage.list("blobs") == []


def test_versions_that_no_alias_has_pointed_to_are_deleted_on_demand_only(registry, model, tmp_path):
    versions = [publish(registry, write_model(model, seed=seed), "m").version for seed in range(3)]
    registry.promote("m", versions[0].digest, "prod")
    registry.promote("m", versions[1].digest, "prod")
    age(tmp_path / "registry", 2 * HOUR)
    assert collect(registry, grace_s=HOUR).versions == ()
    assert collect(registry, grace_s=HOUR, unused_s=HOUR).versions == (f"m@{versions[2].digest}",)
    registry.rollback("m", "prod")
    require_whole(registry)


def test_a_registry_with_a_damaged_manifest_is_not_collected(registry, model, tmp_path):
    version = publish(registry, model, "m").version
    age(tmp_path / "registry", 2 * HOUR)
    (tmp_path / "registry" / registry.manifest_path("m", version.digest)).write_bytes(b"{}")
    before = registry.storage.list("blobs")
    with pytest.raises(Exception, match="changed there"):
        collect(registry, grace_s=0.0)
    assert registry.storage.list("blobs") == before


def test_what_is_leased_is_kept_and_the_lease_of_the_dead_ends(registry, model, tmp_path):
    root = tmp_path / "registry"
    with pytest.raises(Killed):
        publish(ModelRegistry(Mortal(root, 3)), model, "m")
    age(root, 2 * HOUR)
    assert collect(registry, grace_s=0.0).blobs == 0
    age(root, LEASE_S)
    assert collect(registry, grace_s=0.0).blobs == len(registry.storage.list("blobs")) or not registry.storage.list(
        "blobs"
    )
    assert registry.storage.list("leases") == []


def test_who_publishes_waits_for_a_collection(registry, model):
    registry.storage.create("collecting/other.json", b"{}")
    done = []
    thread = threading.Thread(target=lambda: done.append(publish(registry, model, "m")))
    thread.start()
    deadline = time.monotonic() + 30
    while not registry.storage.list("leases") and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not done
    registry.storage.delete("collecting/other.json")
    thread.join()
    assert len(done) == 1
