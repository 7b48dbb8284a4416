"""The engine vllm up to the door of vLLM: what is refused, what it is told, and whose turn it is. No vLLM needed.

What happens behind that door is in test_contract.py and test_vllm_process.py.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import venv
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node import ipc
from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput, EngineRequest
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.pipes import Odometer
from hybrid_llm.backends.node.vllm import run
from hybrid_llm.backends.node.vllm.answers import unsupported
from hybrid_llm.backends.node.vllm.options import engine_args
from hybrid_llm.backends.node.vllm.steps import Steps
from hybrid_llm.backends.node.vllm.turns import Turns
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.request import Sampling

PACKAGE = Path(__file__).parents[3] / "hybrid_llm" / "__init__.py"
KNOWN = {
    "model", "tokenizer", "skip_tokenizer_init", "trust_remote_code", "max_num_seqs", "max_num_queued_reqs", "dtype",
    "enable_prefix_caching", "scheduling_policy", "generation_config", "max_logprobs", "logprobs_mode", "load_format",
    "structured_outputs_config", "enable_log_requests", "disable_log_stats", "max_model_len", "kv_cache_memory_bytes",
    "max_num_batched_tokens", "tensor_parallel_size", "enable_lora", "max_loras", "max_lora_rank",
}  # fmt: skip


def start(config):
    async def scenario():
        engine = ENGINES.get("vllm")(config, on_progress=lambda _: None)
        try:
            return await engine.start()
        finally:
            await engine.close()

    return asyncio.run(scenario())


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """A Python of its own, in which a test may put a vLLM."""
    folder = tmp_path_factory.mktemp("environment")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(folder)
    (packages,) = folder.glob("lib/python*/site-packages")
    return folder / "bin" / "python", packages / "vllm"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, r"has no vLLM: `.*/bin/python -m pip install vllm`"),
        ("__version__ = '0.9.2'", r"has vLLM 0\.9\.2, and the engine vllm needs 0\.32 or newer"),
        ("raise ImportError('libcudart.so.13')", r"cannot be imported \(ImportError: libcudart\.so\.13\)"),
        ("__version__ = '0.99.1'", "cannot be imported"),
    ],
    ids=["none", "old", "broken", "half installed"],
)
def test_an_environment_without_a_usable_vllm_is_refused(source, says, environment, model_folder):
    python, package = environment
    if source is not None:
        package.mkdir(exist_ok=True)
        (package / "__init__.py").write_text(source, encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        start(EngineConfig(model=model_folder("llama"), engine="vllm", python=python))


def test_a_python_that_is_missing_or_none_is_refused_before_anything_starts(tmp_path):
    for python, says in (
        (None, "add --engine-python"),
        (tmp_path / "python", "is no program"),
        (tmp_path, "no program"),
    ):
        with pytest.raises(ConfigError, match=says):
            start(EngineConfig(model=tmp_path, engine="vllm", python=python))


def test_a_broken_model_folder_is_refused_before_vllm_is_started(tmp_path):
    with pytest.raises(ConfigError, match="no model folder"):
        start(EngineConfig(model=tmp_path / "nowhere", engine="vllm", python=Path(sys.executable)))


@pytest.mark.parametrize("options", [{"python": Path(sys.executable)}, {"options": {"dtype": "half"}}])
def test_our_own_engines_refuse_what_is_meant_for_vllm(options, model_folder):
    with pytest.raises(ConfigError, match="choose --engine vllm"):
        load_engine(EngineConfig(model=model_folder("llama"), **options))


def test_what_runs_in_vllms_python_needs_no_package_of_ours():
    """All that the worker imports before vLLM; the other Python has none of our environment's packages."""
    code = (
        "import runpy, sys; from pathlib import Path\n"
        f"runpy.run_path({run.__file__!r}, run_name='run')['find_package'](Path({str(PACKAGE)!r}))\n"
        "import hybrid_llm.backends.node.vllm.worker\n"
        "found = {name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names)\n"
        "print(found - {'__main__', 'hybrid_llm'})"
    )
    found = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert (found.stdout.strip(), found.stderr) == ("set()", "")


def test_a_python_that_is_too_old_refuses_in_the_words_of_the_pipe(capfdbinary):
    run.refuse("too old")  # what it sends cannot be made by `ipc`, which that Python cannot import
    sys.stdout.flush()
    frame = capfdbinary.readouterr().out
    (length,) = ipc.HEADER.unpack(frame[: ipc.HEADER.size])
    assert len(frame) == ipc.HEADER.size + length
    assert ipc.decode(frame[ipc.HEADER.size :]) == ipc.Refused("too old", None)


def args(config, device="cpu"):
    return engine_args(config, device=device, free_memory=8 << 30, known=KNOWN)


def test_vllm_is_told_what_serve_was_told(demo_model, model_folder):
    config = EngineConfig(model=demo_model, max_slots=4, max_waiting=6, dtype="fp32", reuse_prefixes=False)
    found = args(config)
    assert (found["max_num_seqs"], found["max_num_queued_reqs"], found["dtype"]) == (4, 10, "float32")
    assert (found["enable_prefix_caching"], found["trust_remote_code"], found["skip_tokenizer_init"]) == (False,) * 3
    assert (found["kv_cache_memory_bytes"], found["max_num_batched_tokens"]) == (2 << 30, 260)
    assert "kv_cache_memory_bytes" not in args(config, "cuda")
    assert args(EngineConfig(model=demo_model))["dtype"] == "bfloat16"
    assert args(EngineConfig(model=model_folder("llama")))["dtype"] == "float32"
    assert args(EngineConfig(model=model_folder("llama")), "cuda")["dtype"] == "bfloat16"
    assert args(EngineConfig(model=model_folder("llama")))["skip_tokenizer_init"] is True


def test_options_of_vllms_own_are_json_or_text(demo_model):
    options = {"tensor_parallel_size": "2", "load_format": "dummy", "max_model_len": "4096"}
    found = args(EngineConfig(model=demo_model, options=options))
    assert [found[name] for name in options] == [2, "dummy", 4096]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"options": {"trust_remote_code": "true"}}, "the node sets this itself"),
        ({"options": {"tensor_paralel_size": "2"}}, r"did you mean tensor_parallel_size\?"),
        ({"options": {"zzz": "2"}}, "fields of its AsyncEngineArgs"),
        ({"device": "cuda"}, "this vLLM computes on cpu"),
    ],
)
def test_what_vllm_cannot_be_told_is_refused_by_name(fields, says, demo_model):
    with pytest.raises(ConfigError, match=says):
        args(EngineConfig(model=demo_model, **fields))


def test_a_vllm_that_lacks_what_the_promises_rest_on_is_refused(demo_model):
    with pytest.raises(ConfigError, match="lacks the options scheduling_policy"):
        engine_args(EngineConfig(model=demo_model), device="cpu", free_memory=1, known=KNOWN - {"scheduling_policy"})


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"r": 600}, "rank 512 at most"),
        ({"r": 8, "alpha_pattern": {"q_proj": 2}}, "has a `alpha_pattern`, which vLLM ignores"),
        ({"r": "8"}, "no rank"),
    ],
)
def test_an_adapter_that_vllm_would_compute_wrong_is_refused(settings, says, demo_model, tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
    with pytest.raises(ConfigError, match=says):
        args(EngineConfig(model=demo_model, adapters={"a": tmp_path}))


@pytest.mark.parametrize(
    ("fields", "refused"),
    [
        ({}, False),
        ({"sampling": Sampling(temperature=2.1)}, True),
        ({"answered": 3}, False),
        ({"answered": 3, "sampling": Sampling(temperature=1.0, seed=1)}, True),
        ({"answered": 3, "sampling": Sampling(temperature=1.0)}, False),
        ({"answered": 3, "grammar": "start: X"}, True),
        ({"partial_tokens": 3, "sampling": Sampling(presence_penalty=1.0)}, True),
        ({"answer_prefix": "{", "output_schema": "{}"}, True),
    ],
    ids=str,
)
def test_what_vllm_cannot_go_on_with_is_refused(fields, refused, make_request):
    assert (unsupported(make_request(**fields)) is not None) == refused


class Sent:
    """What would go to the node."""

    def __init__(self):
        self.messages = []
        self.send = self.messages.append


def test_what_comes_together_is_one_message_and_an_idle_vllm_owes_no_progress():
    async def scenario():
        sent, odometer = Sent(), Odometer()
        steps = Steps(sent, odometer)
        steps.record(SimpleNamespace(num_running_reqs=3, kv_cache_usage=0.5), None, engine_idx=0)  # warming up
        await asyncio.sleep(0)
        assert (sent.messages, odometer.busy) == ([], True)
        steps.open(slots=4, kv_tokens=1000)
        await asyncio.sleep(0)
        assert (sent.messages.pop().load.active, odometer.busy) == (0, False)
        steps.count(6)
        steps.record(SimpleNamespace(num_running_reqs=4, kv_cache_usage=0.25), None, engine_idx=0)
        outputs = tuple(EngineOutput(request_id=str(at), token_ids=(at,)) for at in range(4))
        for output in outputs:
            steps.put(output)
        await asyncio.sleep(0)
        (step,) = sent.messages
        assert step.outputs == outputs
        assert (step.load.active, step.load.waiting, step.load.kv_tokens_used) == (4, 2, 250)
        assert (odometer.busy, odometer.beats) == (True, 2)
        steps.count(0)  # all were aborted, and vLLM takes no step to say so
        await asyncio.sleep(0)
        load = sent.messages[-1].load
        assert (load.active, load.waiting, load.kv_tokens_used, odometer.busy) == (0, 0, 0, False)

    asyncio.run(scenario())


sizes = st.tuples(st.integers(1, 60), st.integers(1, 40))


@given(
    loads=st.lists(
        st.tuples(st.sampled_from([0.5, 1.0, 2.0]), st.lists(sizes, min_size=1, max_size=3)), min_size=2, max_size=4
    ),
    slots=st.integers(1, 4),
)
def test_clients_with_requests_waiting_begin_them_in_proportion_to_their_weights(loads, slots):
    """Each always has some waiting; `begun` is called as vLLM gives the first tokens. In tokens over weight."""
    turns, waiting, served, sent = Turns(), [], [0.0] * len(loads), [0] * len(loads)
    longest = max((prompt + answer) / weight for weight, load in loads for prompt, answer in load)
    for _ in range(120):
        for client, (weight, load) in enumerate(loads):
            while sum(each[1] == client for each in waiting) <= slots:
                prompt, answer = load[sent[client] % len(load)]
                request = EngineRequest(
                    request_id="r", prompt_ids=(1,) * prompt, max_tokens=answer, client=str(client), weight=weight
                )
                waiting.append((turns.assign(request), client, (prompt + answer) / weight))
                sent[client] += 1
        first = min(waiting, key=lambda each: each[0])
        waiting.remove(first)
        turns.begun(first[0])
        served[first[1]] += first[2]
        assert max(served) - min(served) <= 2 * longest + 1  # starts are whole numbers
