"""What comes back: chunks of an answer, and the whole `Generation` with usage, timings and decision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import HybridLLMError


class FinishReason(StrEnum):
    """Why an answer ended, in the terms of the OpenAI API."""

    STOP = "stop"
    """The model ended its turn, or a stop sequence was met."""
    LENGTH = "length"
    """`max_tokens` or the context window was reached."""
    TOOL_CALLS = "tool_calls"
    """The model asks for tools."""


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
class Continuation:
    """Where an answer broke off: *at* characters and *tokens* tokens were there when *backend* went on."""

    at: int
    tokens: int
    backend: str


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
    continuations: tuple[Continuation, ...] = ()
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
