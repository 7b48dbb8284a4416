"""A device has the version in use and the one before, and changes between them in one step."""

from __future__ import annotations

import shutil
import threading

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig, ModelStore, embedded_model
from hybrid_llm.backends.edge.folder import read_manifest
from hybrid_llm.backends.models.registry import NoSuchVersion, publish
from hybrid_llm.backends.models.registry.device import DeviceModel
from hybrid_llm.backends.models.store import remove, verify
from hybrid_llm.backends.signing.sign import sign_folder
from hybrid_llm.core.errors import ConfigError, UntrustedModel


@pytest.fixture
def versions(registry, tmp_path):
    """Three versions of the embedded model, which differ by a file that is not read."""
    found = []
    for number in range(3):
        folder = tmp_path / f"edge{number}"
        shutil.copytree(embedded_model(), folder)
        (folder / "NOTES.md").write_text(f"version {number}")
        found.append(publish(registry, folder, "edge").version)
    return found


@pytest.fixture
def device(tmp_path):
    return DeviceModel(ModelStore(tmp_path / "store"), "edge")


def test_a_version_is_used_once_it_is_activated_and_the_one_before_stays(device, registry, versions):
    for version in versions:
        device.pull(registry, version)
        assert device.current != version.short
        device.activate(version.short)
        assert device.current == version.short
    assert device.versions == (versions[1].short, versions[2].short)
    assert (device.store.folder("edge") / "NOTES.md").read_text() == "version 2"
    assert device.store.default == "edge"
    verify(device.store, "edge")
    device.activate(versions[1].short)
    assert (device.store.folder("edge") / "NOTES.md").read_text() == "version 1"
    with pytest.raises(NoSuchVersion):
        device.activate(versions[0].short)


def test_only_the_changed_file_is_received(device, registry, versions):
    device.pull(registry, versions[0])
    assert device.pull(registry, versions[1]).received_bytes == len("version 1")
    assert device.pull(registry, versions[1]).was_there


def test_who_reads_while_versions_change_always_finds_a_whole_model(device, registry, versions):
    for version in versions[:2]:
        device.pull(registry, version)
    device.activate(versions[0].short)
    stop, seen = threading.Event(), set()

    def read():
        while not stop.is_set():
            read_manifest(device.store.folder("edge"))
            seen.add((device.store.folder("edge") / "NOTES.md").read_text())

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for number in range(60):
        device.activate(versions[number % 2].short)
    stop.set()
    for reader in readers:
        reader.join()
    assert seen <= {"version 0", "version 1"}


def test_a_removed_model_is_gone_with_all_its_versions(device, registry, versions):
    for version in versions[:2]:
        device.pull(registry, version)
        device.activate(version.short)
    assert remove(device.store, "edge", force=True) > 0
    assert device.store.names() == ()
    assert not list((device.store.root / ".versions").rglob("*.onnx"))
    device.pull(registry, versions[2])
    device.activate(versions[2].short)


def test_a_name_that_another_model_has_is_refused(device, registry, versions):
    entry = device.store.root / "edge"
    shutil.copytree(embedded_model(), entry / "model")
    (entry / "origin.json").write_text('{"source": "a file"}')
    with pytest.raises(ConfigError, match="from a file"):
        device.pull(registry, versions[0])


def test_a_model_that_no_device_runs_is_refused_by_its_kind(device, registry, model):
    version = publish(registry, model, "hf").version
    with pytest.raises(ConfigError, match="huggingface"):
        device.pull(registry, version)


def test_a_pull_without_the_signature_that_is_asked_for_leaves_the_version_in_use(device, registry, versions, trust):
    device.pull(registry, versions[0])
    device.activate(versions[0].short)
    with pytest.raises(UntrustedModel):
        device.pull(registry, versions[1], trust=trust)
    assert device.versions == (device.current,) == (versions[0].short,)


def test_a_signed_version_is_pulled_and_answers_where_its_signature_is_asked_for(
    device, registry, tmp_path, certs, trust
):
    folder = tmp_path / "signed"
    shutil.copytree(embedded_model(), folder)
    sign_folder(folder, certs / "release.key", certs / "release.pem", name="edge")
    device.pull(registry, publish(registry, folder, "edge").version, trust=trust)
    (short,) = device.versions
    device.activate(short)
    backend = EdgeBackend(EdgeConfig(model=device.store.folder("edge"), trust=trust, load="eager"))
    assert backend.loaded
    backend.close()


def test_a_folder_whose_recipe_failed_is_not_published(registry, model):
    (model / "card.json").write_text('{"publishable": false, "refusals": ["accuracy is 0.5, under its floor of 0.7"]}')
    with pytest.raises(ConfigError, match="under its floor"):
        publish(registry, model, "m")
    (model / "card.json").unlink()  # as a kill between both files leaves it
    (model / "step.json").write_text('{"metrics": {"accuracy": 0.5}, "breaches": []}')
    with pytest.raises(ConfigError, match="run its recipe again"):
        publish(registry, model, "m")
    assert registry.names() == ()


def test_an_encoder_that_is_pulled_does_not_become_the_model_that_writes(registry, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(embedded_model(), folder)
    (folder / "genai_config.json").unlink()
    version = publish(registry, folder, "sentiment").version
    device = DeviceModel(ModelStore(tmp_path / "store"), "sentiment")
    device.pull(registry, version)
    device.activate(version.short)
    assert device.current == version.short
    assert not device.store.default
