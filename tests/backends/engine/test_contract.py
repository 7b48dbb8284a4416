"""What every engine of the node keeps, whatever runs inside: the same tests for each of them, as processes.

vLLM takes part where HYBRID_LLM_VLLM_PYTHON names the Python of an environment that has it; see docs/operations.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import random
import signal
import time

import pytest

from hybrid_llm.backends.node.engine import Engine, EngineConfig, EngineDied
from hybrid_llm.backends.node.engines import ENGINES
from hybrid_llm.backends.node.liveness import StallLimits
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling
from tests.backends.engine.environments import vllm_config
from tests.backends.engine.poison import poison

torch = pytest.importorskip("torch")
tokenizers = pytest.importorskip("tokenizers")

SLOTS, WAITING, KV = 3, 8, 1536
VOCAB = 2048
"""Of the demonstration model."""
CLOSE = 2e-3
SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"n": {"type": "integer", "minimum": 0, "maximum": 99}, "ok": {"type": "boolean"}},
        "required": ["n", "ok"],
        "additionalProperties": False,
    }
)


class Node:
    """A running engine, and the loop that it runs on while a test asks something of it."""

    def __init__(self, engine, runner):
        self.engine, self.run = engine, runner.run
        self.info = engine.info

    async def answer(self, request):
        outputs = [output async for output in self.engine.stream(request)]
        assert [output.last for output in outputs] == [False] * (len(outputs) - 1) + [True]
        assert {output.request_id for output in outputs} == {request.request_id}
        return Answer(outputs)

    def answers(self, *requests):
        """The answers to *requests*, all sent at once."""

        async def gathered():
            return await asyncio.gather(*map(self.answer, requests))

        return self.run(gathered())

    async def until(self, condition, seconds=300.0):
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)


class Answer:
    def __init__(self, outputs):
        self.outputs, self.end = outputs, outputs[-1]
        self.tokens = [token for output in outputs for token in output.token_ids]
        self.scores = [score for output in outputs for score in output.scores]
        self.error = None if self.end.error is None else self.end.error.code


@pytest.fixture(scope="module", params=["packed", "one_by_one", "vllm"])
def node(request, demo_model):
    config = EngineConfig(
        model=demo_model,
        engine=request.param,
        dtype="fp32",
        max_slots=SLOTS,
        max_waiting=WAITING,
        kv_tokens=KV,
        threads=1,
        limits=StallLimits(stall=60.0),
    )
    if request.param == "vllm":
        config = vllm_config(config)
    with asyncio.Runner() as runner:
        engine = ENGINES.get(request.param)(config, on_progress=lambda _: None)
        assert isinstance(engine, Engine)
        runner.run(engine.start())
        try:
            yield Node(engine, runner)
        finally:
            runner.run(engine.close())


def test_it_says_what_it_runs(node, request):
    info = node.info
    assert info.engine == request.node.callspec.params["node"]
    assert (info.model, info.architecture, info.vocab_size) == ("hybrid-demo-node", "LlamaForCausalLM", 2048)
    assert (info.device, info.dtype) == ("cpu", "float32")
    assert (info.output_schema, info.logprobs, info.penalties) == (True, True, True)
    assert info.slots == (1 if info.engine == "one_by_one" else SLOTS)
    assert KV // SLOTS <= info.context_window <= KV
    assert node.engine.load().slots == info.slots
    assert node.engine.load().kv_tokens_total >= info.context_window


def test_greedy_answers_are_those_of_transformers_alone_and_at_once(node, make_request, expected, demo_model):
    rng = random.Random(1)
    requests = [
        make_request([rng.randrange(8, 2048) for _ in range(rng.randint(3, 70))], 16, eos_ids=frozenset({5}))
        for _ in range(8)
    ]
    together = node.answers(*requests)
    (alone,) = node.answers(requests[0])
    wanted = [expected(demo_model, request) for request in requests]
    assert [answer.tokens for answer in together] == wanted
    assert alone.tokens == wanted[0]


def test_presence_and_frequency_penalties_count_the_answer(node, make_request, expected, demo_model):
    plain = make_request(range(10, 30), 24)
    penalised = dataclasses.replace(plain, sampling=Sampling(presence_penalty=0.6, frequency_penalty=1.2))
    (answer,) = node.answers(penalised)
    assert answer.tokens == expected(demo_model, penalised)
    assert answer.tokens != expected(demo_model, plain)


POISON = {
    **poison(VOCAB, KV),
    "id that cannot be sent": {"prompt_ids": (object(),)},
    "a schema that is none": {"output_schema": '{"type": "no such type"}'},
    "a grammar that is none": {"grammar": "%llguidance {}\nstart: nothing"},
}


@pytest.mark.parametrize("poison", POISON)
def test_a_poison_request_fails_alone(poison, node, make_request, expected, demo_model):
    good, bad = make_request(range(10, 20), 4), dataclasses.replace(make_request(), **POISON[poison])
    right, wrong = node.answers(good, bad)
    assert (wrong.error, wrong.tokens) == ("rejected", [])
    assert right.tokens == expected(demo_model, good)
    assert node.engine.restarts == 0


def test_an_end_token_ends_the_answer_and_is_not_part_of_it(node, make_request, expected, demo_model):
    free = expected(demo_model, make_request(range(20, 40), 20))
    request = make_request(range(20, 40), 20, eos_ids=frozenset({free[6]}), logprobs=0)
    (answer,) = node.answers(request)
    assert answer.tokens == free[: free.index(free[6])]
    assert answer.end.finish_reason is FinishReason.STOP
    assert len(answer.scores) == len(answer.tokens)


def test_the_window_is_filled_to_its_last_token_and_no_further(node, make_request):
    window = node.info.context_window
    prompt = [9 + at % 2000 for at in range(window - 8)]
    fits, over = node.answers(make_request(prompt, 8), make_request(prompt, 9))
    assert (len(fits.tokens), fits.end.finish_reason) == (8, FinishReason.LENGTH)
    assert over.error == "rejected"


def test_a_repetition_penalty_is_that_of_transformers(node, make_request, expected, demo_model):
    request = make_request(range(20, 40), 20, sampling=Sampling(repetition_penalty=1.7))
    (answer,) = node.answers(request)
    assert answer.tokens == expected(demo_model, request) != expected(demo_model, make_request(range(20, 40), 20))


@pytest.mark.parametrize("one", [{"top_k": 1}, {"top_p": 1e-6}, {"min_p": 1.0}], ids=str)
def test_a_draw_from_one_token_is_greedy(one, node, make_request, expected, demo_model):
    drawn = make_request(range(30, 60), 10, sampling=Sampling(temperature=1.0, **one))
    (answer,) = node.answers(drawn)
    assert answer.tokens == expected(demo_model, make_request(range(30, 60), 10))


def test_a_seed_repeats_its_answer_alone_and_in_company(node, make_request):
    def drawn(seed, temperature=1.5):
        return make_request(range(12, 40), 16, sampling=Sampling(temperature=temperature, top_p=0.98, seed=seed))

    (alone,) = node.answers(drawn(42))
    again, other, free, freer = node.answers(drawn(42), drawn(43), drawn(None), drawn(None))
    assert again.tokens == alone.tokens != other.tokens
    assert free.tokens != freer.tokens
    for seed in (-(2**70), 2**70):
        assert len(node.answers(drawn(seed))[0].tokens) == 16


def test_scores_are_the_log_softmax_of_a_plain_forward(node, make_request, demo_model):
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(demo_model, dtype="float32").eval()
    draws = (Sampling(), Sampling(temperature=1.0, seed=4), Sampling(repetition_penalty=1.5))
    requests = [
        make_request(range(20 * at + 10, 20 * at + 25), 8, logprobs=count, sampling=sampling)
        for at, (sampling, count) in enumerate(zip(draws, (0, 3, 20), strict=True))
    ]
    for request, answer in zip(requests, node.answers(*requests), strict=True):
        ids = torch.tensor([[*request.prompt_ids, *answer.tokens]])
        with torch.inference_mode():
            rows = model(ids).logits[0].float().log_softmax(-1)[len(request.prompt_ids) - 1 : -1]
        assert len(answer.scores) == len(answer.tokens) == 8
        for token, score, row in zip(answer.tokens, answer.scores, rows, strict=True):
            best = row.topk(request.logprobs)
            assert score.logprob == pytest.approx(float(row[token]), abs=CLOSE)
            assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=CLOSE)
            assert len({token_id for token_id, _ in score.top}) == request.logprobs
    (unscored,) = node.answers(make_request(range(20), 3))
    assert unscored.scores == []


def test_an_answer_follows_its_schema_or_grammar(node, make_request, demo_model):
    fields = {"eos_ids": frozenset({5}), "sampling": Sampling(temperature=1.0, seed=3)}
    schema = make_request(range(20, 40), 60, output_schema=SCHEMA, **fields)
    grammar = make_request(range(20, 40), 60, grammar='%llguidance {}\nstart: "ab" /[xy]{2}/ "."', **fields)
    free = make_request(range(30, 50), 6)
    documents = node.answers(schema, grammar, free)
    tokenizer = tokenizers.Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    document, text, _ = (tokenizer.decode(answer.tokens) for answer in documents)
    assert json.loads(document).keys() == {"n", "ok"}
    assert (text[:2], text[-1], len(text), set(text[2:4]) <= {"x", "y"}) == ("ab", ".", 5, True)
    assert [answer.end.finish_reason for answer in documents[:2]] == [FinishReason.STOP] * 2


def test_a_partial_answer_of_a_schema_is_continued_or_refused(node, make_request, demo_model):
    """Refused, it goes to the next backend; never is it begun anew, nor ended outside its schema."""
    tokenizer = tokenizers.Tokenizer.from_file(str(demo_model / "tokenizer.json"))
    begun = '{"n": 4'
    prompt = [*range(20, 40), *tokenizer.encode(begun, add_special_tokens=False).ids]
    request = make_request(prompt, 60, output_schema=SCHEMA, answer_prefix=begun, eos_ids=frozenset({5}))
    (answer,) = node.answers(request)
    if answer.error is None:
        assert json.loads(begun + tokenizer.decode(answer.tokens)).keys() == {"n", "ok"}
    else:
        assert answer.end.error.message.startswith("unsupported: this engine cannot continue an answer with a grammar")


def test_deadlines_end_requests_that_run_and_that_have_not_begun(node, make_request):
    late, running = node.answers(
        make_request(range(5), 10, expires=time.monotonic() - 1),
        make_request(range(5), 400, expires=time.monotonic() + 0.3),
    )
    assert (late.error, late.tokens, running.error) == ("deadline", [], "deadline")
    node.run(node.until(lambda: node.engine.load().active == 0))


def test_more_than_slots_and_queue_hold_is_overloaded(node, make_request):
    held = node.info.slots + WAITING
    answers = node.answers(*(make_request(range(10, 20), 12) for _ in range(held + 2)))
    assert [answer.error for answer in answers] == [None] * held + ["overloaded"] * 2
    first, last = (answers[at].end.queue_ms for at in (0, held - 1))
    assert 0 <= first < last


def test_a_closed_stream_frees_what_it_held(node, make_request):
    async def scenario():
        async with contextlib.AsyncExitStack() as stack:
            for _ in range(node.info.slots):
                stream = node.engine.stream(make_request(range(10, 15), 450))
                await stack.enter_async_context(contextlib.aclosing(stream))
                await anext(stream)
            load = node.engine.load()
            await node.until(lambda: node.engine.load().active == node.info.slots)
            assert load.kv_tokens_used > 0
        await node.until(lambda: (node.engine.load().active, node.engine.load().kv_tokens_used) == (0, 0))

    node.run(scenario())
    (answer,) = node.answers(make_request(range(10, 20), 4, expires=time.monotonic() + 60))
    assert answer.error is None


def test_what_a_slow_reader_has_not_taken_is_joined(node, make_request, expected, demo_model):
    request = make_request(range(10, 15), 40)

    async def scenario():
        async with contextlib.aclosing(node.engine.stream(request)) as stream:
            outputs = [await anext(stream)]
            await node.until(lambda: node.engine.load().active == 0)
            return outputs + [output async for output in stream]

    answer = Answer(node.run(scenario()))
    assert len(answer.outputs) < 30
    assert answer.tokens == expected(demo_model, request)


def test_a_cached_prefix_is_used_under_its_own_salt_alone(node, make_request):
    prompt = [10 + at * 7 % 2000 for at in range(300)]

    def under(salt):
        (answer,) = node.answers(make_request(prompt, 4, salt=salt))
        return answer.end.cached_tokens, answer.tokens

    first, again, other = under("a"), under("a"), under("b")
    assert (first[0], other[0]) == (0, 0)
    assert 0 < again[0] < len(prompt)
    assert first[1] == again[1] == other[1]


def test_a_request_that_begins_with_another_id_in_flight_is_answered_too(node, make_request):
    same = [make_request(range(10 + at, 20 + at), 4, request_id="same") for at in range(3)]
    assert [answer.error for answer in node.answers(*same)] == [None] * 3


def test_a_killed_engine_ends_its_streams_and_comes_back(node, make_request, expected, demo_model):
    """The last test: it is another process from here on."""
    engine, broken = node.engine, []

    async def until_it_dies(request):
        try:
            await node.answer(request)
        except EngineDied as died:
            broken.append(died)

    async def scenario():
        calls = [asyncio.create_task(until_it_dies(make_request(range(5), 450))) for _ in range(node.info.slots + 2)]
        await node.until(lambda: engine.load().active == node.info.slots)
        first = engine.pid
        os.kill(first, signal.SIGKILL)
        await asyncio.gather(*calls)
        assert (engine.healthy, engine.load().active) == (False, 0)
        with pytest.raises(EngineDied, match="is not running"):
            await node.answer(make_request())
        await node.until(lambda: engine.healthy)
        assert (engine.restarts, engine.pid != first) == (1, True)
        return await node.answer(request)

    request = make_request(range(10, 19), 5)
    answer = node.run(scenario())
    assert answer.tokens == expected(demo_model, request)
    assert len(broken) == node.info.slots + 2
    assert all(died.retry_after > 0 for died in broken)
