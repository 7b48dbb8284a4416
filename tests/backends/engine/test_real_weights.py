"""SmolLM2-135M with its real weights, in fp32: answers do not depend on what else the node computes."""

from __future__ import annotations

import pytest

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
    "Explain photosynthesis.",
    "Tell me a joke.",
    "List two fruits, and why you like them.",
)


@pytest.fixture(scope="module")
def folder(smollm2_gguf):
    return node_folder()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_answers_are_the_same_alone_with_a_cached_prefix_and_beside_others(temperature, folder, run):
    engine = load_engine(EngineConfig(model=folder, dtype="fp32", max_slots=6, kv_tokens=6 * 256, threads=1))
    assert engine.info.engine == "packed"
    chat = ChatTokenizer.load(folder)
    requests = [
        EngineRequest(
            request_id=f"{number}",
            prompt_ids=tuple(chat.encode(Request(messages=(Message(role="user", content=question),)))),
            max_tokens=24,
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
