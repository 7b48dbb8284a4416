"""Extension points are looked up by name: built in first, then registered by the app, then declared by packages."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import EntryPoint

import pytest

from hybrid_llm.backends.edge import EdgeConfig
from hybrid_llm.backends.grpc import GrpcSpec
from hybrid_llm.backends.registry import BACKENDS
from hybrid_llm.core import registry as module
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.registry import Registry


def make(monkeypatch: pytest.MonkeyPatch, **declared: str) -> Registry[object]:
    found = [EntryPoint(name, value, "some.group") for name, value in declared.items()]
    monkeypatch.setattr(module, "entry_points", lambda *, group: found if group == "some.group" else [])
    return Registry("kind of thing", group="some.group", builtin={"sqrt": "math:sqrt"})


def test_the_kinds_of_backends_that_come_with_the_library():
    kinds = ["onnx", "encoder", "litert", "grpc", "openai", "anthropic"]
    assert list(BACKENDS.names()[: len(kinds)]) == kinds
    assert (BACKENDS.get("onnx"), BACKENDS.get("grpc")) == (EdgeConfig, GrpcSpec)
    assert [BACKENDS.get(kind).kind for kind in kinds] == kinds


def test_a_name_is_built_in_registered_or_declared_by_a_package(monkeypatch):
    import math

    things = make(monkeypatch, floor="math:floor", sqrt="math:cos")
    things.register("mine", "value")
    assert things.names() == ("sqrt", "mine", "floor")
    assert [things.get(name) for name in things.names()] == [math.sqrt, "value", math.floor]


def test_a_name_stands_for_one_thing(monkeypatch):
    things = make(monkeypatch)
    things.register("mine", "value")
    things.register("mine", "value")
    for name in ("mine", "sqrt"):
        with pytest.raises(ConfigError, match=f"the kind of thing `{name}` is already registered"):
            things.register(name, "another")


def test_an_unknown_name_lists_the_known_ones(monkeypatch):
    with pytest.raises(ConfigError, match="no kind of thing `cube`; known: sqrt, floor"):
        make(monkeypatch, floor="math:floor").get("cube")


def test_a_package_that_cannot_be_imported_is_a_configuration_error(monkeypatch):
    with pytest.raises(ConfigError, match=r"`bad` cannot be loaded from no_such_module:thing \(ModuleNotFoundError"):
        make(monkeypatch, bad="no_such_module:thing").get("bad")


def test_the_keys_of_a_kind_are_read_without_its_runtime():
    code = (
        "import sys\n"
        "from hybrid_llm.backends.registry import table_of\n"
        "table_of('grpc'), table_of('onnx')\n"
        "print([name for name in ('grpc', 'onnxruntime', 'tokenizers', 'numpy') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
