"""Every error that an app can get, searched for a word of its request: in its texts, attributes, causes and frames."""

from __future__ import annotations

import asyncio
import json
import logging
import traceback
from collections.abc import Callable, Iterator

import pytest

from hybrid_llm.core.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    HybridLLMError,
    RequestRejected,
    SecurityError,
    StreamInterrupted,
    UntrustedPeer,
)
from hybrid_llm.core.generation import Chunk, FinishReason
from hybrid_llm.core.protocols import Finding
from hybrid_llm.core.request import Location, Tool
from hybrid_llm.core.tracebacks import SWITCH
from hybrid_llm.router.client import HybridLLM
from tests.fakes import FakeBackend

WORD = "Quartalsbericht"
SURROGATE = f"{WORD} \ud800"
SCHEMA = {"type": "object", "properties": {WORD: {"enum": [WORD]}}, "required": [WORD]}
POLICY = """\
version: 1
name: texts
tags:
  phi: {allow: [edge], detect: [medical_record]}
  pii: {allow: [edge, cloud], to_cloud: pseudonymise, detect: [email]}
rules: [{prefer: [cloud, edge]}]
resilience: {retries: 1, continue_streams: true%s}
"""


class Plays(FakeBackend):
    """Reads the request into locals, streams *texts*, then raises what *error* makes."""

    def __init__(self, name: str, *texts: str, error: Callable[[], BaseException] | None = None) -> None:
        super().__init__(name, Location(name))
        self.texts, self.error = texts, error

    def stream(self, cleared):
        read = [message.content for message in cleared.request.messages]
        for text in self.texts:
            yield Chunk(text=text)
        if self.error is not None:
            try:
                raise KeyError(*read)
            except KeyError as first:
                raise self.error() from first
        yield Chunk(finish_reason=FinishReason.STOP)

    async def astream(self, cleared):
        read = [message.content for message in cleared.request.messages]
        for chunk in self.stream(cleared):
            assert read
            yield chunk


class Raising:
    name = "medical_record"

    def find(self, text: str) -> Iterator[Finding]:
        copy = str(text)
        raise ValueError(copy)


class Model:
    """A pydantic model of the app, whose validator quotes the answer."""

    @classmethod
    def model_json_schema(cls) -> dict:
        return SCHEMA

    @classmethod
    def model_validate_json(cls, data: str) -> object:
        value = json.loads(data)
        raise ValueError(f"not {value}")


class NoModel(Model):
    @classmethod
    def model_json_schema(cls) -> dict:
        raise RuntimeError(WORD)


def both(*texts: str, error: Callable[[], BaseException] | None = None) -> list[FakeBackend]:
    return [Plays("edge", *texts, error=error), Plays("cloud", *texts, error=error)]


def errors_of(name: str) -> dict[str, Callable[[], BaseException]]:
    return {
        "untyped": lambda: ValueError(WORD),
        "unavailable": lambda: BackendUnavailable("down", backend=name),
        "rejected": lambda: RequestRejected("no", backend=name),
        "unfit": lambda: RequestRejected("no", backend=name, reason="unsupported"),
        "unknown": lambda: AuthenticationFailed("who", backend=name),
        "cut": lambda: StreamInterrupted("cut", backend=name),
        "untrusted": lambda: UntrustedPeer("not you", backend=name),
        "of a config": lambda: HybridLLMError(WORD),
    }


Case = tuple[Callable[[], list[FakeBackend]], dict, object]
PROMPT = f"{WORD}, please"
CASES: dict[str, Case] = {
    **{f"backends {kind}": (lambda e=error: both(error=e), {}, PROMPT) for kind, error in errors_of("edge").items()},
    **{
        f"backends broken off {kind}": (lambda e=error: both(WORD, error=e), {}, PROMPT)
        for kind, error in errors_of("edge").items()
    },
    "no backend": (lambda: [Plays("cloud")], {"privacy": {"phi"}}, PROMPT),
    "detector": (lambda: both(error=errors_of("edge")["rejected"]), {}, PROMPT),
    "option": (both, {"max_tokens": -1}, PROMPT),
    "unknown option": (both, {"max_token": 5}, PROMPT),
    "option of a wrong type": (both, {"temperature": "hot"}, PROMPT),
    "stop": (both, {"stop": [WORD] * 1000}, PROMPT),
    "deadline": (both, {"deadline": 1e-9}, PROMPT),
    "surrogate": (both, {}, SURROGATE),
    "surrogate in a stop text": (both, {"stop": [SURROGATE]}, PROMPT),
    "role": (both, {}, [{"role": "root", "content": WORD}]),
    "no message": (both, {}, [WORD]),
    "message of more": (both, {}, [{"role": "user", "content": WORD, "name": "x"}]),
    "no prompt": (both, {}, 5),
    "tools": (both, {"tools": [WORD]}, PROMPT),
    "tool": (lambda: both(error=errors_of("edge")["rejected"]), {"tools": [Tool(name="t", description=WORD)]}, PROMPT),
    "schema": (both, {"output_schema": {"not": {"const": WORD}}}, PROMPT),
    "no schema": (both, {"output_schema": f"{{ {WORD}"}, PROMPT),
    "schema of a wrong type": (both, {"output_schema": {"x": {WORD}}}, PROMPT),
    "schema in a circle": (both, {"output_schema": (lambda d: d.update(x=d) or d)({"const": WORD})}, PROMPT),
    "no model": (both, {"output_schema": NoModel}, PROMPT),
    "answer that is no JSON": (lambda: both(WORD), {"output_schema": SCHEMA}, PROMPT),
    "answer that does not follow": (lambda: both(f'{{"x": "{WORD}"}}'), {"output_schema": SCHEMA}, PROMPT),
    "answer that the model rejects": (lambda: both(f'{{"{WORD}": "{WORD}"}}'), {"output_schema": Model}, PROMPT),
    "answer that is too deep": (lambda: both("[" * 50_000 + WORD), {"output_schema": SCHEMA}, PROMPT),
}
WAYS = ("generate", "stream", "agenerate", "astream", "decide")


def ask(llm: HybridLLM, way: str, prompt: object, options: dict) -> None:
    async def aask() -> None:
        if way == "agenerate":
            await llm.agenerate(prompt, **options)
        else:
            async with llm.astream(prompt, **options) as stream:
                async for _ in stream:
                    pass

    if way == "generate":
        llm.generate(prompt, **options)
    elif way == "decide":
        llm.decide(prompt, **options)
    elif way == "stream":
        with llm.stream(prompt, **options) as stream:
            list(stream)
    else:
        asyncio.run(aask())


def linked(error: BaseException) -> Iterator[BaseException]:
    """The error and all that can be reached from it."""
    left: list[object] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if isinstance(one, BaseException) and id(one) not in seen:
            seen.add(id(one))
            yield one
            left += [one.__cause__, one.__context__, *getattr(one, "exceptions", ()), *vars(one).values()]
            left += [error for value in vars(one).values() if isinstance(value, dict) for error in value.values()]


def said(error: BaseException) -> str:
    """What it says, and what it holds in its frames below those of the test."""
    parts = []
    for one in linked(error):
        parts += [str(one), repr(one), repr(one.args), repr(vars(one)), repr(getattr(one, "__notes__", ()))]
        for frame, _ in traceback.walk_tb(one.__traceback__):
            own = ("ask", "aask", "caught", "test_nor_does_the_error_of_an_answer_that_was_cut")
            if frame.f_globals["__name__"] != __name__ or frame.f_code.co_name not in own:
                parts.append(f"{frame.f_code.co_qualname}: {frame.f_locals!r}")
        shown = traceback.TracebackException.from_exception(one, capture_locals=True)
        parts += [repr(frame.locals) for frame in shown.stack if frame.locals and frame.filename != __file__]
    return "\n".join(parts)


def caught(llm: HybridLLM, way: str, prompt: object, options: dict) -> BaseException | None:
    try:
        ask(llm, way, prompt, options)
    except (HybridLLMError, TypeError, ValueError) as error:
        return error
    return None


@pytest.mark.parametrize("hedge", ["", ", hedge_after: 10s"], ids=["", "hedged"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", CASES)
def test_no_error_holds_a_word_of_its_request(make_client, caplog, case, way, hedge):
    backends, options, prompt = CASES[case]
    llm = make_client(*backends(), policy=POLICY % hedge, detectors=[Raising()] if case == "detector" else [])
    with caplog.at_level(logging.DEBUG, logger="hybrid_llm"):
        error = caught(llm, way, prompt, options)
    if error is None:
        assert way == "decide", "every other way ends in an error"
        return
    assert isinstance(error, HybridLLMError | TypeError)
    assert WORD not in said(error)
    assert WORD not in caplog.text


@pytest.mark.parametrize("schema", [SCHEMA, Model])
def test_nor_does_the_error_of_an_answer_that_was_cut(make_client, schema):
    class Cut(FakeBackend):
        def stream(self, cleared):
            yield Chunk(text=WORD)
            yield Chunk(finish_reason=FinishReason.LENGTH)

    answer = make_client(Cut("edge", Location.EDGE)).generate("x", output_schema=schema)
    with pytest.raises(BackendError) as raised:
        _ = answer.parsed
    assert WORD not in said(raised.value)


def test_the_switch_keeps_the_frames_for_debugging(make_client, monkeypatch):
    monkeypatch.setenv(SWITCH, "1")
    llm = make_client(*both(error=errors_of("edge")["rejected"]), policy=POLICY % "")
    error = caught(llm, "generate", PROMPT, {})
    assert isinstance(error.__cause__, KeyError)
    assert WORD in said(error)


def test_a_broken_trust_is_no_exception(make_client):
    error = caught(make_client(*both(error=errors_of("edge")["untrusted"])), "generate", PROMPT, {})
    assert isinstance(error, SecurityError)
