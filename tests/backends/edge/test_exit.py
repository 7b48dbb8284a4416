"""A program that ends while a model is being opened ends like any other."""

import subprocess
import sys
from itertools import pairwise

import onnx
import pytest
from onnx import TensorProto, helper

PROGRAM = """
import sys, threading, time
from contextlib import suppress
from hybrid_llm.errors import BackendUnavailable
from hybrid_llm.backends.edge.runtime import load_runtime, open_session
from hybrid_llm.core.lifetime import native
load_runtime()
def work():
    with suppress(BackendUnavailable):
        while True:  # again and again, so that a machine that is quicker than this one is opening it at the end, too
            with native:
                begun.set()
                open_session(sys.argv[1], threads=1, spin=False)
    ended.set()
begun, ended = threading.Event(), threading.Event()
threading.Thread(target=work, daemon=True).start()
begun.wait()
time.sleep(float(sys.argv[2]))
if ended.is_set():
    print("nothing was being opened")
"""


@pytest.fixture(scope="module")
def slow_model(tmp_path_factory):
    """A model whose graph takes seconds to open."""
    names = [f"x{index}" for index in range(15_000)]
    nodes = [helper.make_node("Sin", [one], [two]) for one, two in pairwise(names)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in (names[0], names[-1])]
    model = helper.make_model(helper.make_graph(nodes, "slow", ends[:1], ends[1:]), ir_version=10)
    path = tmp_path_factory.mktemp("slow") / "model.onnx"
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("after_s", [0.0, 0.05, 0.3])
def test_a_program_ends_while_a_model_is_being_opened(slow_model, after_s):
    command = [sys.executable, "-c", PROGRAM, slow_model, str(after_s)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
