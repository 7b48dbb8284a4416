"""Every message between supervisor and worker survives the pipe."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.backends.node.engine import (
    EngineConfig,
    EngineFault,
    EngineInfo,
    EngineLoad,
    EngineOutput,
    EngineRequest,
)
from hybrid_llm.backends.node.ipc import HEADER, Abort, Progress, Ready, Refused, Start, Step, decode, encode
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

floats = st.floats(allow_nan=False)
text = st.text(st.characters(exclude_categories=[]))
samplings = st.builds(
    Sampling,
    temperature=floats,
    top_p=floats,
    top_k=st.integers(),
    min_p=floats,
    repetition_penalty=floats,
    presence_penalty=floats,
    frequency_penalty=floats,
    seed=st.none() | st.integers(),
)
requests = st.builds(
    EngineRequest,
    request_id=text,
    prompt_ids=st.lists(st.integers()).map(tuple),
    max_tokens=st.integers(),
    sampling=samplings,
    eos_ids=st.frozensets(st.integers()),
    expires=floats,
    output_schema=st.none() | text,
    salt=text,
    client=text,
    weight=floats,
    partial_tokens=st.integers(),
    logprobs=st.none() | st.integers(0, 20),
    adapter=text,
    answered=st.integers(),
)
faults = st.builds(EngineFault, code=st.sampled_from(["rejected", "overloaded", "deadline", "internal"]), message=text)
outputs = st.builds(
    EngineOutput,
    request_id=text,
    token_ids=st.lists(st.integers()).map(tuple),
    scores=st.lists(st.builds(TokenScores, floats, st.lists(st.tuples(st.integers(), floats)).map(tuple))).map(tuple),
    finish_reason=st.none() | st.sampled_from(FinishReason),
    queue_ms=st.integers(0, 10**6).map(float),
    cached_tokens=st.integers(),
    error=st.none() | faults,
)
names = st.lists(text).map(tuple)
loads = st.builds(
    EngineLoad,
    active=st.integers(),
    waiting=st.integers(),
    kv_tokens_used=st.integers(),
    running_adapters=names,
    waiting_adapters=names,
)
infos = st.builds(
    EngineInfo,
    engine=text,
    model=text,
    architecture=text,
    vocab_size=st.integers(),
    context_window=st.integers(),
    slots=st.integers(),
    adapters=names,
)
messages = st.one_of(
    requests,
    st.builds(Abort, text),
    st.builds(Progress, text),
    st.builds(Ready, infos),
    st.builds(Refused, text, st.none() | text),
    st.builds(Step, st.lists(outputs).map(tuple), loads),
    st.builds(
        Start,
        st.builds(
            EngineConfig,
            model=st.just(Path("/models/one")),
            adapters=st.dictionaries(text, st.just(Path("/a"))),
            max_slots=st.integers(1, 1000),
        ),
    ),
)


@given(messages)
def test_a_message_comes_out_as_it_went_in(message):
    frame = encode(message)
    assert HEADER.unpack(frame[: HEADER.size])[0] == len(frame) - HEADER.size
    assert decode(frame[HEADER.size :]) == message


@given(requests)
def test_a_request_shows_no_prompt_in_its_repr(request):
    assert "prompt_ids" not in repr(request)
    assert "output_schema" not in repr(request)
