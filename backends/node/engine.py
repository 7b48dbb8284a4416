"""The interface between the node's servicer and an engine: records and protocols, without torch or processes.

A failed request ends with an output that holds the error (`EngineOutput.error`); `EngineDied` is raised when the engine
itself is gone. The servicer detokenises and closes the stream on a stop text; engines see token ids only.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, runtime_checkable

from hybrid_llm.backends.node.liveness import StallLimits
from hybrid_llm.backends.signing.trust import Trust
from hybrid_llm.backends.token_names import TokenScores
from hybrid_llm.core.checked import Checked
from hybrid_llm.core.errors import HybridLLMError
from hybrid_llm.core.fields import Choice, Whole, key
from hybrid_llm.core.generation import FinishReason
from hybrid_llm.core.request import Sampling

FaultCode = Literal["rejected", "overloaded", "deadline", "internal"]
KV_BLOCK: Final = 16
"""Tokens of a block of the KV cache, which is what requests get and share of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig(Checked):
    """The model to run and its resources; checked when the engine starts, which raises `ConfigError`."""

    model: Path
    """A transformers model folder: config.json and *.safetensors."""
    adapters: Mapping[str, Path] = field(default_factory=dict)
    """Folders of LoRA adapters beside the model, as peft saves them, by the names that requests use for them."""
    engine: str = "auto"
    """A name in `ENGINES`. `auto` takes `packed` where it agrees with the model's own forward, else `one_by_one`."""
    device: str = "auto"
    """`cpu`, `cuda`, or `auto`: cuda where available."""
    dtype: Literal["auto", "bf16", "fp32"] = key(
        Choice.of("auto", "bf16", "fp32"),
        "Precision of weights and KV cache; `auto` is bf16 on cuda, and the stored precision on the cpu.",
        default="auto",
    )
    threads: int = key(
        Whole(0, 1024), "Threads of torch on the cpu; 0 leaves one processor to the servicer.", default=0
    )
    max_slots: int = key(Whole(1, 4096), "Requests that are generated concurrently.", default=16)
    kv_tokens: int = key(
        Whole(),
        "Capacity of the KV cache in tokens, which all requests share; 0 takes a quarter of the free memory.",
        default=0,
    )
    context_window: int = key(
        Whole(), "Maximum tokens of one prompt and its answer; 0 takes what the model and the KV cache hold.", default=0
    )
    prefill_budget: int = key(
        Whole(1),
        "Prompt tokens read per step: smaller steadies the time between tokens, larger reads prompts faster.",
        default=256,
    )
    max_waiting: int = key(Whole(), "Requests that may wait for a slot; more are rejected as overloaded.", default=64)
    reuse_prefixes: bool = True
    """Requests that begin alike, under one salt, share the KV cache of their beginning."""
    python: Path | None = None
    """The Python of the environment in which the engine vllm runs; None for engines of our own."""
    options: Mapping[str, str] = field(default_factory=dict)
    """Options of the engine's own by their names, each as JSON or as plain text."""
    replicas: str = ""
    """Of the engine `ray`: the `HOST:PORT` at which its replicas answer gRPC; the other resources are theirs to say."""
    trust: Trust | None = None
    """Who must have signed the model; None loads any."""
    limits: StallLimits = field(default_factory=StallLimits)
    """When an engine that makes no progress is taken as hung."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """One request, in token ids. Its prompt and schema never show in `repr`."""

    request_id: str
    """Unique among the requests in flight."""
    prompt_ids: tuple[int, ...] = field(repr=False)
    max_tokens: int
    """Maximum tokens of the answer, at least 1."""
    sampling: Sampling = field(default=Sampling(), repr=False)
    """Engines ignore `stop`; the servicer applies it."""
    eos_ids: frozenset[int] = frozenset()
    """Any of these tokens ends the answer and is not part of it."""
    expires: float = float("inf")
    """`time.monotonic()` of this machine at which the request is aborted."""
    output_schema: str | None = field(default=None, repr=False)
    """JSON Schema, as JSON text, that the answer must follow; rejected by an engine that cannot enforce it."""
    salt: str = field(default="", repr=False)
    """Identifies the caller: KV cache computed under one salt is never used under another."""
    client: str = ""
    """Whose request it is, as a short opaque id: the engine serves its clients in proportion to their weights."""
    weight: float = 1.0
    """The share of *client* beside the others, above 0."""
    answer_prefix: str = field(default="", repr=False)
    """With a schema: the partial answer that ends the prompt. The grammar continues from it."""
    grammar: str = field(default="", repr=False)
    """In place of a schema: a grammar of llguidance that the answer must follow, such as that of tool calls."""
    grammar_prefix: tuple[str | int, ...] = field(default=(), repr=False)
    """With a grammar: the partial answer that ends the prompt, as texts and ids of control tokens."""
    partial_tokens: int = 0
    """How many tokens at the end of the prompt, before those *answered*, are a partial answer: presence and frequency
    penalties count them."""
    logprobs: int | None = None
    """How many of the likeliest tokens to score beside each token of the answer; None to score none."""
    adapter: str = ""
    """The LoRA adapter that answers, one of `EngineInfo.adapters`; empty for the model alone."""
    answered: int = 0
    """How many of the last tokens of the prompt another engine has answered: this one goes on as if it had drawn them,
    with their penalties, in the same grammar, and at the next draw of the seed. They are in neither prefix."""

    @property
    def cache_salt(self) -> str:
        """What must be equal for two requests to share KV cache: the caller, and the weights that compute it."""
        return f"{self.adapter}\n{self.salt}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineFault:
    """Why one request failed. The message holds no prompt text.

    `rejected`: the request can never run here. `overloaded`: it may run later. `deadline`: it expired. `internal`: the
    engine failed to compute it.
    """

    code: FaultCode
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOutput:
    """New tokens of one request. The last output, and only it, has a finish reason or an error."""

    request_id: str
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    """At least one, except in the last output. Never holds the end-of-sequence token."""
    scores: tuple[TokenScores, ...] = field(default=(), repr=False)
    """One for each of the tokens, if the request asks for log-probabilities."""
    finish_reason: FinishReason | None = None
    queue_ms: float = 0.0
    """Milliseconds from submission until it runs; the same in every output of a request."""
    cached_tokens: int = 0
    """Prompt tokens whose KV cache was reused; the same in every output of a request."""
    error: EngineFault | None = None

    @property
    def last(self) -> bool:
        """Whether the request has ended."""
        return self.finish_reason is not None or self.error is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLoad:
    """How busy the engine is."""

    active: int = 0
    """Requests that run."""
    waiting: int = 0
    """Requests that wait for a slot or for memory."""
    slots: int = 0
    kv_tokens_used: int = 0
    """Tokens of KV cache that running requests hold, in whole blocks."""
    kv_tokens_total: int = 0
    running_adapters: tuple[str, ...] = ()
    """Adapters of the requests in a slot."""
    waiting_adapters: tuple[str, ...] = ()
    """Adapters of the requests that wait for a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineInfo:
    """The loaded model and the engine that runs it."""

    engine: str
    """Such as `packed`."""
    model: str
    """Name of the model folder."""
    architecture: str
    """Such as `LlamaForCausalLM`."""
    vocab_size: int
    context_window: int
    """Maximum tokens of prompt and answer together."""
    slots: int
    kv_tokens: int = 0
    """Tokens of its KV cache, which all requests share."""
    device: str = "cpu"
    dtype: str = "float32"
    output_schema: bool = False
    """Whether the engine enforces `EngineRequest.output_schema`."""
    logprobs: bool = False
    """Whether the engine gives `EngineOutput.scores`."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that are loaded beside the model."""
    penalties: bool = False
    """Whether the engine follows presence and frequency penalties."""


class EngineDied(HybridLLMError):
    """The engine is gone: raised to all streams until it is back. *retry_after* is in seconds."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@runtime_checkable
class Engine(Protocol):
    """Generates tokens for a node. Used from one event loop."""

    @property
    def info(self) -> EngineInfo | None:
        """The loaded model; None until `start` has returned."""
        ...

    @property
    def healthy(self) -> bool:
        """Whether the engine can take a request now."""
        ...

    async def start(self) -> EngineInfo:
        """Load the model.

        Raises:
            ConfigError: the folder or an option is unusable; the message says what to do.
            EngineDied: the engine crashed while it loaded.
        """
        ...

    def stream(self, request: EngineRequest) -> AsyncGenerator[EngineOutput, None]:
        """Generate. The last output has a finish reason or an error; closing the generator aborts the request.

        Raises:
            EngineDied: the engine is not running, or crashed.
        """
        ...

    def load(self) -> EngineLoad:
        """How busy the engine was at its last step; no I/O."""
        ...

    async def close(self) -> None:
        """Stop. Streams in flight end with `EngineDied`. Idempotent."""
        ...


def objection(request: EngineRequest, info: EngineInfo) -> str | None:
    """Why *request* can never run on this engine, without quoting its text; None if it can.

    Engines check again what the servicer has checked: one bad number must not fail the step of all other requests.
    """
    try:
        return next(_objections(request, info), None)
    except (TypeError, ValueError, AttributeError, OverflowError):
        return "the request has fields of the wrong type"


def _objections(request: EngineRequest, info: EngineInfo) -> Iterator[str]:
    if not request.prompt_ids:
        yield "the prompt is empty"
    tokens = (*request.prompt_ids, *request.eos_ids)
    if not all(type(token) is int and 0 <= token < info.vocab_size for token in tokens):
        yield f"a token id is not in 0 to {info.vocab_size - 1}"
    if type(request.max_tokens) is not int or request.max_tokens < 1:
        yield "max_tokens must be 1 or more"
    if len(request.prompt_ids) + request.max_tokens > info.context_window:
        yield (
            f"context overflow: {len(request.prompt_ids)} prompt tokens and max_tokens {request.max_tokens} "
            f"exceed the context window of {info.context_window}"
        )
    if math.isnan(request.expires) or not 0 < request.weight < math.inf or (request.logprobs or 0) < 0:
        yield "expires is not a time, weight not above 0, or logprobs below 0"
    if fault := request.sampling.fault(any_seed=True):
        yield fault
    yield from _unsupported(request, info)


def _unsupported(request: EngineRequest, info: EngineInfo) -> Iterator[str]:
    if type(request.answered) is not int or not 0 <= request.answered < max(len(request.prompt_ids), 1):
        yield "answered is not a number of tokens of the prompt"
    if not 0 <= request.partial_tokens <= len(request.prompt_ids) - request.answered:
        yield "the partial answer is longer than the prompt"
    if request.adapter and request.adapter not in info.adapters:
        yield "unsupported: this engine has no such adapter"
    if (request.output_schema is not None or request.grammar) and not info.output_schema:
        yield "unsupported: this engine cannot follow an output schema"
