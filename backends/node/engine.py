"""The seam between the node's front and what generates: records and Protocols only, no torch, no processes.

A fault of one request travels as the last output of its stream (`EngineOutput.error`); an exception, `EngineDied`,
means that the engine itself went away. Stop texts and detokenising belong to the front, which closes the stream on a
stop text.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

FaultCode = Literal["rejected", "overloaded", "deadline", "internal"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """What to run, and with how much: checked when the engine starts, which raises `ConfigError`."""

    model: Path
    """A folder in the form of transformers: config.json and *.safetensors."""
    engine: Literal["auto", "packed", "one_by_one"] = "auto"
    """`auto` takes `packed` where its self-check agrees with the model's own forward, else `one_by_one`."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: cuda where there is one."""
    dtype: Literal["auto", "bf16", "fp32"] = "auto"
    """Precision of weights and cache; `auto` is bf16 on cuda and what the weights are stored in on the cpu."""
    threads: int = 0
    """Threads of torch on the cpu; 0 leaves one processor to the front."""
    max_slots: int = 16
    """Requests that are generated at the same time."""
    kv_tokens: int = 0
    """Tokens that the KV cache holds, all slots together; 0 takes what a part of the free memory holds."""
    prefill_budget: int = 256
    """Prompt tokens read per step: smaller steadies the time between tokens, larger reads prompts faster."""
    max_waiting: int = 64
    """Requests that wait for a slot; more are refused as overloaded."""
    reuse_prefixes: bool = True
    """Slots keep what they hold when their request ends, for requests of the same salt that begin alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request, in token ids. Its prompt and schema never show in `repr`."""

    request_id: str
    """Unique among the requests in flight."""
    prompt_ids: tuple[int, ...] = field(repr=False)
    max_tokens: int
    """Most tokens of the answer, 1 and up."""
    sampling: Sampling = field(default=Sampling(), repr=False)
    """`stop` is not read here."""
    eos_ids: frozenset[int] = frozenset()
    """A token of these ends the answer; it is not part of it."""
    expires: float = float("inf")
    """`time.monotonic()` of this machine at which the request is given up."""
    output_schema: str | None = field(default=None, repr=False)
    """JSON Schema, as JSON text, that the answer must follow; rejected by an engine that cannot."""
    salt: str = field(default="", repr=False)
    """Whose it is: what was computed under one salt is never used under another."""
    answer_prefix: str = field(default="", repr=False)
    """The beginning of a document that follows the schema, where the prompt ends with one: the answer goes on there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFault:
    """Why one request failed. The message is for people and holds no prompt text.

    `rejected`: this request can never run here. `overloaded`: it might later. `deadline`: its time is over.
    `internal`: the engine failed at it.
    """

    code: FaultCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOutput:
    """News of one request: new tokens, and in the last output of a request, and only there, how it ended."""

    request_id: str
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """One or more; may be empty in the last. The end-of-sequence token is never among them."""
    finish_reason: FinishReason | None = None
    queue_ms: float = 0.0
    """Milliseconds from submission to the slot; the same in every output of a request."""
    cached_tokens: int = 0
    """Tokens of the prompt that were not computed for this request; the same in every output of it."""
    error: EngineFault | None = None

    @property
    def last(self) -> bool:
        """Whether the request has ended with this."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy the engine is."""

    active: int = 0
    """Requests in a slot."""
    waiting: int = 0
    """Requests that wait for one."""
    slots: int = 0
    kv_tokens_used: int = 0
    """Tokens of the KV cache that are promised to requests in a slot."""
    kv_tokens_total: int = 0
    tokens_per_s: float = 0.0
    """New tokens per second of work, all requests together; a moving average."""
    step_ms: float = 0.0
    """Milliseconds that one step takes; a moving average."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """What was loaded."""

    engine: str
    """`packed` or `one_by_one`."""
    model: str
    """Name of the model folder."""
    architecture: str
    """Such as `LlamaForCausalLM`."""
    vocab_size: int
    context_window: int
    """Most tokens of prompt and answer together."""
    slots: int
    device: str = "cpu"
    dtype: str = "float32"
    output_schema: bool = False
    """Whether `EngineRequest.output_schema` is honoured."""


class EngineDied(HybridLLMError):
    """The engine went away: streams in flight end with this, and new ones until it is back. *retry_after*: seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Engine(Protocol):
    """Generates, in the process that it is in, a step at a time. Not safe to share between threads."""

    @property
    def info(self) -> EngineInfo:
        """What was loaded."""
        ...

    @property
    def idle(self) -> bool:
        """Whether `step` would do nothing: nobody runs, waits, or has yet to be told."""
        ...

    def submit(self, request: EngineRequest) -> None:
        """Take a request. Never raises for a bad one: a later `step` tells."""
        ...

    def abort(self, request_id: str) -> None:
        """Give a request up without further output; its slot is free at the next `step`. Unknown ids are ignored."""
        ...

    def step(self) -> Sequence[EngineOutput]:
        """Do one unit of work, and tell what came of it."""
        ...

    def load(self) -> EngineLoad:
        """How busy it is; no work."""
        ...

    def close(self) -> None:
        """Let go of the model. Requests in flight get no further output."""
        ...


@runtime_checkable
class AsyncEngine(Protocol):
    """What the front holds: an engine behind an event loop."""

    @property
    def info(self) -> EngineInfo | None:
        """What was loaded; None before `start` is done."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether a request can be taken now."""
        ...

    async def start(self) -> EngineInfo:
        """Load the model.

        Raises:
            ConfigError: the folder or an option is wrong; the message has the remedy.
            EngineDied: the engine went away while it loaded.
        """
        ...

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Generate. The last output has a finish reason or an error; closing the generator frees the slot.

        Raises:
            EngineDied: the engine is not there, or went away.
        """
        ...

    def load(self) -> EngineLoad:
        """How busy it was at its last step; no I/O."""
        ...

    async def close(self) -> None:
        """Stop. Streams in flight end with `EngineDied`. Twice is once."""
        ...
