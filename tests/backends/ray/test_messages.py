"""What crosses between front and replicas is what was meant: every field, whatever its value."""

from __future__ import annotations

import math
import time
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import EngineFault, EngineInfo, EngineLoad, EngineOutput, EngineRequest
from hybrid_llm.backends.node.ray import messages
from hybrid_llm.backends.node.ray.answer import LostReplica, PartialTokens
from hybrid_llm.backends.node.ray.app import engine_config
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.errors import ConfigError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling
from hybrid_llm.protos import engine_pb2 as pb

text = st.text(st.characters(codec="utf-8"), max_size=8)
counts = st.integers(0, 2**31 - 1)
tokens = st.lists(st.integers(0, 2**32 - 1), max_size=5).map(tuple)
numbers = st.floats(0, 1e6)
names = st.lists(text, max_size=3, unique=True).map(lambda each: tuple(sorted(each)))
BY_TYPE = {
    "str": text,
    "str | None": st.none() | text,
    "int": counts,
    "int | None": st.none() | counts,
    "float": numbers,
    "bool": st.booleans(),
    "tuple[str, ...]": names,
    "tuple[int, ...]": tokens,
    "frozenset[int]": tokens.map(frozenset),
    "tuple[str | int, ...]": st.lists(text | st.integers(0, 2**32 - 1), max_size=3).map(tuple),
    "FinishReason | None": st.none() | st.sampled_from(FinishReason),
    "tuple[TokenScores, ...]": st.lists(
        st.builds(TokenScores, numbers, st.lists(st.tuples(counts, numbers), max_size=2).map(tuple)), max_size=2
    ).map(tuple),
    "EngineFault | None": st.none()
    | st.builds(EngineFault, code=st.sampled_from(["rejected", "overloaded", "deadline", "internal"]), message=text),
    "Sampling": st.builds(
        Sampling, temperature=numbers, top_k=counts, seed=st.none() | st.integers(-(2**63), 2**63 - 1)
    ),
}


def every_field(kind):
    """Any record of *kind*: a field that is added to it must cross too."""
    return st.builds(kind, **{each.name: BY_TYPE[each.type] for each in fields(kind)})


@given(request=every_field(EngineRequest), never=st.booleans())
def test_a_request_is_the_same_on_the_other_side(request, never):
    now = time.monotonic()
    request = replace(request, expires=math.inf if never else now + request.expires + 60)
    data = messages.request_to_wire(request, tokenizer="t").SerializeToString()
    arrived = messages.request_from_wire(pb.EngineRequest.FromString(data))
    assert (arrived.expires == math.inf) if never else (abs(arrived.expires - request.expires) < 5)
    plain = replace(request.sampling, explicit=arrived.sampling.explicit)
    assert replace(arrived, expires=0, salt="") == replace(request, expires=0, salt="", sampling=plain)


@given(first=text, second=text)
def test_the_salt_tells_callers_apart_and_does_not_name_them(first, second):
    def sent(salt):
        request = EngineRequest(request_id="r", prompt_ids=(1,), max_tokens=1, salt=salt)
        return messages.request_to_wire(request, tokenizer="t").salt

    assert (sent(first) == sent(second)) == (first == second)
    assert sent(f"spiffe://hybrid-llm/client/{first}").isalnum()


@given(output=every_field(EngineOutput))
def test_an_output_is_the_same_on_the_other_side(output):
    data = messages.output_to_wire(output).SerializeToString()
    assert messages.output_from_wire(pb.EngineOutput.FromString(data), output.request_id) == output


@given(load=every_field(EngineLoad), info=st.none() | every_field(EngineInfo))
def test_a_state_is_the_same_on_the_other_side(load, info):
    data = messages.state_to_wire("a", load, info, ready=True, tokenizer="t").SerializeToString()
    state = pb.ReplicaState.FromString(data)
    assert (state.replica, state.ready, state.tokenizer) == ("a", True, "t")
    assert messages.load_from_wire(state) == load
    assert state.HasField("info") == (info is not None)
    if info is not None:
        assert messages.info_from_wire(state) == info


def test_a_request_with_a_setting_of_a_later_version_is_not_taken_without_it():
    message = messages.request_to_wire(EngineRequest(request_id="r", prompt_ids=(1,), max_tokens=1), tokenizer="t")
    assert messages.request_from_wire(message).max_tokens == 1
    later = pb.EngineRequest.FromString(message.SerializeToString())
    later.sampling.MergeFromString(b"\xa0\x06\x01")  # field 100
    with pytest.raises(messages.UnknownFields):
        messages.request_from_wire(later)


def test_what_only_a_later_replica_says_is_left_to_another():
    answer = PartialTokens(EngineRequest(request_id="r", prompt_ids=(1,), max_tokens=3))
    with pytest.raises(LostReplica):
        answer.take(pb.EngineOutput(finish_reason="a later one"))


def test_an_answer_that_is_complete_but_for_its_end_is_not_asked_for_again():
    answer = PartialTokens(EngineRequest(request_id="r", prompt_ids=(1,), max_tokens=2))
    assert answer.end(0.0) is None
    assert answer.take(pb.EngineOutput(token_ids=[4, 5], queue_ms=2.0, cached_tokens=3)).token_ids == (4, 5)
    end = answer.end(0.0)
    assert (end.finish_reason, end.token_ids, end.queue_ms, end.cached_tokens) == (FinishReason.LENGTH, (), 2.0, 3)


def test_options_of_the_application_are_those_of_the_engine(tmp_path):
    config = engine_config({"model": "/m", "max_slots": 4, "adapters": {"a": "/a"}})
    assert (str(config.model), config.max_slots, str(config.adapters["a"])) == ("/m", 4, "/a")
    signed = engine_config({"model": "/m", "trust": {"ca": "/ca.pem", "identity": "spiffe://hybrid-llm/signer/a"}})
    assert (str(signed.trust.ca), signed.trust.identity) == ("/ca.pem", "spiffe://hybrid-llm/signer/a")
    for args, message in (
        ({"model": "/m", "trust": {"who": "me"}}, "`trust` has"),
        ({}, "`model` is missing"),
        ({"model": 3}, "`model` is missing"),
        ({"model": "/m", "slots": 4}, "`slots` is no option"),
        ({"model": "/m", "replicas": "h:1"}, "`replicas` is no option"),
        ({"model": "/m", "max_slots": 0}, "max_slots"),
    ):
        with pytest.raises(ConfigError, match=message):
            engine_config(args)
