"""The nouns that travel: frozen records of a request, its decision and its answer. No behaviour beyond reading them.

Times are seconds on the way in (`deadline=2.0`) and milliseconds on the way out (`timings.ttft_ms`), with the unit in
the name wherever it is not seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Literal, Protocol, Self, TypedDict, get_args

from hybrid_llm.router.errors import HybridLLMError

__all__ = [
    "Chunk",
    "Decision",
    "Facts",
    "FinishReason",
    "GenerateOptions",
    "Generation",
    "Given",
    "Location",
    "Message",
    "OutputSchema",
    "Prompt",
    "Request",
    "Role",
    "RuleTrace",
    "Sampling",
    "Seam",
    "Timings",
    "Tool",
    "Usage",
]

Role = Literal["system", "user", "assistant", "tool"]


class Location(StrEnum):
    """Where a backend runs, as privacy tags see it."""

    EDGE = "edge"
    CLOUD = "cloud"


class FinishReason(StrEnum):
    """Why an answer ended, in the terms of the OpenAI API."""

    STOP = "stop"
    """The model ended its turn, or a stop sequence was met."""
    LENGTH = "length"
    """`max_tokens` or the context window was reached."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One turn of a conversation. Its text never shows in `repr`."""

    role: Role
    content: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tool:
    """A function that the model may ask for: *parameters* is a JSON Schema as JSON text. `repr` shows nothing of it."""

    name: str = field(repr=False)
    description: str = field(default="", repr=False)
    parameters: str = field(default="{}", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How the next token is drawn. The default is greedy, so the same call gives the same answer."""

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
    seed: int | None = None
    """Same seed, same model, same backend: same draw. None draws a fresh one."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    """Texts that end the answer; they are not part of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One call, checked and complete. `HybridLLM` makes it from what the app passed."""

    messages: tuple[Message, ...]
    task: str = "chat"
    privacy: frozenset[str] = frozenset()
    """Privacy tags: the declared ones, and after the guard the detected ones too."""
    sampling: Sampling = field(default_factory=Sampling)
    max_tokens: int = 256
    deadline: float = 60.0
    """Seconds from *created* until the whole answer must be there."""
    created: float = field(default_factory=time.monotonic)
    """`time.monotonic()` when the app called."""
    output_schema: str | None = field(default=None, repr=False)
    """JSON Schema, as JSON text, that the answer must follow."""
    tools: tuple[Tool, ...] = ()
    answer_prefix: str = field(default="", repr=False)
    """The beginning of the assistant's answer, already given to the app: the answer goes on behind it."""
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
        return self.expires - (time.monotonic() if now is None else now)

    def visible_text(self) -> Iterator[str]:
        """Every text of the app's that a backend would see, in a fixed order: what a detector scans."""
        for message in self.messages:
            yield message.content
        if self.output_schema is not None:
            yield self.output_schema
        for tool in self.tools:
            yield from (tool.name, tool.description, tool.parameters)
        yield from self.sampling.stop
        if self.answer_prefix:
            yield self.answer_prefix

    def with_texts(self, texts: Iterable[str]) -> Self:
        """The same request with *texts* in place of those that `visible_text` yields, in that order."""
        new = iter(texts)
        return replace(
            self,
            messages=tuple([replace(message, content=next(new)) for message in self.messages]),
            output_schema=None if self.output_schema is None else next(new),
            tools=tuple([Tool(name=next(new), description=next(new), parameters=next(new)) for _ in self.tools]),
            sampling=replace(self.sampling, stop=tuple([next(new) for _ in self.sampling.stop])),
            answer_prefix=next(new) if self.answer_prefix else "",
        )

    def behind(self, given: Given) -> Self:
        """The same request for the rest of an answer of which *given* is there."""
        return replace(self, answer_prefix=given.text, max_tokens=self.max_tokens - given.tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts(Request):
    """A request without its texts: what a policy, a trace, a hook and a recording see of it.

    Roles, counts and whether there is a schema are those of the request; whatever was written is empty.

    Raises:
        ValueError: a text is not empty.
    """

    def __post_init__(self) -> None:
        if any(self.visible_text()):
            raise ValueError("facts hold no text of a request")

    @classmethod
    def of(cls, request: Request) -> Facts:
        """The facts of *request*."""
        return cls(
            messages=tuple([_BLANK[message.role] for message in request.messages]),
            task=request.task,
            privacy=request.privacy,
            max_tokens=request.max_tokens,
            deadline=request.deadline,
            created=request.created,
            output_schema=None if request.output_schema is None else "",
            tools=(_NO_TOOL,) * len(request.tools),
            session_id=request.session_id,
            tenant=request.tenant,
            request_id=request.request_id,
            prompt_tokens=request.prompt_tokens,
        )


_BLANK: Mapping[str, Message] = {role: Message(role=role, content="") for role in get_args(Role)}
_NO_TOOL = Tool(name="", parameters="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were read and written, as the backend counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_prompt_tokens: int = 0
    """Of the prompt, those that the backend had read before and did not compute again."""

    @property
    def total_tokens(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Milliseconds, seen from where the record was made: a backend's own, or the app's in a `Generation`."""

    queue_ms: float = 0.0
    """Waited for a slot."""
    ttft_ms: float = 0.0
    """Time to first token, queue included."""
    tpot_ms: float = 0.0
    """Mean time per output token after the first."""
    total_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of an answer. The last one, and only it, has a *finish_reason*, *usage* and *timings*."""

    text: str = field(default="", repr=False)
    tokens: int = 1
    """Tokens that this piece stands for; 0 where text was held back earlier and is released now."""
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What the app has of an answer that is to be continued: the next backend begins behind it."""

    text: str = field(default="", repr=False)
    tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Seam:
    """Where an answer broke off: *at* characters and *tokens* tokens were there when *backend* went on."""

    at: int
    tokens: int
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleTrace:
    """What one rule saw. *place* is `path:line:column`; *values* are the signals it read and their values."""

    rule: str
    place: str
    matched: bool
    because: str = ""
    values: tuple[tuple[str, object], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """Who is asked, in which order, and why. A pure function of policy, request and signals made it."""

    order: tuple[str, ...]
    """Backends to try, best first; empty when nobody is eligible."""
    excluded: Mapping[str, str]
    """Backend -> why it is out, for people."""
    policy: str
    digest: str
    """The first 16 hex digits of the SHA-256 of the policy's text."""
    rule: str = ""
    """The rule that ordered the candidates, as `rules[3]`; `default` when none matched."""
    because: str = ""
    """That rule's reason, for people."""
    tags: frozenset[str] = frozenset()
    """The effective privacy tags."""
    tracer: Callable[[], tuple[RuleTrace, ...]] = field(default=tuple, repr=False, compare=False)
    """Replays the decision and tells what each rule saw; called on demand only."""

    @property
    def trace(self) -> tuple[RuleTrace, ...]:
        """What each rule saw, in the order of the policy."""
        return self.tracer()

    def explain(self) -> str:
        """The decision as a person reads it: order, exclusions, and every rule with the values it saw."""
        lines = [f"policy {self.policy} ({self.digest})"]
        if self.tags:
            lines.append(f"tags: {', '.join(sorted(self.tags))}")
        lines.append(f"order: {' > '.join(self.order) or 'nobody is eligible'}   by {self.rule}: {self.because}")
        lines += [f"excluded: {name}: {why}" for name, why in self.excluded.items()]
        lines += [_trace_line(entry) for entry in self.trace]
        return "\n".join(lines)


def _trace_line(entry: RuleTrace) -> str:
    mark = "x" if entry.matched else " "
    values = ", ".join(f"{name}={value}" for name, value in entry.values)
    return f"  [{mark}] {entry.place} {entry.rule}" + (f"   {values}" if values else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A whole answer, and how it came about. Its text never shows in `repr`."""

    text: str = field(repr=False)
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    backend: str
    decision: Decision
    request_id: str = ""
    seams: tuple[Seam, ...] = ()
    """Where it broke off and another backend, or the same again, went on."""
    parse: Callable[[str], object] | None = field(default=None, repr=False, compare=False)
    cached: bool = False
    """The answer was kept from an identical request; *backend* gave it then, and nobody was called now."""

    @property
    def parsed(self) -> object:
        """The object that an answer with `output_schema` is: an instance of the pydantic model, else what JSON says.

        Raises:
            HybridLLMError: no schema was given, or the answer was cut off by `max_tokens`.
            ValueError: a validator of the model refuses what its schema allows.
        """
        if self.parse is None or self.finish_reason is FinishReason.LENGTH:
            why = "no output_schema was given" if self.parse is None else "max_tokens cut it off"
            raise HybridLLMError(f"the answer is not an object: {why}")
        return self.parse(self.text)


Prompt = str | Message | Sequence[Message | Mapping[str, str]]
"""What `generate` takes: a text, a `Message`, or a conversation in the form of the OpenAI chat API."""


class SchemaModel(Protocol):
    """What a pydantic model's class offers, as far as it is used here."""

    @classmethod
    def model_json_schema(cls) -> dict[str, Any]:
        """The model's JSON Schema."""
        ...

    @classmethod
    def model_validate_json(cls, json_data: str) -> Any:
        """An instance of the model."""
        ...


OutputSchema = Mapping[str, Any] | str | type[SchemaModel]
"""What `output_schema` takes: a JSON Schema as a dict or as JSON text, or a pydantic model."""


class GenerateOptions(TypedDict, total=False):
    """The keyword options of `generate`, `agenerate`, `stream`, `astream` and `decide`."""

    privacy: frozenset[str] | set[str] | Sequence[str]
    task: str
    max_tokens: int
    deadline: float
    temperature: float
    top_p: float
    top_k: int
    min_p: float
    repetition_penalty: float
    seed: int | None
    stop: str | Sequence[str]
    output_schema: OutputSchema | None
    tools: Sequence[Tool]
    session_id: str | None
    tenant: str | None
    request_id: str
