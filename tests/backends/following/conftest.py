"""A registry in a folder with versions of the embedded model, and a device that follows an alias of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hybrid_llm import HybridLLM, Location
from hybrid_llm.backends.edge import EdgeConfig, embedded_model
from hybrid_llm.backends.following.keys import FollowSpec, TrialSpec
from hybrid_llm.backends.following.spec import FollowingSpec
from hybrid_llm.backends.models.registry import ModelRegistry, publish
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.signals import FixedSensors

POLICY = "version: 1\nname: alone\n"


def model_named(folder: Path, name: str) -> Path:
    """The embedded model under another name, which is another version of it."""
    shutil.copytree(embedded_model(), folder)
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "name": name}))
    return folder


@pytest.fixture
def store(tmp_path, monkeypatch):
    """The store of this device, as child processes see it too."""
    monkeypatch.setenv("HYBRID_LLM_MODELS", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def registry(tmp_path, store):
    return ModelRegistry.open((tmp_path / "registry").as_uri(), create=True)


@pytest.fixture
def released(registry, tmp_path) -> Callable[..., str]:
    """Publishes a version of the model `demo`, lets `prod` point to it, and returns its short digest."""

    def release(name: str, share: float = 1.0, change: Callable[[Path], object] = lambda folder: None) -> str:
        folder = model_named(tmp_path / "made" / name, name)
        change(folder)
        version = publish(registry, folder, "demo").version
        registry.promote("demo", version.digest, "prod", share=share)
        return version.short

    return release


@pytest.fixture
def following(registry):
    """Opens a backend that follows `prod`, and closes it at the end of the test."""
    opened = []

    def open_(trial: TrialSpec | None = None, **options):
        spec = FollowSpec(registry=registry.url, model="demo", every_s=86_400.0, trial=trial or TrialSpec(), **options)
        opened.append(FollowingSpec(entry=EdgeConfig(model=embedded_model(), threads=1), follow=spec).open())
        opened[-1].follower.check()  # beside the one that its thread makes: one of them waits for the other
        return opened[-1]

    yield open_
    for each in opened:
        each.close()


@pytest.fixture
def client():
    """Makes a client of one backend."""

    def make(backend) -> HybridLLM:
        policy = parse_policy(POLICY, backends={backend.name: Location.EDGE})
        return HybridLLM([backend], policy, sensors=FixedSensors())

    return make
