"""What comes back: chunks of an answer, and the whole `Generation` with usage, timings and decision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, cast

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError, OutputInvalid
from hybrid_llm.core.jsonable import jsonable
from hybrid_llm.core.logprobs import TokenLogprob
from hybrid_llm.core.markdown import literal
from hybrid_llm.core.request import Message, PartialAnswer
from hybrid_llm.core.tools import ToolCall, ToolCallDelta
from hybrid_llm.core.tracebacks import scrubbed


class FinishReason(StrEnum):
    """Why an answer ended, in the terms of the OpenAI API, and `repetition`."""

    STOP = "stop"
    """The model ended its turn, or a stop sequence was met."""
    LENGTH = "length"
    """`max_tokens` or the context window was reached."""
    TOOL_CALLS = "tool_calls"
    """The model requests tool calls."""
    REPETITION = "repetition"
    """The model repeated itself without end, and was stopped."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens read and written, as counted by the backend."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Prompt tokens that came from the prefix cache and were not computed again."""
    reasoning_tokens: int = 0
    """Completion tokens that were reasoning, and no part of the text."""
    accepted_prediction_tokens: int = 0
    """Completion tokens that speculative decoding proposed: they took no run of the model of their own."""
    rejected_prediction_tokens: int = 0
    """Tokens that it proposed and computed, and that the answer does not have."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Times in milliseconds, as measured by the backend; in a `Generation`, by the client."""

    queue_ms: float = 0.0
    """Time spent waiting for a slot."""
    ttft_ms: float = 0.0
    """Time to first token, queue included."""
    tpot_ms: float = 0.0
    """Mean time per output token after the first."""
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerWarning:
    """Something that is wrong with an answer, without any of its text."""

    code: Literal["pseudonym_mangled"]
    """`pseudonym_mangled`: the model changed a pseudonym so that its value could not be restored."""
    kind: str
    """What it is about: of a pseudonym its type, such as `EMAIL`."""
    count: int

    def __str__(self) -> str:
        """It in one line, for headers and people."""
        return f"{self.code}: {self.count} {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A delta of an answer. The last one, and only it, has a *finish_reason*, *usage*, *timings* and *warnings*."""

    text: str = field(default="", repr=False)
    tokens: int = 1
    """Tokens in this chunk; 0 for text that was held back earlier and is released now."""
    reasoning: str = field(default="", repr=False)
    """A piece of the model's reasoning, which is no part of the answer."""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    """The tokens that *text* is made of, if the request asks for log-probabilities."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    warnings: tuple[AnswerWarning, ...] = ()


class AnswerParts:
    """Puts the chunks of one answer together: text and its tokens, reasoning, tool calls. Not thread-safe."""

    __slots__ = ("_arguments", "_logprobs", "_names", "_reasoning", "_text")

    def __init__(self) -> None:
        self._text: list[str] = []
        self._logprobs: list[TokenLogprob] = []
        self._reasoning: list[str] = []
        self._names: list[tuple[str, str]] = []
        self._arguments: list[list[str]] = []

    def add(self, chunk: Chunk) -> bool:
        """Take the next chunk, whose tool calls are in order; whether there was anything in it."""
        if chunk.text:
            self._text.append(chunk.text)
        if chunk.reasoning:
            self._reasoning.append(chunk.reasoning)
        if chunk.logprobs:
            self._logprobs += chunk.logprobs
        for delta in chunk.tool_calls:
            if delta.index == len(self._names):
                self._names.append((delta.id, delta.name))
                self._arguments.append([])
            self._arguments[delta.index].append(delta.arguments)
        return bool(chunk.text or chunk.reasoning or chunk.tool_calls)

    @property
    def text(self) -> str:
        """The text so far."""
        return "".join(self._text)

    @property
    def logprobs(self) -> tuple[TokenLogprob, ...]:
        """The tokens of the text so far, where log-probabilities were asked for."""
        return tuple(self._logprobs)

    @property
    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(self._reasoning)

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls so far; the last may be cut."""
        pairs = zip(self._names, self._arguments, strict=True)
        return tuple([ToolCall(id=id_, name=name, arguments="".join(pieces)) for (id_, name), pieces in pairs])

    def partial(self, tokens: int) -> PartialAnswer:
        """The partial answer of *tokens* tokens, from which another backend can continue."""
        return PartialAnswer(text=self.text, tokens=tokens, reasoning=self.reasoning, tool_calls=self.tool_calls)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptRecord:
    """One call of one backend, or why none was made."""

    backend: str
    error: str = ""
    """The name of the error class; empty if the call answered, `Cancelled` if another one answered first."""
    reason: str = ""
    """The error's code, such as `refused` or `context_overflow`; `breaker_open` or `no_retry_left` of no call."""
    tokens: int = 0
    """Tokens that it answered, be it to the end or until it broke off."""
    elapsed_ms: float = 0.0
    hedge: bool = False
    """It hedged a slow call."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Continuation:
    """Where an answer broke off: after *at* characters and *tokens* tokens *backend* continued it."""

    at: int
    tokens: int
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Departure:
    """A request was given to a backend beyond this device, also if that could not be reached; never a text."""

    backend: str
    pseudonymised: bool = False
    """What the detectors found was replaced; else the texts went as they are."""
    replaced: Mapping[str, int] = field(default_factory=dict)
    """Type of pseudonym, such as `EMAIL` -> how many different ones stood in for values."""
    sealed: bool = False
    """It was sealed to the backend's own key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A whole answer and how it was made. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    backend: str
    decision: Decision
    request_id: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    """The calls that the model asks for; one that `max_tokens` cut off is left out, and the reason is then `length`."""
    reasoning: str = field(default="", repr=False)
    """What the model wrote before its answer, where it reasons."""
    logprobs: tuple[TokenLogprob, ...] = field(default=(), repr=False)
    """The tokens of the text in order, if the request asks for log-probabilities; not those of reasoning and calls."""
    attempts: tuple[AttemptRecord, ...] = ()
    """The calls that were made for it, in order; the last one without an error answered."""
    continuations: tuple[Continuation, ...] = ()
    """Where it broke off and was continued, by another backend or by the same."""
    parse: Callable[[str, str], object] | None = field(default=None, repr=False, compare=False)
    """Makes an object of the text of a backend, of which the name is the second argument."""
    cached: bool = False
    """The answer came from the cache, or from an identical request in flight: no backend was called for this one."""
    priority: int | None = None
    """The priority that the request asked for and its backend followed; None where one of them did not."""
    notice: str = ""
    """What a reader must know: that a demonstration model answered, and how to get a real one; or that a generator did
    the task of an encoder which does not know the labels, or is not ready."""
    warnings: tuple[AnswerWarning, ...] = ()
    """What is wrong with the text: pseudonyms in it that could not be restored."""
    declared: frozenset[str] = frozenset()
    """The privacy tags that the app set; detectors set the others of `decision.tags`."""
    departures: tuple[Departure, ...] = ()
    """Each call for which the request left the device, and in which form; empty if nothing left it."""
    cost: float = 0.0
    """What its calls cost, those that failed too, in the currency of the prices."""

    def to_dict(self) -> dict[str, Any]:
        """The answer and how it was made as plain data, for JSON; `parsed` is null where there is no object."""
        document = cast("dict[str, Any]", jsonable(replace(self, logprobs=())))
        document["logprobs"] = [jsonable(each.to_dict()) for each in self.logprobs]
        document.pop("parse", None)
        document["usage"]["total_tokens"] = self.usage.total_tokens
        document["decision"] = self.decision.to_dict()
        document["parsed"] = None
        with suppress(HybridLLMError):  # no schema, or the answer was cut off
            document["parsed"] = jsonable(self.parsed)
        return document

    def _repr_markdown_(self) -> str:
        """The answer in a notebook, as text, and under it who gave it and why."""
        calls = [f"calls {call.name}({call.arguments})" for call in self.tool_calls]
        counted = f"{self.usage.total_tokens} tokens, {self.timings.total_ms:.0f} ms"
        made = f"{self.backend}: {self.decision.because} ({counted})"
        notes = [f"*{literal(each)}*" for each in (*map(str, self.warnings), self.notice, made) if each]
        return "\n\n".join([*map(literal, filter(None, (self.text, *calls))), *notes])

    def as_message(self, *, reasoning: bool = False) -> Message:
        """The answer as a turn of the conversation, for the next prompt; with its *reasoning* only if asked for."""
        return Message(
            role="assistant",
            content=self.text,
            tool_calls=self.tool_calls,
            reasoning=self.reasoning if reasoning else "",
        )

    @property
    def parsed(self) -> object:
        """The answer to a request with `output_schema`, parsed: a pydantic model's instance, else JSON values.

        Raises:
            HybridLLMError: no schema was given.
            OutputInvalid: `max_tokens` cut the answer off before it was a whole document, or it is a tool call.
        """
        if self.parse is None:
            raise HybridLLMError("the answer is not an object: no output_schema was given")
        if self.finish_reason in (FinishReason.LENGTH, FinishReason.REPETITION):
            what = "max_tokens cut it off" if self.finish_reason is FinishReason.LENGTH else "the model repeated itself"
            raise OutputInvalid(f"the answer is not an object: {what}", backend=self.backend, reason="cut")
        if self.finish_reason is FinishReason.TOOL_CALLS:
            text = "the answer is not an object: the model calls tools"
            raise OutputInvalid(text, backend=self.backend, reason="tool_calls")
        return _parsed(self.parse, self.text, self.backend)


@scrubbed
def _parsed(parse: Callable[[str, str], object], text: str, backend: str) -> object:
    return parse(text, backend)
