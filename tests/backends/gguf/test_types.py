"""Every tensor type is read exactly as llama.cpp's own package reads it, and a model of it computes the same."""

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize

from hybrid_llm.backends.edge import verify_manifest
from hybrid_llm.backends.models.gguf import import_gguf
from hybrid_llm.backends.models.gguf.blocks import read_dense
from hybrid_llm.backends.models.gguf.reader import KINDS, Gguf
from tests.ggufs import MINIMA, small_llama

TYPES = sorted(kind.name for kind in KINDS.values())


@pytest.mark.parametrize("kind", [*TYPES, "random Q4_K", "random Q5_K", "random Q6_K"])
def test_a_type_is_read_as_its_own_package_reads_it(tmp_path, kind):
    path = small_llama(tmp_path / "model.gguf", kind)
    theirs = {tensor.name: dequantize(tensor.data, tensor.tensor_type) for tensor in GGUFReader(path).tensors}
    with Gguf(path) as file:
        assert file.tensors.keys() == theirs.keys()
        for name, tensor in file.tensors.items():
            np.testing.assert_array_equal(read_dense(file, tensor).ravel(), theirs[name].ravel(), err_msg=name)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("kind", TYPES)
def test_a_model_of_each_type_computes_what_its_file_says(tmp_path, kind, tied):
    """The import compares with NumPy, which reads the same numbers as llama.cpp's package by the test above."""
    path = small_llama(tmp_path / "model.gguf", kind, tied=tied)
    manifest = import_gguf(path, tmp_path / "out", name="small")
    assert verify_manifest(tmp_path / "out") == manifest
    assert manifest.precision == kind
    assert manifest.parity["float32"]["largest_difference"] < (0.05 if kind in MINIMA else 1e-3)
    assert manifest.parity["as_run"]["divergence"] < 0.01
