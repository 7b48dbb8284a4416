"""The generated code: current, and importing it is the only thing that loads gRPC."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.checks import protos as generate


def _compiler_or_skip():
    try:
        return generate.stale()
    except subprocess.CalledProcessError:
        pytest.skip("the pinned protoc is not here and cannot be fetched")


def test_the_checked_in_code_is_what_the_compiler_writes():
    assert _compiler_or_skip() == []


def test_code_that_differs_is_named(tmp_path):
    _compiler_or_skip()
    written = [path.name for path in generate.generate(tmp_path)]
    services = [f"{name}_pb2{kind}" for name in ("engine", "hybrid") for kind in (".py", ".pyi", "_grpc.py")]
    assert written == [*services, "onnx_pb2.py", "onnx_pb2.pyi"]
    (tmp_path / "hybrid_pb2.pyi").write_text("something else")
    assert generate.stale(tmp_path) == ["hybrid_pb2.pyi"]


def test_certificates_and_the_node_module_import_without_grpc():
    code = (
        "import sys, hybrid_llm.backends.wire, hybrid_llm.backends.node.server as s\n"
        "assert 'grpc' not in sys.modules and 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
