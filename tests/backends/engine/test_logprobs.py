"""Log-probabilities of the node's engine equal transformers' own, alone, in a batch, and whatever draws the tokens."""

from __future__ import annotations

import asyncio
import random

import pytest

from hybrid_llm.backends.node.engine import EngineConfig, EngineOutput
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.node.supervisor import OutputQueue
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCAB = 211
CLOSE = 2e-4
DRAWS = [Sampling(), Sampling(temperature=1.0, seed=4), Sampling(repetition_penalty=1.5)]


def scored(engine, requests):
    """The tokens and scores of each request, all submitted at once."""
    for request in requests:
        engine.submit(request)
    found = {request.request_id: ([], []) for request in requests}
    while not engine.idle:
        for output in engine.step():
            found[output.request_id][0].extend(output.token_ids)
            found[output.request_id][1].extend(output.scores)
    return [found[request.request_id] for request in requests]


def plain(folder, request, tokens):
    """The log-softmax of a plain forward over prompt and answer: a row before each of *tokens*."""
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    ids = torch.tensor([[*request.prompt_ids, *tokens]])
    with torch.inference_mode():
        logits = model(ids).logits[0]
    return logits.float().log_softmax(-1)[len(request.prompt_ids) - 1 : -1]


@pytest.mark.parametrize(("name", "kind"), [("llama", "packed"), ("gpt2", "packed"), ("mistral-window", "one_by_one")])
def test_scores_are_the_log_softmax_of_a_plain_forward_alone_and_four_at_once(name, kind, model_folder, make_request):
    engine = load_engine(EngineConfig(model=model_folder(name), engine=kind, max_slots=4, prefill_budget=16, threads=1))
    rng = random.Random(2)
    prompts = [[rng.randrange(VOCAB) for _ in range(rng.randint(3, 40))] for _ in range(4)]
    for sampling in DRAWS:
        counts = (0, 1, 5, 20)
        requests = [
            make_request(prompt, 12, logprobs=n, sampling=sampling) for prompt, n in zip(prompts, counts, strict=True)
        ]
        for request, (tokens, scores) in zip(requests, scored(engine, requests), strict=True):
            rows = plain(model_folder(name), request, tokens)
            assert len(scores) == len(tokens) == 12
            for token, score, row in zip(tokens, scores, rows, strict=True):
                best = row.topk(request.logprobs)
                assert score.logprob == pytest.approx(float(row[token]), abs=CLOSE)
                assert [value for _, value in score.top] == pytest.approx(best.values.tolist(), abs=CLOSE)
                assert [id_ for id_, _ in score.top] == best.indices.tolist()


def test_they_are_the_transition_scores_of_transformers_own_generate(model_folder, make_request):
    folder = model_folder("llama")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype="float32").eval()
    request = make_request(range(20), 16, logprobs=3)
    ids = torch.tensor([request.prompt_ids])
    answer = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=16,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    theirs = model.compute_transition_scores(answer.sequences, answer.logits, normalize_logits=True)[0]
    engine = load_engine(EngineConfig(model=folder, max_slots=4, threads=1))
    others = [make_request(range(at, at + 30), 20) for at in (3, 50, 70)]
    for beside in ([], others):
        ((tokens, scores), *rest) = scored(engine, [request, *beside])
        assert tokens == answer.sequences[0, 20:].tolist()
        assert [score.logprob for score in scores] == pytest.approx(theirs.tolist(), abs=CLOSE)
        assert all(score.top[0] == (token, score.logprob) for token, score in zip(tokens, scores, strict=True))
        assert not any(found for _, found in rest), "those that did not ask have none"


def test_the_trained_model_scores_as_a_plain_forward_does_four_at_once(demo_model, make_request):
    engine = load_engine(EngineConfig(model=demo_model, dtype="fp32", max_slots=4, prefill_budget=32, threads=1))
    rng = random.Random(1)
    prompts = [[rng.randrange(8, 2048) for _ in range(rng.randint(3, 60))] for _ in range(4)]
    requests = [make_request(prompt, 16, logprobs=5, eos_ids=frozenset({5})) for prompt in prompts]
    for request, (tokens, scores) in zip(requests, scored(engine, requests), strict=True):
        for token, score, row in zip(tokens, scores, plain(demo_model, request, tokens), strict=True):
            assert score.logprob == pytest.approx(float(row[token]), abs=1e-3)
            assert [value for _, value in score.top] == pytest.approx(row.topk(5).values.tolist(), abs=1e-3)
            assert score.top[0] == (token, score.logprob)


def test_outputs_that_a_slow_reader_has_not_taken_keep_their_scores():
    queue = OutputQueue("r")
    for token in (4, 5):
        queue.put(EngineOutput(request_id="1", token_ids=(token,), scores=(TokenScores(-float(token)),)))
    queue.put(EngineOutput(request_id="1", finish_reason=FinishReason.STOP))
    output = asyncio.run(queue.take())
    assert (output.token_ids, [score.logprob for score in output.scores]) == ((4, 5), [-4.0, -5.0])
    assert output.finish_reason is FinishReason.STOP
