"""Log-probabilities with real models and a real node: the tokens are the text, also where an answer goes elsewhere."""

from __future__ import annotations

import pytest

from hybrid_llm.backends.edge import EdgeBackend, EdgeConfig
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.signals import FixedSensors
from tests.e2e.test_continuations import answer, client
from tests.e2e.test_pseudonyms import ADDRESSES, FORM, POLICY, TEXT

PROMPT = "Count from 3 to 20."


@pytest.fixture(scope="module")
def edge():
    with_backend = EdgeBackend(EdgeConfig())
    yield with_backend
    with_backend.close()


@pytest.fixture(scope="module")
def cloud(node):
    backend = node.cloud()
    yield backend
    backend.close()


def joined(tokens):
    return b"".join(token.bytes for token in tokens).decode()


@pytest.mark.parametrize("stop", [[], ["9"], ["1, 1"]])
@pytest.mark.parametrize("direction", ["cloud to edge", "edge to cloud"])
def test_the_tokens_of_an_answer_that_was_cut_are_its_text_on_both_sides_of_the_cut(edge, cloud, direction, stop):
    sides = {"cloud": cloud, "edge": edge}
    first, second = (sides[name] for name in direction.split(" to "))
    for at in (1, 3, 6):
        options = {"max_tokens": 24, "deadline": 30.0, "logprobs": 2, "stop": stop}
        reply = answer(client(first, second, at), PROMPT, is_async=at == 3, **options)
        assert reply.continuations or reply.finish_reason is FinishReason.STOP
        assert joined(reply.logprobs) == reply.text
        assert all(token.logprob <= 0.0 and len(token.top) == 2 for token in reply.logprobs)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_value_that_the_node_saw_under_a_pseudonym_is_one_token(node, is_stream):
    policy = parse_policy(POLICY, backends={"edge": Location.EDGE, "cloud": Location.CLOUD})
    options = {"output_schema": FORM, "max_tokens": 64, "logprobs": 3}
    with HybridLLM([EdgeBackend(EdgeConfig()), node.cloud()], policy, sensors=FixedSensors()) as llm:
        reply = llm.stream(TEXT, **options).collect() if is_stream else llm.generate(TEXT, **options)
    assert (reply.backend, reply.parsed["to"] in ADDRESSES) == ("cloud", True)
    assert joined(reply.logprobs) == reply.text
    (value,) = [token for token in reply.logprobs if reply.parsed["to"] in token.token]
    assert value.top == ()
    assert value.logprob < 0.0
    assert not any("EMAIL_" in token.token for token in reply.logprobs)
