"""SmolLM2-135M with its real weights, in fp32: answers do not depend on what else the node computes."""

from __future__ import annotations

import pytest
import torch
import transformers

from hybrid_llm.backends.adapters import with_adapter
from hybrid_llm.backends.node.engine import EngineConfig, EngineRequest
from hybrid_llm.backends.node.engines.load import load_engine
from hybrid_llm.backends.text import ChatTokenizer
from hybrid_llm.core.request import Message, Request, Sampling
from tests.smollm2 import node_folder

pytestmark = [pytest.mark.weights, pytest.mark.slow]
QUESTIONS = (
    "Name three colours.",
    "Write a haiku about rain.",
    "What is the capital of France?",
    "List two fruits, and why you like them.",
)


@pytest.fixture(scope="module")
def folder(smollm2_gguf):
    return node_folder()


@pytest.fixture(scope="module")
def engine(folder):
    return load_engine(EngineConfig(model=folder, dtype="fp32", max_slots=4, kv_tokens=4 * 256, threads=1))


def write_adapter(base, folder, seed):
    """A random adapter of queries and values; the seed is that of its numbers, and decides its rank."""
    peft = pytest.importorskip("peft", reason="adapters need: pip install 'hybrid-llm[node]'")
    torch.manual_seed(seed)
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj", "v_proj"], r=4 << seed)
    adapted = peft.get_peft_model(base, config)
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight.normal_(0.0, 0.5)
    adapted.save_pretrained(folder)
    adapted.unload()
    return folder


def test_three_adapters_and_the_base_in_one_batch_answer_as_peft_does_with_each_alone(folder, tmp_path, run):
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    adapters = {name: write_adapter(model, tmp_path / name, seed) for seed, name in enumerate("abc")}
    chat = ChatTokenizer.load(folder)
    prompt = tuple(chat.encode(Request(messages=(Message(role="user", content=QUESTIONS[0]),))))
    requests = [
        EngineRequest(request_id=name, prompt_ids=prompt, max_tokens=4, adapter=name) for name in ("", *adapters)
    ]
    config = EngineConfig(model=folder, adapters=adapters, dtype="fp32", max_slots=4, kv_tokens=1024, threads=1)
    answers = run(load_engine(config), requests).tokens
    assert len(set(map(tuple, answers.values()))) == len(requests), "each adapter changes the answer"
    ids = torch.tensor([prompt])
    for request in requests:
        alone = with_adapter(model, adapters[request.adapter]).eval() if request.adapter else model
        options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        with torch.inference_mode():
            expected = alone.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)
        assert answers[request.request_id] == expected[0, ids.shape[1] :].tolist(), request.adapter
        if request.adapter:
            alone.unload()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_the_same_alone_with_a_cached_prefix_and_beside_others(temperature, folder, engine, run):
    assert engine.info.engine == "packed"
    chat = ChatTokenizer.load(folder)
    requests = [
        EngineRequest(
            request_id=f"{number}",
            prompt_ids=tuple(chat.encode(Request(messages=(Message(role="user", content=question),)))),
            max_tokens=8,
            salt=f"{temperature}",  # the other case leaves it no prefix
            sampling=Sampling(temperature=temperature, seed=number),
        )
        for number, question in enumerate(QUESTIONS)
    ]
    alone = [run(engine, [request]).tokens[request.request_id] for request in requests]
    cached = [run(engine, [request]) for request in requests]
    together = run(engine, requests)
    assert all(each.ends[request.request_id].cached_tokens for each, request in zip(cached, requests, strict=True))
    assert [each.tokens[request.request_id] for each, request in zip(cached, requests, strict=True)] == alone
    assert [together.tokens[request.request_id] for request in requests] == alone
    assert len(set(map(tuple, alone))) == len(QUESTIONS)
