"""What hooks receive: one frozen event per finished request, and the status of a client on demand; never a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from hybrid_llm.core.decision import Decision
from hybrid_llm.core.errors import ConfigError, PrivacyViolation
from hybrid_llm.core.generation import (
    AnswerWarning,
    AttemptRecord,
    Continuation,
    Departure,
    FinishReason,
    Timings,
    Usage,
)
from hybrid_llm.core.request import RequestMetadata
from hybrid_llm.core.savings import Savings
from hybrid_llm.core.signals import Signals
from hybrid_llm.core.tracebacks import guarded
from hybrid_llm.policies.language.schema import Objectives

if TYPE_CHECKING:
    from hybrid_llm.router.observability.tracing import RequestTrace


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestEvent:
    """A finished request: counts, names and times; no prompt, no answer, no key."""

    metadata: RequestMetadata
    """The request without its texts."""
    signals: Signals
    """What the policy saw."""
    decision: Decision
    backend: str = ""
    """The backend that answered; empty if none did."""
    attempts: tuple[AttemptRecord, ...] = ()
    finish_reason: FinishReason | None = None
    usage: Usage = field(default_factory=Usage)
    timings: Timings = field(default_factory=Timings)
    error: str = ""
    """The name of the error class; empty if the answer is complete, `cancelled` if the caller closed it."""
    continuations: tuple[Continuation, ...] = ()
    """Where the answer broke off, and which backend continued it."""
    cached: bool = False
    """The answer came from the cache, or from an identical request in flight; no backend was called for this one."""
    warnings: tuple[AnswerWarning, ...] = ()
    """What is wrong with the answer."""
    declared: frozenset[str] = frozenset()
    """The privacy tags that the app set; detectors set the others of the decision."""
    departures: tuple[Departure, ...] = ()
    """Each call for which the request left the device, and in which form."""
    cost: float = 0.0
    """What its calls cost, in the currency of the prices."""
    trace: RequestTrace | None = field(default=None, repr=False, compare=False)
    """What a `TracingHook` began for the request."""

    def __post_init__(self) -> None:
        if not isinstance(self.metadata, RequestMetadata):
            raise PrivacyViolation("an event takes the metadata of a request, never the request", location="telemetry")

    @property
    def request_id(self) -> str:
        """The id of the request."""
        return self.metadata.request_id


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientStatus:
    """A client at one instant, for metrics and people: names, numbers and states only."""

    signals: Signals
    """The signals for an empty request, with the nodes of each backend."""
    policy: str = ""
    digest: str = ""
    objectives: Objectives = field(default_factory=Objectives)
    """The objectives of the current policy."""
    models: Mapping[str, str] = field(default_factory=dict)
    """Backend -> the name of its model; empty until a node reports it."""
    retries_left: Mapping[str, float] = field(default_factory=dict)
    """Backend -> retries and hedges that its retry budget would allow now."""
    spent: Mapping[str, float] = field(default_factory=dict)
    """Backend with a price -> what this client has spent on it so far, in *currency*."""
    currency: str = ""
    cache: Savings | None = None
    """What this client's cache of answers was asked and has saved; None without one."""


class Hook(Protocol):
    """Called once per request, in its thread or task: it must be fast, or put the event into a queue."""

    def __call__(self, event: RequestEvent) -> None:
        """Handle *event*."""
        ...


@runtime_checkable
class ClientHook(Protocol):
    """A hook that is informed when its client starts and closes, and can read the client's status in between."""

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """A client starts. *status* returns its status at any time, from any thread."""
        ...

    def detach(self, status: Callable[[], ClientStatus]) -> None:
        """The client with this *status* is closed."""
        ...


@runtime_checkable
class TracingHook(Protocol):
    """A hook that follows each request while it runs. It gets the event at the end too, with the trace it began."""

    def begin_trace(self, created: float) -> RequestTrace:
        """A request begins, in the context of its caller; *created* is its instant on `time.monotonic()`."""
        ...


def tracing_hook(hooks: Iterable[Hook]) -> TracingHook | None:
    """The one of *hooks* that follows requests; ConfigError if there are several."""
    found = [hook for hook in hooks if isinstance(hook, TracingHook)]
    if len(found) > 1:
        raise ConfigError("a client has one trace: pass one OpenTelemetryHook, or leave `telemetry` out of the file")
    return found[0] if found else None


def client_hooks(hooks: Iterable[Hook]) -> list[ClientHook]:
    """Those of *hooks* that are informed when a client starts and closes."""
    return [hook for hook in hooks if isinstance(hook, ClientHook)]


def emit(hooks: Iterable[Hook], event: RequestEvent) -> None:
    """Call every hook. If one raises, only the class of its error is logged, and the others are called."""
    for hook in hooks:
        guarded(partial(hook, event), f"the hook {type(hook).__name__}")
