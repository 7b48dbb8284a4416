"""The engine with bad requests, full queues, deadlines and failing models: only the affected requests fail."""

from __future__ import annotations

import dataclasses
import json
import math
import time
from pathlib import Path

import pytest
import torch
import transformers

from hybrid_llm.backends.node.engine import EngineConfig, EngineInfo
from hybrid_llm.backends.node.engines.blocks import BlockPool, Copy, Table
from hybrid_llm.backends.node.engines.capacity import context_window
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.engines.loop import LoopEngine
from hybrid_llm.backends.node.engines.scheduler import Scheduler
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling
from tests.backends.engine.conftest import VOCAB
from tests.backends.engine.poison import poison

POISON = {
    **poison(VOCAB, 256),
    "schema without a tokenizer": {"output_schema": "{}"},
    "adapter that is no name": {"adapter": ["other"]},
}


@pytest.fixture(scope="module")
def engine(model_folder):
    return load_engine(
        EngineConfig(model=model_folder("llama"), max_slots=3, prefill_budget=16, max_waiting=8, threads=1)
    )


@pytest.mark.parametrize("poison", POISON)
def test_a_poison_request_fails_alone(poison, engine, make_request, run, expected, model_folder):
    good, bad = make_request(range(10), 6), dataclasses.replace(make_request(), **POISON[poison])
    answers = run(engine, [good, bad])
    assert answers.error(bad) == "rejected"
    assert answers.tokens[bad.request_id] == []
    assert answers.tokens[good.request_id] == expected(model_folder("llama"), good)


def test_a_second_request_of_the_same_id_is_rejected(engine, make_request):
    request = make_request(max_tokens=4)
    engine.submit(request)
    engine.submit(request)
    assert [output.error.code for output in engine.step() if output.error] == ["rejected"]
    while not engine.idle:
        engine.step()


def test_more_than_slots_and_queue_hold_is_overloaded(engine, make_request, run):
    requests = [make_request(max_tokens=2) for _ in range(3 + 8 + 2)]
    answers = run(engine, requests)
    assert [answers.error(request) for request in requests] == [None] * 11 + ["overloaded"] * 2


def test_an_abort_frees_the_slot_in_the_next_step(engine, make_request):
    long = [make_request(range(5), 200) for _ in range(3)]
    waiting = make_request(range(5), 2)
    for request in (*long, waiting):
        engine.submit(request)
    engine.step()
    assert (engine.load().active, engine.load().waiting) == (3, 1)
    engine.abort(long[1].request_id)
    assert {output.request_id for output in engine.step()} >= {waiting.request_id}
    for request in long:
        engine.abort(request.request_id)
    engine.abort("never heard of")
    outputs = []
    while not engine.idle:
        outputs += engine.step()
    assert {output.request_id for output in outputs} <= {waiting.request_id}
    assert engine.load().kv_tokens_used == 0


def test_an_abort_frees_the_kv_cache_in_the_next_step(model_folder, make_request):
    engine = load_engine(EngineConfig(model=model_folder("llama"), max_slots=4, kv_tokens=64, threads=1))
    long, waiting = make_request(range(40), 24), make_request(range(50), 2)
    engine.submit(long)
    engine.step()
    engine.submit(waiting)
    engine.step()
    assert (engine.load().active, engine.load().waiting, engine.load().kv_tokens_used) == (1, 1, 48)
    engine.abort(long.request_id)
    assert engine.load().kv_tokens_used == 0
    assert [output.request_id for output in engine.step()] == [waiting.request_id]
    engine.abort(waiting.request_id)


def test_deadlines_end_running_and_waiting_requests(engine, make_request, run):
    soon = time.monotonic() + 0.05
    running = [make_request(range(5), 250, expires=soon) for _ in range(3)]
    waiting = make_request(range(5), 5, expires=soon - 1)
    answers = run(engine, [*running, waiting])
    assert [answers.error(request) for request in (*running, waiting)] == ["deadline"] * 4
    assert answers.tokens[waiting.request_id] == []


def test_the_time_in_the_queue_is_reported(engine, make_request, run):
    requests = [make_request(range(5), 30) for _ in range(4)]
    answers = run(engine, requests)
    first, last = (answers.ends[request.request_id].queue_ms for request in (requests[0], requests[-1]))
    assert 0 <= first < last


def test_length_is_reached_exactly_at_the_end_of_the_window(engine, make_request, run):
    request = make_request(range(200), 56)
    answers = run(engine, [request])
    assert len(answers.tokens[request.request_id]) == 56
    assert answers.ends[request.request_id].finish_reason is FinishReason.LENGTH


class Failing:
    """A runner that raises, or gives NaN, when it reads certain tokens; else the next token is the last one + 1."""

    def __init__(self) -> None:
        self.wiped: list[list[int]] = []

    def forward(self, segments):
        logits = torch.zeros(0, 50)
        for segment in segments:
            if 13 in segment.ids:
                raise RuntimeError("this model does not like 13")
            row = torch.zeros(1, 50)
            row[0, (segment.ids[-1] + 1) % 50] = math.nan if 14 in segment.ids else 1.0
            logits = torch.cat([logits, row]) if segment.complete else logits
        return logits

    def wipe(self, blocks: list[int]) -> None:
        self.wiped.append(blocks)

    def copy(self, copy: Copy) -> None:
        pass

    def intact(self, table: Table, first: int, last: int) -> bool:
        return True


def test_a_step_that_raises_fails_only_the_request_that_makes_it_raise(make_request, run):
    info = EngineInfo(engine="fake", model="m", architecture="a", vocab_size=50, context_window=64, slots=4)
    runner = Failing()
    engine = LoopEngine(runner, info, Scheduler(BlockPool(16), slots=4, prefill_budget=64, max_waiting=8))
    good, late = make_request([1, 2], 5), make_request([20], 5)
    raises, nan, reaches = make_request([1, 13], 5), make_request([14], 5), make_request([10], 8)
    answers = run(engine, [good, raises, nan, reaches, late])
    assert answers.tokens[good.request_id] == [3, 4, 5, 6, 7]
    assert answers.tokens[late.request_id] == [21, 22, 23, 24, 25]
    assert answers.tokens[reaches.request_id] == [11, 12, 13]
    assert [answers.error(request) for request in (raises, nan, reaches)] == ["internal", "rejected", "internal"]
    assert len(runner.wiped) == 3


@pytest.mark.parametrize(("poison", "code"), [(13, "internal"), (14, "rejected")])
def test_requests_that_cannot_be_computed_leave_the_engine_to_the_others(poison, code, make_request, run):
    """However many come in a row: the device still computes a token of the engine's own."""
    info = EngineInfo(engine="fake", model="m", architecture="a", vocab_size=50, context_window=64, slots=2)
    engine = LoopEngine(Failing(), info, Scheduler(BlockPool(16), slots=2, prefill_budget=64, max_waiting=64))
    poisoned = [make_request([poison], 5) for _ in range(30)]
    answers = run(engine, poisoned)
    assert {answers.error(request) for request in poisoned} == {code}
    good = make_request([1, 2], 5)
    assert run(engine, [good]).tokens[good.request_id] == [3, 4, 5, 6, 7]


class Infinite(Failing):
    """An adapter that makes keys infinite which no query attends to: all logits are finite."""

    recycles = True
    adapters = None

    def intact(self, table: Table, first: int, last: int) -> bool:
        del table
        assert first < last
        return False


@pytest.mark.parametrize("adapter", ["", "a"])
def test_infinite_keys_of_an_adapter_reach_no_other_request(adapter, make_request, run):
    info = EngineInfo(
        engine="fake", model="m", architecture="a", vocab_size=50, context_window=64, slots=2, adapters=("a",)
    )
    runner = Infinite()
    engine = LoopEngine(runner, info, Scheduler(BlockPool(16), slots=2, prefill_budget=64, max_waiting=8))
    first, again = (make_request(range(15, 50), 5, adapter=adapter) for _ in range(2))
    run(engine, [first])
    cached = run(engine, [again]).ends[again.request_id].cached_tokens
    assert (cached > 0) == (not adapter)
    assert bool(runner.wiped) == bool(adapter)


class Broken(Failing):
    """A device that has failed: all logits are NaN, or every step raises."""

    def __init__(self, *, raises: bool) -> None:
        super().__init__()
        self._raises = raises

    def forward(self, segments):
        if self._raises:
            raise RuntimeError("the device is gone")
        return torch.full_like(super().forward(segments), math.nan)


@pytest.mark.parametrize("raises", [True, False])
def test_an_engine_whose_device_fails_gives_itself_up(raises, make_request, run):
    info = EngineInfo(engine="fake", model="m", architecture="a", vocab_size=50, context_window=64, slots=2)
    engine = LoopEngine(
        Broken(raises=raises), info, Scheduler(BlockPool(16), slots=2, prefill_budget=64, max_waiting=64)
    )
    requests = [make_request([1], 5) for _ in range(30)]
    with pytest.raises(RuntimeError, match="every request"):
        run(engine, requests)


def test_prompts_without_finite_logits_are_rejected_by_a_real_model(model_folder, make_request, run, tmp_path):
    """A token whose embedding is NaN, in more requests in a row than steps may fail."""
    model = transformers.AutoModelForCausalLM.from_pretrained(model_folder())
    with torch.no_grad():
        model.get_input_embeddings().weight[13] = math.nan
    model.save_pretrained(tmp_path)
    for kind in ("packed", "one_by_one"):
        engine = load_engine(EngineConfig(model=tmp_path, engine=kind, max_slots=2, max_waiting=64, threads=1))
        poisoned, good = [make_request([1, 13], 5) for _ in range(20)], make_request([1, 2, 3], 5)
        answers = run(engine, [*poisoned, good])
        assert {answers.error(request) for request in poisoned} == {"rejected"}
        assert len(answers.tokens[good.request_id]) == 5


def test_an_answer_follows_its_schema(demo_model, make_request, run):
    engine = load_engine(EngineConfig(model=demo_model, max_slots=2, threads=1))
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
    fields = {"eos_ids": frozenset({5}), "sampling": Sampling(temperature=1.0, seed=3)}
    request = make_request(range(20, 40), 60, output_schema=json.dumps(schema), **fields)
    broken = make_request(range(20, 40), 60, output_schema='{"type": "no such type"}', **fields)
    answers = run(engine, [request, broken, make_request(range(30, 50), 10)])
    tokenizers = pytest.importorskip("tokenizers")
    text = tokenizers.Tokenizer.from_file(str(demo_model / "tokenizer.json")).decode(answers.tokens[request.request_id])
    assert json.loads(text).keys() == {"n", "ok"}
    assert answers.ends[request.request_id].finish_reason is FinishReason.STOP
    assert answers.error(broken) == "rejected"


def copy_of(folder: Path, target: Path) -> Path:
    target.mkdir()
    for path in folder.iterdir():
        (target / path.name).write_bytes(path.read_bytes())
    return target


def no_weights(folder):
    (folder / "model.safetensors").unlink()


def half_written(folder):
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def no_config(folder):
    (folder / "config.json").unlink()


def broken_config(folder):
    (folder / "config.json").write_text("{", encoding="utf-8")


def unknown_architecture(folder):
    (folder / "config.json").write_text('{"model_type": "from-the-future"}', encoding="utf-8")


def other_shape(folder):
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 5}), encoding="utf-8")


def missing_shard(folder):
    index = {"weight_map": {"lm_head.weight": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (no_weights, "no weights"),
        (half_written, "truncated"),
        (no_config, "config.json is missing"),
        (broken_config, "config.json cannot be read"),
        (unknown_architecture, "from-the-future"),
        (other_shape, "do not belong together"),
        (missing_shard, "missing or truncated"),
    ],
)
def test_a_broken_model_folder_is_refused_with_the_remedy(harm, says, model_folder, tmp_path):
    folder = copy_of(model_folder("llama"), tmp_path / "model")
    harm(folder)
    with pytest.raises(ConfigError, match=says) as caught:
        load_engine(EngineConfig(model=folder))
    assert caught.value.path is not None
    assert str(folder) in caught.value.path


@pytest.mark.parametrize(
    "options",
    [
        {"max_slots": 0},
        {"prefill_budget": 0},
        {"threads": -1},
        {"kv_tokens": 31},
        {"context_window": 31},
        {"context_window": -1},
        {"device": "nonsense"},
        {"engine": "v8"},
    ],
)
def test_an_impossible_option_is_refused(options, model_folder):
    with pytest.raises(ConfigError):
        load_engine(EngineConfig(model=model_folder("llama"), **options))


def test_one_request_may_have_all_of_the_kv_cache(model_folder, make_request, run):
    engine = load_engine(EngineConfig(model=model_folder("llama"), max_slots=4, kv_tokens=130, threads=1))
    assert engine.info.context_window == 128
    assert engine.load().kv_tokens_total == 128
    fits, too_long = make_request(range(40), 88), make_request(range(40), 89)
    answers = run(engine, [fits, too_long])
    assert (answers.error(fits), answers.error(too_long)) == (None, "rejected")
    assert len(answers.tokens[fits.request_id]) == 88


def test_the_window_of_one_request_can_be_bounded(model_folder, make_request, run):
    engine = load_engine(EngineConfig(model=model_folder("llama"), max_slots=2, context_window=64, threads=1))
    assert (engine.info.context_window, engine.load().kv_tokens_total) == (64, 128)
    fits, too_long = make_request(range(40), 24), make_request(range(40), 25)
    answers = run(engine, [fits, too_long])
    assert (answers.error(fits), answers.error(too_long)) == (None, "rejected")


@pytest.mark.parametrize("name", ["llama", "gemma4", "bloom"])
def test_a_cache_larger_than_the_memory_is_refused_with_the_setting_that_helps(name, model_folder):
    with pytest.raises(ConfigError, match=r"KV cache take .* GB .* lower kv_tokens \(--kv-tokens\) to \d+ or less"):
        load_engine(EngineConfig(model=model_folder(name), kv_tokens=10**9 - 1, threads=1))


def test_weights_larger_than_the_memory_are_refused_before_they_are_read(model_folder, tmp_path):
    folder = copy_of(model_folder("llama"), tmp_path / "model")
    numbers = 10**12
    known, at = {"w": [numbers]} | {f"layers.{layer}": [0] for layer in range(8)}, 0
    entries = {}
    for name, shape in known.items():
        entries[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + 4 * shape[0]]}
        at += 4 * shape[0]
    header = json.dumps(entries).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + 4 * numbers)
    with pytest.raises(
        ConfigError, match=r"the weights take 4000\.0 GB in float32, .* use a smaller model or dtype bf16"
    ):
        load_engine(EngineConfig(model=folder, threads=1))


@pytest.mark.parametrize(
    ("config", "window"),
    [
        (transformers.Gemma3Config(text_config={"max_position_embeddings": 8192}), 8192),
        (transformers.GPT2Config(n_positions=1024), 1024),
        (transformers.MptConfig(max_seq_len=4096), 4096),
        (transformers.BloomConfig(), 2048),
        (transformers.LlamaConfig(max_position_embeddings=4096), 4096),
        (
            transformers.Qwen2Config(
                max_position_embeddings=32768,
                rope_parameters={"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768},
            ),
            131072,
        ),
        (
            transformers.LlamaConfig(
                max_position_embeddings=131072,
                rope_parameters={
                    "rope_type": "llama3",
                    "factor": 32.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 8192,
                },
            ),
            131072,
        ),
    ],
)
def test_the_context_window_is_known_for_every_shape_of_configuration(config, window):
    assert context_window(config) == window
