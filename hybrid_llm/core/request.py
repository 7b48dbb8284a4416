"""The request: messages, sampling, limits and tools, and the metadata without any text.

Times are seconds on the way in (`deadline=2.0`) and milliseconds on the way out (`timings.ttft_ms`), with the unit in
the name wherever it is not seconds.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from operator import attrgetter
from typing import Any, Final, Literal, Self

from hybrid_llm.core.errors import DeadlineExceeded
from hybrid_llm.core.fields import Whole
from hybrid_llm.core.limits import DEFAULT_DEADLINE_S, DEFAULT_MAX_TOKENS, SAMPLING
from hybrid_llm.core.looks import caller_left
from hybrid_llm.core.options import GenerateOptions as GenerateOptions
from hybrid_llm.core.options import OutputSchema as OutputSchema
from hybrid_llm.core.options import SchemaModel as SchemaModel
from hybrid_llm.core.options import ToolSource as ToolSource
from hybrid_llm.core.tools import Tool as Tool
from hybrid_llm.core.tools import ToolCall, ToolChoice

Role = Literal["system", "user", "assistant", "tool", "developer"]


class Location(StrEnum):
    """Where a backend runs, as privacy tags see it."""

    EDGE = "edge"
    CLOUD = "cloud"


class TextForm(StrEnum):
    """What a text of a request is written in."""

    PLAIN = "plain"
    """Text as it is."""
    CONTENT = "content"
    """JSON if it is an object or array, such as the result of a tool, else text."""
    SCHEMA = "schema"
    """A JSON Schema, as JSON."""
    PARTIAL = "partial"
    """The beginning of JSON that follows the output schema."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. Its text never shows in `repr`.

    The turn of an assistant may have *tool_calls*, and the *reasoning* that led to it; that of a tool has the
    *tool_call_id* of the call whose result it is. A `developer` is a `system` in the words of newer APIs.
    """

    role: Role
    content: str = field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str = field(default="", repr=False)
    reasoning: str = field(default="", repr=False)

    def texts(self) -> Iterator[str]:
        """Every text that a backend sees of it; `with_texts` takes them back."""
        yield self.content
        if self.reasoning:
            yield self.reasoning
        for call in self.tool_calls:
            yield from (call.name, call.arguments)

    def with_texts(self, new: Iterator[str]) -> Message:
        """The same turn with the texts that *new* yields."""
        content = next(new)
        if not self.tool_calls and not self.reasoning:
            return replace(self, content=content)
        reasoning = next(new) if self.reasoning else ""
        calls = tuple([replace(call, name=next(new), arguments=next(new)) for call in self.tool_calls])
        return replace(self, content=content, reasoning=reasoning, tool_calls=calls)


def call_ordinals(messages: Sequence[Message]) -> tuple[int, ...]:
    """For each message, the number of the call that it answers, from 1 in the order of the calls; 0 where none.

    Backends, clearances and caches see these numbers in place of ids. Of two calls with one id, the later counts.
    """
    numbers: dict[str, int] = {}
    found = []
    count = 0
    for message in messages:
        found.append(numbers.get(message.tool_call_id, 0) if message.tool_call_id else 0)
        for call in message.tool_calls:
            count += 1
            numbers[call.id] = count
    return tuple(found)


_COLDEST: Final = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn: greedy, unless the call, the configuration or the model itself recommends a draw."""

    temperature: float = 0.0
    """0 is greedy; above 0 divides the logits before the draw."""
    top_p: float = 1.0
    """Nucleus sampling: keep the likeliest tokens that together reach this probability (Holtzman et al., 2020)."""
    top_k: int = 0
    """Keep this many of the likeliest tokens; 0 keeps all."""
    min_p: float = 0.0
    """Keep tokens at least this fraction as likely as the likeliest (Nguyen et al., 2024)."""
    repetition_penalty: float = 1.0
    """Divide the positive logits of tokens seen by this, multiply the negative (Keskar et al., 2019); 1 is off."""
    presence_penalty: float = 0.0
    """Subtract this from the logit of each token that the answer has already; 0 is off. As OpenAI's API defines it."""
    frequency_penalty: float = 0.0
    """Subtract this from a token's logit once for each time that the answer has it; 0 is off. As in OpenAI's API."""
    seed: int | None = None
    """Same seed, same model, same backend: same draw. None draws a fresh one."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    """Texts that end the answer; they are not part of it."""
    explicit: tuple[str, ...] = ()
    """Settings that the app or its configuration names, also if their values are the defaults."""

    @property
    def is_greedy(self) -> bool:
        """Whether the likeliest token is taken: at temperature 0, and where float32 would underflow beside it."""
        return self.temperature < _COLDEST

    @property
    def penalises_answer(self) -> bool:
        """Whether presence or frequency of tokens in the answer is penalised, or rewarded."""
        return self.presence_penalty != 0.0 or self.frequency_penalty != 0.0

    def completed(self, recommended: Mapping[str, float]) -> Self:
        """These settings, with what a model *recommended* for those that neither are named nor differ from the default.

        So a call comes before the configuration, that before the model, and the model before the defaults above.
        """
        open_names = [name for name in recommended if name not in self.explicit]
        values = {name: recommended[name] for name in open_names if getattr(self, name) == getattr(GREEDY, name)}
        changed: Self = replace(self, **values) if values else self  # type: ignore[arg-type]  # all are numbers
        return changed

    def fault(self, *, any_seed: bool = False) -> str:
        """Return the first setting that is not a number in its range (NaN never is) and what it must be; else ""."""
        for name, limits in SAMPLING.items():
            value = getattr(self, name)
            if name == "seed" and (value is None or (any_seed and isinstance(value, int))):
                continue
            number = isinstance(value, int if isinstance(limits, Whole) else int | float)
            if not (number and limits.least <= value <= limits.most):
                return f"{name}: must be {limits.words}"
        return ""


GREEDY = Sampling()
"""The default: shared, since it is frozen, by every request that sets nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Envelope:
    """What a request and its metadata have in common: names, counts and limits, never a text."""

    task: str = "chat"
    privacy: frozenset[str] = frozenset()
    """Privacy tags: the declared ones, and after the guard the detected ones too."""
    max_tokens: int = DEFAULT_MAX_TOKENS
    deadline: float = DEFAULT_DEADLINE_S
    """Seconds from *created* until the whole answer must be there."""
    created: float = field(default_factory=time.monotonic)
    """`time.monotonic()` when the app called."""
    session_id: str | None = None
    tenant: str | None = None
    request_id: str = ""
    prompt_tokens: int = 0
    """Tokens of the prompt, counted by the edge tokenizer where there is one, else estimated."""

    @property
    def expires(self) -> float:
        """The instant of the deadline, on the clock of `time.monotonic()`."""
        return self.created + self.deadline

    def remaining(self, now: float | None = None) -> float:
        """Seconds left until the deadline; negative once it is over."""
        return self.created + self.deadline - (time.monotonic() if now is None else now)

    def check_deadline(self) -> None:
        """Work before the first attempt calls this between its pieces, so that it ends in time too.

        Raises:
            DeadlineExceeded: the deadline passed, or the caller has left; no backend was called.
        """
        left = caller_left.get()
        if time.monotonic() >= self.created + self.deadline or (left is not None and left.is_set()):
            raise self.late()

    def late(self, backend: str = "", *, phase: str = "") -> DeadlineExceeded:
        """The error of a request whose deadline is over: what *backend* did then, in this *phase*."""
        message = f"the deadline of {self.deadline:g} s is over"
        return DeadlineExceeded(message, backend=backend, elapsed=self.deadline, phase=phase)


_SHARED = tuple(each.name for each in fields(_Envelope))
_shared_of = attrgetter(*_SHARED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(_Envelope):
    """One call, checked and complete. `HybridLLM` makes it from what the app passed."""

    messages: tuple[Message, ...]
    sampling: Sampling = GREEDY
    output_schema: str | None = field(default=None, repr=False)
    """JSON Schema, as JSON text, that the answer must follow."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    parallel_tool_calls: bool = True
    """Whether one answer may have several tool calls."""
    backends: tuple[str, ...] | None = None
    """The only backends that may answer, as far as tags and rules allow them; None for all."""
    logprobs: int | None = None
    """How many likeliest alternatives to give for each token of the text; None for no log-probabilities at all."""
    priority: int | None = None
    """From 0 to 9, each step doubles the share of a node with rights; None for that of the backend's configuration."""
    answer_prefix: str = field(default="", repr=False)
    """The partial answer that the app already has, from which the backend continues."""
    answer_reasoning: str = field(default="", repr=False)
    """The reasoning of that partial answer."""
    answer_calls: tuple[ToolCall, ...] = ()
    """Its tool calls; only the last may be cut."""

    def visible_text(self) -> Iterator[str]:
        """Every text of the app that a backend would see, in a fixed order: what the detectors scan."""
        for message in self.messages:
            yield from message.texts()
        if self.output_schema is not None:
            yield self.output_schema
        for tool in self.tools:
            yield from (tool.name, tool.description, tool.parameters)
        yield from self.sampling.stop
        if self.answer_prefix:
            yield self.answer_prefix
        if self.answer_reasoning:
            yield self.answer_reasoning
        for call in self.answer_calls:
            yield from (call.name, call.arguments)

    def text_forms(self) -> Iterator[TextForm]:
        """What each text that `visible_text` yields is written in, in that order."""
        for message in self.messages:
            yield TextForm.CONTENT
            if message.reasoning:
                yield TextForm.PLAIN
            yield from (TextForm.PLAIN, TextForm.CONTENT) * len(message.tool_calls)
        if self.output_schema is not None:
            yield TextForm.SCHEMA
        yield from (TextForm.PLAIN, TextForm.PLAIN, TextForm.SCHEMA) * len(self.tools)
        yield from [TextForm.PLAIN] * len(self.sampling.stop)
        if self.answer_prefix:
            yield TextForm.PLAIN if self.output_schema is None else TextForm.PARTIAL
        if self.answer_reasoning:
            yield TextForm.PLAIN
        yield from (TextForm.PLAIN, TextForm.PARTIAL) * len(self.answer_calls)

    def with_texts(self, texts: Iterable[str]) -> Self:
        """The same request with *texts* in place of those that `visible_text` yields, in that order."""
        new = iter(texts)
        return replace(
            self,
            messages=tuple([message.with_texts(new) for message in self.messages]),
            output_schema=None if self.output_schema is None else next(new),
            tools=tuple(
                [replace(tool, name=next(new), description=next(new), parameters=next(new)) for tool in self.tools]
            ),
            sampling=replace(self.sampling, stop=tuple([next(new) for _ in self.sampling.stop])),
            answer_prefix=next(new) if self.answer_prefix else "",
            answer_reasoning=next(new) if self.answer_reasoning else "",
            answer_calls=tuple([replace(call, name=next(new), arguments=next(new)) for call in self.answer_calls]),
        )

    def shape(self) -> str:
        """What a backend sees of it beside its texts: how these are distributed, and how tools are to be called.

        Of ids of tool calls it sees the numbers of the calls alone.
        """
        turns = [
            f"{message.role} {len(message.tool_calls)} {ordinal} {bool(message.reasoning)}"
            for message, ordinal in zip(self.messages, call_ordinals(self.messages), strict=True)
        ]
        answer = f"{bool(self.answer_prefix)} {bool(self.answer_reasoning)} {len(self.answer_calls)}"
        tools = f"{len(self.tools)} {self.tool_choice!r} {self.parallel_tool_calls}"
        return f"{','.join(turns)};{self.output_schema is not None} {tools} {len(self.sampling.stop)};{answer}"

    @property
    def is_continuation(self) -> bool:
        """Whether a backend continues a partial answer."""
        return bool(self.answer_prefix or self.answer_reasoning or self.answer_calls)

    def continue_from(self, partial: PartialAnswer) -> Self:
        """The same request, for the rest of an answer that began with *partial*."""
        return replace(
            self,
            answer_prefix=partial.text,
            answer_reasoning=partial.reasoning,
            answer_calls=partial.tool_calls,
            max_tokens=self.max_tokens - partial.tokens,
        )


def estimate_tokens(request: Request) -> int:
    """An estimate from UTF-8 bytes, on the high side: three bytes a token, plus four tokens a text."""
    texts = [text for message in request.messages for text in message.texts()]
    for tool in request.tools:
        texts += (tool.name, tool.description, tool.parameters)
    return sum(4 + (len(text.encode("utf-8", "surrogatepass")) + 2) // 3 for text in texts)


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestMetadata(_Envelope):
    """What a policy, log, trace or hook may see of a request: names, counts and limits, never a text.

    A type of its own rather than a `Request` with empty texts: code that takes it cannot be handed a prompt.
    """

    message_count: int = 1
    tool_count: int = 0
    has_schema: bool = False
    """Whether the answer must follow a JSON Schema."""

    @classmethod
    def of(cls, request: Request) -> Self:
        """The metadata of *request*."""
        return cls(
            **dict(zip(_SHARED, _shared_of(request), strict=True)),
            message_count=len(request.messages),
            tool_count=len(request.tools),
            has_schema=request.output_schema is not None,
        )

    @property
    def deadline_ms(self) -> float:
        """The deadline as rules read it, ms."""
        return self.deadline * 1000.0

    @property
    def tools(self) -> int:
        """How many tools the request offers, as rules read it."""
        return self.tool_count

    @property
    def has_tools(self) -> bool:
        """Whether the request offers tools."""
        return self.tool_count > 0

    @property
    def tags(self) -> tuple[str, ...]:
        """The privacy tags as rules read them, sorted."""
        return tuple(sorted(self.privacy))


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialAnswer:
    """The part of an answer that the app already has; the next backend continues from it."""

    text: str = field(default="", repr=False)
    tokens: int = 0
    reasoning: str = field(default="", repr=False)
    tool_calls: tuple[ToolCall, ...] = ()
    """The last may be cut: its name is whole, its arguments need not be."""

    def __bool__(self) -> bool:
        return bool(self.text or self.reasoning or self.tool_calls)


Prompt = str | Message | Sequence[Message | Mapping[str, Any]]
"""What `generate` takes: a text, a `Message`, or a conversation in the form of the OpenAI chat API."""
