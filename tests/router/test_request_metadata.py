"""Policies, attempts, hooks and traces see request metadata, which hold no text and so cannot leak any."""

from __future__ import annotations

import functools
import types
from collections.abc import Iterator
from dataclasses import fields

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import PrivacyViolation
from hybrid_llm.core.request import Location, Message, Request, RequestMetadata, Sampling, Tool
from hybrid_llm.core.signals import Signals
from hybrid_llm.policies import parse_policy
from hybrid_llm.router.client import HybridLLM
from hybrid_llm.router.observability.hooks import RequestEvent
from hybrid_llm.router.signals import FixedSensors
from tests.fakes import FakeBackend

MARK = "MARKED-TEXT"
texts = st.text(max_size=5)
requests = st.builds(
    Request,
    messages=st.lists(
        st.builds(Message, role=st.sampled_from(["system", "user", "assistant", "tool"]), content=texts), max_size=3
    ).map(tuple),
    output_schema=st.none() | texts,
    tools=st.lists(st.builds(Tool, name=texts, description=texts, parameters=texts), max_size=2).map(tuple),
    sampling=st.builds(Sampling, stop=st.lists(texts, max_size=2).map(tuple)),
    prompt_tokens=st.integers(0, 9),
    privacy=st.frozensets(st.sampled_from(["a", "b"])),
)


@given(requests)
def test_metadata_has_the_counts_and_names_of_a_request_and_none_of_its_texts(request):
    metadata = RequestMetadata.of(request)
    assert (metadata.message_count, metadata.tool_count) == (len(request.messages), len(request.tools))
    assert metadata.has_schema == (request.output_schema is not None)
    for name in ("task", "privacy", "max_tokens", "deadline", "created", "prompt_tokens", "request_id"):
        assert getattr(metadata, name) == getattr(request, name)


@given(requests)
def test_metadata_leads_to_no_text_of_its_request(request):
    marked = request.with_texts(f"{MARK}{text}" for text in request.visible_text())
    assert not [item for item in reachable(RequestMetadata.of(marked)) if isinstance(item, str) and MARK in item]


def test_metadata_is_no_request_and_has_no_field_for_a_text():
    assert not issubclass(RequestMetadata, Request)
    assert not {f.name for f in fields(RequestMetadata)} & {
        "messages",
        "output_schema",
        "tools",
        "sampling",
        "answer_prefix",
    }


@given(requests)
def test_a_request_with_its_own_texts_put_in_again_is_the_same(request):
    assert request.with_texts(request.visible_text()) == request
    marked = request.with_texts(f"{MARK}{text}" for text in request.visible_text())
    assert [text.removeprefix(MARK) for text in marked.visible_text()] == list(request.visible_text())


def test_an_event_takes_metadata_and_no_request():
    request = Request(messages=(Message(role="user", content=MARK),))
    decision = Decision(order=(), excluded={}, policy="p", digest="d")
    with pytest.raises(PrivacyViolation):
        RequestEvent(metadata=request, signals=Signals(), decision=decision)


def reachable(root: object) -> Iterator[object]:
    """Everything that *root* leads to: fields, items, bound arguments; not modules, classes or globals."""
    seen: set[int] = set()
    left = [root]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, types.ModuleType | type | types.CodeType):
            continue
        seen.add(id(item))
        yield item
        if isinstance(item, functools.partial):
            left += [item.func, *item.args, *item.keywords.values()]
        elif isinstance(item, types.MethodType):
            left += [item.__self__]
        elif isinstance(item, types.FunctionType):
            left += [cell.cell_contents for cell in item.__closure__ or ()]
        elif isinstance(item, dict | types.MappingProxyType):
            left += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple | set | frozenset):
            left += list(item)
        else:
            slots = [name for kind in type(item).__mro__ for name in getattr(kind, "__slots__", ())]
            left += [getattr(item, name, None) for name in (*slots, *getattr(item, "__dict__", {}))]


def test_nothing_that_a_hook_receives_leads_to_a_text_of_the_request_or_the_answer():
    policy = parse_policy(
        "version: 1\nname: p\ntags: {t: {allow: [edge], detect: [email]}}\n"
        "rules: [{exclude: cloud, when: request.prompt_tokens > 0}, {prefer: [edge, cloud]}]\n"
    )
    events: list[RequestEvent] = []
    edge, cloud = FakeBackend("edge", Location.EDGE, [f'"{MARK}-ANSWER"']), FakeBackend("cloud", Location.CLOUD)
    with HybridLLM([edge, cloud], policy, sensors=FixedSensors(), hooks=[events.append]) as client:
        reply = client.generate(
            f"{MARK} a@example.org",
            output_schema={"title": MARK},
            stop=[MARK],
            tools=[Tool(name=MARK, description=MARK)],
        )
    assert MARK in reply.text
    assert edge.requests[0].messages[0].content.startswith(MARK)
    for told in (events[0], reply.decision):
        found = list(reachable(told))
        assert any(isinstance(item, RequestMetadata) for item in found)
        assert not [item for item in found if isinstance(item, str | bytes) and MARK in str(item)]
    assert events[0].metadata.privacy == {"t"}
    assert MARK not in reply.decision.explain()
