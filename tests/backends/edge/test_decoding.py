"""The tokens are those of onnxruntime-genai and of transformers, and follow every sampling parameter."""

import asyncio
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hybrid_llm.backends.chat_files import read_sampling
from hybrid_llm.backends.edge import embedded_model
from hybrid_llm.backends.edge.model import EdgeModel
from hybrid_llm.backends.edge.sampling import Sampler
from hybrid_llm.backends.models import write_manifest
from hybrid_llm.core.errors import ConfigError, RequestRejected
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling
from tests.penalties import penalised, with_any_penalties

PROMPT = [4, 1, *range(300, 340), 3, 2]


def greedy(model, prompt, count):
    sequence = model.sequence(len(prompt) + count)
    logits, out = sequence.append(prompt), []
    for _ in range(count):
        out.append(int(logits.argmax()))
        logits = sequence.append(out[-1:]) if len(out) < count else logits
    return out


@pytest.fixture(scope="module")
def int4(tiny):
    return EdgeModel(tiny.int4, threads=1)


@pytest.fixture(scope="module")
def fp32(tiny):
    return EdgeModel(tiny.fp32, threads=1)


@pytest.mark.parametrize("precision", ["int4", "fp32"])
def test_greedy_tokens_equal_those_of_onnxruntime_genai(tiny, precision, request):
    genai = pytest.importorskip("onnxruntime_genai")
    model = genai.Model(str(getattr(tiny, precision)))
    params = genai.GeneratorParams(model)
    params.set_search_options(max_length=len(PROMPT) + 40, do_sample=False)
    generator = genai.Generator(model, params)
    generator.append_tokens(PROMPT)
    theirs = []
    while not generator.is_done():
        generator.generate_next_token()
        theirs.append(int(generator.get_next_tokens()[0]))
    assert greedy(request.getfixturevalue(precision), PROMPT, len(theirs)) == theirs


def test_greedy_tokens_of_the_fp32_export_equal_transformers_generate(tiny, fp32):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(str(tiny.source), dtype=torch.float32)
    inputs = torch.tensor([PROMPT])
    out = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=40, do_sample=False)
    theirs = out[0, len(PROMPT) :].tolist()
    assert greedy(fp32, PROMPT, len(theirs)) == theirs


def test_logits_depend_on_the_whole_context(fp32):
    """The comparison above means something: another first word gives other tokens."""
    assert greedy(fp32, [4, 1, 700, *PROMPT[3:]], 20) != greedy(fp32, PROMPT, 20)


@pytest.mark.parametrize("size", [1, 2, 511, 512, 513, 1025])
def test_a_prompt_in_several_runs_gives_the_logits_of_one_token_at_a_time(fp32, size):
    ids = [5 + (7 * i) % 1000 for i in range(size)]
    whole = fp32.sequence(size + 2)
    stepped = fp32.sequence(size + 2)
    logits = whole.append(ids)
    for token in ids:
        expected = stepped.append([token])
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(whole.append([9]).copy(), stepped.append([9]), rtol=1e-3, atol=1e-3)


def test_rewinding_forgets_and_gives_the_same_logits_again(fp32):
    sequence = fp32.sequence(100)
    first = sequence.append(PROMPT).copy()
    sequence.append([5, 6, 7])
    sequence.rewind(len(PROMPT) - 1)
    np.testing.assert_allclose(sequence.append(PROMPT[-1:]), first, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ids", [[], [-1], [1024], [5, 10**9], [5] * 11])
def test_ids_that_the_runtime_would_take_silently_are_refused(int4, ids):
    with pytest.raises(ValueError, match="id"):
        int4.sequence(10).append(ids)


@pytest.mark.parametrize("capacity", [0, -1, 2049])
def test_a_cache_of_no_or_too_large_a_size_is_refused(int4, capacity):
    with pytest.raises(ValueError, match="capacity"):
        int4.sequence(capacity)


def test_sequences_in_one_session_do_not_see_each_other(fp32):
    left, right = fp32.sequence(100), fp32.sequence(100)
    alone = greedy(fp32, PROMPT, 10)
    logits_left, _ = left.append(PROMPT).copy(), right.append(list(reversed(PROMPT)))
    out = []
    for _ in range(10):
        out.append(int(logits_left.argmax()))
        right.append([17])
        logits_left = left.append(out[-1:])
    assert out == alone


# --- sampling -----------------------------------------------------------------------------------------------------

LOGITS = np.log(np.array([0.5, 0.25, 0.15, 0.07, 0.03], dtype=np.float32))


def drawn(sampling, count=2000, prompt=(), logits=LOGITS):
    """Frequencies of independent draws from the same logits."""
    sampler = Sampler(sampling, prompt, len(logits))
    return Counter(sampler.draw(logits.copy()) for _ in range(count))


def test_greedy_takes_the_likeliest():
    assert drawn(Sampling(), 5) == {0: 5}


def test_draws_follow_the_probabilities():
    counts = drawn(Sampling(temperature=1.0, seed=1), 20_000)
    assert [counts[i] / 20_000 for i in range(5)] == pytest.approx([0.5, 0.25, 0.15, 0.07, 0.03], abs=0.015)


def test_temperature_sharpens_and_flattens():
    cold = drawn(Sampling(temperature=0.5, seed=1), 20_000)
    squares = np.array([0.5, 0.25, 0.15, 0.07, 0.03]) ** 2
    assert [cold[i] / 20_000 for i in range(5)] == pytest.approx(list(squares / squares.sum()), abs=0.015)


@pytest.mark.parametrize(
    ("sampling", "kept"),
    [
        (Sampling(temperature=1.0, top_k=1, seed=1), {0}),
        (Sampling(temperature=1.0, top_k=3, seed=1), {0, 1, 2}),
        (Sampling(temperature=1.0, top_k=99, seed=1), {0, 1, 2, 3, 4}),
        (Sampling(temperature=1.0, top_p=0.4, seed=1), {0}),
        (Sampling(temperature=1.0, top_p=0.7, seed=1), {0, 1}),
        (Sampling(temperature=1.0, top_p=0.8, seed=1), {0, 1, 2}),
        (Sampling(temperature=1.0, min_p=0.2, seed=1), {0, 1, 2}),
        (Sampling(temperature=1.0, min_p=1.0, seed=1), {0}),
        (Sampling(temperature=1.0, top_k=4, top_p=0.95, min_p=0.4, seed=1), {0, 1}),
    ],
)
def test_filters_leave_exactly_the_likeliest_tokens(sampling, kept):
    assert set(drawn(sampling)) == kept


def test_filters_agree_with_those_of_transformers():
    import torch
    from transformers import MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = np.random.default_rng(0).normal(size=60).astype(np.float32) * 2
    scores = torch.tensor(logits[None])
    for warper in (TopKLogitsWarper(30), TopPLogitsWarper(0.9), MinPLogitsWarper(0.05)):
        scores = warper(None, scores)
    theirs = set(np.flatnonzero(np.isfinite(scores[0].numpy())).tolist())
    ours = set(drawn(Sampling(temperature=1.0, top_k=30, top_p=0.9, min_p=0.05, seed=1), 30_000, logits=logits))
    assert ours == theirs


def test_repetition_penalty_agrees_with_transformers_and_counts_prompt_and_answer():
    import torch
    from transformers import RepetitionPenaltyLogitsProcessor

    logits = np.array([2.0, 1.9, -1.0, 0.5], dtype=np.float32)
    sampler = Sampler(Sampling(repetition_penalty=1.5), [0, 2], 4)
    given_ = logits.copy()
    assert sampler.draw(given_) == 1
    theirs = RepetitionPenaltyLogitsProcessor(1.5)(torch.tensor([[0, 2]]), torch.tensor(logits[None]))[0].numpy()
    np.testing.assert_allclose(given_, theirs, rtol=1e-6)
    assert sampler.draw(logits.copy()) == 0, "1 is penalised too, once it was drawn"


@with_any_penalties
def test_presence_and_frequency_penalties_are_those_of_the_formula(logits, presence, frequency, partial):
    """The answer counts, and the partial answer that it continues; at 0 the logits keep their bits."""
    import torch

    logits, answer = np.array(logits, dtype=np.float32), list(partial)
    sampling = Sampling(presence_penalty=presence, frequency_penalty=frequency)
    sampler = Sampler(sampling, [4, *partial], 6, partial)
    for _ in range(12):
        seen = logits.copy()
        token = sampler.draw(seen)
        expected = penalised(torch.tensor(logits), answer, presence=presence, frequency=frequency).numpy()
        np.testing.assert_allclose(seen, expected, atol=1e-5)
        assert presence or frequency or seen.tobytes() == logits.tobytes()
        assert token == seen.argmax()
        answer.append(token)


def test_the_same_seed_gives_the_same_draws_and_another_seed_others():
    def draws(seed):
        sampler = Sampler(Sampling(temperature=1.0, seed=seed), (), 5)
        return [sampler.draw(LOGITS.copy()) for _ in range(50)]

    assert draws(7) == draws(7)
    assert draws(7) != draws(8)
    assert draws(None) != draws(None)


def test_a_mask_is_never_left():
    allowed = np.array([False, False, True, False, True])
    sampler = Sampler(Sampling(temperature=1.0, seed=1), (), 5)
    assert {sampler.draw(LOGITS.copy(), allowed) for _ in range(300)} == {2, 4}
    assert Sampler(Sampling(), (), 5).draw(LOGITS.copy(), allowed) == 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_no_numbers_are_an_error(bad):
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(), (), 3).draw(np.array([0.0, bad, 1.0], dtype=np.float32))
    with pytest.raises(FloatingPointError):
        Sampler(Sampling(), (), 3).draw(np.zeros(3, dtype=np.float32), np.zeros(3, dtype=bool))


@given(
    logits=st.lists(st.floats(-30, 30, width=32), min_size=1, max_size=40),
    temperature=st.floats(0.01, 10),
    top_k=st.integers(0, 50),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
    penalty=st.floats(0.5, 2),
)
@settings(max_examples=200, deadline=None)
def test_a_draw_is_always_an_id_whatever_the_numbers(logits, temperature, top_k, top_p, min_p, penalty):
    sampling = Sampling(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=penalty, seed=1
    )
    assert sampling.fault() == ""
    sampler = Sampler(sampling, [0], len(logits))
    assert 0 <= sampler.draw(np.array(logits, dtype=np.float32)) < len(logits)


# --- through the backend --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("presence", "frequency"), [(0.0, 0.0), (0.0, 1.0), (-1.0, -2.0)])
def test_an_answer_that_is_continued_ends_as_if_it_had_not_broken_off(edge, clear, presence, frequency):
    """What was said counts: after " the cal" the penalty decides whether "al" comes again."""
    asked = "Summarise: the cat sat on the mat. the cat sat on the mat. the cat sat."
    options = {
        "max_tokens": 16,
        "sampling": Sampling(presence_penalty=presence, frequency_penalty=frequency),
    }
    model = edge(embedded_model())
    texts = [chunk.text for chunk in model.stream(clear(asked, **options))]
    for cut in range(1, 5):
        begun = "".join(texts[:cut])
        options["max_tokens"] = 16 - cut
        rest = [chunk.text for chunk in model.stream(clear(asked, answer_prefix=begun, **options))]
        assert begun + "".join(rest) == "".join(texts)


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(temperature=float("nan")),
        Sampling(temperature=-1),
        Sampling(top_p=0),
        Sampling(top_p=float("nan")),
        Sampling(min_p=2),
        Sampling(top_k=-1),
        Sampling(repetition_penalty=0),
        Sampling(repetition_penalty=float("inf")),
        Sampling(presence_penalty=2.1),
        Sampling(frequency_penalty=float("nan")),
        Sampling(seed=-1),
    ],
)
def test_numbers_out_of_range_are_rejected(edge, clear, sampling):
    with pytest.raises(RequestRejected) as caught:
        list(edge().stream(clear(sampling=sampling)))
    assert caught.value.reason == "invalid_argument"


def test_the_backend_gives_the_models_greedy_answer(edge, clear, text_of, int4):
    cleared = clear(max_tokens=20)
    chunks = list(edge().stream(cleared))
    ids = greedy(int4, int4.tokenizer.encode(cleared.request), 20)
    ids = ids[: ids.index(3)] if 3 in ids else ids
    assert text_of(chunks) == int4.tokenizer.tokenizer.decode(ids, skip_special_tokens=True)


def test_seeds_repeat_through_the_backend(edge, clear, text_of):
    backend = edge()
    hot = [
        text_of(list(backend.stream(clear(max_tokens=12, sampling=Sampling(temperature=1.0, seed=s)))))
        for s in (1, 1, 2)
    ]
    assert hot[0] == hot[1] != hot[2]


def test_a_stop_text_ends_the_answer_and_is_not_part_of_it(edge, clear, text_of):
    backend = edge()
    whole = text_of(list(backend.stream(clear(max_tokens=30))))
    stop = whole[len(whole) // 2 : len(whole) // 2 + 3]
    chunks = list(backend.stream(clear(max_tokens=30, sampling=Sampling(stop=(stop,)))))
    assert text_of(chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason is FinishReason.STOP


def test_max_tokens_ends_the_answer_with_length_and_the_count(edge, clear):
    chunks = list(edge().stream(clear(max_tokens=5)))
    assert chunks[-1].finish_reason is FinishReason.LENGTH
    assert chunks[-1].usage.completion_tokens == sum(chunk.tokens for chunk in chunks) == 5
    timings = chunks[-1].timings
    assert 0 < timings.ttft_ms < timings.total_ms
    assert 0 < timings.tpot_ms < timings.total_ms


SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {
            "city": {"type": "string", "maxLength": 8},
            "size": {"enum": ["s", "m"]},
            "n": {"type": "integer", "minimum": 0, "maximum": 99},
        },
        "required": ["city", "size", "n"],
        "additionalProperties": False,
    }
)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_output_schema_makes_even_random_weights_write_json(edge, clear, text_of, temperature):
    sampling = Sampling(temperature=temperature, seed=3)
    chunks = list(edge().stream(clear(max_tokens=150, output_schema=SCHEMA, sampling=sampling)))
    answer = json.loads(text_of(chunks))
    assert set(answer) == {"city", "size", "n"}
    assert answer["size"] in ("s", "m")
    assert 0 <= answer["n"] <= 99
    assert chunks[-1].finish_reason is FinishReason.STOP


@pytest.mark.parametrize("schema", ["{", "[]", '{"type": "nonsense"}', '{"$ref": "https://example.org/x"}'])
def test_an_unusable_schema_is_rejected_without_quoting_it(edge, clear, schema):
    with pytest.raises(RequestRejected) as caught:
        list(edge().stream(clear(output_schema=schema)))
    assert schema not in str(caught.value)


def test_streamed_and_async_answers_are_the_same(edge, clear, text_of):
    backend = edge()

    async def collect():
        return [chunk async for chunk in backend.astream(clear(max_tokens=20))]

    assert text_of(asyncio.run(collect())) == text_of(list(backend.stream(clear(max_tokens=20))))


def recommending(folder, **values):
    path = folder / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    write_manifest(folder, name="tiny", architecture="llama", precision="int4", parameters=1)
    return folder


def test_what_a_model_recommends_is_used_unless_the_call_names_it(edge, copy, tiny, clear, text_of):
    recommended, plain = edge(recommending(copy, do_sample=True, temperature=1.5, top_k=40)), edge()

    def answer(backend, **sampling):
        return text_of(backend.stream(clear(sampling=Sampling(seed=3, **sampling), max_tokens=16, deadline=60.0)))

    assert (recommended.capabilities.draws, plain.capabilities.draws) == (True, False)
    drawn = answer(recommended)
    assert drawn == answer(plain, temperature=1.5, top_k=40) != answer(plain)
    assert answer(recommended, temperature=0.0, explicit=("temperature",)) == answer(plain)
    assert answer(recommended, temperature=0.7) == answer(plain, temperature=0.7, top_k=40)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, {}),
        ({"temperature": 0.6, "min_p": 0.1, "top_p": None}, {"temperature": 0.6, "min_p": 0.1}),
        ({"do_sample": True}, {"temperature": 1.0}),
        ({"do_sample": False, "temperature": 0.6, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
    ],
)
def test_a_recommendation_is_read_as_transformers_reads_it(copy, values, expected):
    assert read_sampling(recommending(copy, **values)) == expected


@pytest.mark.parametrize("values", [{"top_p": 0}, {"temperature": "hot"}, {"min_p": -1}, {"top_k": 0.5}])
def test_a_recommendation_out_of_range_is_refused_by_name(copy, values):
    with pytest.raises(ConfigError, match=next(iter(values))):
        EdgeModel(recommending(copy, **values))


def test_an_answer_that_repeats_itself_without_end_is_ended(edge, clear):
    """The schema makes the model write what a small one may write by itself: the same character for ever."""
    schema = json.dumps({"const": "§" * 900})
    last = list(edge().stream(clear(output_schema=schema, max_tokens=1500, deadline=60.0)))[-1]
    assert last.finish_reason is FinishReason.REPETITION
    assert 128 < last.usage.completion_tokens < 300
