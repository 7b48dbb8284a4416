"""What hooks receive: one frozen event per finished request, and the status of a client on demand; never a text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

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
class Refusal:
    """A request that a server before the client refused: the client never had it."""

    code: str
    """Why: a short word of a fixed vocabulary, such as `invalid_api_key`."""
    identity: str = ""
    """Who asked; empty if that is not known."""
    tenant: str = ""
    address: str = ""
    """The host that it came from."""
    request_id: str = ""


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
    expiries: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Backend -> what of it expires, such as a certificate -> when, seconds since 1970."""
    audit_lost: int = 0
    """Audit records that could not be written."""
    cache: Savings | None = None
    """What this client's cache of answers was asked and has saved; None without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """What a server before the client, such as a gateway, has beside it."""

    expiries: Mapping[str, float] = field(default_factory=dict)
    """What of it expires -> when, seconds since 1970."""
    quota_failures: int = 0
    """Requests for which the quotas could not be read or written."""


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
class AdmittingHook(Protocol):
    """A hook that is called before a request is answered, too, and may refuse it. It may block for a moment."""

    def admit(self, request: RequestMetadata, decision: Decision) -> None:
        """*request* is about to be answered as *decision* says. A HybridLLMError ends it; no backend is called."""
        ...


@runtime_checkable
class RefusalHook(Protocol):
    """A hook that is informed of requests that a server before the client refused, such as a gateway."""

    def refused(self, refusal: Refusal) -> None:
        """Handle *refusal*; as fast as a call."""
        ...


@runtime_checkable
class RecordingHook(Protocol):
    """A hook that writes records, and can be unable to."""

    @property
    def lost(self) -> int:
        """Records that could not be written so far."""
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


class Hooks:
    """The hooks of one client.

    Raises:
        ConfigError: several of them trace.
    """

    def __init__(self, hooks: Iterable[Hook]) -> None:
        self.all: tuple[Hook, ...] = tuple(hooks)
        self.tracing: Final = tracing_hook(self.all)
        """What follows each request, or None."""
        self.admitting = [hook for hook in self.all if isinstance(hook, AdmittingHook)]
        """Those that may refuse a request: see `admit`."""

    def attach(self, status: Callable[[], ClientStatus]) -> None:
        """The client with this *status* starts."""
        for hook in client_hooks(self.all):
            hook.attach(status)

    def add(self, hook: Hook, status: Callable[[], ClientStatus]) -> None:
        """Call *hook*, too, about each request that begins from now on."""
        self.all = (*self.all, hook)
        if isinstance(hook, AdmittingHook):
            self.admitting = [*self.admitting, hook]
        for one in client_hooks([hook]):
            one.attach(status)

    def admit(self, request: RequestMetadata, decision: Decision) -> None:
        """Ask those that may refuse a request; see `AdmittingHook`."""
        for hook in self.admitting:
            hook.admit(request, decision)

    @property
    def lost(self) -> int:
        """Records that could not be written."""
        return sum(hook.lost for hook in self.all if isinstance(hook, RecordingHook))

    def refused(self, refusal: Refusal) -> None:
        """Inform those that take refusals."""
        for hook in self.all:
            if isinstance(hook, RefusalHook):
                guarded(partial(hook.refused, refusal), f"the hook {type(hook).__name__}")

    def detach(self, status: Callable[[], ClientStatus]) -> None:
        """The client with this *status* is closed."""
        for hook in client_hooks(self.all):
            guarded(partial(hook.detach, status), f"detaching the hook {type(hook).__name__}")
