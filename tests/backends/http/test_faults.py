"""Answers that break off between servers of two kinds: whole in the end or one typed error; never wrong, never lost."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from hybrid_llm import HybridLLM
from hybrid_llm.backends.anthropic.spec import AnthropicSpec
from hybrid_llm.backends.openai.spec import OpenAISpec
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.request import Location
from hybrid_llm.policies import parse_policy
from tests.backends.anthropic import test_backend as messages
from tests.backends.http.server import CUT, USAGE, Step, delta, events, failed, head, scripted

WORDS = [f"word{number} " for number in range(24)]
WHOLE = "".join(WORDS)
POLICY = """
version: 1
name: p
rules: [{prefer: [chat, claude]}]
resilience: {continue_streams: true, retries: 3, retry_budget: 100%, breaker: {failures: 100, open: 1s}}
"""
RUNS = 40


def said(body: Any) -> str:
    """The partial answer that a request goes on with."""
    turns = [turn for turn in body["messages"] if turn["role"] == "assistant"]
    content = turns[-1]["content"] if turns else ""
    return content if isinstance(content, str) else "".join(block["text"] for block in content)


def chat(words: Sequence[str]) -> Iterator[bytes]:
    yield from (events(delta(content=word)) for word in words)
    yield events(delta("stop"), USAGE, "[DONE]")


def claude(words: Sequence[str]) -> Iterator[bytes]:
    yield messages.events(messages.START, messages.PING)
    start, *deltas, stop = messages.text(0, *words)
    yield messages.events(start)
    yield from map(messages.events, deltas)
    yield messages.events(stop, messages.end(), messages.STOP)


def faulty(write: Callable[[Sequence[str]], Iterator[bytes]], chance: random.Random) -> Callable[[Any], list[Step]]:
    """Answers with the rest of the text, at times a bit of what was said before, and breaks in one of many ways."""

    def script(body: Any) -> list[Step]:
        partial = said(body)
        assert WHOLE.startswith(partial)
        repeats = partial.split(" ")[-3:] if partial and body["messages"][-1]["role"] == "user" else []
        again = [f"{word} " for word in repeats if word] if chance.random() < 0.5 else []
        rest = WHOLE.removeprefix(partial)
        words = [*again, *(f"{word} " for word in rest.split(" ") if word)]
        pieces = list(write(words))
        at = chance.randrange(len(pieces))
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "x"}}
        faults: list[list[Step]] = [
            [head(), *pieces],
            [head(), *pieces],
            [head(), *pieces[:at]],
            [head(), *pieces[:at], CUT],
            [head(), *pieces[:at], pieces[at][:7], CUT],
            [head(), *pieces[:at], messages.events(error)],
            [head(), *pieces[:at], b"data: {\n\n"],
            list(failed(529, {})),
            list(failed(500, {})),
            [CUT],
        ]
        return faults[chance.randrange(len(faults))]

    return script


@contextmanager
def servers(chance: random.Random) -> Iterator[HybridLLM]:
    with ExitStack() as stack:
        first, second = (stack.enter_context(scripted([])) for _ in range(2))
        first.make, second.make = faulty(chat, chance), faulty(claude, chance)
        backends = [
            OpenAISpec(name="chat", base_url=first.url, model="m").open(),
            AnthropicSpec(name="claude", base_url=messages.root(second), model="claude-sonnet-4-5").open(),
        ]
        locations = {backend.name: Location.CLOUD for backend in backends}
        with HybridLLM(backends, parse_policy(POLICY, backends=locations)) as llm:
            yield llm


def test_an_answer_is_whole_or_ends_in_one_typed_error() -> None:
    chance = random.Random(13)  # a draw of faults, the same each time
    whole, continued, kinds = 0, 0, set()
    with servers(chance) as llm:
        for _ in range(RUNS):
            try:
                reply = llm.generate("Write.", max_tokens=500, deadline=20.0)
            except HybridLLMError as error:
                kinds.add(type(error).__name__)
                continue
            assert reply.text == WHOLE
            whole += 1
            continued += bool(reply.continuations)
    assert whole > RUNS / 3
    assert continued > RUNS / 8
    assert kinds <= {"AllBackendsFailed", "StreamInterrupted", "BackendUnavailable", "BackendOverloaded"}
